//! From identities to indices: which number stands for which node, backend and service, and where rings lie.
//!
//! Flows that are under way hold such numbers, so they stay for as long as they can: an entry of equal identity
//! keeps its index, one that leaves keeps its entry until the table is full, and a ring that changes goes to
//! free slots, so that one write of its service's entry switches from the old ring to the new. The new one's slots
//! remember whom they held in the old one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use mesh_common::abi::{
    Address, AllowedKey, Backend, Endpoint, EndpointKey, MacKey, Node, NodeIndex, Service, ServiceKey,
    Settings, Station, node_mac, service_flags, station_flags,
};

use super::{
    fast,
    indices::{Indexed, Indices},
    maps::{AllowedPrefix, Backends, Full, Map, MapContents, Nodes, Services},
    ports, rings,
};
use crate::plan::{
    Plan, PlannedBackend, PlannedEndpoint, PlannedNode, PlannedService, PlannedStation, SEED, ring::BackendId,
};

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
    let lowered = Lowered::anew(plan, current, settled)?;
    Ok(Arc::unwrap_or_clone(lowered.contents))
}

/// The contents of maps with what they were lowered from, so that those of the next plan need not be made anew where
/// nothing has changed.
#[derive(Clone, Debug)]
pub struct Lowered {
    contents: Arc<MapContents>,
    nodes: BTreeMap<IpAddr, NodeIndex>,
    backends: Indices<Backends>,
    great: GreatMaps,
}

/// The great maps of a plan.
#[derive(Clone, Debug, Default)]
struct GreatMaps {
    endpoints: OrdMap<EndpointKey, PlannedEndpoint>,
    stations: OrdMap<MacKey, PlannedStation>,
    backends: OrdMap<BackendId, PlannedBackend>,
}

/// The great maps of the contents.
struct GreatContents {
    endpoints: OrdMap<EndpointKey, Endpoint>,
    stations: OrdMap<MacKey, Station>,
    backends: OrdMap<u32, Backend>,
}

impl Lowered {
    /// What [`lower`] tells.
    ///
    /// # Errors
    /// As there.
    pub fn anew(plan: &Plan, current: &MapContents, settled: &BTreeSet<ServiceKey>) -> Result<Self, Full> {
        let mut nodes = Indices::<Nodes>::of(&current.nodes);
        nodes.change(&current.nodes, &[], &plan.nodes.keys().copied().collect::<Vec<_>>())?;
        let nodes: BTreeMap<IpAddr, NodeIndex> =
            plan.nodes.keys().map(|address| (*address, nodes.get(address))).collect();
        let nodes_by_mac = nodes.iter().map(|(address, index)| {
            let key = MacKey { vni: 0, mac: node_mac(Address::from(*address)), reserved: [0; 2] };
            (key, Station { node: *index, ..Station::default() })
        });
        let great = GreatContents {
            endpoints: OrdMap::new(),
            stations: nodes_by_mac.collect(),
            // Those that left stay: flows that are under way may still name them.
            backends: current.backends.without(&0),
        };
        let backends = Indices::of(&great.backends);
        lower_from(plan, current, settled, nodes, backends, great, &GreatMaps::default())
    }

    /// The same that [`lower`] tells with these contents as the current ones, made of what has changed.
    ///
    /// # Errors
    /// As there.
    pub fn next(&self, plan: &Plan, settled: &BTreeSet<ServiceKey>) -> Result<Self, Full> {
        if !self.nodes.keys().eq(plan.nodes.keys()) {
            return Self::anew(plan, &self.contents, settled);
        }
        let great = GreatContents {
            endpoints: self.contents.endpoints.clone(),
            stations: self.contents.stations.clone(),
            backends: self.contents.backends.clone(),
        };
        let (nodes, backends) = (self.nodes.clone(), self.backends.clone());
        lower_from(plan, &self.contents, settled, nodes, backends, great, &self.great)
    }

    /// The contents.
    #[must_use]
    pub const fn contents(&self) -> &Arc<MapContents> {
        &self.contents
    }
}

