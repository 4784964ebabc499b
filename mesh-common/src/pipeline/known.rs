//! The short way of an ordinary packet whose flow is known and settled: a client's out of its tunnel to the task of a published
//! port, the task's answer into the tunnel back, and what tasks send to each other, by a virtual IP or not.
//!
//! It does what [`from_underlay`](super::from_underlay()) and [`from_endpoint`](super::from_endpoint()) come to, to the byte, for
//! packets of which nothing unusual is true; all others it leaves untouched to them. The flow is looked up first, and says all
//! else: neither the service nor the network nor the endpoint is asked for.
//!
//! Entries of their own, as [`unknown`](super::unknown()) is one: programs of their own stand at the hooks, which call those of
//! the longer way, and have a stack to themselves.

use network_types::eth::EthHdr;

use super::{
    Step,
    datagram::{Datagram, tcp},
    exit,
    foreign::foreign,
    headers::{self, Headers, mac},
    outer::{self, Inside},
    second_chance::Errand,
    settle,
    too_big::is_too_big,
    tunnel::{self, ECN, RETURN_MAC},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{
        Address, Attachment, Endpoint, EndpointKey, Family, Flow, FlowKey, Node, NodeIndex, Settings, Space,
        UDP_IDLE, flow_flags, inside_tunnel, settings_flags,
    },
    checksum::Sum,
    hash,
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// The way of a packet from the wire: a client's in a tunnel, or the answer to one. `None`, and the packet untouched, if it is
/// to go the longer way, by [`from_underlay`](super::from_underlay()).
#[inline(always)]
pub fn known_from_underlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Verdict> {
    let outer = headers::read(packet, Datagram::L3, packet.read(ETHERNET - 2)?)?;
    let settings = tables.settings()?;
    let is_tunnel = outer.protocol == protocol::UDP
        && (outer.ports >> 16) as u16 == u16::from_le_bytes(settings.vxlan_port)
        && outer.destination == settings.address;
    if !is_tunnel {
        return foreign(tables, &outer);
    }
    if settings.flags & settings_flags::FORGETFUL != 0 {
        return None;
    }
    let inside = headers::inside(packet, Datagram::L3 + ip_header(outer.family) + 8)?;
    if inside.is_return {
        return exit::leave(packet, tables, &outer, &inside);
    }
    // Only a client's packet is passed on; on others' the byte means nothing, but nobody sets it.
    if !Errand::from_byte(inside.errand).is_first() {
        return None;
    }
    let (vni, l3) = (inside.vni, inside.l3);
    let inner = headers::read(packet, l3, inside.ether_type)?;
    let is_unmarked = matches!(tunnel::congestion(outer.traffic_class, inner.traffic_class), Ok(None));
    if !is_unmarked || inner.hop_limit <= 1 || !is_under_way(packet, &inner, l3)? {
        return None;
    }

    // The addresses of a task's derived MAC address: what is for the task itself is not for a published port. (One with another
    // MAC address, the longer way knows.)
    if inside.station == u32::from_le_bytes(inner.destination.v4_octets()) {
        return between_tasks(packet, tables, &outer, vni, &inner);
    }
    let key = key(&inner, FlowKey::scope(Space::Published, vni));
    let flow = tables.flow(&key)?;
    const UNUSUAL: u32 =
        flow_flags::NEW | flow_flags::FIN | flow_flags::RST | flow_flags::REPLY | flow_flags::ROUTE;
    if flow.flags & UNUSUAL != 0 || flow.vni == 0 || flow.node == settings.node {
        return None;
    }
    let now = tables.now();
    if inner.protocol == protocol::UDP && now.saturating_sub(flow.seen) > UDP_IDLE {
        return None;
    }
    // From its entry node, as always.
    let node = tables.node(flow.node)?;
    if node.address != outer.source || node.ifindex == 0 {
        return None;
    }
    let task = tables.attachment(flow.vni)?;
    if task.vni != vni || address_of(task, inner.family) != flow.destination {
        return None;
    }
    if now != flow.seen {
        tables.touch_flow(&key, &flow, now);
    }
    Some(settle(land(packet, &inner, &flow, task, tunnel::overhead(outer.family))))
}

/// A packet from a task of another node to one of this: the answer of a virtual IP, if there is a flow.
#[inline(always)]
fn between_tasks<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    outer: &Headers,
    vni: u32,
    inner: &Headers,
) -> Option<Verdict> {
    let here = tables.endpoint(&EndpointKey { address: inner.destination, vni, reserved: 0 })?;
    let sender = tables.endpoint(&EndpointKey { address: inner.source, vni, reserved: 0 })?;
    let node = tables.node(sender.node)?;
    if here.ifindex == 0 || node.address != outer.source || node.ifindex == 0 {
        return None;
    }
    let to = To { ifindex: here.ifindex, node: 0, vni, destination: here.mac, source: sender.mac };
    let key = key(inner, FlowKey::scope(Space::Network, vni));
    let flow = tables.flow(&key);
    if let Some(flow) = &flow {
        if flow.flags != ANSWER {
            return None;
        }
        let now = tables.now();
        if now != flow.seen {
            tables.touch_flow(&key, flow, now);
        }
    }
    if packet.close(tunnel::overhead(outer.family), inner.family).is_none() {
        return Some(Verdict::drop(Reason::NoRoom));
    }
    if let Some(flow) = &flow
        && translate(packet, inner, flow, false).is_none()
    {
        return Some(Verdict::drop(Reason::Malformed));
    }
    Some(settle(hand_over(packet, inner, &to)))
}

