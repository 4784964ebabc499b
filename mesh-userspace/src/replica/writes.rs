//! From what is asked for to what is written: the difference of two specifications as entries.

use std::collections::BTreeSet;

use mesh_cluster::{Key, Kind, NodeId, Write};

use super::{
    entry::{NodeEntry, Object, Objects},
    settle::Settled,
};
use crate::spec::{Allocation, Endpoint, Fault, Faults, Network, Origin, Service, Spec, resolve_with};

/// What makes one specification of another: networks, services and endpoints that are new, changed or gone. Nodes and options are
/// not for others to change.
///
/// # Errors
/// Something has a path that is no text.
pub fn writes(before: &Spec, after: &Spec) -> Result<Vec<Write>, serde_json::Error> {
    let mut writes = Vec::new();
    for (name, now) in &after.networks {
        if before.networks.get(name) != Some(now) {
            changed(
                network(name),
                before.networks.get(name).cloned().map(Object::Network),
                now.clone(),
                &mut writes,
            )?;
        }
    }
    for (name, now) in &after.services {
        if before.services.get(name) != Some(now) {
            changed(
                service(name),
                before.services.get(name).cloned().map(Object::from),
                now.clone(),
                &mut writes,
            )?;
        }
    }
    let was = by_name(before);
    let is = by_name(after);
    for (name, now) in &is {
        let then = was.get(name);
        if then != Some(now) {
            let then = then.map(|then| Object::Endpoint(Box::new((*then).clone())));
            changed(endpoint(name), then, (*now).clone(), &mut writes)?;
        }
    }
    let gone = |key| Write { key, value: None };
    // What uses something goes before it.
    writes.extend(was.keys().filter(|name| !is.contains_key(*name)).map(|name| gone(endpoint(name))));
    let services = before.services.keys().filter(|name| !after.services.contains_key(*name));
    writes.extend(services.map(|name| gone(service(name))));
    let networks = before.networks.keys().filter(|name| !after.networks.contains_key(*name));
    writes.extend(networks.map(|name| gone(network(name))));
    Ok(writes)
}

/// What a command makes of what is there, as writes, with what it leaves open allocated. What others have stays theirs, also where
/// settling has moved it and that is not written down yet; to write it down is left to its owners, because it would overtake what
/// is changed of it elsewhere.
///
/// # Errors
/// Every rule that it breaks.
pub fn changes(there: &Settled, mut after: Spec) -> Result<Vec<Write>, Faults> {
    let unwritable = |error: serde_json::Error| {
        let sentence = format!("It cannot be written down ({error}); name paths that are UTF-8.");
        Faults::from(Fault::new(Origin::default(), sentence))
    };
    let changed = writes(&there.spec, &after).map_err(unwritable)?;
    let changed: BTreeSet<Key> = changed.into_iter().map(|write| write.key).collect();
    after.remember(&there.table);
    let table = resolve_with(&after, Allocation::Scattered)?;
    after.remember(&table);
    let mut writes = writes(&there.spec, &after).map_err(unwritable)?;
    writes.retain(|write| changed.contains(&write.key));
    Ok(writes)
}

fn by_name(spec: &Spec) -> std::collections::BTreeMap<&str, &Endpoint> {
    spec.endpoints.iter().map(|endpoint| (endpoint.name.value.as_str(), endpoint)).collect()
}

/// Writes an object if its value is another: where it was asked for is no part of that.
fn changed(
    key: Key,
    before: Option<Object>,
    now: impl Into<Object>,
    writes: &mut Vec<Write>,
) -> Result<(), serde_json::Error> {
    let value = now.into().value()?;
    let was = before.map(|before| before.value()).transpose()?;
    if was.as_ref() != Some(&value) {
        writes.push(Write { key, value: Some(value.into()) });
    }
    Ok(())
}

impl From<Network> for Object {
    fn from(network: Network) -> Self {
        Self::Network(network)
    }
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

impl From<Endpoint> for Object {
    fn from(endpoint: Endpoint) -> Self {
        Self::Endpoint(Box::new(endpoint))
    }
}

/// What a node writes of itself.
///
/// # Errors
/// Never: every such entry is text.
pub fn node(name: &str, entry: &NodeEntry) -> Result<Write, serde_json::Error> {
    Ok(Write { key: Key::new(Kind::Node, name), value: Some(serde_json::to_string(entry)?.into()) })
}

/// The key of a network.
#[must_use]
pub fn network(name: &str) -> Key {
    Key::new(Kind::Network, name)
}

/// The key of a service.
#[must_use]
pub fn service(name: &str) -> Key {
    Key::new(Kind::Service, name)
}

fn endpoint(name: &str) -> Key {
    Key::new(Kind::Endpoint, name)
}

/// What was allocated anew, because it was open or somebody older has it, for this node to write down so that it stays. Each is
/// one node's business: an endpoint its own node's, anything else that of the node that created it; and where that is not `live`,
/// of the first that is.
///
/// # Errors
/// Something has a path that is no text.
pub fn amendments(
    settled: &Settled,
    objects: &Objects,
    me: (&str, NodeId),
    is_live: impl Fn(&str) -> bool,
) -> Result<Vec<Write>, serde_json::Error> {
    let (name, id) = me;
    let first = objects.nodes().map(|(node, _)| node).find(|node| is_live(node));
    let is_first = first.is_none_or(|first| first == name);
    let is_ours = |owner: Option<&str>| match owner {
        Some(owner) if owner == name => true,
        Some(owner) if is_live(owner) => false,
        _ => is_first,
    };
    let is_created_here = |key: &Key| {
        let Some(created) = objects.get(key).map(|read| read.created) else { return false };
        is_ours(if created.node == id { Some(name) } else { objects.writer(created.node) })
    };
    let mut amended = settled.spec.clone();
    amended.remember(&settled.table);
    let mut writes = writes(&settled.spec, &amended)?;
    writes.retain(|write| match write.key.kind {
        Kind::Endpoint => {
            let found = objects.get(&write.key).and_then(|read| match &read.object {
                Ok(Object::Endpoint(endpoint)) => Some(endpoint.node.value.as_str()),
                _ => None,
            });
            is_ours(found)
        }
        _ => is_created_here(&write.key),
    });
    Ok(writes)
}
