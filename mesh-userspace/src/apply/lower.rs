//! From identities to indices: which number stands for which node, backend and service, and where rings lie.
//!
//! Flows that are under way hold such numbers, so they stay for as long as they can: an entry of equal identity
//! keeps its index, one that leaves keeps its entry until the table is full, and a ring that changes goes to
//! free slots, so that one write of its service's entry switches from the old ring to the new. The new one's slots
//! remember whom they held in the old one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use mesh_common::abi::{
    Address, AllowedKey, Backend, Endpoint, MacKey, Node, NodeIndex, Service, ServiceKey, Settings, Station,
    node_mac, service_flags,
};

use super::{
    maps::{AllowedPrefix, Backends, Full, Map, MapContents, Nodes, Services},
    rings,
};
use crate::plan::{Plan, PlannedNode, PlannedService, SEED, ring::BackendId};

/// The contents of the maps that make a plan true, keeping the numbers that `current` gave.
///
/// The rings of the services that are `settled` forget whom their slots held before: no flow lives there any more that
/// could not be found otherwise.
///
/// # Errors
/// When a map would have to hold more than it can.
pub fn lower(
    plan: &Plan,
    current: &MapContents,
    settled: &BTreeSet<ServiceKey>,
) -> Result<MapContents, Full> {
    let nodes = node_indices(plan, current)?;
    let node = |address: &IpAddr| nodes.get(address).copied().unwrap_or_default();
    let backends = backend_indices(plan, current)?;
    let rings = rings::place(plan, current, &backends, &nodes, settled)?;
    let ids = service_ids(plan, current)?;

    let settings = Settings {
        address: Address::from(plan.settings.address),
        seed: SEED,
        node: node(&plan.settings.address),
        host_ifindex: plan.settings.host_ifindex,
        host_mac: plan.settings.host_mac,
        vxlan_port: plan.settings.vxlan_port.to_be_bytes(),
        trace_every: plan.settings.trace_every,
        flags: plan.settings.flags,
    };
    let endpoints = plan.endpoints.iter().map(|(key, endpoint)| {
        let value = Endpoint {
            mac: endpoint.mac,
            reserved: [0; 2],
            node: node(&endpoint.node),
            ifindex: endpoint.ifindex,
        };
        (*key, value)
    });
    let stations = plan.stations.iter().map(|(key, station)| {
        let value = Station { v4: station.v4, v6: station.v6, node: node(&station.node), reserved: 0 };
        (*key, value)
    });
    let nodes_by_mac = plan.nodes.keys().map(|address| {
        let key = MacKey { vni: 0, mac: node_mac(Address::from(*address)), reserved: [0; 2] };
        (key, Station { node: node(address), ..Station::default() })
    });
    let services = plan.services.iter().map(|(key, service)| {
        let (first_slot, slots) = rings.places.get(key).copied().unwrap_or_default();
        let value = Service {
            id: ids.get(key).copied().unwrap_or_default(),
            first_slot,
            slots,
            target_port: service.target_port.to_be_bytes(),
            scheduler: service.scheduler as u8,
            reserved: 0,
            flags: flags(service),
            persistent: service.persistent,
        };
        (*key, value)
    });
    let contents = MapContents {
        settings: BTreeMap::from([(0, settings)]),
        nodes: nodes_table(plan, current, &nodes),
        peers: plan
            .nodes
            .iter()
            .filter(|(_, node)| node.peer)
            .map(|(address, _)| (Address::from(*address), node(address)))
            .collect(),
        locals: plan.locals.clone(),
        uplinks: plan.uplinks.clone(),
        networks: plan.networks.clone(),
        subnets: plan.subnets.clone(),
        endpoints: endpoints.collect(),
        stations: stations.chain(nodes_by_mac).collect(),
        targets: plan.targets.iter().map(|key| (*key, 1)).collect(),
        attachments: plan.attachments.clone(),
        backends: backends_table(plan, current, &backends, node),
        slots: rings.slots,
        allowed: allowed(plan, &ids),
        services: services.collect(),
    };
    contents.check_capacities()?;
    Ok(contents)
}

/// The ranges of clients that may ask, by the number of what they may ask for.
fn allowed(plan: &Plan, ids: &BTreeMap<ServiceKey, u32>) -> BTreeMap<AllowedPrefix, u32> {
    let mut allowed = BTreeMap::new();
    for (key, service) in &plan.services {
        let Some(id) = ids.get(key) else { continue };
        for range in &service.sources {
            let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
            let key =
                AllowedKey { service: id.to_be_bytes(), address: Address::from(range.network()).octets() };
            allowed.insert(AllowedPrefix { prefix_len: 32 + 128 - host_bits, key }, 1);
        }
    }
    allowed
}

