//! The fast path: an ordinary packet for a published port, from the wire to the node of its backend in one go.
//!
//! It does what [`published::enter`](super::published::enter) and [`published::forward`](super::published::forward) do, to the
//! byte, for packets of which nothing unusual is true; all others it leaves untouched to them. What it saves is looking things
//! up one by one: whom the client asks for is one entry of a table, and the outer header is that of the last packet to the
//! same node, which the longer way has made, at most a moment ago.

use core::mem::size_of;

use super::{
    datagram::Datagram,
    second_chance,
    tunnel::{self, ECN, RETURN_MAC},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, Family, FastService, OuterHeader},
    checksum::Sum,
    hash,
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// What of a packet's headers decides its way.
struct Headers {
    source: Address,
    destination: Address,
    /// Both [`hash::ports`].
    ports: u32,
    protocol: u8,
    family: Family,
    traffic_class: u8,
}

/// The way of an ordinary packet for a published port, or `None`, and the packet untouched, if it is to go the longer way.
#[inline(never)]
pub(super) fn fast_path<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Verdict> {
    let headers = read(packet)?;
    let settings = tables.settings()?;
    if headers.protocol == protocol::UDP
        && (headers.ports >> 16) as u16 == u16::from_le_bytes(settings.vxlan_port)
        && headers.destination == settings.address
    {
        return leave_to_tc(packet, headers.family);
    }
    let service = find(tables, &headers)?;
    let hash = hash::flow_by_ports(settings.seed, headers.source, headers.ports, headers.protocol);
    let slot = tables.slot(service.first_slot.wrapping_add(hash::slot(hash, service.slots)))?;
    let backend = tables.backend(slot.current())?;
    if backend.node == settings.node {
        return Some(Verdict::PASS);
    }
    let outer = tables.outer_header(backend.node)?;
    let inner = packet.length().wrapping_sub(ETHERNET);
    if inner > outer.inner_mtu as usize {
        return None;
    }
    let [s0, s1, s2, s3, s4, s5] = match second_chance::named(tables, slot, backend) {
        [0, 0, 0, 0, 0, 0] => settings.host_mac,
        mac => mac,
    };
    let [e0, e1] = ether_type::of(headers.family).to_ne_bytes();
    let source_port =
        tunnel::source_port(headers.source, headers.destination, headers.ports, headers.protocol);
    let [p0, p1] = settings.vxlan_port;
    let inside = Inside {
        vxlan: backend.vxlan,
        inner: backend.inner,
        source: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, e0, e1]),
        ports: u64::from(source_port.swap_bytes()) | u64::from(u16::from_le_bytes([p0, p1])) << 16,
        udp_len: (inner + tunnel::INSIDE) as u16,
        ecn: headers.traffic_class & ECN,
    };
    let ifindex = outer.ifindex;
    let family = if outer.family == Family::V6 as u32 { Family::V6 } else { Family::V4 };
    packet.open(family)?;
    let written = match family {
        Family::V4 => write_v4(packet, &outer, &inside),
        Family::V6 => write_v6(packet, &outer, &inside),
    };
    Some(match written {
        Some(()) => Verdict::transmit(ifindex),
        None => Verdict::drop(Reason::Malformed),
    })
}

/// Reads the headers of a whole TCP or UDP packet without options or extension headers.
#[inline(always)]
fn read<P: Packet>(packet: &P) -> Option<Headers> {
    let ether_type: u16 = packet.read(ETHERNET - 2)?;
    match ether_type {
        ether_type::IPV4 => read_v4(packet),
        ether_type::IPV6 => read_v6(packet),
        _ => None,
    }
}

#[inline(always)]
fn read_v4<P: Packet>(packet: &P) -> Option<Headers> {
    let [a, b, c] = packet.read::<[u64; 3]>(Datagram::L3)?.map(u64::from_le);
    let total = (a >> 16) as u16;
    let total = usize::from(total.swap_bytes());
    let protocol = (b >> 8) as u8;
    /// Its version and the length of a header without options.
    const PLAIN: u64 = 0x45;
    /// Where "more fragments" and the fragment's offset stand, the first eight bytes read in little-endian order.
    const FRAGMENT: u64 = 0xff3f << 48;
    let is_plain = a & 0xff == PLAIN && a & FRAGMENT == 0;
    let header = ip_header(Family::V4);
    if !is_plain || total < header + least(protocol)? || Datagram::L3 + total > packet.length() {
        return None;
    }
    Some(Headers {
        source: Address::from_v4(((b >> 32) as u32).to_le_bytes()),
        destination: Address::from_v4((c as u32).to_le_bytes()),
        ports: (c >> 32) as u32,
        protocol,
        family: Family::V4,
        traffic_class: (a >> 8) as u8,
    })
}

#[inline(always)]
fn read_v6<P: Packet>(packet: &P) -> Option<Headers> {
    let [first, source_a, source_b, destination_a, destination_b, ports] =
        packet.read::<[u64; 6]>(Datagram::L3)?;
    let [version, flow, _, _, length_a, length_b, protocol, _] = first.to_ne_bytes();
    let payload = usize::from(u16::from_be_bytes([length_a, length_b]));
    let (source, destination) = (Address([source_a, source_b]), Address([destination_a, destination_b]));
    let end = Datagram::L3 + ip_header(Family::V6) + payload;
    let is_plain = version >> 4 == 6
        && payload >= least(protocol)?
        && end <= packet.length()
        // What is mapped into IPv6 would be taken for IPv4.
        && source.family() == Family::V6
        && destination.family() == Family::V6;
    if !is_plain {
        return None;
    }
    Some(Headers {
        source,
        destination,
        ports: u64::from_le(ports) as u32,
        protocol,
        family: Family::V6,
        traffic_class: version << 4 | flow >> 4,
    })
}

