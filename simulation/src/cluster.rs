//! What is true of the cluster, version by version, and what each node knows of it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use mesh_common::{
    abi::{
        Address, Attachment, Backend, BackendIndex, Endpoint, Family, Local, Network, Node as NodeEntry,
        NodeIndex, Scheduler, ServiceKey, Settings, Station, local_flags, node_mac, station_flags,
    },
    native::NodeTables,
};
use mesh_userspace::{
    apply::Block,
    plan::{
        PlannedService, SEED,
        ring::{BackendId, Weighted},
        ring_of,
    },
};

/// Milliseconds of simulated time.
pub(crate) type Time = u64;
/// Counts the changes of the cluster.
pub(crate) type Version = u32;
pub(crate) const NEVER: u64 = u64::MAX;
pub(crate) const NO_VERSION: Version = Version::MAX;

pub(crate) const VXLAN_PORT: u16 = 4789;
pub(crate) const UPLINK: u32 = 2;
/// The interface of a task is this and its number as a backend.
pub(crate) const FIRST_IFINDEX: u32 = 1000;
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];
/// Bytes of the longest packet between tasks.
const MTU: u32 = 1400;
pub(crate) const NETWORKS: u32 = 64;
pub(crate) const FIRST_VNI: u32 = 100;

/// The address that all nodes have, to which routers spread clients.
pub(crate) fn anycast(family: Family) -> Address {
    match family {
        Family::V4 => Address::from_v4([198, 51, 100, 1]),
        Family::V6 => Address::from(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1))),
    }
}

/// A task, whose number is also its index as a backend.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) backend: Backend,
    pub(crate) endpoint_here: Endpoint,
    pub(crate) endpoint_elsewhere: Endpoint,
    pub(crate) station: Station,
    pub(crate) station_draining: Station,
    pub(crate) attachment: Attachment,
    pub(crate) service: usize,
    pub(crate) weight: u32,
    /// When it ceased to take new flows; `NEVER` while it takes some.
    pub(crate) closed: Time,
    /// From which version on it is known to drain.
    pub(crate) drains: Version,
    /// The versions in which it is known.
    pub(crate) born: Version,
    pub(crate) gone: Version,
    /// When it ceased to be.
    pub(crate) died: Time,
}

/// A ring of a service, from a version on.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: Version,
    pub(crate) time: Time,
    pub(crate) planned: PlannedService,
    pub(crate) backends: BTreeMap<BackendId, BackendIndex>,
    /// Those that ended, on nodes that are there.
    pub(crate) left: Vec<BackendIndex>,
}

impl Change {
    /// The backend that a flow's hash names.
    pub(crate) fn owner(&self, hash: u32) -> Option<BackendIndex> {
        let ring = &self.planned.ring;
        let position = ring.positions().get(mesh_common::hash::slot(hash, ring.len() as u32) as usize)?;
        self.backends.get(ring.backends().get(*position as usize)?).copied()
    }
}

/// A published port.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    pub(crate) vni: u32,
    pub(crate) target_port: u16,
    pub(crate) scheduler: Scheduler,
    /// The tasks that are in the sources' table.
    pub(crate) members: Vec<BackendIndex>,
    /// The tasks that ended.
    pub(crate) ended: Vec<BackendIndex>,
    pub(crate) changes: Vec<Change>,
    /// How far each node is, by its index: only those that were asked for.
    pub(crate) places: HashMap<NodeIndex, Place>,
    /// The blocks that were made: of a block, for a change, forgetting or not.
    pub(crate) made: HashMap<(u32, usize, bool), u32>,
    /// Those without history.
    pub(crate) fresh: HashMap<usize, u32>,
}

/// Which slots a node has for a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) change: usize,
    pub(crate) block: u32,
    pub(crate) since: Time,
}

