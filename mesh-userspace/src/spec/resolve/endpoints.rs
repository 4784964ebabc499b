//! The rules of endpoints, but for their addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use ipnet::IpNet;

use super::Judge;
use crate::spec::{Endpoint, Given, NETNS_DIRECTORY, Origin, listed, quoted};

/// By which endpoint a namespace is attached to each of its networks, and where that was asked for.
type Attached<'a> = BTreeMap<&'a str, (&'a Endpoint, &'a Origin)>;

impl Judge<'_> {
    pub(super) fn endpoint_rules(&mut self) {
        for endpoint in &self.spec.endpoints {
            self.endpoint_references(endpoint);
            self.endpoint_netns(endpoint);
        }
        self.namespaces();
    }

    fn endpoint_references(&mut self, endpoint: &Endpoint) {
        let who = format!("The endpoint {}", quoted(&endpoint.name.value));
        let node = &endpoint.node;
        if !self.spec.nodes.contains_key(&node.value) && !self.unreadable.nodes.contains(&node.value) {
            let nodes = self.spec.nodes.keys().chain(&self.unreadable.nodes);
            let sentence = missing(&who, "is on the node", &node.value, "node", nodes);
            self.fault(&node.origin, sentence);
        }
        self.network_exists(&who, &endpoint.network);
        let Some(name) = &endpoint.service else { return };
        match self.spec.services.get(&name.value) {
            None if self.unreadable.services.contains(&name.value) => {}
            None => {
                let services = self.spec.services.keys().chain(&self.unreadable.services);
                let sentence = missing(&who, "is a task of the service", &name.value, "service", services);
                self.fault(&name.origin, sentence);
            }
            Some(service) => {
                let network = &endpoint.network.value;
                if !self.unreadable.services.contains(&name.value)
                    && !service.networks.iter().any(|on| on.value == *network)
                {
                    self.fault(
                        &name.origin,
                        format!(
                            "{who} is a task of the service {}, which is not on its network {}; add the network to the \
                             service, or attach the endpoint to one of the service's.",
                            quoted(&name.value),
                            quoted(network)
                        ),
                    );
                }
            }
        }
    }

    /// That a network which somebody is on exists.
    pub(super) fn network_exists(&mut self, who: &str, network: &Given<String>) {
        if !self.spec.networks.contains_key(&network.value)
            && !self.unreadable.networks.contains(&network.value)
        {
            let networks = self.spec.networks.keys().chain(&self.unreadable.networks);
            let sentence = missing(who, "is on the network", &network.value, "network", networks);
            self.fault(&network.origin, sentence);
        }
    }

    fn endpoint_netns(&mut self, endpoint: &Endpoint) {
        let Some(netns) = &endpoint.netns else { return };
        let names_one = netns.value.is_absolute()
            && netns.value.file_name().is_some()
            && !netns.value.as_os_str().as_encoded_bytes().contains(&0);
        if !names_one {
            self.fault(
                &netns.origin,
                format!(
                    "The endpoint {} cannot be in the namespace {}; write a name under {NETNS_DIRECTORY} or an \
                     absolute path.",
                    quoted(&endpoint.name.value),
                    quoted(&netns.value.to_string_lossy())
                ),
            );
        }
    }

    /// A namespace can be attached to several networks, but to each of them once, and to none whose addresses
    /// look like another's.
    fn namespaces(&mut self) {
        let spec = self.spec;
        let mut endpoints: Vec<(&Endpoint, &Given<_>)> =
            spec.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.netns.as_ref()?))).collect();
        endpoints.sort_by_key(|(_, netns)| &netns.origin);
        let mut held: HashMap<(&str, &Path), Attached<'_>> = HashMap::new();
        let mut names = BTreeSet::new();
        for (endpoint, netns) in endpoints {
            // One of two endpoints of a name is refused anyway.
            if !names.insert(&endpoint.name.value) {
                continue;
            }
            let held = held.entry((&endpoint.node.value, &netns.value)).or_default();
            let clash = held.iter().find_map(|(network, (other, origin))| {
                if *network == endpoint.network.value {
                    return Some((other, origin, "the same network; give it a namespace of its own"));
                }
                let subnets = |name: &str| -> Vec<IpNet> {
                    let network = spec.networks.get(name);
                    network
                        .into_iter()
                        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.value))
                        .collect()
                };
                let ours = subnets(&endpoint.network.value);
                subnets(network)
                    .iter()
                    .any(|a| ours.iter().any(|b| a.contains(&b.network()) || b.contains(&a.network())))
                    .then_some((other, origin, "a network whose subnets overlap; give one of them others"))
            });
            if let Some((other, origin, why)) = clash {
                let sentence = format!(
                    "The endpoint {} is in the namespace {}, which the endpoint {} ({}) attaches to {why}.",
                    quoted(&endpoint.name.value),
                    quoted(&netns.value.to_string_lossy()),
                    quoted(&other.name.value),
                    origin.seen_from(&netns.origin)
                );
                self.fault(&netns.origin, sentence);
            } else {
                held.insert(&endpoint.network.value, (endpoint, &netns.origin));
            }
        }
    }
}

/// That a name leads nowhere, with the names that would.
fn missing<'a>(
    who: &str,
    verb: &str,
    name: &str,
    kind: &str,
    there: impl Iterator<Item = &'a String>,
) -> String {
    const MOST: usize = 8;
    let there: Vec<&str> = there.map(String::as_str).collect();
    let mend = match there.as_slice() {
        [] => format!("define it among the {kind}s"),
        _ => match crate::spec::nearest(name, there.iter().copied()) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None if there.len() <= MOST => {
                let names: Vec<String> = there.iter().map(|name| quoted(name)).collect();
                format!("there {} {}", if names.len() == 1 { "is" } else { "are" }, listed(&names, "and"))
            }
            None => format!("none of the {} {kind}s has that name", there.len()),
        },
    };
    let end = if mend.ends_with('?') { "" } else { "." };
    format!("{who} {verb} {}, which does not exist; {mend}{end}", quoted(name))
}
