//! The great maps of a plan, kept from one plan to the next: of a hundred thousand endpoints mostly one has changed.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, ordmap::DiffItem};
use mesh_common::abi::{EndpointKey, MacKey, ServiceKey, TargetKey};

use super::{
    NodeFacts, PlannedBackend, PlannedEndpoint, PlannedService, PlannedStation,
    aliases::Aliases,
    endpoints,
    ring::BackendId,
    services::{Here, OneService, Part, parts},
};
use crate::table::{Endpoint, Table};

/// The last plan's great maps, and what they were made of. They spare work, and change nothing: a plan is the same
/// whatever came before it.
#[derive(Debug, Default)]
pub struct Earlier {
    table: Table,
    node: String,
    facts: NodeFacts,
    aliases: Aliases,
    great: Great,
}

/// The great maps.
#[derive(Clone, Debug, Default)]
pub(super) struct GreatMaps {
    pub(super) endpoints: OrdMap<EndpointKey, PlannedEndpoint>,
    pub(super) stations: OrdMap<MacKey, PlannedStation>,
    pub(super) backends: OrdMap<BackendId, PlannedBackend>,
    pub(super) services: OrdMap<ServiceKey, PlannedService>,
    pub(super) targets: BTreeSet<TargetKey>,
}

/// The great maps with the indexes by which they follow a change.
#[derive(Debug, Default)]
struct Great {
    maps: GreatMaps,
    /// What each service adds to them.
    parts: BTreeMap<String, Part>,
    /// The names of each service's endpoints.
    tasks: BTreeMap<String, BTreeSet<String>>,
    /// The names of this node's endpoints.
    ours: BTreeSet<String>,
}

/// What has changed of a table.
#[derive(Default)]
struct Changes<'a> {
    /// Endpoints as they were.
    left: Vec<(&'a str, &'a Endpoint)>,
    /// Endpoints as they are.
    came: Vec<(&'a str, &'a Endpoint)>,
    /// The services that are to be planned anew.
    services: BTreeSet<&'a str>,
}

impl Earlier {
    /// Brings the great maps up to this table and these facts: where nothing but services and endpoints has changed, by
    /// what has changed, and otherwise from nothing.
    pub(super) fn follow(
        &mut self,
        table: &Table,
        node: &str,
        facts: &NodeFacts,
        aliases: &Aliases,
    ) -> GreatMaps {
        let rests = self.node == node
            && self.facts == *facts
            && self.aliases == *aliases
            && self.table.options == table.options
            && self.table.nodes == table.nodes
            && self.table.networks == table.networks;
        if !rests {
            // What parts hold of services that stay are their rings, which depend on nothing else.
            let mut parts = std::mem::take(&mut self.great.parts);
            parts.retain(|name, _| table.services.contains_key(name));
            *self = Self {
                table: Table { services: OrdMap::new(), endpoints: OrdMap::new(), ..table.clone() },
                node: node.to_owned(),
                facts: facts.clone(),
                aliases: aliases.clone(),
                great: Great { parts, ..Great::default() },
            };
        }
        let changes = Changes::between(&self.table, table);
        self.great.follow(&changes, table, &Here { node, facts, aliases });
        self.table.services.clone_from(&table.services);
        self.table.endpoints.clone_from(&table.endpoints);
        self.great.maps.clone()
    }

    /// The node's own endpoints of the table that was followed last, in the order of their names.
    pub(super) fn ours<'a>(&self, table: &'a Table) -> Vec<(&'a str, &'a Endpoint)> {
        named(&self.great.ours, table)
    }
}

impl<'a> Changes<'a> {
    fn between(was: &'a Table, is: &'a Table) -> Self {
        let mut changes = Self::default();
        for change in was.endpoints.diff(&is.endpoints) {
            match change {
                DiffItem::Add(name, endpoint) => changes.came.push((name, endpoint)),
                DiffItem::Update { old: (_, was), new: (name, is) } => {
                    changes.left.push((name, was));
                    changes.came.push((name, is));
                }
                DiffItem::Remove(name, endpoint) => changes.left.push((name, endpoint)),
            }
        }
        for change in was.services.diff(&is.services) {
            let (DiffItem::Add(name, _)
            | DiffItem::Update { new: (name, _), .. }
            | DiffItem::Remove(name, _)) = change;
            changes.services.insert(name);
        }
        let of_endpoints = changes.left.iter().chain(&changes.came);
        changes.services.extend(of_endpoints.filter_map(|(_, endpoint)| endpoint.service.as_deref()));
        changes
    }
}

/// The endpoints of these names.
fn named<'a>(names: &BTreeSet<String>, table: &'a Table) -> Vec<(&'a str, &'a Endpoint)> {
    let found = names.iter().filter_map(|name| table.endpoints.get_key_value(name));
    found.map(|(name, endpoint)| (name.as_str(), endpoint)).collect()
}

impl Great {
    fn follow(&mut self, changes: &Changes<'_>, table: &Table, here: &Here<'_>) {
        // All that left go before any comes: one may have taken over another's address.
        for (name, endpoint) in &changes.left {
            self.remove_endpoint(name, endpoint, table, here);
        }
        for (name, endpoint) in &changes.came {
            self.add_endpoint(name, endpoint, table, here);
        }
        if !changes.services.is_empty() {
            self.plan_services(&changes.services, table, here);
        }
    }

    fn remove_endpoint(&mut self, name: &str, endpoint: &Endpoint, table: &Table, here: &Here<'_>) {
        for (key, _) in endpoints::entries(table, name, endpoint, here) {
            self.maps.endpoints.remove(&key);
        }
        if let Some((key, _)) = endpoints::station(table, endpoint) {
            self.maps.stations.remove(&key);
        }
        if let Some(tasks) = endpoint.service.as_ref().and_then(|service| self.tasks.get_mut(service)) {
            tasks.remove(name);
        }
        self.ours.remove(name);
    }

    fn add_endpoint(&mut self, name: &str, endpoint: &Endpoint, table: &Table, here: &Here<'_>) {
        self.maps.endpoints.extend(endpoints::entries(table, name, endpoint, here));
        self.maps.stations.extend(endpoints::station(table, endpoint));
        if let Some(service) = &endpoint.service {
            self.tasks.entry(service.clone()).or_default().insert(name.to_owned());
        }
        if endpoint.node == here.node {
            self.ours.insert(name.to_owned());
        }
    }

    fn plan_services(&mut self, names: &BTreeSet<&str>, table: &Table, here: &Here<'_>) {
        let services = names.iter().filter_map(|name| table.services.get_key_value(*name));
        let services: Vec<OneService<'_>> = services
            .map(|(name, service)| {
                let tasks = self.tasks.get(name).map(|names| named(names, table)).unwrap_or_default();
                OneService::new(table, name, service, tasks)
            })
            .collect();
        let new = parts(&services, &self.parts, here);
        for name in names {
            for id in self.parts.remove(*name).into_iter().flat_map(|part| part.backends.into_keys()) {
                self.maps.backends.remove(&id);
            }
        }
        for (name, part) in new {
            self.maps.backends.extend(part.backends.iter().map(|(id, backend)| (*id, *backend)));
            self.parts.insert(name.to_owned(), part);
        }
        // There are few beside the backends. Two services cannot have one key in a table that was checked; here the
        // first by name would keep it.
        let services = self.parts.values().rev().flat_map(|part| &part.services);
        self.maps.services = services.map(|(key, service)| (*key, service.clone())).collect();
        self.maps.targets = self.parts.values().flat_map(|part| &part.targets).copied().collect();
    }
}
