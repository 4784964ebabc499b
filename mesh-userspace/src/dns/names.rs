//! The names of a table, with the indexes that a question needs. They follow a change of the table, of which mostly little
//! has changed.

use std::{borrow::Borrow, collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};

use crate::table::{Endpoint, Service, Table};

/// The names that tasks of this node may ask for, as of one revision of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    revision: u64,
    node: String,
    pub(super) table: Arc<Table>,
    /// Services' and endpoints' names by their lower-case forms, where those differ.
    services_in_capitals: OrdMap<String, String>,
    endpoints_in_capitals: OrdMap<String, String>,
    /// Networks' names by their lower-case forms.
    networks: BTreeMap<String, String>,
    /// Who has an alias, by its lower-case form.
    aliases: OrdMap<String, OrdSet<Holder>>,
    /// The names of each service's endpoints.
    tasks: OrdMap<String, OrdSet<String>>,
    /// Who has an address, by VNI.
    holders: OrdMap<(u32, IpAddr), Holder>,
    /// The names of this node's endpoints by their namespaces.
    rooms: OrdMap<PathBuf, OrdSet<String>>,
}

/// Who has an address, or an alias.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// An endpoint of this name.
    Endpoint(String),
    /// A service of this name: its virtual IP.
    Service(String),
}

impl Holder {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Endpoint(name) | Self::Service(name) => name,
        }
    }
}

impl Names {
    /// The names of a table for a node, made from those of an earlier table as far as they are the same.
    #[must_use]
    pub fn follow(&self, table: &Arc<Table>, node: &str, revision: u64) -> Self {
        let rests = self.node == node && self.table.networks == table.networks;
        let mut names = if rests { self.clone() } else { Self::default() };
        let before = std::mem::replace(&mut names.table, Arc::clone(table));
        names.revision = revision;
        node.clone_into(&mut names.node);
        let lower = table.networks.keys().map(|name| (name.to_ascii_lowercase(), name.clone()));
        names.networks = lower.collect();
        let mut came: Vec<(&str, &Endpoint)> = Vec::new();
        // All that left go before any comes: one may have taken over another's address.
        for change in before.endpoints.diff(&table.endpoints) {
            match change {
                DiffItem::Add(name, endpoint) => came.push((name, endpoint)),
                DiffItem::Remove(name, endpoint) => names.remove_endpoint(name, endpoint),
                DiffItem::Update { old: (_, old), new: (name, new) } => {
                    names.remove_endpoint(name, old);
                    came.push((name, new));
                }
            }
        }
        let mut new: Vec<(&str, &Service)> = Vec::new();
        for change in before.services.diff(&table.services) {
            match change {
                DiffItem::Add(name, service) => new.push((name, service)),
                DiffItem::Remove(name, service) => names.remove_service(name, service),
                DiffItem::Update { old: (_, old), new: (name, changed) } => {
                    names.remove_service(name, old);
                    new.push((name, changed));
                }
            }
        }
        new.into_iter().for_each(|(name, service)| names.add_service(name, service));
        came.into_iter().for_each(|(name, endpoint)| names.add_endpoint(name, endpoint));
        names
    }

    /// Of which revision of the table they are.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The networks that a client sees which asks the gateway of one: that one first, and then the others of the task that
    /// the client is.
    #[must_use]
    pub fn networks_of<'a>(&'a self, asked: &'a str, client: IpAddr) -> Vec<&'a str> {
        let mut networks = vec![asked];
        let holder = self.vni(asked).and_then(|vni| self.holders.get(&(vni, client)));
        let Some(Holder::Endpoint(name)) = holder else { return networks };
        let netns = self.table.endpoints.get(name).and_then(|endpoint| endpoint.netns.as_ref());
        let here = netns.and_then(|netns| self.rooms.get(netns)).into_iter().flatten();
        let others = here.filter_map(|name| self.table.endpoints.get(name));
        let mut others: Vec<&str> = others.map(|endpoint| endpoint.network.as_str()).collect();
        others.sort_unstable();
        for other in others {
            if !networks.contains(&other) {
                networks.push(other);
            }
        }
        networks
    }

    /// Whether a network leads outside.
    pub(super) fn leads_outside(&self, network: &str) -> bool {
        self.table.networks.get(network).is_some_and(|network| !network.internal)
    }

    pub(super) fn vni(&self, network: &str) -> Option<u32> {
        self.table.networks.get(network).map(|network| network.vni)
    }

    /// The network whose name has this lower-case form.
    pub(super) fn network(&self, lower: &str) -> Option<&str> {
        self.networks.get(lower).map(String::as_str)
    }

    /// The service whose name has this lower-case form.
    pub(super) fn service(&self, lower: &str) -> Option<(&str, &Service)> {
        let name = self.services_in_capitals.get(lower).map_or(lower, String::as_str);
        self.table.services.get_key_value(name).map(|(name, service)| (name.as_str(), service))
    }

