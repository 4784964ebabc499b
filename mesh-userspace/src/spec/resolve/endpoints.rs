//! The rules of endpoints, but for their addresses.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;

use super::Judge;
use crate::spec::{Endpoint, Given, NETNS_DIRECTORY, listed, nearest, quoted};

impl Judge<'_> {
    pub(super) fn endpoint_rules(&mut self) {
        let spec = self.spec;
        let on: HashSet<(&str, &str)> = spec
            .services
            .iter()
            .flat_map(|(name, service)| {
                service.networks.iter().map(move |network| (name.as_str(), network.value.as_str()))
            })
            .collect();
        for endpoint in &spec.endpoints {
            self.endpoint_references(endpoint, &on);
            self.endpoint_netns(endpoint);
        }
        self.namespaces();
    }

    /// That an endpoint's node, network and service exist, and that the service is `on` the network.
    fn endpoint_references(&mut self, endpoint: &Endpoint, on: &HashSet<(&str, &str)>) {
        let who = format!("The endpoint {}", quoted(&endpoint.name.value));
        let node = &endpoint.node;
        if !self.spec.nodes.contains_key(&node.value) && !self.unreadable.nodes.contains(&node.value) {
            let nodes = self.spec.nodes.keys().chain(&self.unreadable.nodes);
            self.missing(&who, "is on the node", node, "node", nodes);
        }
        self.network_exists(&who, &endpoint.network);
        let Some(name) = &endpoint.service else {
            if let Some(weight) = &endpoint.weight {
                self.fault(
                    &weight.origin,
                    format!(
                        "{who} has a weight but is a task of no service; name its service, or remove the weight."
                    ),
                );
            }
            return;
        };
        match self.spec.services.get(&name.value) {
            None if self.unreadable.services.contains(&name.value) => {}
            None => {
                let services = self.spec.services.keys().chain(&self.unreadable.services);
                self.missing(&who, "is a task of the service", name, "service", services);
            }
            Some(_) => {
                let network = &endpoint.network.value;
                if !self.unreadable.services.contains(&name.value) && !on.contains(&(&name.value, network)) {
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
            self.missing(who, "is on the network", network, "network", networks);
        }
    }

    /// That a name leads nowhere, with the names that would.
    fn missing<'n>(
        &mut self,
        who: &str,
        verb: &str,
        name: &Given<String>,
        kind: &str,
        there: impl Iterator<Item = &'n String>,
    ) {
        /// How many names are listed.
        const LISTED: usize = 8;
        /// How many faults are told with a name that is near.
        const HELPED: usize = 100;
        /// How many names are searched for it.
        const SEARCHED: usize = 1000;
        // The search for a near name is not cheap.
        let few = self.faults.count() < HELPED;
        let mut there: Vec<&str> = there.take(SEARCHED).map(String::as_str).collect();
        // What is in part unreadable may be among both.
        there.sort_unstable();
        there.dedup();
        let mend = match there.as_slice() {
            [] => format!("define it among the {kind}s."),
            _ => match few.then(|| nearest(&name.value, there.iter().copied())).flatten() {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None if there.len() <= LISTED => {
                    let names: Vec<String> = there.iter().map(|name| quoted(name)).collect();
                    format!(
                        "there {} {}.",
                        if names.len() == 1 { "is" } else { "are" },
                        listed(&names, "and")
                    )
                }
                None => format!("define it among the {kind}s, or name one of them."),
            },
        };
        let sentence = format!("{who} {verb} {}, which does not exist; {mend}", quoted(&name.value));
        self.fault(&name.origin, sentence);
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
        let mut namespaces: HashMap<(&str, &Path), Namespace<'_>> = HashMap::new();
        let mut names = HashSet::new();
        for (endpoint, netns) in endpoints {
            // One of two endpoints of a name is refused anyway.
            if !names.insert(&endpoint.name.value) {
                continue;
            }
            let namespace = namespaces.entry((&endpoint.node.value, &netns.value)).or_default();
            let network = spec.networks.get(&endpoint.network.value);
            let subnets =
                || network.into_iter().flat_map(|network| &network.subnets).map(|subnet| subnet.value);
            let clash = match namespace.networks.get(endpoint.network.value.as_str()) {
                Some(other) => Some((*other, "the same network; give it a namespace of its own")),
                None => subnets()
                    .find_map(|subnet| namespace.overlapping(subnet))
                    .map(|other| (other, "a network whose subnets overlap; give one of the networks others")),
            };
            let Some((other, why)) = clash else {
                namespace.networks.insert(&endpoint.network.value, endpoint);
                namespace.subnets.extend(subnets().map(|subnet| (subnet.network(), (subnet, endpoint))));
                continue;
            };
            let there = other.netns.as_ref().map_or(&other.origin, |netns| &netns.origin);
            let sentence = format!(
                "The endpoint {} is in the namespace {}, which the endpoint {} ({}) attaches to {why}.",
                quoted(&endpoint.name.value),
                quoted(&netns.value.to_string_lossy()),
                quoted(&other.name.value),
                there.seen_from(&netns.origin)
            );
            self.fault_between(&netns.origin, there, sentence);
        }
    }
}

/// By which endpoints a namespace is attached.
#[derive(Default)]
struct Namespace<'a> {
    networks: HashMap<&'a str, &'a Endpoint>,
    /// The networks' subnets by their first address, of which none overlaps another.
    subnets: BTreeMap<IpAddr, (IpNet, &'a Endpoint)>,
}

impl<'a> Namespace<'a> {
    /// By which endpoint a subnet is attached that overlaps another.
    fn overlapping(&self, subnet: IpNet) -> Option<&'a Endpoint> {
        // Either the last one that begins before it holds it, or one begins within it.
        let before = self.subnets.range(..=subnet.network()).next_back();
        let within = self.subnets.range(subnet.network()..=subnet.broadcast()).next();
        let before = before.filter(|(_, (other, _))| other.contains(&subnet.network()));
        before.or(within).map(|(_, (_, endpoint))| *endpoint)
    }
}
