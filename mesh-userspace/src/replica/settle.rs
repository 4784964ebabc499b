//! What the objects of the cluster come to: a table, and what had to be set aside because it cannot be beside something older.
//!
//! A pure function of the store: nodes that have the same entries, however they came by them, have the same table. Nobody is
//! asked and nobody decides.

use std::collections::{BTreeMap, BTreeSet};

use mesh_cluster::{Key, Kind};

use super::entry::{Object, Objects};
use crate::{
    problem::Problem,
    spec::{Allocation, Fault, Faults, Options, Origin, Spec, kind_name, resolve_with},
    table::Table,
};

/// What the objects of the cluster come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What is asked for, without what was set aside.
    pub spec: Spec,
    /// The table of that.
    pub table: Table,
    /// What was set aside, and why, as a sentence.
    pub aside: BTreeMap<Key, String>,
}

impl Settled {
    /// What people are to know of what was set aside.
    #[must_use]
    pub fn problems(&self, objects: &Objects) -> Vec<Problem> {
        let told = |(key, why): (&Key, &String)| {
            let kind = kind_name(key.kind);
            let writer = objects.get(key).and_then(|read| objects.writer(read.stamp.node));
            let by = writer.map_or_else(String::new, |node| format!(" (written on the node {node})"));
            let mend = match key.kind {
                Kind::Node => "Give it what nobody else has, and restart its meshd.",
                Kind::Endpoint => "Remove it with `meshctl detach`, or what it clashes with.",
                _ => "Remove it with `meshctl`, or what it clashes with.",
            };
            Problem::new(
                format!("{kind} {}", key.name),
                format!("It is set aside{by}, and nothing is done for it: {why} {mend}"),
            )
        };
        self.aside.iter().map(told).collect()
    }
}

/// What the objects come to, with this node's own options. Where some cannot all be, those that came to be first stay.
///
/// # Errors
/// The options themselves break a rule.
pub fn settle(objects: &Objects, options: &Options) -> Result<Settled, Faults> {
    let mut spec = Spec { options: options.clone(), ..Spec::default() };
    let mut aside = BTreeMap::new();
    for (key, read) in objects.iter() {
        match &read.object {
            Ok(Object::Node(node, _)) => {
                spec.nodes.insert(key.name.clone(), node.clone());
            }
            Ok(Object::Network(network)) => {
                spec.networks.insert(key.name.clone(), network.clone());
            }
            Ok(Object::Service(service)) => {
                spec.services.insert(key.name.clone(), (**service).clone());
            }
            Ok(Object::Endpoint(endpoint)) => spec.endpoints.push((**endpoint).clone()),
            Err(why) => {
                aside.insert(key.clone(), format!("What the store has of it cannot be read: {why}."));
            }
        }
    }
    loop {
        let faults = match resolve_with(&spec, Allocation::Scattered) {
            Ok(table) => return Ok(Settled { spec, table, aside }),
            Err(faults) => faults,
        };
        // Each round takes something away, so this ends.
        let going = at_fault(&faults);
        if going.is_empty() {
            return Err(faults);
        }
        let is_going = |kind, name: &str| going.contains_key(&Key::new(kind, name));
        spec.nodes.retain(|name, _| !is_going(Kind::Node, name));
        spec.networks.retain(|name, _| !is_going(Kind::Network, name));
        spec.services.retain(|name, _| !is_going(Kind::Service, name));
        spec.endpoints.retain(|endpoint| !is_going(Kind::Endpoint, &endpoint.name.value));
        aside.extend(going);
    }
}

/// The objects at fault, of one kind: what is wrong with others may only be that these are there. Of two that cannot both be, the
/// later one is at fault only if the other is not. Of services for which nothing is left only the first goes: what it has in other
/// networks may be enough for the next.
fn at_fault(faults: &Faults) -> BTreeMap<Key, String> {
    let faulty: BTreeSet<&Key> = faults.iter().filter_map(|fault| key_of(fault.later())).collect();
    let is_against_who_stays = |fault: &&Fault| {
        let other = fault.earlier().and_then(key_of).filter(|other| Some(*other) != key_of(fault.later()));
        other.is_none_or(|other| !faulty.contains(other))
    };
    let found = faults.iter().filter(is_against_who_stays);
    let found: Vec<(&Key, &Fault)> =
        found.filter_map(|fault| Some((key_of(fault.later())?, fault))).collect();
    let Some(kind) = found.iter().map(|(key, _)| key.kind).min() else { return BTreeMap::new() };
    let mut found: Vec<(&Key, &Fault)> = found.into_iter().filter(|(key, _)| key.kind == kind).collect();
    if kind == Kind::Service && found.iter().all(|(_, fault)| fault.lacks_room) {
        found.sort_by_key(|(_, fault)| fault.later());
        found.truncate(1);
    }
    let mut going = BTreeMap::new();
    for (key, fault) in found {
        going.entry(key.clone()).or_insert_with(|| fault.sentence.clone());
    }
    going
}

/// The object of the cluster that was asked for at a place.
fn key_of(origin: &Origin) -> Option<&Key> {
    match origin {
        Origin::Cluster(creation) => Some(&creation.key),
        Origin::File { .. } | Origin::Command(_) => None,
    }
}
