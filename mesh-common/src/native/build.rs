//! Building what a node knows, a thing at a time.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{NodeTables, Subnet, Way};
use crate::abi::{
    Address, Attachment, Backend, BackendIndex, Endpoint, EndpointKey, Family, FastService, Local, MacKey,
    Network, Node, NodeIndex, PORT_WORDS, Scheduler, Service, ServiceKey, Settings, Slot, Station, TargetKey,
    Uplink, local_flags, node_mac, port_bit, service_flags,
};

/// The VXLAN port of [`NodeTables::new`]: the one that IANA gave it.
const VXLAN_PORT: u16 = 4789;

/// A task's place on a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The network's VNI.
    pub vni: u32,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// The node that it is on.
    pub node: NodeIndex,
    /// On its own node: the host side of its veth pair. Other nodes have no use for it.
    pub ifindex: u32,
}

impl Member {
    /// Its MAC address: 02:42 and its IPv4 address, or the last four bytes of its IPv6 address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let address = self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6));
        let [a, b, c, d] = address.map_or([0; 4], |address| Address::from(address).v4_octets());
        [0x02, 0x42, a, b, c, d]
    }

    /// Its address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<Address> {
        match family {
            Family::V4 => self.v4.map(|ip| IpAddr::V4(ip).into()),
            Family::V6 => self.v6.map(|ip| IpAddr::V6(ip).into()),
        }
    }
}

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A virtual IP of the network with this VNI.
    Vip {
        /// The network's VNI.
        vni: u32,
        /// The virtual IP.
        address: Address,
    },
    /// A port of the nodes.
    Published {
        /// The port that clients ask for.
        port: u16,
        /// The tasks' own port, or 0 for the same.
        target_port: u16,
        /// The IP protocol number: TCP's or UDP's.
        protocol: u8,
        /// The family of the clients' packets.
        family: Family,
    },
}

/// How a service chooses among its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The service's number.
    pub id: u32,
    /// Maglev hashing or round robin.
    pub scheduler: Scheduler,
}

impl NodeTables {
    /// What a node with this index and underlay address knows while it knows nothing else.
    #[must_use]
    pub fn new(index: NodeIndex, address: impl Into<IpAddr>) -> Self {
        let address = Address::from(address.into());
        let mut node = Self::default();
        node.settings =
            Settings { address, node: index, vxlan_port: VXLAN_PORT.to_be_bytes(), ..Settings::default() };
        node.set_node(index, Node { address, mac: node_mac(address), ..Node::default() });
        node.locals.insert(address, Local::default());
        node
    }

    /// Takes note of another node, reached by an interface that takes outer packets of `mtu` bytes.
    pub fn add_peer(&mut self, index: NodeIndex, address: impl Into<IpAddr>, ifindex: u32, mtu: u32) {
        let address = Address::from(address.into());
        self.set_node(index, Node { address, ifindex, mtu, mac: node_mac(address), reserved: [0; 2] });
        self.peers.insert(address, index);
    }

    fn set_node(&mut self, number: NodeIndex, node: Node) {
        let Ok(index) = usize::try_from(number) else { return };
        if self.nodes.len() <= index {
            self.nodes.resize(index.saturating_add(1), Node::default());
        }
        let station = Station { node: number, ..Station::default() };
        self.stations.insert(MacKey { vni: 0, mac: node.mac, reserved: [0; 2] }, station);
        if let Some(entry) = self.nodes.get_mut(index) {
            *entry = node;
        }
    }

    /// Takes note of the interface by which the node's own packets enter the mesh.
    pub fn set_gate(&mut self, host_ifindex: u32, host_mac: [u8; 6]) {
        self.settings.host_ifindex = host_ifindex;
        self.settings.host_mac = host_mac;
    }

    /// Makes a network known. Each of its subnets is given with the gateway's address in it; `mtu` is in bytes.
    pub fn add_network(&mut self, vni: u32, subnets: &[Subnet], mtu: u32) {
        let gateway = |family| {
            let subnet = subnets.iter().find(|subnet| subnet.address.family() == family);
            subnet.map_or(Address::UNSPECIFIED, |subnet| subnet.address)
        };
        let (gateway_v4, gateway_v6) = (gateway(Family::V4), gateway(Family::V6));
        let [a, b, c, d] = if gateway_v4.is_unspecified() { gateway_v6 } else { gateway_v4 }.v4_octets();
        let gateway_mac = [0x02, 0x42, a, b, c, d];
        self.networks
            .insert(vni, Network { gateway_v4, gateway_v6, gateway_mac, flags: 0, mtu, reserved: 0 });
        for subnet in subnets {
            self.subnets.insert(vni, *subnet);
        }
    }

    /// Makes a task known, of this node or of another.
    pub fn add_member(&mut self, member: &Member) {
        let is_here = member.node == self.settings.node;
        let ifindex = if is_here { member.ifindex } else { 0 };
        let mac = member.mac();
        let address = |family| member.address(family).unwrap_or_default();
        let (v4, v6) = (address(Family::V4), address(Family::V6));
        for address in [v4, v6].into_iter().filter(|address| !address.is_unspecified()) {
            let key = EndpointKey { address, vni: member.vni, reserved: 0 };
            self.endpoints.insert(key, Endpoint { mac, reserved: [0; 2], node: member.node, ifindex });
        }
        let key = MacKey { vni: member.vni, mac, reserved: [0; 2] };
        self.stations.insert(key, Station { v4, v6, node: member.node, flags: 0 });
        if is_here {
            let network = self.networks.get(&member.vni).copied().unwrap_or_default();
            let (gateway_mac, mtu) = (network.gateway_mac, network.mtu);
            let attachment = Attachment { v4, v6, vni: member.vni, mac, gateway_mac, mtu, reserved: 0 };
            self.attachments.insert(ifindex, attachment);
        }
    }

