//! Packets drawn at random: most of them nearly right, many of them hostile.

use mesh_common::{
    abi::{
        Address, Family, FlowKey, ForwardingAddress, MASQUERADE_PORTS, Space, VNI_MAX, host_alias, node_mac,
    },
    native::{Buffer, Member},
    wire::protocol,
};

use super::{
    random::Random,
    world::{ALIAS, PUBLISHED, World, ip, neighbour_mac, parse},
};

/// What an answer to a client that returns through its entry node is addressed to, inside its tunnel.
pub(crate) const RETURN_MAC: [u8; 6] = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];

/// A network's gateway's.
const GATEWAY_MAC: [u8; 6] = [0x02, 0x42, 10, 0, 9, 1];

const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Where a frame comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// From the task behind an interface.
    Endpoint(u32),
    /// From the node itself.
    Host,
    /// From the wire.
    Underlay,
}

/// A frame, and where it comes in.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) entry: Entry,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_aggregate: bool,
}

impl Frame {
    pub(crate) fn buffer(&self) -> Buffer {
        let buffer = Buffer::new(self.bytes.clone());
        if self.is_aggregate { buffer.aggregate() } else { buffer }
    }
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
    pub(crate) tcp_flags: u8,
}

impl Talk {
    /// One that a flow is known of.
    fn of(key: &FlowKey, random: &mut Random) -> Self {
        Self {
            source: key.source,
            destination: key.destination,
            protocol: key.protocol,
            source_port: key.source_port,
            destination_port: key.destination_port,
            tcp_flags: tcp_flags(random),
        }
    }
}

/// A frame for one of a node's hooks.
pub(crate) fn frame(random: &mut Random, world: &World) -> Frame {
    let mut frame = sound(random, world);
    while random.one_in(4) {
        spoil(random, &mut frame.bytes);
    }
    // What the kernel takes for a test lies in a page.
    frame.bytes.truncate(3500);
    frame
}

/// The same, as whoever made it meant it to be.
pub(crate) fn sound(random: &mut Random, world: &World) -> Frame {
    let error = if random.one_in(12) { about_flow(random, world) } else { None };
    if let Some((entry, bytes)) = error {
        return Frame { entry, bytes, is_aggregate: false };
    }
    let (entry, bytes) = match random.below(10) {
        0..4 => from_endpoint(random, world),
        4 => (Entry::Host, from_host(random, world)),
        5..7 => (Entry::Underlay, from_client(random, world)),
        _ => (Entry::Underlay, from_tunnel(random, world)),
    };
    Frame { entry, bytes, is_aggregate: random.one_in(10) }
}

fn from_endpoint(random: &mut Random, world: &World) -> (Entry, Vec<u8>) {
    let locals = world.local_members();
    if locals.is_empty() || random.one_in(60) {
        let length = random.below(80);
        return (Entry::Endpoint(9999), random.bytes(length));
    }
    let member = random.pick(&locals);
    let gateway_mac = world.node.networks.get(&member.vni).map_or([0; 6], |network| network.gateway_mac);
    let mac = if random.one_in(30) { [0x02, 0x42, 10, 0, 9, random.byte()] } else { member.mac() };
    let other = random.pick(&world.members).mac();
    let to = random.pick(&[gateway_mac, [0xff; 6], other]);
    let bytes = match random.below(12) {
        0 => arp(random, world, member.vni, mac, member.v4.map(|ip| Address::from_v4(ip.octets()))),
        1 => solicitation(random, world, member.vni, mac, member.address(Family::V6)),
        _ => {
            let talk = talk_of_member(random, world, &member);
            ethernet(to, mac, packet(random, &talk))
        }
    };
    (Entry::Endpoint(member.ifindex), bytes)
}

fn from_host(random: &mut Random, world: &World) -> Vec<u8> {
    let mac = world.node.settings.host_mac;
    let source = random.pick(&world.locals());
    let alias = host_alias(source.family(), random.pick(&[0, 0, ALIAS]));
    let destination = match random.below(10) {
        0 => random.pick(&anybody(world, source.family())),
        _ => alias,
    };
    let talk = match known(random, world, |key| key.destination == alias) {
        Some(talk) if random.one_in(3) => talk,
        _ => {
            let (source_port, destination_port, protocol) = service_ports(random);
            let tcp_flags = tcp_flags(random);
            Talk { source, destination, protocol, source_port, destination_port, tcp_flags }
        }
    };
    ethernet(neighbour_mac(1), mac, packet(random, &talk))
}

