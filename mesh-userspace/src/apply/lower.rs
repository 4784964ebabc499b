//! From identities to indices: which number stands for which node, backend and service, and where rings lie.
//!
//! Flows that are under way hold such numbers, so they stay for as long as they can: an entry of equal identity
//! keeps its index, one that leaves keeps its entry until the table is full, and a ring that changes goes to
//! free slots, so that one write of its service's entry switches from the old ring to the new.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use mesh_common::abi::{
    Address, Backend, Endpoint, MacKey, Node, NodeIndex, Service, ServiceKey, Settings, Slot, Station,
    node_mac,
};

use super::maps::{Backends, Full, Map, MapContents, Nodes, Services, Slots};
use crate::plan::{Plan, PlannedNode, SEED, ring::BackendId};

/// The contents of the maps that make a plan true, keeping the numbers that `current` gave.
///
/// # Errors
/// When a map would have to hold more than it can.
pub fn lower(plan: &Plan, current: &MapContents) -> Result<MapContents, Full> {
    let nodes = node_indices(plan, current)?;
    let node = |address: &IpAddr| nodes.get(address).copied().unwrap_or_default();
    let backends = backend_indices(plan, current)?;
    let rings = place_rings(plan, current, &backends)?;
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
            flags: 0,
            affinity: 0,
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
        attachments: plan.attachments.clone(),
        backends: backends_table(plan, current, &backends, node),
        slots: rings.slots,
        services: services.collect(),
    };
    contents.check_capacities()?;
    Ok(contents)
}

/// Gives each identity an index: the one it had, else the first that was never used, else one that was left by
/// another, beginning at a place given by `spread` so that an index rests for long before it is used again.
fn assign<M: Map<Key = u32>, I: Ord + Copy>(
    current: &BTreeMap<u32, M::Value>,
    identity: impl Fn(&M::Value) -> Option<I>,
    wanted: impl Iterator<Item = I> + Clone,
    spread: impl Fn(&I) -> u32,
) -> Result<BTreeMap<I, u32>, Full> {
    let mut had: BTreeMap<I, u32> = BTreeMap::new();
    for (index, value) in current.range(1..) {
        if let Some(identity) = identity(value) {
            had.entry(identity).or_insert(*index);
        }
    }
    let mut assigned: BTreeMap<I, u32> = wanted.clone().filter_map(|id| Some((id, *had.get(&id)?))).collect();
    let mut taken: BTreeSet<u32> = assigned.values().copied().collect();
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
    let mut backends: BTreeMap<u32, Backend> =
        current.backends.range(1..).map(|(index, backend)| (*index, *backend)).collect();
    for (id, backend) in &plan.backends {
        if let Some(index) = indices.get(id) {
            let value = Backend {
                address: Address::from(id.address),
                vni: id.vni,
                node: node(&backend.node),
                mac: backend.mac,
                reserved: [0; 2],
            };
            backends.insert(*index, value);
        }
    }
    backends
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

/// Where the rings lie.
#[derive(Default)]
struct Rings {
    /// The first slot and the number of slots.
    places: BTreeMap<ServiceKey, (u32, u32)>,
    slots: BTreeMap<u32, Slot>,
}

/// Places each service's ring: where it lies already, beside an equal one that lies already, or in free slots.
fn place_rings(
    plan: &Plan,
    current: &MapContents,
    backends: &BTreeMap<BackendId, u32>,
) -> Result<Rings, Full> {
    let mut rings = Rings::default();
    let mut placed: HashMap<Vec<u32>, u32> = HashMap::new();
    let mut moving = Vec::new();
    for (key, service) in &plan.services {
        let slots: Vec<u32> = service
            .ring
            .slots()
            .map(|id| id.and_then(|id| backends.get(&id)).copied().unwrap_or_default())
            .collect();
        match current.services.get(key) {
            _ if slots.is_empty() => {}
            Some(old) if lies_at(current, old, &slots) => {
                rings.place(*key, old.first_slot, slots, &mut placed);
            }
            _ => moving.push((*key, slots)),
        }
    }
    // The rings that are left are read until the services' entries are switched: they are free the next time.
    let mut used: BTreeMap<u32, u32> = BTreeMap::new();
    for service in current.services.values().filter(|service| service.slots > 0) {
        let end = used.entry(service.first_slot).or_default();
        *end = (*end).max(service.first_slot.saturating_add(service.slots));
    }
    for (key, slots) in moving {
        let first = match placed.get(&slots) {
            Some(first) => *first,
            None => first_fit(&mut used, &slots).ok_or_else(Full::of::<Slots>)?,
        };
        rings.place(key, first, slots, &mut placed);
    }
    Ok(rings)
}

impl Rings {
    fn place(&mut self, key: ServiceKey, first: u32, ring: Vec<u32>, placed: &mut HashMap<Vec<u32>, u32>) {
        let slots = ring.iter().map(|backend| Slot::new(*backend, [0; 2]));
        let count = u32::try_from(ring.len()).unwrap_or(u32::MAX);
        self.slots.extend((first..).zip(slots));
        self.places.insert(key, (first, count));
        placed.insert(ring, first);
    }
}

/// Whether a service's ring is this one already.
fn lies_at(current: &MapContents, service: &Service, ring: &[u32]) -> bool {
    let end = u64::from(service.first_slot) + u64::from(service.slots);
    usize::try_from(service.slots) == Ok(ring.len())
        && end <= u64::from(Slots::CAPACITY)
        && (service.first_slot..)
            .zip(ring)
            .all(|(index, backend)| current.slots.get(&index) == Some(&Slot::new(*backend, [0; 2])))
}

/// Takes the first free room that is long enough. `used` holds where used ranges begin and end.
fn first_fit(used: &mut BTreeMap<u32, u32>, ring: &[u32]) -> Option<u32> {
    let length = u32::try_from(ring.len()).ok()?;
    let mut first: u32 = 0;
    for (start, end) in used.iter() {
        if first.checked_add(length)? <= *start {
            break;
        }
        first = first.max(*end);
    }
    let end = first.checked_add(length).filter(|end| *end <= Slots::CAPACITY)?;
    used.insert(first, end);
    Some(first)
}
