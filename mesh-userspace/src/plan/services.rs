//! Virtual IPs, published ports and the backends behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_common::abi::{Address, Family, Scheduler, ServiceKey, TargetKey};

use super::{
    NodeFacts, PlannedBackend, PlannedService,
    aliases::Aliases,
    natural,
    ring::{self, BackendId, Weighted},
    rings::{Recipe, RingCache, WantedRings},
    weights,
};
use crate::table::{self, Endpoint, Protocol, PublishMode, PublishedPort, Table};

/// The services' part of the plan.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) backends: BTreeMap<BackendId, PlannedBackend>,
    pub(super) services: BTreeMap<ServiceKey, PlannedService>,
    pub(super) targets: BTreeSet<TargetKey>,
}

/// The services on their way into the plan, whose rings are made all at once.
#[derive(Debug, Default)]
struct Draft {
    /// With repetitions: behind a virtual IP and a port are mostly the same.
    backends: Vec<(BackendId, PlannedBackend)>,
    services: BTreeMap<ServiceKey, DraftService>,
    targets: BTreeSet<TargetKey>,
    rings: WantedRings,
}

#[derive(Debug)]
struct DraftService {
    name: String,
    target_port: u16,
    scheduler: Scheduler,
    sources: Vec<IpNet>,
    silent: bool,
    persistent: u32,
    draining: bool,
    /// The number of its ring among those that are wanted.
    ring: usize,
}

pub(super) fn services(
    table: &Table,
    node: &str,
    facts: &NodeFacts,
    aliases: &Aliases,
    cache: &mut RingCache,
) -> Planned {
    let mut tasks = tasks(table);
    let mut draft = Draft::default();
    for (name, service) in &table.services {
        let mut endpoints = tasks.remove(name.as_str()).unwrap_or_default();
        // A Maglev table knows no order but its own.
        if service.scheduler == table::Scheduler::Rr {
            endpoints.sort_by(|(a, _), (b, _)| natural::compare(a, b));
        }
        let of = OneService { table, name, service, endpoints };
        of.virtual_ips(&mut draft);
        of.published_ports(&Here { node, facts, aliases }, &mut draft);
    }
    let rings = cache.rings(draft.rings);
    let services = draft.services.into_iter().map(|(key, service)| {
        let planned = PlannedService {
            name: service.name,
            target_port: service.target_port,
            scheduler: service.scheduler,
            sources: service.sources,
            silent: service.silent,
            persistent: service.persistent,
            draining: service.draining,
            ring: rings.get(service.ring).map(Arc::clone).unwrap_or_default(),
        };
        (key, planned)
    });
    Planned {
        services: services.collect(),
        targets: draft.targets,
        backends: draft.backends.into_iter().collect(),
    }
}

/// The node that the plan is for.
struct Here<'a> {
    node: &'a str,
    facts: &'a NodeFacts,
    aliases: &'a Aliases,
}

/// Where a port of one family answers: the address, and 0 for clients of this node or else [`ServiceKey::ELSEWHERE`].
#[derive(Clone, Copy)]
struct Spot {
    address: Address,
    scope: u32,
    /// Whether clients come by it; otherwise it is for what this node's own processes ask, and what other nodes bring.
    is_clients: bool,
}

impl Spot {
    /// One that clients come by if they do so here.
    const fn new(address: Address, is_here: bool) -> Self {
        Self { address, scope: if is_here { 0 } else { ServiceKey::ELSEWHERE }, is_clients: is_here }
    }
}

/// The endpoints of each service, with their names.
fn tasks(table: &Table) -> BTreeMap<&str, Vec<(&str, &Endpoint)>> {
    let mut tasks: BTreeMap<&str, Vec<(&str, &Endpoint)>> = BTreeMap::new();
    for (name, endpoint) in &table.endpoints {
        if let Some(service) = &endpoint.service {
            tasks.entry(service).or_default().push((name, endpoint));
        }
    }
    tasks
}

/// How many slots the services' rings have at the most, those that a service's addresses and ports share counted once.
pub(super) fn slots(table: &Table) -> u64 {
    let tasks = tasks(table);
    let of_service = |(name, service): (&String, &table::Service)| {
        let endpoints = tasks.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let size = |families: usize, network: Option<&str>| {
            let is_on = |endpoint: &Endpoint| network.is_none_or(|network| endpoint.network == network);
            let on = endpoints.iter().filter(|(_, endpoint)| is_on(endpoint));
            let weight = weights::total(on.map(|(_, endpoint)| endpoint.weight));
            u64::try_from(families).unwrap_or(u64::MAX).saturating_mul(u64::from(ring::size_for(weight)))
        };
        let of_vips: u64 = service.vips.iter().map(|(network, vips)| size(vips.len(), Some(network))).sum();
        let is_on_one = service.vips.len() == 1;
        let of_ports = if service.ports.is_empty() || is_on_one { 0 } else { size(2, None) };
        of_vips + of_ports
    };
    table.services.iter().map(of_service).sum()
}

/// A service and its tasks' endpoints, for round robin in the order in which people count them.
struct OneService<'a> {
    table: &'a Table,
    name: &'a str,
    service: &'a table::Service,
    endpoints: Vec<(&'a str, &'a Endpoint)>,
}

