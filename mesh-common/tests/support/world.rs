//! A node's tables, filled at random: overlapping networks, tasks here and elsewhere, services of all kinds.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use mesh_common::{
    abi::{
        Address, BackendIndex, Family, Flow, FlowKey, HOST_ALIAS_V4, HOST_ALIAS_V6, Local, NodeIndex,
        Scheduler, ServiceKey, Slot, Space, host_alias, local_flags, network_flags, service_flags,
        settings_flags,
    },
    native::{Choice, Member, NodeTables, Subnet, Target, Way},
    wire::protocol,
};

use super::random::Random;

/// The node's interfaces, which in a kernel have the numbers and MAC addresses that it gave them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interfaces {
    pub(crate) uplink: u32,
    pub(crate) uplink_mac: [u8; 6],
    /// `mesh0-gate`.
    pub(crate) gate: u32,
    /// `mesh0`, and its MAC address.
    pub(crate) host: u32,
    pub(crate) host_mac: [u8; 6],
    /// The first of the tasks' interfaces.
    pub(crate) tasks: u32,
}

impl Interfaces {
    /// Some, for where there is no kernel.
    pub(crate) const SOME: Self = Self {
        uplink: 2,
        uplink_mac: [0x02, 0, 0, 0, 0, 2],
        gate: 3,
        host: 4,
        host_mac: [0x02, 0, 0, 0, 0, 4],
        tasks: 100,
    };
}

/// This node's addresses, with their subnets.
pub(crate) const ADDRESSES: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
/// Addresses of the node's that are on no wire's interface.
pub(crate) const ON_LOOPBACK: [&str; 2] = ["198.51.100.10", "2001:db8:a::10"];
/// Addresses of the node's at which published ports do not answer.
pub(crate) const NOT_SERVED: [&str; 2] = ["198.51.100.20", "2001:db8:a::20"];
/// Addresses that are routed to the node and on no interface of it.
pub(crate) const EXTERNAL: [&str; 2] = ["198.51.100.30", "2001:db8:a::30"];
/// The number of the alias by which the node's own processes reach what is published there.
pub(crate) const ALIAS: u32 = 7;
/// The clients that may ask for [`RESTRICTED`].
pub(crate) const ALLOWED: [&str; 2] = ["203.0.113.0/30", "2001:db8:f::/126"];
/// What is reached by the routers, and the routers.
pub(crate) const OUTSIDE: [(&str, &str); 2] =
    [("203.0.113.0/24", "192.0.2.254"), ("2001:db8:f::/48", "2001:db8::fe")];
/// Neighbours whose MAC addresses are known, with the last byte of those: the routers, and some nodes.
pub(crate) const NEIGHBOURS: [(&str, u8); 6] = [
    ("192.0.2.254", 254),
    ("2001:db8::fe", 253),
    ("192.0.2.2", 2),
    ("2001:db8::2", 12),
    ("192.0.2.3", 3),
    ("2001:db8::3", 13),
];

/// The MAC address of a neighbour by its last byte.
pub(crate) const fn neighbour_mac(last: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, last]
}

/// Ports that clients ask for: published over TCP, and over UDP, by Maglev hashing and by round robin.
pub(crate) const PUBLISHED: [(u16, u16, u8, Scheduler); 8] = [
    (80, 8080, protocol::TCP, Scheduler::Mh),
    (81, 0, protocol::TCP, Scheduler::Rr),
    (53, 5353, protocol::UDP, Scheduler::Mh),
    (54, 0, protocol::UDP, Scheduler::Rr),
    (82, 8082, protocol::TCP, Scheduler::Rr),
    (AT_EXTERNAL, 8083, protocol::TCP, Scheduler::Mh),
    (RESTRICTED, 8084, protocol::TCP, Scheduler::Mh),
    (ELSEWHERE, 8085, protocol::UDP, Scheduler::Mh),
];