/// A round of a node's agent: it took what was then true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) time: Time,
    pub(crate) version: Version,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) own: NodeTables,
    pub(crate) settings: Settings,
    pub(crate) entry: NodeEntry,
    pub(crate) entry_without_way: NodeEntry,
    pub(crate) station: Station,
    pub(crate) rounds: Vec<Round>,
    pub(crate) restarts: Vec<Time>,
    pub(crate) has_xdp: bool,
    /// The versions in which it is known.
    pub(crate) joined: Version,
    pub(crate) left: Version,
    pub(crate) died: Time,
    pub(crate) frozen_until: Time,
    /// Clients' packets may come by it from then on.
    pub(crate) enters_from: Time,
    /// Versions in which services of its tasks changed, of which it has not told yet.
    pub(crate) news: Vec<(Version, usize)>,
}

impl Node {
    pub(crate) fn version(&self) -> Version {
        self.rounds.last().map_or(0, |round| round.version)
    }

    pub(crate) const fn is_alive(&self) -> bool {
        self.died == NEVER
    }
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) version: Version,
    pub(crate) now: Time,
    /// The first is unused, as with the nodes.
    pub(crate) tasks: Vec<Task>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) nodes_by_mac: HashMap<[u8; 6], NodeIndex>,
    pub(crate) services: Vec<Service>,
    pub(crate) blocks: Vec<Option<Arc<Block>>>,
    /// Places of `blocks` that are free again.
    pub(crate) spare: Vec<u32>,
    pub(crate) networks: Vec<Network>,
    pub(crate) local: Local,
    pub(crate) underlay: Family,
    pub(crate) flags: u32,
}

impl Cluster {
    pub(crate) fn new(underlay: Family, flags: u32) -> Self {
        let network = Network { gateway_mac: GATEWAY_MAC, mtu: MTU, ..Network::default() };
        let mut cluster = Self {
            version: 0,
            now: 0,
            tasks: Vec::new(),
            nodes: Vec::new(),
            nodes_by_mac: HashMap::new(),
            services: Vec::new(),
            blocks: vec![None],
            spare: Vec::new(),
            networks: vec![network; NETWORKS as usize],
            local: Local { ifindex: 1, flags: local_flags::SERVES, alias: 0 },
            underlay,
            flags,
        };
        cluster.add_node();
        cluster.add_task(0, 0, 0);
        cluster
    }