/// A client's packet on the wire, or the outside world's answer to a task.
fn from_client(random: &mut Random, world: &World) -> Vec<u8> {
    let locals = world.locals();
    let talk = match known(random, world, |key| locals.contains(&key.destination)) {
        Some(talk) if random.one_in(2) => talk,
        _ => {
            let destination = random.pick(&locals);
            let source = client(random, world, destination.family());
            let destination =
                if random.one_in(10) { random.pick(&anybody(world, source.family())) } else { destination };
            let (source_port, destination_port, protocol) = service_ports(random);
            let tcp_flags = tcp_flags(random);
            Talk { source, destination, protocol, source_port, destination_port, tcp_flags }
        }
    };
    ethernet([0x02, 0, 0, 0, 0, 2], neighbour_mac(254), packet(random, &talk))
}

/// A frame in a tunnel to this node.
fn from_tunnel(random: &mut Random, world: &World) -> Vec<u8> {
    if random.one_in(5)
        && let Some(frame) = of_clients_flow(random, world)
    {
        return frame;
    }
    let vni = random.pick(&world.vnis);
    let (peer, peer_address) = random.pick(&world.peers);
    let there: Vec<Member> =
        world.members.iter().filter(|member| member.vni == vni && member.node == peer).copied().collect();
    let mut errand = 0;
    let inner = match random.below(9) {
        8 => forwarding_address(random, world, if there.is_empty() { &world.members } else { &there }),
        0 => {
            let asker = if there.is_empty() { random.pick(&world.members) } else { random.pick(&there) };
            let v4 = asker.v4.map(|ip| Address::from_v4(ip.octets()));
            arp(random, world, vni, asker.mac(), v4)
        }
        1 => {
            let asker = if there.is_empty() { random.pick(&world.members) } else { random.pick(&there) };
            solicitation(random, world, vni, asker.mac(), asker.address(Family::V6))
        }
        2..4 => {
            // A client's packet that another node chose a task of this one for.
            let target = random.pick(&world.members).mac();
            let family = family(random);
            let source = client(random, world, family);
            let destination = random.pick(&anybody(world, family));
            let (source_port, destination_port, protocol) = service_ports(random);
            let talk = Talk {
                source,
                destination,
                protocol,
                source_port,
                destination_port,
                tcp_flags: tcp_flags(random),
            };
            // It names the backend to ask next, or, once it was passed on, the node that it entered by.
            let before = if random.one_in(2) { random.pick(&world.members).mac() } else { GATEWAY_MAC };
            let entry = if random.one_in(8) { before } else { node_mac(random.pick(&world.peers).1) };
            errand = random.pick(&[0, 0, 1, 2, 3, 4, 0xff]);
            ethernet(target, if errand == 0 { before } else { entry }, packet(random, &talk))
        }
        4..6 => {
            // An answer to a client of this node's.
            let local = random.pick(&world.locals());
            let own_alias = host_alias(local.family(), random.pick(&[0, ALIAS]));
            let source = random.pick(&[local, local, local, own_alias]);
            let destination = match random.below(4) {
                0 => alias(source.family()),
                1 => random.pick(&anybody(world, source.family())),
                _ => client(random, world, source.family()),
            };
            let (destination_port, source_port, protocol) = service_ports(random);
            let talk = Talk {
                source,
                destination,
                protocol,
                source_port,
                destination_port,
                tcp_flags: tcp_flags(random),
            };
            let talk = match known(random, world, |key| locals_of(world).contains(&key.destination)) {
                Some(known) if random.one_in(4) => {
                    Talk { destination: known.destination, destination_port: known.destination_port, ..talk }
                }
                _ => talk,
            };
            ethernet(RETURN_MAC, [0x02, 0, 0, 0, 0, 4], packet(random, &talk))
        }
        _ => {
            let sender = if there.is_empty() || random.one_in(12) {
                random.pick(&world.members)
            } else {
                random.pick(&there)
            };
            let talk = talk_of_member(random, world, &sender);
            let is_target = |member: &&Member| {
                member.vni == vni && member.address(talk.destination.family()) == Some(talk.destination)
            };
            let target = match world.members.iter().find(is_target) {
                Some(target) if !random.one_in(4) => target.mac(),
                _ => random.pick(&world.members).mac(),
            };
            ethernet(target, sender.mac(), packet(random, &talk))
        }
    };
    let from = if random.one_in(25) { client(random, world, peer_address.family()) } else { peer_address };
    let vni = if random.one_in(25) { random.word() as u32 & VNI_MAX } else { vni };
    tunnel(random, world, from, vni, errand, &inner)
}

