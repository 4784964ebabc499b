//! What a node's file asks for, published into the store when it is new or has changed, and withdrawn when it left the file.
//!
//! The store is the cluster's word, and a file is one who speaks: what commands have changed since stays changed until the file
//! says something else than it said. So a file that lies on every node is published once, and the file of a node that was away is
//! no step back for the others.

use std::collections::{BTreeMap, BTreeSet};

use mesh_cluster::{Key, Kind, Stamp, Write};
use serde::{Deserialize, Serialize};

use super::entry::{Object, Objects, Presence};
use crate::{
    problem::Problem,
    spec::{Spec, kind_name},
};

/// What this node has published from its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Published(Vec<(Key, Word)>);

/// What the file said of one object when it was last heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    /// The value, without anything allocated.
    said: String,
    /// When the store's object came to be that this was said of, once it is there.
    created: Option<Stamp>,
    /// The store had another object of the name already, which stayed, or a member spoke for itself.
    yielded: bool,
}

/// What follows from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// What is to be written.
    pub writes: Vec<Write>,
    /// What this node has published once that is written.
    pub published: Published,
    /// What the file asks for and the cluster has otherwise.
    pub problems: Vec<Problem>,
}

impl Published {
    /// What follows from a file, given what the store has now. Of endpoints a node publishes its own, and those that are not ours
    /// to attach, which are on nodes without meshd; of nodes, those that are no members.
    ///
    /// # Errors
    /// Something has a path that is no text.
    pub fn follow(&self, file: &Spec, me: &str, objects: &Objects) -> Result<Publication, serde_json::Error> {
        let before: BTreeMap<&Key, &Word> = self.0.iter().map(|(key, word)| (key, word)).collect();
        let members: BTreeSet<&str> =
            objects.nodes().filter(|(_, daemon)| daemon.member).map(|(name, _)| name).collect();
        let mut publication = Publication::default();
        for (key, mut object) in wanted(file, me, &members) {
            let said = object.clone().asked().value()?;
            // What a member says of itself counts, also when it has left: then it is not to come back as a node without meshd.
            if key.kind == Kind::Node && members.contains(key.name.as_str()) {
                publication.published.0.push((key, Word { said, created: None, yielded: true }));
                continue;
            }
            let there = objects.get(&key);
            let found = there.and_then(|there| there.object.as_ref().ok());
            let is_same = match found {
                Some(found) => found.clone().asked().value()? == said,
                None => false,
            };
            let last = before.get(&key);
            let is_new_here = last.is_none();
            let owned = matches!(&object, Object::Endpoint(endpoint) if endpoint.node.value == me);
            let yields = there.is_some() && !is_same && !owned && is_new_here;
            let is_heard = last.is_some_and(|last| last.said == said);
            if !is_heard && !is_same && !yields {
                if let Some(found) = found {
                    object.remember(found);
                }
                publication.writes.push(Write { key: key.clone(), value: Some(object.value()?.into()) });
            }
            let yielded = yields || is_heard && last.is_some_and(|last| last.yielded);
            if yielded && there.is_some() && !is_same {
                publication.problems.push(differs(&key));
            }
            let created = match last.filter(|last| last.said == said).and_then(|last| last.created) {
                Some(created) => Some(created),
                None => there.filter(|_| is_same).map(|there| there.created),
            };
            publication.published.0.push((key, Word { said, created, yielded }));
        }
        // What uses something goes before it.
        let gone = self.0.iter().rev().filter(|(key, word)| !word.yielded && !stands_in(file, key));
        for (key, word) in
            gone.filter(|(key, _)| key.kind != Kind::Node || !members.contains(key.name.as_str()))
        {
            if let Some(there) = objects.get(key)
                && word.is_of(there.created, there.object.as_ref().ok())?
            {
                publication.writes.push(Write { key: key.clone(), value: None });
            }
        }
        Ok(publication)
    }
}

impl Word {
    /// Whether an object is the one that this was said of, and not another that somebody made anew.
    fn is_of(&self, created: Stamp, object: Option<&Object>) -> Result<bool, serde_json::Error> {
        if self.created.is_some() {
            return Ok(self.created == Some(created));
        }
        object.map_or(Ok(false), |object| Ok(object.clone().asked().value()? == self.said))
    }
}

/// Whether a file says something of an object, whoever publishes that.
fn stands_in(file: &Spec, key: &Key) -> bool {
    match key.kind {
        Kind::Node => file.nodes.contains_key(&key.name),
        Kind::Network => file.networks.contains_key(&key.name),
        Kind::Service => file.services.contains_key(&key.name),
        Kind::Endpoint => file.endpoint(&key.name).is_some(),
        Kind::Options | Kind::Health | Kind::Secret => false,
    }
}

/// What of a file this node publishes.
fn wanted(file: &Spec, me: &str, members: &BTreeSet<&str>) -> BTreeMap<Key, Object> {
    let mut wanted = BTreeMap::new();
    for (name, node) in file.nodes.iter().filter(|(name, _)| *name != me) {
        wanted.insert(Key::new(Kind::Node, name), Object::Node(node.clone(), Presence::default()));
    }
    for (name, network) in &file.networks {
        wanted.insert(Key::new(Kind::Network, name), Object::Network(network.clone()));
    }
    for (name, service) in &file.services {
        wanted.insert(Key::new(Kind::Service, name), Object::from(service.clone()));
    }
    let is_ours = |name: &str, has_netns: bool| name == me || !has_netns && !members.contains(name);
    for endpoint in file.endpoints.iter().filter(|e| is_ours(&e.node.value, e.netns.is_some())) {
        let key = Key::new(Kind::Endpoint, &endpoint.name.value);
        wanted.insert(key, Object::Endpoint(Box::new(endpoint.clone())));
    }
    wanted
}

fn differs(key: &Key) -> Problem {
    let kind = kind_name(key.kind);
    Problem::new(
        format!("{kind} {}", key.name),
        format!(
            "This node's file says something else of it than the cluster, which had it before this node joined; the cluster's word \
             counts. Make the file say the same (`meshctl {kind}s inspect {}` tells), or change the file once more to publish \
             what it says.",
            key.name
        ),
    )
}