/// The one of these ports that is published at the external addresses alone.
const AT_EXTERNAL: u16 = 83;
/// The one that not everybody may ask for.
const RESTRICTED: u16 = 84;
/// The one that other nodes answer on.
const ELSEWHERE: u16 = 85;

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) node: NodeTables,
    pub(crate) members: Vec<Member>,
    pub(crate) vnis: Vec<u32>,
    /// Virtual IPs by network.
    pub(crate) vips: Vec<(u32, Address)>,
    pub(crate) peers: Vec<(NodeIndex, Address)>,
}

impl World {
    pub(crate) fn random(random: &mut Random, interfaces: &Interfaces) -> Self {
        let over_v6 = random.one_in(2);
        let address: IpAddr = if over_v6 { ip("2001:db8::1") } else { ip("192.0.2.1") };
        let mut node = NodeTables::new(1, address);
        node.settings.seed = random.word();
        if random.one_in(4) {
            node.settings.flags |= settings_flags::RETURN_DIRECT;
        }
        if random.one_in(6) {
            node.settings.flags |= random.pick(&[
                settings_flags::NO_SECOND_CHANCE,
                settings_flags::NO_SECOND_CHANCE | settings_flags::FORGETFUL,
                settings_flags::ENTRY_CACHE,
            ]);
        }
        add_interfaces(&mut node, interfaces);

        let mut world = Self { node, members: vec![], vnis: vec![], vips: vec![], peers: vec![] };
        world.add_peers(random, interfaces, over_v6);
        world.add_networks(random);
        world.add_members(random, interfaces);
        world.add_services(random);
        world.add_broken_flows(random);
        world.add_history(random);
        if random.one_in(2) {
            // With an address of no interface, each packet is the mesh's.
            world.node.locals.retain(|_, local| local.ifindex != 0);
        }
        if !random.one_in(8) {
            world.node.hasten();
        }
        world.node.set_clock(1000);
        world
    }

    /// This node's addresses.
    pub(crate) fn locals(&self) -> Vec<Address> {
        let mut locals: Vec<Address> = self.node.locals.keys().copied().collect();
        locals.sort_unstable();
        locals
    }

    pub(crate) fn local_members(&self) -> Vec<Member> {
        self.members.iter().filter(|member| member.node == 1).copied().collect()
    }

    fn add_peers(&mut self, random: &mut Random, interfaces: &Interfaces, over_v6: bool) {
        // Of 4 no neighbour is known, and to 5 there is no route.
        let peers = [
            (2, "192.0.2.2", "2001:db8::2"),
            (3, "192.0.2.3", "2001:db8::3"),
            (4, "192.0.2.4", "2001:db8::4"),
            (5, "198.51.100.5", "2001:db8:5::5"),
        ];
        for (index, v4, v6) in peers {
            let address = ip(if over_v6 { v6 } else { v4 });
            let ifindex = if index == 5 { 0 } else { interfaces.uplink };
            self.node.add_peer(index, address, ifindex, random.pick(&[1500, 1500, 1280, 9000]));
            self.peers.push((index, address.into()));
        }
    }

    fn add_networks(&mut self, random: &mut Random) {
        // Two networks with the same addresses: nothing may pass between them.
        let blue = ["10.0.9.1/24", "fd00:9::1/64", "10.0.10.1/24", "fd00:a::1/64"];
        let all: [(u32, &[&str]); 4] =
            [(4097, &blue), (77, &blue), (0x00ff_ffff, &["10.1.0.1/16"]), (5, &["fd00:5::1/64"])];
        for (vni, subnets) in all {
            let subnets: Vec<Subnet> = subnets.iter().map(|text| parse(text)).collect();
            self.node.add_network(vni, &subnets, random.pick(&[1450, 1430, 1280, 600]));
            if random.one_in(3)
                && let Some(network) = self.node.networks.get_mut(&vni)
            {
                network.flags |= network_flags::INTERNAL;
            }
            self.vnis.push(vni);
        }
    }