/// One more packet of a client's flow that is known, mostly from the node that it entered by.
fn of_clients_flow(random: &mut Random, world: &World) -> Option<Vec<u8>> {
    let mut flows = world.node.flows();
    flows.retain(|(key, _)| key.scope >> 24 == Space::Published as u32);
    if flows.is_empty() {
        return None;
    }
    let (key, flow) = random.pick(&flows);
    let talk = Talk::of(&key, random);
    let entry = usize::try_from(flow.node).ok().and_then(|index| world.node.nodes.get(index))?;
    let from = if random.one_in(10) { random.pick(&world.peers).1 } else { entry.address };
    let errand = if random.one_in(10) { 1 } else { 0 };
    let inner = ethernet(random.pick(&world.members).mac(), GATEWAY_MAC, packet(random, &talk));
    Some(tunnel(random, world, from, key.scope & VNI_MAX, errand, &inner))
}

/// A node's word of where a flow lives, mostly with one of these backends.
fn forwarding_address(random: &mut Random, world: &World, there: &[Member]) -> Vec<u8> {
    let family = family(random);
    let (client_port, port, protocol) = service_ports(random);
    let backend = random.pick(there).address(family).unwrap_or_default();
    let protocol = if random.one_in(20) { random.byte() } else { protocol };
    let mut frame = vec![];
    frame.extend(random.pick(&world.members).mac());
    frame.extend(node_mac(random.pick(&world.peers).1));
    frame.extend(ForwardingAddress::ETHER_TYPE.to_be_bytes());
    for address in [client(random, world, family), random.pick(&anybody(world, family)), backend] {
        frame.extend(address.octets());
    }
    frame.extend([client_port, port].concat());
    frame.extend([protocol, 0, 0, 0]);
    frame
}