impl OneService<'_> {
    fn virtual_ips(&self, draft: &mut Draft) {
        for (network, vips) in &self.service.vips {
            let Some(vni) = self.table.networks.get(network).map(|network| network.vni) else { continue };
            for vip in vips {
                let family = family(*vip);
                let endpoints = self.endpoints.iter().filter(|(_, endpoint)| endpoint.network == *network);
                let backends = self.backends(endpoints.map(|(_, endpoint)| *endpoint), family, draft);
                let key = ServiceKey {
                    address: Address::from(*vip),
                    scope: vni,
                    port: [0; 2],
                    protocol: 0,
                    family: family as u8,
                };
                self.enter(key, 0, backends, draft);
            }
        }
    }

    fn published_ports(&self, here: &Here<'_>, draft: &mut Draft) {
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
                        endpoints.retain(|endpoint| endpoint.node == here.node);
                        if endpoints.is_empty() {
                            continue;
                        }
                    }
                }
                let backends = self.backends(endpoints.into_iter(), family, draft);
                let protocol = match port.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                };
                let answering = if port.target == 0 { port.published } else { port.target };
                draft.targets.extend(backends.iter().map(|backend| TargetKey {
                    vni: backend.id.vni,
                    port: answering.to_be_bytes(),
                    protocol,
                    reserved: 0,
                }));
                for spot in self.spots(here, port, family) {
                    let key = ServiceKey {
                        address: spot.address,
                        scope: spot.scope,
                        port: port.published.to_be_bytes(),
                        protocol,
                        family: family as u8,
                    };
                    self.enter(key, port.target, backends.clone(), draft);
                    if let Some(service) = draft.services.get_mut(&key)
                        && spot.is_clients
                    {
                        service.sources.clone_from(&port.sources);
                    }
                }
            }
        }
    }

    /// Where a port answers, and where other nodes may bring what is for it.
    fn spots(&self, here: &Here<'_>, port: &PublishedPort, wanted: Family) -> Vec<Spot> {
        let is_on = port.is_on(here.node);
        let mut spots = Vec::new();
        for address in self.service.addresses_of(port).filter(|address| family(*address) == wanted) {
            let is_ours = self.service.external.contains(&address)
                || here.facts.addresses.iter().any(|local| local.address == address);
            let spot = Spot::new(Address::from(address), is_on && is_ours);
            spots.push(spot);
            let alias = here.aliases.alias(address);
            spots.extend(alias.map(|alias| Spot { address: alias, is_clients: false, ..spot }));
        }
        if let Some(interface) = &port.interface {
            let interface = here.facts.interfaces.iter().find(|known| known.name == *interface);
            if let Some(interface) = interface.filter(|_| is_on) {
                let own = here.facts.addresses_of(interface.index).filter(|own| family(*own) == wanted);
                spots.extend(own.map(|own| Spot::new(Address::from(own), true)));
            }
            spots.push(Spot::new(Address::UNSPECIFIED, false));
        } else if port.host_ip.is_none() {
            spots.push(Spot::new(Address::UNSPECIFIED, is_on));
        }
        spots
    }

    /// The endpoints with an address of a family, of each task only those on the first of its networks: a
    /// task on two networks is still one task.
    fn one_for_each_task(&self, family: Family) -> Vec<&Endpoint> {
        // What is attached in one namespace of one node is one task.
        fn task<'a>(name: &'a str, endpoint: &'a Endpoint) -> (&'a str, Option<&'a OsStr>, &'a str) {
            match &endpoint.netns {
                Some(netns) => (&endpoint.node, Some(netns.as_os_str()), ""),
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

    /// The endpoints as members of a ring with their weights; as backends they are entered into the plan: also those that
    /// drain, whose flows live on.
    fn backends<'a>(
        &self,
        endpoints: impl Iterator<Item = &'a Endpoint>,
        family: Family,
        draft: &mut Draft,
    ) -> Vec<Weighted> {
        let mut members = Vec::new();
        for endpoint in endpoints {
            let (Some(address), Some(network), Some(node)) = (
                address_of(endpoint, family),
                self.table.networks.get(&endpoint.network),
                self.table.nodes.get(&endpoint.node),
            ) else {
                continue;
            };
            let id = BackendId { vni: network.vni, address };
            draft.backends.push((id, PlannedBackend { mac: endpoint.mac, node: node.address }));
            members.push(Weighted { id, weight: endpoint.weight.into() });
        }
        members
    }

    fn enter(&self, key: ServiceKey, target_port: u16, mut members: Vec<Weighted>, draft: &mut Draft) {
        // Flows that are under way need the ring: then it is as if none of them drained.
        let draining = !members.is_empty() && members.iter().all(|member| member.weight == 0);
        if draining {
            members.iter_mut().for_each(|member| member.weight = 1);
        }
        let scheduler = match self.service.scheduler {
            table::Scheduler::Mh => Scheduler::Mh,
            table::Scheduler::Rr => Scheduler::Rr,
        };
        // Two services cannot have one key in a table that was checked; here the first by name would keep it.
        draft.services.entry(key).or_insert_with(|| DraftService {
            name: self.name.to_owned(),
            target_port,
            scheduler,
            sources: Vec::new(),
            silent: self.service.on_no_backend == table::OnNoBackend::Drop,
            persistent: self.service.persistent.map_or(0, NonZeroU32::get),
            draining,
            ring: draft.rings.number(Recipe::new(scheduler, weights::reduced(members))),
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