    fn add_members(&mut self, random: &mut Random, interfaces: &Interfaces) {
        let mut ifindex = interfaces.tasks;
        for vni in self.vnis.clone() {
            for last in 11..17u8 {
                let node = random.pick(&[1, 1, 2, 3, 4, 5]);
                let v4 = match vni {
                    5 => None,
                    0x00ff_ffff => Some(Ipv4Addr::new(10, 1, 0, last)),
                    _ => Some(Ipv4Addr::new(10, 0, 9, last)),
                };
                let v6 = match vni {
                    0x00ff_ffff => None,
                    5 => Some(Ipv6Addr::new(0xfd00, 5, 0, 0, 0, 0, 0x0a00, last.into())),
                    _ => Some(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0x0a00, 0x0900 + u16::from(last))),
                };
                // Some tasks have one family of two.
                let (v4, v6) = match random.below(6) {
                    0 if v6.is_some() => (None, v6),
                    1 if v4.is_some() => (v4, None),
                    _ => (v4, v6),
                };
                let member = Member { vni, v4, v6, node, ifindex };
                ifindex += 1;
                self.node.add_member(&member);
                self.members.push(member);
            }
        }
    }

    fn add_services(&mut self, random: &mut Random) {
        let mut id = 0;
        let mut choice = |scheduler| {
            id += 1;
            Choice { id, scheduler }
        };
        for vni in self.vnis.clone() {
            let addresses = match vni {
                5 => vec!["fd00:5::2", "fd00:5::3"],
                0x00ff_ffff => vec!["10.1.0.2", "10.1.0.3"],
                _ => vec!["10.0.9.2", "10.0.9.3", "fd00:9::2", "fd00:9::3"],
            };
            for (index, address) in addresses.into_iter().enumerate() {
                let address = Address::from(ip(address));
                let ring = self.ring(random, Some(vni), address.family());
                let scheduler = if index % 2 == 0 { Scheduler::Mh } else { Scheduler::Rr };
                self.node.add_service(Target::Vip { vni, address }, choice(scheduler), &ring);
                self.vips.push((vni, address));
            }
        }
        for (port, target_port, protocol, scheduler) in PUBLISHED {
            for family in [Family::V4, Family::V6] {
                let ring = self.ring(random, None, family);
                let target = Target::Published { port, target_port, protocol, family };
                self.node.add_service(target, choice(scheduler), &ring);
                let of_family = |address: &Address| address.family() == family;
                let key = ServiceKey {
                    address: Address::UNSPECIFIED,
                    scope: 0,
                    port: port.to_be_bytes(),
                    protocol,
                    family: family as u8,
                };
                match port {
                    AT_EXTERNAL => {
                        for address in
                            EXTERNAL.map(|text| Address::from(ip(text))).into_iter().filter(of_family)
                        {
                            self.node.limit(&key, address, 0);
                            let at = ServiceKey { address, ..key };
                            if let Some(service) = self.node.services.get(&at).copied() {
                                let alias = ServiceKey { address: host_alias(family, ALIAS), ..key };
                                self.node.services.insert(alias, service);
                            }
                        }
                    }
                    RESTRICTED => self.node.restrict(&key, &ALLOWED.map(parse)),
                    ELSEWHERE => self.node.limit(&key, Address::UNSPECIFIED, ServiceKey::ELSEWHERE),
                    _ => {}
                }
            }
        }
        let mut keys: Vec<ServiceKey> = self.node.services.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(service) = self.node.services.get_mut(&key) else { continue };
            if random.one_in(5) {
                service.flags |= service_flags::SILENT;
            }
            if random.one_in(8) {
                service.flags |= service_flags::DRAINING;
            }
            if random.one_in(4) {
                service.persistent = random.pick(&[1, 300]);
            }
        }
        for service in 0..=id {
            self.node.set_cursor(service, random.pick(&[0, 1, 17, u64::MAX]));
        }
    }

    /// Connections of this node's tasks to virtual IPs, whose backends are gone.
    fn add_broken_flows(&mut self, random: &mut Random) {
        for member in self.local_members() {
            let vips: Vec<Address> =
                self.vips.iter().filter(|(vni, _)| *vni == member.vni).map(|(_, vip)| *vip).collect();
            if vips.is_empty() || !random.one_in(3) {
                continue;
            }
            let vip = random.pick(&vips);
            let Some(source) = member.address(vip.family()) else { continue };
            let gone = match vip.family() {
                Family::V4 => ip("10.0.9.77"),
                Family::V6 => ip("fd00:9::77"),
            };
            let key = FlowKey {
                source,
                destination: vip,
                source_port: [0x9c, random.byte()],
                destination_port: [0, 80],
                scope: FlowKey::scope(Space::Network, member.vni),
                protocol: random.pick(&[protocol::TCP, protocol::TCP, protocol::UDP]),
                reserved: [0; 7],
            };
            let flow = Flow {
                source,
                destination: gone.into(),
                source_port: key.source_port,
                destination_port: key.destination_port,
                seen: 1000,
                ..Flow::default()
            };
            self.node.set_flow(key, flow);
        }
    }

    /// Gives some slots backends that they had before.
    fn add_history(&mut self, random: &mut Random) {
        let backends: Vec<BackendIndex> = (0..self.node.backends.len() as BackendIndex).collect();
        for slot in &mut self.node.slots {
            if random.one_in(2) {
                *slot = Slot::new(slot.current(), [random.pick(&backends), random.pick(&backends)]);
            }
        }
    }

    /// A ring of tasks, now and then of none, or with one that is not there any more.
    fn ring(&mut self, random: &mut Random, vni: Option<u32>, family: Family) -> Vec<BackendIndex> {
        if random.one_in(12) {
            return vec![];
        }
        let able: Vec<Member> = self
            .members
            .iter()
            .filter(|member| vni.is_none_or(|vni| member.vni == vni) && member.address(family).is_some())
            .copied()
            .collect();
        let mut ring = vec![];
        for _ in 0..=random.below(6) {
            if able.is_empty() || random.one_in(20) {
                ring.push(random.pick(&[0, 999, u32::MAX]));
            } else {
                let member = random.pick(&able);
                ring.push(self.node.add_backend(&member, family));
            }
        }
        ring
    }
}