/// Puts a frame into a tunnel from an address to this node.
fn tunnel(random: &mut Random, world: &World, from: Address, vni: u32, errand: u8, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let flags = if random.one_in(30) { random.byte() } else { 0x08 };
    let mut vxlan = vec![flags, 0, 0, 0, a, b, c, errand];
    if random.one_in(30) {
        vxlan[1] = random.byte();
        vxlan[7] = random.byte();
    }
    vxlan.extend_from_slice(inner);
    let settings = &world.node.settings;
    let destination = if random.one_in(40) { random.pick(&locals_of(world)) } else { settings.address };
    let family = destination.family();
    let from = if from.family() == family { from } else { client(random, world, family) };
    let (source_port, destination_port) = ([0xc0 | random.byte(), random.byte()], settings.vxlan_port);
    let mut udp = vec![source_port[0], source_port[1], destination_port[0], destination_port[1]];
    udp.extend(((vxlan.len() + 8) as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(vxlan);
    let talk = Talk {
        source: from,
        destination,
        protocol: protocol::UDP,
        source_port,
        destination_port,
        tcp_flags: 0,
    };
    let odd = random.one_in(20);
    let packet = network(random, &talk, udp, odd);
    ethernet([0x02, 0, 0, 0, 0, 2], neighbour_mac(2), (family, packet))
}

/// An ICMP error about a packet of a flow that is known, as it was before or after it was translated.
fn about_flow(random: &mut Random, world: &World) -> Option<(Entry, Vec<u8>)> {
    let flows = world.node.flows();
    if flows.is_empty() {
        return None;
    }
    let (key, flow) = random.pick(&flows);
    let mut quoted = Talk::of(&key, random);
    if random.one_in(2) && !flow.source.is_unspecified() {
        quoted.source = flow.source;
        quoted.destination = flow.destination;
        quoted.source_port = flow.source_port;
        quoted.destination_port = flow.destination_port;
    }
    let family = quoted.source.family();
    let transport = transport(random, &quoted, vec![0; 20]);
    let odd = random.one_in(10);
    let mut quote = network(random, &quoted, transport, odd);
    let headers = if family == Family::V4 { 28 } else { 48 };
    let length = random.pick(&[headers, headers, 68, quote.len()]);
    quote.truncate(if random.one_in(8) { random.below(headers) } else { length });

    let source = if random.one_in(3) { client(random, world, family) } else { quoted.destination };
    let (protocol, kinds) = match family {
        Family::V4 => (protocol::ICMP, [3, 3, 11, 12, 5]),
        Family::V6 => (protocol::ICMPV6, [1, 2, 3, 4, 5]),
    };
    let mut message = vec![random.pick(&kinds), random.pick(&[0, 3, 4]), 0, 0, 0, 0, 0x05, 0x78];
    message.extend(quote);
    let ports = [0; 2];
    let talk = Talk {
        source,
        destination: quoted.source,
        protocol,
        source_port: ports,
        destination_port: ports,
        tcp_flags: 0,
    };
    let sum = checksum(&message, if family == Family::V6 { pseudo(&talk, message.len()) } else { 0 });
    message[2..4].copy_from_slice(&sum);
    let odd = random.one_in(10);
    let packet = (family, network(random, &talk, message, odd));

    let sender = world.members.iter().find(|member| member.address(family) == Some(source)).copied();
    Some(match sender {
        Some(member) if member.node == 1 => {
            (Entry::Endpoint(member.ifindex), ethernet([0x02, 0x42, 10, 0, 9, 1], member.mac(), packet))
        }
        Some(member) => {
            let inner = ethernet(random.pick(&world.members).mac(), member.mac(), packet);
            let peer = world.peers.iter().find(|(node, _)| *node == member.node)?.1;
            (Entry::Underlay, tunnel(random, world, peer, member.vni, 0, &inner))
        }
        None if random.one_in(3) => {
            let to = random.pick(&[RETURN_MAC, [0x02, 0x42, 10, 0, 9, 11], [0x02, 0x42, 10, 0, 9, 12]]);
            let inner = ethernet(to, [0x02, 0x42, 10, 0, 9, 1], packet);
            let (_, peer) = random.pick(&world.peers);
            let vni = random.pick(&world.vnis);
            (Entry::Underlay, tunnel(random, world, peer, vni, 0, &inner))
        }
        None if random.one_in(4) => {
            (Entry::Host, ethernet(neighbour_mac(1), world.node.settings.host_mac, packet))
        }
        None => (Entry::Underlay, ethernet([0x02, 0, 0, 0, 0, 2], neighbour_mac(254), packet)),
    })
}

fn talk_of_member(random: &mut Random, world: &World, member: &Member) -> Talk {
    let families: Vec<Family> =
        [Family::V4, Family::V6].into_iter().filter(|family| member.address(*family).is_some()).collect();
    let family = if random.one_in(30) { family(random) } else { random.pick(&families) };
    let own = member.address(family).unwrap_or(Address::UNSPECIFIED);
    let scope = FlowKey::scope(Space::Network, member.vni);
    let flow = known(random, world, |key| key.scope == scope && key.source == own);
    if let Some(talk) = flow
        && random.one_in(2)
    {
        return talk;
    }
    let source = if random.one_in(30) { random.pick(&anybody(world, family)) } else { own };
    let on_network: Vec<Address> = world
        .members
        .iter()
        .filter(|other| other.vni == member.vni)
        .filter_map(|other| other.address(family))
        .chain(world.vips.iter().filter(|(vni, _)| *vni == member.vni).map(|(_, address)| *address))
        .filter(|address| address.family() == family)
        .collect();
    let destination = if on_network.is_empty() || random.one_in(3) {
        random.pick(&anybody(world, family))
    } else {
        random.pick(&on_network)
    };
    let (source_port, destination_port, protocol) = service_ports(random);
    let talk =
        Talk { source, destination, protocol, source_port, destination_port, tcp_flags: tcp_flags(random) };
    if random.one_in(60) {
        // A tunnel of its own making.
        let nodes = world.peers.iter().map(|(_, address)| *address).chain(world.locals());
        let nodes: Vec<Address> = nodes.filter(|address| address.family() == family).collect();
        let destination_port = world.node.settings.vxlan_port;
        return Talk { destination: random.pick(&nodes), protocol: protocol::UDP, destination_port, ..talk };
    }
    talk
}

fn known(random: &mut Random, world: &World, fits: impl Fn(&FlowKey) -> bool) -> Option<Talk> {
    let keys: Vec<FlowKey> =
        world.node.flows().into_iter().map(|(key, _)| key).filter(|key| fits(key)).collect();
    if keys.is_empty() { None } else { Some(Talk::of(&random.pick(&keys), random)) }
}

fn locals_of(world: &World) -> Vec<Address> {
    world.locals()
}

fn family(random: &mut Random) -> Family {
    random.pick(&[Family::V4, Family::V6])
}

const fn alias(family: Family) -> Address {
    host_alias(family, 0)
}

fn client(random: &mut Random, world: &World, family: Family) -> Address {
    match (random.below(8), family) {
        (0, _) => {
            let locals = world.locals();
            let locals: Vec<Address> =
                locals.into_iter().filter(|address| address.family() == family).collect();
            random.pick(&locals)
        }
        (1, _) => alias(family),
        (2, Family::V4) => ip("192.0.2.9").into(),
        (2, Family::V6) => ip("2001:db8::9").into(),
        (last, Family::V4) => Address::from_v4([203, 0, 113, last as u8]),
        (last, Family::V6) => ip(&format!("2001:db8:f::{last}")).into(),
    }
}

/// Addresses of every kind.
fn anybody(world: &World, family: Family) -> Vec<Address> {
    let text: &[&str] = match family {
        Family::V4 => &[
            "10.0.9.1",
            "10.0.9.99",
            "10.0.10.1",
            "10.0.10.9",
            "10.0.9.255",
            "10.1.0.1",
            "192.0.2.2",
            "192.0.2.4",
            "192.0.2.255",
            "203.0.113.5",
            "198.51.100.7",
            "198.51.100.5",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "127.0.0.1",
        ],
        Family::V6 => &[
            "fd00:9::1",
            "fd00:9::9999",
            "fd00:a::1",
            "fd00:a::1:0:0:1",
            "fd00:5::1",
            "2001:db8::2",
            "2001:db8::4",
            "2001:db8:f::5",
            "2001:db8:ffff::7",
            "ff02::1",
            "::",
            "::1",
            "::ffff:10.0.9.11",
            "::ffff:192.0.2.1",
        ],
    };
    text.iter()
        .map(|text| {
            // Not by way of `IpAddr`, for which a mapped address is of the other family.
            match family {
                Family::V4 => ip(text).into(),
                Family::V6 => Address::from_v6(parse::<std::net::Ipv6Addr>(text).octets()),
            }
        })
        .chain([alias(family)])
        .chain(world.locals().into_iter().filter(|address| address.family() == family))
        .chain(world.vips.iter().map(|(_, address)| *address).filter(|address| address.family() == family))
        .chain(world.members.iter().filter_map(|member| member.address(family)))
        .collect()
}

fn tcp_flags(random: &mut Random) -> u8 {
    match random.below(8) {
        0..4 => SYN,
        4 | 5 => ACK,
        6 => random.pick(&[1 | ACK, 4, 4 | ACK, SYN | ACK]),
        _ => random.byte(),
    }
}

/// A client's port, a service's, and the protocol.
fn service_ports(random: &mut Random) -> ([u8; 2], [u8; 2], u8) {
    let (port, target, protocol, _) = random.pick(&PUBLISHED);
    let client = random.pick(&[40000u16, 40001, 40002, 80, 0, 65535]);
    let port = match random.below(12) {
        0 => target,
        1 => 4789,
        2 => random.pick(&[MASQUERADE_PORTS.start, MASQUERADE_PORTS.end - 1, 0, 22]),
        _ => port,
    };
    let protocol = match random.below(12) {
        0 => protocol::ICMP,
        1 => protocol::ICMPV6,
        2 => random.pick(&[protocol::UDP, protocol::TCP]),
        3 if random.one_in(3) => random.byte(),
        _ => protocol,
    };
    (client.to_be_bytes(), port.to_be_bytes(), protocol)
}

// What follows makes bytes.

/// Adds an Ethernet header to a packet.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], (family, packet): (Family, Vec<u8>)) -> Vec<u8> {
    let ethertype = match family {
        Family::V4 => ETHERTYPE_V4,
        Family::V6 => ETHERTYPE_V6,
    };
    [&to[..], &from, &ethertype, &packet].concat()
}

/// An IP packet of a conversation.
pub(crate) fn packet(random: &mut Random, talk: &Talk) -> (Family, Vec<u8>) {
    let family = talk.source.family();
    let payload = match random.below(20) {
        0 => random.below(1500),
        1 => 1400 + random.below(200),
        2..5 => 0,
        _ => random.below(60),
    };
    let payload = random.bytes(payload);
    let transport = transport(random, talk, payload);
    let odd = random.one_in(8);
    (family, network(random, talk, transport, odd))
}

fn transport(random: &mut Random, talk: &Talk, payload: Vec<u8>) -> Vec<u8> {
    let [a, b] = talk.source_port;
    let [c, d] = talk.destination_port;
    let (mut bytes, at, has_pseudo) = match talk.protocol {
        protocol::TCP => {
            let words = if random.one_in(6) { 5 + random.below(11) } else { 5 };
            let mut bytes =
                vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 2, (words as u8) << 4, talk.tcp_flags, 0xff, 0xff];
            bytes.extend([0; 4]);
            let options = tcp_options(random, words * 4 - bytes.len());
            bytes.extend(options);
            (bytes, 16, true)
        }
        protocol::UDP => {
            let [e, f] = ((payload.len() + 8) as u16).to_be_bytes();
            (vec![a, b, c, d, e, f, 0, 0], 6, true)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let is_v6 = talk.protocol == protocol::ICMPV6;
            let (kind, id) = match (random.below(8), is_v6) {
                (0..3, false) => (8, talk.source_port),
                (0..3, true) => (128, talk.source_port),
                (3..6, false) => (0, talk.destination_port),
                (3..6, true) => (129, talk.destination_port),
                (6, false) => (3, [0, 0]),
                (6, true) => (2, [0, 0]),
                _ => (random.byte(), [0, 0]),
            };
            // The flow of a request has the identifier for its client's port; of a reply, for its server's.
            (vec![kind, 0, 0, 0, id[0], id[1], 0, 1], 2, is_v6)
        }
        _ => (vec![], 0, false),
    };
    bytes.extend(payload);
    if at != 0 && !random.one_in(16) {
        let pseudo = if has_pseudo { pseudo(talk, bytes.len()) } else { 0 };
        let sum = checksum(&bytes, pseudo);
        // Now and then a datagram without a checksum.
        if talk.protocol != protocol::UDP || !random.one_in(8) {
            bytes[at..at + 2].copy_from_slice(&sum);
        }
    }
    bytes
}