    fn underlay_address(&self, index: NodeIndex) -> Address {
        match self.underlay {
            Family::V4 => Address::from_v4([192, 168, (index >> 8) as u8, index as u8]),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, index as u16)).into_address()
            }
        }
    }

    /// The node that has an underlay address.
    pub(crate) fn node_at(&self, address: Address) -> Option<NodeIndex> {
        let [.., a, b] = address.v4_octets();
        let index = NodeIndex::from(u16::from_be_bytes([a, b]));
        (index != 0 && (index as usize) < self.nodes.len() && self.underlay_address(index) == address)
            .then_some(index)
    }

    /// Adds a node, known from the next version on.
    pub(crate) fn add_node(&mut self) -> NodeIndex {
        let index = self.nodes.len() as NodeIndex;
        let address = self.underlay_address(index);
        let mac = node_mac(address);
        let entry = NodeEntry { address, ifindex: UPLINK, mtu: 1500, mac, reserved: [0; 2] };
        let settings = Settings {
            address,
            seed: SEED,
            node: index,
            host_ifindex: 3,
            host_mac: [2, 0, 0, 0, 0, 4],
            vxlan_port: VXLAN_PORT.to_be_bytes(),
            trace_every: 0,
            flags: self.flags,
        };
        if index != 0 {
            self.nodes_by_mac.insert(mac, index);
        }
        self.nodes.push(Node {
            own: NodeTables::default(),
            settings,
            entry,
            entry_without_way: NodeEntry { ifindex: 0, mtu: 0, ..entry },
            station: Station { node: index, ..Station::default() },
            rounds: Vec::new(),
            restarts: Vec::new(),
            has_xdp: index.is_multiple_of(3),
            joined: self.version,
            left: NO_VERSION,
            died: NEVER,
            frozen_until: 0,
            enters_from: 0,
            news: Vec::new(),
        });
        index
    }

    /// Adds a task, known from this version on; who calls this then changes the service's ring.
    pub(crate) fn add_task(&mut self, service: usize, node: NodeIndex, weight: u32) -> BackendIndex {
        let index = self.tasks.len() as BackendIndex;
        let family = self.services.get(service).map_or(Family::V4, family_of);
        let vni = self.services.get(service).map_or(0, |service| service.vni);
        let [_, a, b, c] = index.to_be_bytes();
        let v4 = Address::from_v4([10, a, b, c]);
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])));
        let (v4, v6) = match family {
            Family::V4 => (v4, Address::UNSPECIFIED),
            Family::V6 => (Address::UNSPECIFIED, v6.into_address()),
        };
        let address = if family == Family::V4 { v4 } else { v6 };
        let mac = [0x02, 0x42, 10, a, b, c];
        let elsewhere = Endpoint { mac, reserved: [0; 2], node, ifindex: 0 };
        let station = Station { v4, v6, node, flags: 0 };
        self.tasks.push(Task {
            backend: Backend::new(address, vni, node, mac),
            endpoint_here: Endpoint { ifindex: FIRST_IFINDEX + index, ..elsewhere },
            endpoint_elsewhere: elsewhere,
            station,
            station_draining: Station { flags: station_flags::DRAINING, ..station },
            attachment: Attachment { v4, v6, vni, mac, gateway_mac: GATEWAY_MAC, mtu: MTU, reserved: 0 },
            service,
            weight,
            closed: NEVER,
            drains: NO_VERSION,
            born: self.version,
            gone: NO_VERSION,
            died: NEVER,
        });
        if let Some(service) = self.services.get_mut(service) {
            service.members.push(index);
        }
        index
    }

    /// The task that has a MAC address.
    pub(crate) fn task_at(&self, mac: [u8; 6]) -> Option<BackendIndex> {
        let [2, 0x42, 10, a, b, c] = mac else { return None };
        let index = u32::from_be_bytes([0, a, b, c]);
        (index != 0 && (index as usize) < self.tasks.len()).then_some(index)
    }

    /// Takes note of a service's ring as its members now want it.
    pub(crate) fn change_ring(&mut self, number: usize) {
        let service = &self.services[number];
        let tasks = &self.tasks;
        let id = |index: &BackendIndex| {
            let backend = &tasks[*index as usize].backend;
            BackendId { vni: backend.vni, address: backend.address.into() }
        };
        let members = service
            .members
            .iter()
            .map(|index| Weighted { id: id(index), weight: tasks[*index as usize].weight });
        let mut ring = Arc::new(ring_of(service.scheduler, members));
        // Whoever wants the same ring again has the same one.
        if let Some(last) = service.changes.last().filter(|last| last.planned.ring == ring) {
            ring = Arc::clone(&last.planned.ring);
        }
        let planned = PlannedService {
            name: String::new(),
            target_port: service.target_port,
            scheduler: service.scheduler,
            sources: Vec::new(),
            silent: false,
            persistent: 0,
            // One of its tasks at least takes new flows.
            draining: false,
            ring,
        };
        let backends = service.members.iter().map(|index| (id(index), *index)).collect();
        let is_there = |index: &BackendIndex| {
            let node = &self.nodes[tasks[*index as usize].backend.node as usize];
            node.is_alive()
        };
        let left = service.ended.iter().copied().filter(is_there).collect();
        let change = Change { version: self.version, time: self.now, planned, backends, left };
        let service = &mut self.services[number];
        match service.changes.last_mut() {
            Some(last) if last.version == change.version => *last = change,
            _ => service.changes.push(change),
        }
    }
}

pub(crate) fn family_of(service: &Service) -> Family {
    if service.key.family == 4 { Family::V4 } else { Family::V6 }
}

/// What `Address` is made of.
pub(crate) trait IntoAddress {
    fn into_address(self) -> Address;
}

impl IntoAddress for IpAddr {
    fn into_address(self) -> Address {
        self.into()
    }
}

/// A client's address.
pub(crate) fn client(family: Family, number: u32) -> Address {
    let [a, b, c, d] = number.to_be_bytes();
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(100, b & 63 | 64, c, d)).into_address(),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0xc,
            u16::from_be_bytes([a, b]),
            u16::from_be_bytes([c, d]),
            0,
            0,
            9,
        ))
        .into_address(),
    }
}