    /// Makes a task a target of services by its address of a family, which it must have; gives its index.
    pub fn add_backend(&mut self, member: &Member, family: Family) -> BackendIndex {
        let address = member.address(family).unwrap_or_default();
        let backend = Backend::new(address, member.vni, member.node, member.mac());
        if self.backends.is_empty() {
            self.backends.push(Backend::default());
        }
        self.backends.push(backend);
        u32::try_from(self.backends.len()).map_or(u32::MAX, |length| length.saturating_sub(1))
    }

    /// Makes a service known. `ring` names its backends: in their order for round robin, slot by slot for Maglev
    /// hashing.
    pub fn add_service(&mut self, target: Target, choice: Choice, ring: &[BackendIndex]) {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let first_slot = count(self.slots.len());
        self.slots.extend(ring.iter().map(|current| Slot::new(*current, [0; 2])));
        let (key, target_port) = match target {
            Target::Vip { vni, address } => {
                let family = address.family() as u8;
                (ServiceKey { address, scope: vni, port: [0; 2], protocol: 0, family }, 0)
            }
            Target::Published { port, target_port, protocol, family } => {
                let (port, family) = (port.to_be_bytes(), family as u8);
                let answering = if target_port == 0 { port } else { target_port.to_be_bytes() };
                for backend in
                    ring.iter().filter_map(|index| self.backends.get(usize::try_from(*index).ok()?))
                {
                    let vni = backend.vni;
                    self.targets.insert(TargetKey { vni, port: answering, protocol, reserved: 0 });
                }
                (ServiceKey { address: Address::UNSPECIFIED, scope: 0, port, protocol, family }, target_port)
            }
        };
        let service = Service {
            id: choice.id,
            first_slot,
            slots: count(ring.len()),
            target_port: target_port.to_be_bytes(),
            scheduler: choice.scheduler as u8,
            reserved: 0,
            flags: 0,
            persistent: 0,
        };
        self.services.insert(key, service);
    }

    /// Makes the fast path know what is published, as the services and this node's addresses are now.
    pub fn hasten(&mut self) {
        self.fast_services.clear();
        let has_external = self.locals.values().any(|local| local.ifindex == 0);
        let words = 0..PORT_WORDS;
        self.published_ports = words.map(|word| (word, if has_external { u64::MAX } else { 0 })).collect();
        for key in self.services.keys().filter(|key| key.scope == 0) {
            if let Some((word, bit)) = port_bit(key.protocol, u16::from_be_bytes(key.port)) {
                *self.published_ports.entry(word).or_default() |= bit;
            }
        }
        for (address, local) in &self.locals {
            for published in &self.services {
                let is_published = |key: &ServiceKey| self.services.contains_key(key);
                let entry = FastService::at(&self.settings, (*address, local), published, is_published);
                let Some(entry) = entry else { continue };
                let free = entry.places().find(|place| !self.fast_services.contains_key(place));
                if let Some(place) = free {
                    self.fast_services.insert(place, entry);
                }
            }
        }
    }

    /// Publishes a service at one address alone that was published on each of the node's; with a scope of
    /// [`ServiceKey::ELSEWHERE`], only for what other nodes bring.
    pub fn limit(&mut self, key: &ServiceKey, address: Address, scope: u32) {
        if let Some(service) = self.services.remove(key) {
            self.services.insert(ServiceKey { address, scope, ..*key }, service);
            if scope == 0 {
                self.locals.entry(address).or_default().flags |= local_flags::OWN;
            }
        }
    }

    /// Lets only clients of these ranges ask for a service.
    pub fn restrict(&mut self, key: &ServiceKey, ranges: &[Subnet]) {
        if let Some(service) = self.services.get_mut(key) {
            service.flags |= service_flags::RESTRICTED;
            for range in ranges {
                self.allowed.insert(service.id, *range);
            }
        }
    }

    /// Makes an interface to the outside world known, with the node's addresses on it and the subnets that are reached
    /// by it directly; `mtu` is in bytes.
    pub fn add_uplink(&mut self, ifindex: u32, mac: [u8; 6], subnets: &[Subnet], mtu: u32) {
        let mut uplink = Uplink { mac, mtu, ..Uplink::default() };
        for subnet in subnets {
            match subnet.address.family() {
                Family::V4 => uplink.v4 = subnet.address,
                Family::V6 => uplink.v6 = subnet.address,
            }
            let local = Local { ifindex, flags: local_flags::SERVES, alias: 0 };
            self.locals.insert(subnet.address, local);
            self.routes.add(*subnet, Way { ifindex, mac, gateway: None });
        }
        self.uplinks.insert(ifindex, uplink);
    }

    /// Adds the routes to everywhere else, by a router on an uplink.
    pub fn add_default_route(&mut self, ifindex: u32, router: impl Into<IpAddr>) {
        let router = Address::from(router.into());
        let mac = self.uplinks.get(&ifindex).map_or([0; 6], |uplink| uplink.mac);
        let everywhere = match router.family() {
            Family::V4 => Subnet { address: Address::from_v4([0; 4]), bits: 0 },
            Family::V6 => Subnet { address: Address::UNSPECIFIED, bits: 0 },
        };
        self.routes.add(everywhere, Way { ifindex, mac, gateway: Some(router) });
    }
}