/// So many bytes of TCP options, mostly sound, with a maximum segment size among them.
fn tcp_options(random: &mut Random, length: usize) -> Vec<u8> {
    let mut options = vec![];
    while options.len() < length {
        match random.below(8) {
            0..4 => {
                options.extend([2, 4]);
                options.extend(random.pick(&[0, 536, 1240, 1410, 1460, 8960, 0xffff_u16]).to_be_bytes());
            }
            4 => options.extend([4, 2]),
            5 => {
                options.extend([8, 10]);
                options.extend(random.bytes(8));
            }
            6 if random.one_in(4) => options.extend(random.bytes(2)),
            _ => options.push(1),
        }
    }
    options.truncate(length);
    options
}

fn network(random: &mut Random, talk: &Talk, transport: Vec<u8>, odd: bool) -> Vec<u8> {
    let tos = random.pick(&[0, 0, 1, 2, 3, 0xb8, 0xff]);
    let hops = random.pick(&[64, 64, 64, 255, 2, 1, 0]);
    match talk.source.family() {
        Family::V4 => {
            let options = if odd { random.below(11) * 4 } else { 0 };
            let fragment: u16 =
                if odd { random.pick(&[0, 0, 0x2000, 0x2001, 0x0001, 0x4000, 0xffff]) } else { 0x4000 };
            let length = 20 + options + transport.len();
            let mut bytes = vec![0x45 + (options / 4) as u8, tos];
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([0x12, 0x34]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([hops, talk.protocol, 0, 0]);
            bytes.extend(talk.source.v4_octets());
            bytes.extend(talk.destination.v4_octets());
            bytes.resize(20 + options, 1);
            let sum = checksum(&bytes, 0);
            bytes[10..12].copy_from_slice(&sum);
            bytes.extend(transport);
            bytes
        }
        Family::V6 => {
            let (first, extensions) =
                if odd { extensions(random, talk.protocol) } else { (talk.protocol, vec![]) };
            let length = (extensions.len() + transport.len()) as u16;
            let mut bytes = vec![0x60 | tos >> 4, tos << 4 | 0x0a, 0xbc, 0xde];
            bytes.extend(length.to_be_bytes());
            bytes.extend([first, hops]);
            bytes.extend(talk.source.octets());
            bytes.extend(talk.destination.octets());
            bytes.extend(extensions);
            bytes.extend(transport);
            bytes
        }
    }
}

/// A chain of extension headers, and what its first one is.
fn extensions(random: &mut Random, last: u8) -> (u8, Vec<u8>) {
    const KINDS: [u8; 6] = [0, 43, 44, 60, 51, 59];
    let kinds: Vec<u8> = (0..random.below(7)).map(|_| random.pick(&KINDS)).collect();
    let mut bytes = vec![];
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(last);
        if *kind == protocol::FRAGMENT {
            let [a, b]: [u8; 2] = random.pick(&[0u16, 1, 8, 9, 0xfff8, 6]).to_be_bytes();
            bytes.extend([next, random.byte(), a, b, 0, 0, 0, 1]);
        } else {
            let units = random.pick(&[0, 0, 0, 1, 3, 40, 127, 255]);
            bytes.extend([next, units as u8]);
            bytes.resize(bytes.len() + 6 + units * 8, 0);
        }
    }
    (kinds.first().copied().unwrap_or(last), bytes)
}