/// The bytes that the transport header has at least, for the protocols that ports are published by.
#[inline(always)]
fn least(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(20),
        protocol::UDP => Some(8),
        _ => None,
    }
}

#[inline(always)]
fn find<T: Tables>(tables: &T, headers: &Headers) -> Option<FastService> {
    let asked = FastService::asked_by_ports(headers.ports, headers.protocol, headers.family);
    let hash = FastService::hash(headers.destination, asked);
    // All of them: none is moved when one before it becomes free.
    for index in FastService::entries(hash) {
        let entry = tables.fast_service(index)?;
        if entry.is_for(headers.destination, asked, hash) {
            return Some(entry);
        }
    }
    None
}

/// A packet in a tunnel to this node: only what returns to a client goes on from here, by the longer way.
#[inline(always)]
fn leave_to_tc<P: Packet>(packet: &P, outer: Family) -> Option<Verdict> {
    let inner: [u8; 6] = packet.read(Datagram::L3 + ip_header(outer) + 16)?;
    (inner != RETURN_MAC).then_some(Verdict::PASS)
}

/// What differs between the headers of two packets to the same node, in little-endian order.
struct Inside {
    /// From the UDP checksum to the second byte of the VNI.
    vxlan: u64,
    /// From there to the end of the inner destination MAC address.
    inner: u64,
    /// The rest of the inner Ethernet header.
    source: u64,
    /// Both outer ports.
    ports: u64,
    /// Bytes of the UDP packet, its header included: a number.
    udp_len: u16,
    ecn: u8,
}

/// The bytes of the outer Ethernet and IPv4 headers; with all that follows up to the inner network header, 64.
const OUTER_V4: usize = ETHERNET + ip_header(Family::V4);
const _: () = assert!(OUTER_V4 + tunnel::INSIDE == size_of::<[u64; 8]>());

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, outer: &OuterHeader, inside: &Inside) -> Option<()> {
    let [w0, w1, w2, w3, w4, ..] = outer.words;
    let total = inside.udp_len.wrapping_add(ip_header(Family::V4) as u16).to_be_bytes();
    let check = Sum::from_folded(outer.sum).plus16([0, inside.ecn]).plus16(total).checksum();
    let words = [
        w0,
        w1 | u64::from(inside.ecn) << 56,
        w2 | u64::from(u16::from_le_bytes(total)),
        w3 | u64::from(u16::from_le_bytes(check)),
        w4 | inside.ports << 16 | length(inside) << 48,
        inside.vxlan,
        inside.inner,
        inside.source,
    ];
    packet.write(0, &words.map(u64::to_le))
}

#[inline(always)]
fn write_v6<P: Packet>(packet: &mut P, outer: &OuterHeader, inside: &Inside) -> Option<()> {
    let [w0, w1, w2, w3, w4, w5, w6] = outer.words;
    let words = [
        w0,
        w1 | u64::from(inside.ecn) << 60,
        w2 | length(inside) << 16,
        w3,
        w4,
        w5,
        w6 | inside.ports << 48,
        inside.ports >> 16 | length(inside) << 16 | inside.vxlan << 32,
        inside.vxlan >> 32 | inside.inner << 32,
        inside.inner >> 32 | inside.source << 32,
    ];
    packet.write(0, &words.map(u64::to_le))?;
    packet.write(size_of::<[u64; 10]>(), &((inside.source >> 32) as u32).to_le())
}

/// The outer UDP header's length, in network byte order.
#[inline(always)]
fn length(inside: &Inside) -> u64 {
    u64::from(inside.udp_len.swap_bytes())
}

/// Keeps the outer header of a packet that was just put into a tunnel to a node, for those that follow. Out of line, for it
/// takes more stack than the way that ends here has to spare on Linux 6.1.
#[inline(never)]
pub(super) fn keep<P: Packet, T: Tables>(packet: &P, tables: &T, node: u32, inner_mtu: u32, ifindex: u32) {
    let Some(words) = packet.read::<[u64; 7]>(0) else { return };
    let [w0, w1, w2, w3, w4, w5, w6] = words.map(u64::from_le);
    let is_v6 = (w1 >> 48) as u8 >> 4 == 6;
    // Byte 15 has the traffic class, or its lower half; it begins with the mark that the packet inside has.
    let w1 = w1 & !(0xff << 56);
    let mut outer = OuterHeader { ifindex, inner_mtu, ..OuterHeader::default() };
    if is_v6 {
        outer.family = Family::V6 as u32;
        // Bytes 18 and 19 have the payload's length; byte 53 is the header's last.
        outer.words = [w0, w1, w2 & !(0xffff << 16), w3, w4, w5, w6 & (u64::MAX >> 16)];
    } else {
        outer.family = Family::V4 as u32;
        // Bytes 16 and 17 have the total length, 24 and 25 the checksum; byte 33 is the header's last.
        let (w2, w3, w4) = (w2 & !0xffff, w3 & !0xffff, w4 & 0xffff);
        outer.words = [w0, w1, w2, w3, w4, 0, 0];
        let pieces =
            [(w1 >> 48) as u32, w2 as u32, (w2 >> 32) as u32, w3 as u32, (w3 >> 32) as u32, w4 as u32];
        let mut sum = Sum::ZERO;
        for piece in pieces {
            sum = sum.plus32(piece.to_le_bytes());
        }
        outer.sum = sum.folded32();
    }
    tables.keep_outer_header(node, &outer);
}