fn add_interfaces(node: &mut NodeTables, interfaces: &Interfaces) {
    node.set_gate(interfaces.gate, interfaces.host_mac);
    let subnets: Vec<Subnet> = ADDRESSES.iter().map(|text| parse(text)).collect();
    node.add_uplink(interfaces.uplink, interfaces.uplink_mac, &subnets, 1500);
    for address in ON_LOOPBACK {
        node.locals.insert(ip(address).into(), Local { ifindex: 1, flags: local_flags::SERVES, alias: 0 });
    }
    for address in NOT_SERVED {
        node.locals.insert(ip(address).into(), Local { ifindex: 1, flags: 0, alias: 0 });
    }
    let by_uplink = |gateway| Way { ifindex: interfaces.uplink, mac: interfaces.uplink_mac, gateway };
    for (destination, router) in OUTSIDE {
        node.routes.add(parse(destination), by_uplink(Some(ip(router).into())));
    }
    // The kernel sends nothing to a subnet's broadcast address on anybody's behalf.
    node.routes.add(parse("192.0.2.255/32"), Way::default());
    for (address, last) in NEIGHBOURS {
        node.routes.add_neighbour(interfaces.uplink, ip(address).into(), neighbour_mac(last));
    }
    let to_host = Way { ifindex: interfaces.host, mac: interfaces.host_mac, gateway: None };
    for alias in [HOST_ALIAS_V4, HOST_ALIAS_V6] {
        let bits = if alias.family() == Family::V4 { 32 } else { 128 };
        node.routes.add(Subnet { address: alias, bits }, to_host);
        node.routes.add_neighbour(interfaces.host, alias, neighbour_mac(1));
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    parse(text)
}

pub(crate) fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