fn arp(random: &mut Random, world: &World, vni: u32, mac: [u8; 6], own: Option<Address>) -> Vec<u8> {
    let sender = match random.below(10) {
        0 => [0; 4],
        1 => random.pick(&anybody(world, Family::V4)).v4_octets(),
        _ => own.map_or([0; 4], Address::v4_octets),
    };
    let sender_mac = if random.one_in(12) { [0x02, 0, 0, 0, 0, random.byte()] } else { mac };
    let target = question(random, world, vni, Family::V4).v4_octets();
    let mut header = vec![0, 1, 8, 0, 6, 4, 0, 1];
    if random.one_in(8) {
        let at = random.below(8);
        header[at] = random.pick(&[0, 1, 2, 3, 255]);
    }
    let mut bytes =
        [&[0xff; 6], &mac[..], &ETHERTYPE_ARP, &header, &sender_mac, &sender, &[0; 6], &target].concat();
    if random.one_in(2) {
        bytes.resize(60, 0);
    }
    bytes
}

fn solicitation(random: &mut Random, world: &World, vni: u32, mac: [u8; 6], own: Option<Address>) -> Vec<u8> {
    let source = match random.below(8) {
        0 => Address::UNSPECIFIED,
        1 => ip("fe80::42").into(),
        2 => random.pick(&anybody(world, Family::V6)),
        _ => own.unwrap_or_default(),
    };
    let target = question(random, world, vni, Family::V6);
    let octets = target.octets();
    let mut group = ip("ff02::1:ff00:0");
    if let std::net::IpAddr::V6(group) = &mut group {
        let mut bytes = group.octets();
        bytes[13..].copy_from_slice(&octets[13..]);
        *group = bytes.into();
    }
    let group = Address::from(group);
    let destination = if random.one_in(4) { target } else { group };
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(octets);
    message.extend([1, 1]);
    message.extend(mac);
    if random.one_in(6) {
        message.truncate(random.below(32));
    }
    let talk = Talk {
        source,
        destination,
        protocol: protocol::ICMPV6,
        source_port: [0; 2],
        destination_port: [0; 2],
        tcp_flags: 0,
    };
    if message.len() >= 4 {
        let sum = checksum(&message, pseudo(&talk, message.len()));
        message[2..4].copy_from_slice(&sum);
    }
    let odd = random.one_in(8);
    let mut packet = v6_of(&talk, message, if random.one_in(8) { 64 } else { 255 });
    if odd {
        let extra = random.below(20);
        packet.extend(random.bytes(extra));
    }
    ethernet([0x33, 0x33, 0xff, octets[13], octets[14], octets[15]], mac, (Family::V6, packet))
}