/// Hands a client's packet in a tunnel of so many bytes to its task.
#[inline(always)]
fn land<P: Packet>(packet: &mut P, headers: &Headers, flow: &Flow, task: &Attachment, tunnel: usize) -> Step {
    packet.close(tunnel, headers.family).ok_or(Reason::NoRoom)?;
    let ethernet =
        EthHdr { dst_addr: task.mac, src_addr: task.gateway_mac, ether_type: ether_type::of(headers.family) };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)?;
    translate(packet, headers, flow, true).ok_or(Reason::Malformed)?;
    Ok(Verdict::deliver(flow.vni))
}

/// The way of a packet that came from the endpoint behind `ifindex`: its answer to a client of another node, or what it sends
/// to another task. `None`, and the packet untouched, if it is to go the longer way, by
/// [`from_endpoint`](super::from_endpoint()).
#[inline(always)]
pub fn known_from_endpoint<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
) -> Option<Verdict> {
    // The Ethernet header, and two bytes more.
    let [first, second] = packet.read::<[u64; 2]>(0)?.map(u64::from_le);
    let from = first >> 48 | second << 16;
    let headers = headers::read(packet, Datagram::L3, ((second >> 32) as u16).to_le())?;
    let task = tables.attachment(ifindex)?;
    // A task without an address of a family has `::`, which stands for none.
    let is_its_own = from << 16 == mac(task.mac) << 16
        && headers.source == address_of(task, headers.family)
        && !headers.source.is_unspecified();
    if !is_its_own || headers.hop_limit <= 1 || is_too_big(packet, task.mtu) {
        return None;
    }
    if !is_under_way(packet, &headers, Datagram::L3)? {
        return None;
    }

    let key = key(&headers, FlowKey::scope(Space::Network, task.vni));
    let flow = tables.flow(&key);
    let settings = tables.settings()?;
    let (to, is_routed) = match flow.as_deref() {
        None => (endpoint_at(tables, task, headers.destination)?, false),
        Some(flow) if flow.flags == ANSWER => (entry_of(settings, task, flow)?, true),
        Some(flow) if flow.flags == 0 && flow.node == 0 && flow.backend != 0 => {
            (endpoint_at(tables, task, flow.destination)?, false)
        }
        Some(_) => return None,
    };
    let node = tables.node(to.node)?;
    if to.ifindex == 0 && node.ifindex == 0 {
        return None;
    }
    if let Some(flow) = &flow {
        let now = tables.now();
        if now != flow.seen {
            tables.touch_flow(&key, flow, now);
        }
        if translate(packet, &headers, flow, is_routed).is_none() {
            return Some(Verdict::drop(Reason::Malformed));
        }
    }
    if to.ifindex != 0 {
        return Some(settle(hand_over(packet, &headers, &to)));
    }
    let source_port = match &flow {
        Some(flow) => {
            let ports = hash::ports(flow.source_port, flow.destination_port);
            tunnel::source_port(flow.source, flow.destination, ports, headers.protocol)
        }
        None => tunnel::source_port(headers.source, headers.destination, headers.ports, headers.protocol),
    };
    Some(settle(send(packet, &headers, source_port, settings, node, &to)))
}

/// The flags of the answers to a client outside, of whom it is known that he gets them.
const ANSWER: u32 = flow_flags::REPLY | flow_flags::ANSWERED;

/// Whom a task's packet goes to.
struct To {
    /// The interface of a task of this node, or 0 for one elsewhere.
    ifindex: u32,
    node: NodeIndex,
    vni: u32,
    destination: [u8; 6],
    source: [u8; 6],
}

/// The entry node of a client, if an answer goes there.
#[inline(always)]
fn entry_of(settings: &Settings, task: &Attachment, flow: &Flow) -> Option<To> {
    let is_for_another =
        flow.node != 0 && flow.node != settings.node && settings.flags & settings_flags::RETURN_DIRECT == 0;
    let (destination, source) = (RETURN_MAC, settings.host_mac);
    is_for_another.then_some(To { ifindex: 0, node: flow.node, vni: task.vni, destination, source })
}

/// The endpoint of a task's network that has an address: another task, or a virtual IP's backend that is still there.
#[inline(always)]
fn endpoint_at<T: Tables>(tables: &T, task: &Attachment, address: Address) -> Option<To> {
    let key = EndpointKey { address, vni: task.vni, reserved: 0 };
    let &Endpoint { mac, node, ifindex, .. } = tables.endpoint(&key)?;
    Some(To { ifindex, node, vni: task.vni, destination: mac, source: task.mac })
}