    /// The endpoint whose name has this lower-case form.
    pub(super) fn endpoint(&self, lower: &str) -> Option<(&str, &Endpoint)> {
        let name = self.endpoints_in_capitals.get(lower).map_or(lower, String::as_str);
        self.table.endpoints.get_key_value(name).map(|(name, endpoint)| (name.as_str(), endpoint))
    }

    /// Those that have the alias with this lower-case form.
    pub(super) fn bearers(&self, lower: &str) -> impl Iterator<Item = &Holder> {
        self.aliases.get(lower).into_iter().flatten()
    }

    /// A service's endpoints on a network, also those that drain.
    pub(super) fn tasks<'a>(
        &'a self,
        service: &str,
        network: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Endpoint)> + use<'a> {
        let names = self.tasks.get(service).into_iter().flatten();
        let found = names.filter_map(|name| self.table.endpoints.get_key_value(name));
        found
            .filter(move |(_, endpoint)| endpoint.network == network)
            .map(|(name, endpoint)| (name.as_str(), endpoint))
    }

    /// Who has an address of a network.
    pub(super) fn holder(&self, network: &str, address: IpAddr) -> Option<&Holder> {
        self.holders.get(&(self.vni(network)?, address))
    }

    fn add_endpoint(&mut self, name: &str, endpoint: &Endpoint) {
        if let Some(lower) = in_capitals(name) {
            self.endpoints_in_capitals.insert(lower, name.to_owned());
        }
        self.add_aliases(&endpoint.aliases, &Holder::Endpoint(name.to_owned()));
        if let Some(service) = &endpoint.service {
            self.tasks.entry(service.clone()).or_default().insert(name.to_owned());
        }
        if let Some(vni) = self.vni(&endpoint.network) {
            let entry = |address: &IpAddr| ((vni, *address), Holder::Endpoint(name.to_owned()));
            self.holders.extend(endpoint.addresses.iter().map(entry));
        }
        if let Some(netns) = endpoint.netns.as_ref().filter(|_| endpoint.node == self.node) {
            self.rooms.entry(netns.clone()).or_default().insert(name.to_owned());
        }
    }

    fn remove_endpoint(&mut self, name: &str, endpoint: &Endpoint) {
        if let Some(lower) = in_capitals(name) {
            self.endpoints_in_capitals.remove(&lower);
        }
        self.remove_aliases(&endpoint.aliases, &Holder::Endpoint(name.to_owned()));
        if let Some(service) = &endpoint.service {
            remove_from(&mut self.tasks, service, name);
        }
        if let Some(vni) = self.vni(&endpoint.network) {
            for address in &endpoint.addresses {
                self.holders.remove(&(vni, *address));
            }
        }
        if let Some(netns) = endpoint.netns.as_ref().filter(|_| endpoint.node == self.node) {
            remove_from(&mut self.rooms, netns, name);
        }
    }

    fn add_service(&mut self, name: &str, service: &Service) {
        if let Some(lower) = in_capitals(name) {
            self.services_in_capitals.insert(lower, name.to_owned());
        }
        self.add_aliases(&service.aliases, &Holder::Service(name.to_owned()));
        for key in self.addresses(service) {
            self.holders.insert(key, Holder::Service(name.to_owned()));
        }
    }

    fn remove_service(&mut self, name: &str, service: &Service) {
        if let Some(lower) = in_capitals(name) {
            self.services_in_capitals.remove(&lower);
        }
        self.remove_aliases(&service.aliases, &Holder::Service(name.to_owned()));
        for key in self.addresses(service) {
            self.holders.remove(&key);
        }
    }

    fn add_aliases(&mut self, aliases: &[String], bearer: &Holder) {
        for alias in aliases {
            self.aliases.entry(alias.to_ascii_lowercase()).or_default().insert(bearer.clone());
        }
    }

    fn remove_aliases(&mut self, aliases: &[String], bearer: &Holder) {
        for alias in aliases {
            remove_from(&mut self.aliases, &alias.to_ascii_lowercase(), bearer);
        }
    }

    fn addresses(&self, service: &Service) -> Vec<(u32, IpAddr)> {
        let vips = service.vips.iter().filter_map(|(network, vips)| Some((self.vni(network)?, vips)));
        vips.flat_map(|(vni, vips)| vips.iter().map(move |vip| (vni, *vip))).collect()
    }
}

/// Takes an item out of one of several sets, and the set with its last.
fn remove_from<K: Ord + Clone, V: Ord + Clone + Borrow<B>, B: Ord + ?Sized>(
    sets: &mut OrdMap<K, OrdSet<V>>,
    key: &K,
    item: &B,
) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(item);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// A name's lower-case form, where it is another.
fn in_capitals(name: &str) -> Option<String> {
    name.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| name.to_ascii_lowercase())
}

/// A question's name in lower case and without the dot at its end; none where it has a byte that no name of ours has.
pub(super) fn lower_text<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut text = String::with_capacity(64);
    for label in labels {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_') {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(text)
}