/// Gives each identity an index: the one it had, else the first that was never used, else one that was left by
/// another, beginning at a place given by `spread` so that an index rests for long before it is used again.
fn assign<M: Map<Key = u32>, I: Ord + Copy>(
    current: &BTreeMap<u32, M::Value>,
    identity: impl Fn(&M::Value) -> Option<I>,
    wanted: impl Iterator<Item = I> + Clone,
    spread: impl Fn(&I) -> u32,
) -> Result<BTreeMap<I, u32>, Full> {
    let mut had: Vec<(I, u32)> =
        current.range(1..).filter_map(|(index, value)| Some((identity(value)?, *index))).collect();
    // Of two entries of one identity the first counts.
    had.sort_unstable();
    had.dedup_by_key(|(identity, _)| *identity);
    let index_of =
        |id: &I| had.binary_search_by_key(id, |(identity, _)| *identity).ok().and_then(|at| had.get(at));
    let mut assigned: BTreeMap<I, u32> = wanted.clone().filter_map(|id| index_of(&id).copied()).collect();
    let mut taken: HashSet<u32> = assigned.values().copied().collect();
    let mut unused = (1..M::CAPACITY).filter(|index| !current.contains_key(index));
    for id in wanted {
        if assigned.contains_key(&id) {
            continue;
        }
        let index = unused.next().or_else(|| {
            let start = 1 + spread(&id) % (M::CAPACITY - 1);
            (start..M::CAPACITY).chain(1..start).find(|index| !taken.contains(index))
        });
        let index = index.ok_or_else(Full::of::<M>)?;
        taken.insert(index);
        assigned.insert(id, index);
    }
    Ok(assigned)
}

fn node_indices(plan: &Plan, current: &MapContents) -> Result<BTreeMap<IpAddr, NodeIndex>, Full> {
    assign::<Nodes, _>(
        &current.nodes,
        |node| (!node.address.is_unspecified()).then(|| node.address.into()),
        plan.nodes.keys().copied(),
        |address| spread(0, *address),
    )
}

/// The nodes wanted, and those that left: their index is kept for them, without a way to reach them.
fn nodes_table(
    plan: &Plan,
    current: &MapContents,
    indices: &BTreeMap<IpAddr, NodeIndex>,
) -> BTreeMap<NodeIndex, Node> {
    let left = current.nodes.range(1..).map(|(index, node)| (*index, Node { ifindex: 0, mtu: 0, ..*node }));
    let mut nodes: BTreeMap<NodeIndex, Node> = left.collect();
    for (address, node) in &plan.nodes {
        if let Some(index) = indices.get(address) {
            let value = node_entry(*address, node);
            nodes.insert(*index, value);
        }
    }
    nodes
}

/// The [`service_flags`] of a service.
fn flags(service: &PlannedService) -> u32 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(service.silent, service_flags::SILENT)
        | flag(!service.sources.is_empty(), service_flags::RESTRICTED)
        | flag(service.draining, service_flags::DRAINING)
}

fn node_entry(address: IpAddr, node: &PlannedNode) -> Node {
    let address = Address::from(address);
    Node { address, ifindex: node.ifindex, mtu: node.mtu, mac: node_mac(address), reserved: [0; 2] }
}

fn backend_indices(plan: &Plan, current: &MapContents) -> Result<BTreeMap<BackendId, u32>, Full> {
    assign::<Backends, _>(
        &current.backends,
        |backend| {
            let id = BackendId { vni: backend.vni, address: backend.address.into() };
            (!backend.address.is_unspecified()).then_some(id)
        },
        plan.backends.keys().copied(),
        |id| spread(id.vni, id.address),
    )
}

/// The backends wanted, and those that left: flows that are under way may still name them.
fn backends_table(
    plan: &Plan,
    current: &MapContents,
    indices: &BTreeMap<BackendId, u32>,
    node: impl Fn(&IpAddr) -> NodeIndex,
) -> BTreeMap<u32, Backend> {
    let left = current.backends.range(1..).map(|(index, backend)| (*index, *backend));
    let wanted = plan.backends.iter().filter_map(|(id, backend)| {
        let value = Backend {
            address: Address::from(id.address),
            vni: id.vni,
            node: node(&backend.node),
            mac: backend.mac,
            reserved: [0; 2],
        };
        Some((*indices.get(id)?, value))
    });
    // Of two under one index the later one stays.
    left.chain(wanted).collect()
}

/// A number that is different for most identities.
fn spread(vni: u32, address: IpAddr) -> u32 {
    let Address([high, low]) = Address::from(address);
    let mixed = (high ^ low.rotate_left(17) ^ u64::from(vni)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// Each service's number: the one it had, else the first that none has, from a place on that is given by its key.
/// So a number rests for long before another service has it, and flows and counters of the one that left are not
/// taken for another's; one that returns mostly has its own again.
fn service_ids(plan: &Plan, current: &MapContents) -> Result<BTreeMap<ServiceKey, u32>, Full> {
    let mut ids = BTreeMap::new();
    let mut kept = BTreeSet::new();
    for key in plan.services.keys() {
        if let Some(service) = current.services.get(key)
            && (1..Services::CAPACITY).contains(&service.id)
            && kept.insert(service.id)
        {
            ids.insert(*key, service.id);
        }
    }
    let mut taken: BTreeSet<u32> = current.services.values().map(|service| service.id).collect();
    for key in plan.services.keys() {
        if !ids.contains_key(key) {
            let [a, b] = key.port;
            let port = u32::from_be_bytes([key.family, key.protocol, a, b]);
            let start = 1 + spread(key.scope ^ port, key.address.into()) % (Services::CAPACITY - 1);
            let free = (start..Services::CAPACITY).chain(1..start).find(|id| !taken.contains(id));
            let id = free.ok_or_else(Full::of::<Services>)?;
            taken.insert(id);
            ids.insert(*key, id);
        }
    }
    Ok(ids)
}