/// Hands a packet to a task of this node.
#[inline(always)]
fn hand_over<P: Packet>(packet: &mut P, headers: &Headers, to: &To) -> Step {
    let ether_type = ether_type::of(headers.family);
    let ethernet = EthHdr { dst_addr: to.destination, src_addr: to.source, ether_type };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)?;
    Ok(Verdict::deliver(to.ifindex))
}

/// Sends a packet, translated already, in a tunnel to a node.
#[inline(always)]
fn send<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    source_port: u16,
    settings: &Settings,
    node: &Node,
    to: &To,
) -> Step {
    let family = node.address.family();
    let udp_len = (packet.length() - ETHERNET + tunnel::INSIDE) as u16;
    packet.open(family).ok_or(Reason::NoRoom)?;
    let [vxlan, inner] = inside_tunnel(to.vni, to.destination);
    let [s0, s1, s2, s3, s4, s5] = to.source;
    let [e0, e1] = ether_type::of(headers.family).to_ne_bytes();
    let [p0, p1] = settings.vxlan_port;
    let inside = Inside {
        vxlan,
        inner,
        source: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, e0, e1]),
        ports: u64::from(source_port.swap_bytes()) | u64::from(u16::from_le_bytes([p0, p1])) << 16,
        udp_len,
        ecn: headers.traffic_class & ECN,
    };
    let header = outer::unaddressed(settings, node);
    outer::write(packet, family, &header, &inside).ok_or(Reason::Malformed)?;
    Ok(Verdict::transmit(node.ifindex))
}

/// Whether a packet neither begins nor ends a connection.
#[inline(always)]
fn is_under_way<P: Packet>(packet: &P, headers: &Headers, l3: usize) -> Option<bool> {
    if headers.protocol != protocol::TCP {
        return Some(true);
    }
    let flags: u8 = packet.read(l3 + ip_header(headers.family) + 13)?;
    Some(flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0)
}

#[inline(always)]
fn key(headers: &Headers, scope: u32) -> FlowKey {
    let [a, b, c, d] = headers.ports.to_le_bytes();
    FlowKey {
        source: headers.source,
        destination: headers.destination,
        source_port: [a, b],
        destination_port: [c, d],
        scope,
        protocol: headers.protocol,
        reserved: [0; 7],
    }
}

#[inline(always)]
fn address_of(task: &Attachment, family: Family) -> Address {
    match family {
        Family::V4 => task.v4,
        Family::V6 => task.v6,
    }
}

/// Gives a packet without a tunnel the addresses and ports that its flow says, takes one off its hop limit if it is routed, of
/// which it has one to spare, and mends its checksums.
#[inline(always)]
fn translate<P: Packet>(packet: &mut P, headers: &Headers, flow: &Flow, is_routed: bool) -> Option<()> {
    let hops = u8::from(is_routed);
    let new_ports = hash::ports(flow.source_port, flow.destination_port);
    let ports =
        Sum::ZERO.plus32(new_ports.to_le_bytes()).minus(Sum::ZERO.plus32(headers.ports.to_le_bytes()));
    let addresses = Sum::ZERO
        .plus_address(flow.source)
        .plus_address(flow.destination)
        .minus(Sum::ZERO.plus_address(headers.source).plus_address(headers.destination));
    let l3 = Datagram::L3;
    match headers.family {
        Family::V4 => {
            let [limit, protocol, a, b, ..] = headers.head.to_le_bytes();
            let left = limit.wrapping_sub(hops);
            let change = addresses.plus16([left, protocol]).minus(Sum::ZERO.plus16([limit, protocol]));
            let [a, b] = change.update([a, b]);
            let [source, destination] =
                [flow.source, flow.destination].map(|address| u32::from_le_bytes(address.v4_octets()));
            let words = [
                u64::from(u32::from_le_bytes([left, protocol, a, b])) | u64::from(source) << 32,
                u64::from(destination) | u64::from(new_ports) << 32,
            ];
            packet.write(l3 + 8, &words.map(u64::to_le))?;
        }
        Family::V6 => {
            let [.., next, limit] = headers.head.to_le_bytes();
            let left = limit.wrapping_sub(hops);
            let [source_a, source_b] = flow.source.0;
            let [destination_a, destination_b] = flow.destination.0;
            let words = [
                (headers.head & u64::MAX >> 8 | u64::from(left) << 56).to_le(),
                source_a,
                source_b,
                destination_a,
                destination_b,
                (u64::from(new_ports) | u64::from(headers.tail) << 32).to_le(),
            ];
            packet.write(l3, &words)?;
            // No header checksum makes up for them, as IPv4's does.
            packet.changed(addresses.plus16([next, left]).minus(Sum::ZERO.plus16([next, limit])));
        }
    }
    let l4 = l3 + ip_header(headers.family);
    match headers.protocol {
        protocol::TCP => packet.update_checksum_at_once(l4 + 16, Some(addresses), ports, false),
        _ => packet.update_checksum_at_once(l4 + 6, Some(addresses), ports, true),
    }
}