/// Lowers a plan, the great maps of which begin with what those of an earlier plan, `was`, were lowered to.
fn lower_from(
    plan: &Plan,
    current: &MapContents,
    settled: &BTreeSet<ServiceKey>,
    nodes: BTreeMap<IpAddr, NodeIndex>,
    mut backends: Indices<Backends>,
    mut great: GreatContents,
    was: &GreatMaps,
) -> Result<Lowered, Full> {
    let node = |address: &IpAddr| nodes.get(address).copied().unwrap_or_default();
    follow(&mut great.endpoints, &was.endpoints, &plan.endpoints, |_, endpoint| Endpoint {
        mac: endpoint.mac,
        reserved: [0; 2],
        node: node(&endpoint.node),
        ifindex: endpoint.ifindex,
    });
    follow(&mut great.stations, &was.stations, &plan.stations, |_, station| Station {
        v4: station.v4,
        v6: station.v6,
        node: node(&station.node),
        flags: if station.draining { station_flags::DRAINING } else { 0 },
    });
    follow_backends(&mut great.backends, &mut backends, &was.backends, &plan.backends, node)?;
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
    let services: OrdMap<_, _> = services.collect();
    let locals = (&plan.locals).into();
    let contents = MapContents {
        fast_services: fast::place(&settings, &services, &locals, &current.fast_services),
        published_ports: ports::published(services.keys(), locals.values()),
        settings: OrdMap::unit(0, settings),
        nodes: nodes_table(plan, current, &nodes),
        peers: plan
            .nodes
            .iter()
            .filter(|(_, node)| node.peer)
            .map(|(address, _)| (Address::from(*address), node(address)))
            .collect(),
        locals,
        uplinks: (&plan.uplinks).into(),
        networks: (&plan.networks).into(),
        subnets: (&plan.subnets).into(),
        endpoints: great.endpoints,
        stations: great.stations,
        targets: plan.targets.iter().map(|key| (*key, 1_u32)).collect(),
        attachments: (&plan.attachments).into(),
        backends: great.backends,
        slots: rings.slots,
        allowed: allowed(plan, &ids),
        services,
    };
    contents.check_capacities()?;
    let great = GreatMaps {
        endpoints: plan.endpoints.clone(),
        stations: plan.stations.clone(),
        backends: plan.backends.clone(),
    };
    Ok(Lowered { contents: Arc::new(contents), nodes, backends, great })
}

/// Changes what one map was lowered to into what another is lowered to, entry by entry.
fn follow<K: Ord + Copy, P: PartialEq, V: Clone>(
    lowered: &mut OrdMap<K, V>,
    was: &OrdMap<K, P>,
    is: &OrdMap<K, P>,
    lower: impl Fn(&K, &P) -> V,
) {
    for change in was.diff(is) {
        match change {
            DiffItem::Add(key, planned) | DiffItem::Update { new: (key, planned), .. } => {
                lowered.insert(*key, lower(key, planned));
            }
            DiffItem::Remove(key, _) => {
                lowered.remove(key);
            }
        }
    }
}

/// The same for the backends, whose entries stand by their indices and stay when they leave.
fn follow_backends(
    lowered: &mut OrdMap<u32, Backend>,
    indices: &mut Indices<Backends>,
    was: &OrdMap<BackendId, PlannedBackend>,
    is: &OrdMap<BackendId, PlannedBackend>,
    node: impl Fn(&IpAddr) -> NodeIndex,
) -> Result<(), Full> {
    let (mut left, mut came, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for change in was.diff(is) {
        match change {
            DiffItem::Add(id, backend) => {
                came.push(*id);
                entries.push((*id, *backend));
            }
            DiffItem::Update { new: (id, backend), .. } => entries.push((*id, *backend)),
            DiffItem::Remove(id, _) => left.push(*id),
        }
    }
    indices.change(lowered, &left, &came)?;
    for (id, backend) in entries {
        let entry = Backend::new(Address::from(id.address), id.vni, node(&backend.node), backend.mac);
        lowered.insert(indices.get(&id), entry);
    }
    Ok(())
}

impl Indexed for Nodes {
    type Identity = IpAddr;

    fn identity(node: &Node) -> Option<IpAddr> {
        (!node.address.is_unspecified()).then(|| node.address.into())
    }

    fn spread(address: IpAddr) -> u32 {
        spread(0, address)
    }
}

impl Indexed for Backends {
    type Identity = BackendId;

    fn identity(backend: &Backend) -> Option<BackendId> {
        let id = BackendId { vni: backend.vni, address: backend.address.into() };
        (!backend.address.is_unspecified()).then_some(id)
    }

    fn spread(id: BackendId) -> u32 {
        spread(id.vni, id.address)
    }
}

/// The ranges of clients that may ask, by the number of what they may ask for.
fn allowed(plan: &Plan, ids: &BTreeMap<ServiceKey, u32>) -> OrdMap<AllowedPrefix, u32> {
    let mut allowed = OrdMap::new();
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

/// The nodes wanted, and those that left: their index is kept for them, without a way to reach them.
fn nodes_table(
    plan: &Plan,
    current: &MapContents,
    indices: &BTreeMap<IpAddr, NodeIndex>,
) -> OrdMap<NodeIndex, Node> {
    let left = current.nodes.range(1..).map(|(index, node)| (*index, Node { ifindex: 0, mtu: 0, ..*node }));
    let mut nodes: OrdMap<NodeIndex, Node> = left.collect();
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
