//! Virtual IPs, published ports and the backends behind them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use mesh_common::abi::{Address, Family, Scheduler, ServiceKey};

use super::{
    PlannedBackend, PlannedService, SEED, natural,
    ring::{BackendId, Ring, Weighted},
    weights,
};
use crate::table::{self, Endpoint, Protocol, PublishMode, Table};

/// The services' part of the plan.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) backends: BTreeMap<BackendId, PlannedBackend>,
    pub(super) services: BTreeMap<ServiceKey, PlannedService>,
}

pub(super) fn services(table: &Table, node: &str) -> Planned {
    let mut tasks: BTreeMap<&str, Vec<(&str, &Endpoint)>> = BTreeMap::new();
    for (name, endpoint) in &table.endpoints {
        if let Some(service) = &endpoint.service {
            tasks.entry(service).or_default().push((name, endpoint));
        }
    }
    let mut rings = Rings::default();
    let mut planned = Planned::default();
    for (name, service) in &table.services {
        let mut endpoints = tasks.remove(name.as_str()).unwrap_or_default();
        endpoints.sort_by(|(a, _), (b, _)| natural::compare(a, b));
        let of = OneService { table, name, service, endpoints };
        of.virtual_ips(&mut rings, &mut planned);
        of.published_ports(node, &mut rings, &mut planned);
    }
    planned
}

/// Rings by what they are made of: a service's virtual IP and its ports mostly share theirs.
#[derive(Default)]
struct Rings(HashMap<(u8, Vec<Weighted>), Arc<Ring>>);

impl Rings {
    fn get(&mut self, scheduler: Scheduler, backends: Vec<Weighted>) -> Arc<Ring> {
        let make = |backends: &[Weighted]| match scheduler {
            Scheduler::Mh => Ring::maglev(SEED, weights::reduced(backends)),
            Scheduler::Rr => Ring::round_robin(weights::in_turn(backends)),
        };
        let key = (scheduler as u8, backends);
        if let Some(ring) = self.0.get(&key) {
            return Arc::clone(ring);
        }
        let ring = Arc::new(make(&key.1));
        self.0.insert(key, Arc::clone(&ring));
        ring
    }
}

/// A service and its tasks' endpoints in the order in which people count them.
struct OneService<'a> {
    table: &'a Table,
    name: &'a str,
    service: &'a table::Service,
    endpoints: Vec<(&'a str, &'a Endpoint)>,
}

impl OneService<'_> {
    fn virtual_ips(&self, rings: &mut Rings, planned: &mut Planned) {
        for (network, vips) in &self.service.vips {
            let Some(vni) = self.table.networks.get(network).map(|network| network.vni) else { continue };
            for vip in vips {
                let family = family(*vip);
                let endpoints = self.endpoints.iter().filter(|(_, endpoint)| endpoint.network == *network);
                let backends = self.backends(endpoints.map(|(_, endpoint)| *endpoint), family, planned);
                let key = ServiceKey {
                    address: Address::from(*vip),
                    scope: vni,
                    port: [0; 2],
                    protocol: 0,
                    family: family as u8,
                };
                self.enter(key, 0, backends, rings, planned);
            }
        }
    }

    fn published_ports(&self, node: &str, rings: &mut Rings, planned: &mut Planned) {
        for port in &self.service.ports {
            for family in [Family::V4, Family::V6] {
                let mut endpoints = self.one_for_each_task(family);
                match port.mode {
                    PublishMode::Ingress => {
                        if endpoints.is_empty() && !self.has_network_of(family) {
                            continue;
                        }
                    }
                    PublishMode::Host => {
                        endpoints.retain(|endpoint| endpoint.node == node);
                        if endpoints.is_empty() {
                            continue;
                        }
                    }
                }
                let backends = self.backends(endpoints.into_iter(), family, planned);
                let key = ServiceKey {
                    address: Address::UNSPECIFIED,
                    scope: 0,
                    port: port.published.to_be_bytes(),
                    protocol: match port.protocol {
                        Protocol::Tcp => 6,
                        Protocol::Udp => 17,
                    },
                    family: family as u8,
                };
                self.enter(key, port.target, backends, rings, planned);
            }
        }
    }

    /// The endpoints with an address of a family, of each task only those on the first of its networks: a
    /// task on two networks is still one task.
    fn one_for_each_task(&self, family: Family) -> Vec<&Endpoint> {
        // What is attached in one namespace of one node is one task.
        fn task<'a>(name: &'a str, endpoint: &'a Endpoint) -> (&'a str, Option<&'a Path>, &'a str) {
            match &endpoint.netns {
                Some(netns) => (&endpoint.node, Some(netns), ""),
                None => (&endpoint.node, None, name),
            }
        }
        let of_family: Vec<_> =
            self.endpoints.iter().filter(|(_, endpoint)| address_of(endpoint, family).is_some()).collect();
        let mut first: BTreeMap<_, &str> = BTreeMap::new();
        for (name, endpoint) in &of_family {
            let network = first.entry(task(name, endpoint)).or_insert(&endpoint.network);
            *network = (*network).min(&endpoint.network);
        }
        of_family
            .into_iter()
            .filter(|(name, endpoint)| first.get(&task(name, endpoint)) == Some(&endpoint.network.as_str()))
            .map(|(_, endpoint)| *endpoint)
            .collect()
    }

    /// Whether a network of the service has a subnet of a family.
    fn has_network_of(&self, family: Family) -> bool {
        let networks: BTreeSet<&String> = self
            .service
            .vips
            .keys()
            .chain(self.endpoints.iter().map(|(_, endpoint)| &endpoint.network))
            .collect();
        networks
            .into_iter()
            .filter_map(|network| self.table.networks.get(network))
            .flat_map(|network| &network.subnets)
            .any(|subnet| self::family(subnet.addr()) == family)
    }

    /// The endpoints as backends with their weights, which are entered into the plan: also those that drain, whose flows
    /// live on.
    fn backends<'a>(
        &self,
        endpoints: impl Iterator<Item = &'a Endpoint>,
        family: Family,
        planned: &mut Planned,
    ) -> Vec<Weighted> {
        let mut backends = Vec::new();
        for endpoint in endpoints {
            let (Some(address), Some(network), Some(node)) = (
                address_of(endpoint, family),
                self.table.networks.get(&endpoint.network),
                self.table.nodes.get(&endpoint.node),
            ) else {
                continue;
            };
            let id = BackendId { vni: network.vni, address };
            planned.backends.insert(id, PlannedBackend { mac: endpoint.mac, node: node.address });
            backends.push(Weighted { id, weight: endpoint.weight.into() });
        }
        backends
    }

    fn enter(
        &self,
        key: ServiceKey,
        target_port: u16,
        backends: Vec<Weighted>,
        rings: &mut Rings,
        planned: &mut Planned,
    ) {
        let scheduler = match self.service.scheduler {
            table::Scheduler::Mh => Scheduler::Mh,
            table::Scheduler::Rr => Scheduler::Rr,
        };
        // Two services cannot have one key in a table that was checked; here the first by name would keep it.
        planned.services.entry(key).or_insert_with(|| PlannedService {
            name: self.name.to_owned(),
            target_port,
            scheduler,
            ring: rings.get(scheduler, backends),
        });
    }
}

/// The family of an address.
pub(super) const fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

fn address_of(endpoint: &Endpoint, wanted: Family) -> Option<IpAddr> {
    endpoint.addresses.iter().copied().find(|address| family(*address) == wanted)
}