fn v6_of(talk: &Talk, transport: Vec<u8>, hops: u8) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((transport.len() as u16).to_be_bytes());
    bytes.extend([talk.protocol, hops]);
    bytes.extend(talk.source.octets());
    bytes.extend(talk.destination.octets());
    bytes.extend(transport);
    bytes
}

/// An address that somebody on a network may ask for.
fn question(random: &mut Random, world: &World, vni: u32, family: Family) -> Address {
    let theirs: Vec<Address> = world
        .members
        .iter()
        .filter(|member| member.vni == vni)
        .filter_map(|member| member.address(family))
        .collect();
    if theirs.is_empty() || random.one_in(3) {
        random.pick(&anybody(world, family))
    } else {
        random.pick(&theirs)
    }
}

/// Spoils a frame in one of many ways.
pub(crate) fn spoil(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    match random.below(9) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => {
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len().min(130));
                bytes[at] = random.byte();
            }
        }
        2 => {
            let at = random.below(bytes.len().min(130));
            bytes[at] ^= 1 << random.below(8);
        }
        3 => {
            // Lying lengths stand here, in most packets.
            let at = random.pick(&[16, 18, 38, 46, 66, 68, 14]);
            let any = random.word() as u16;
            let length = random.pick(&[0, 1, 19, 20, 21, 28, 0xffff, 0x7fff, any]);
            if let Some(place) = bytes.get_mut(at..at + 2) {
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
        4 if bytes.len() >= 14 => {
            let tags = 1 + random.below(3);
            for _ in 0..tags {
                let tag = [random.pick(&[0x81, 0x88]), 0x00, random.byte(), random.byte()];
                bytes.splice(12..12, tag);
            }
        }
        5 => {
            let extra = random.below(64);
            bytes.extend(random.bytes(extra));
        }
        6 if bytes.len() < 60 => bytes.resize(60, 0),
        7 if bytes.len() >= 14 => {
            let ethertype =
                random.pick(&[ETHERTYPE_V4, ETHERTYPE_V6, ETHERTYPE_ARP, [0x88, 0xcc], [0x05, 0xdc]]);
            bytes[12..14].copy_from_slice(&ethertype);
        }
        8 => {
            // A first byte of an IP header that lies.
            let at = random.pick(&[14, 64, 84]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.pick(&[0x40, 0x44, 0x46, 0x4f, 0x60, 0x65, 0x00, 0xff]);
            }
        }
        _ => bytes.truncate(bytes.len() - 1),
    }
}

fn pseudo(talk: &Talk, length: usize) -> u64 {
    let words = |address: Address| -> u64 {
        let octets = address.octets();
        let bytes: &[u8] = if address.family() == Family::V4 { &octets[12..] } else { &octets };
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    words(talk.source) + words(talk.destination) + length as u64 + u64::from(talk.protocol)
}

/// The Internet checksum, word by word as RFC 1071 tells it.
pub(crate) fn checksum(bytes: &[u8], start: u64) -> [u8; 2] {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
