//! The fast path: an ordinary packet for a published port, from the wire to the node of its backend in one go.
//!
//! It does what [`published::enter`](super::published::enter) and [`published::forward`](super::published::forward) do, to the
//! byte, for packets of which nothing unusual is true; all others it leaves untouched to them. What it saves is looking things
//! up one by one: whom the client asks for is one entry of a table, and the outer header is that of the last packet to the
//! same node, which the longer way has made, at most a moment ago.

use core::mem::size_of;

use super::{
    datagram::Datagram,
    second_chance::{self, Errand},
    tunnel::{self, ECN, VNI_PRESENT},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, Backend, Family, FastService, OuterHeader},
    checksum::Sum,
    hash,
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// What of a packet's headers decides its way.
struct Headers {
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u8,
    family: Family,
    traffic_class: u8,
}

/// The way of an ordinary packet for a published port, or `None`, and the packet untouched, if it is to go the longer way.
#[inline(never)]
pub(super) fn fast_path<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Verdict> {
    let headers = read(packet)?;
    let settings = tables.settings()?;
    let service = find(tables, &headers)?;
    let hash = hash::flow(
        settings.seed,
        headers.source,
        headers.source_port,
        headers.destination_port,
        headers.protocol,
    );
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
    let named = second_chance::named(tables, slot, backend);
    let source = if named == [0; 6] { settings.host_mac } else { named };
    let source_port = tunnel::source_port(
        headers.source,
        headers.destination,
        headers.source_port,
        headers.destination_port,
        headers.protocol,
    );
    let inside = Inside {
        backend,
        source,
        ether_type: ether_type::of(headers.family),
        source_port,
        vxlan_port: settings.vxlan_port,
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
    let [port_a, port_b, port_c, port_d] = ((c >> 32) as u32).to_le_bytes();
    Some(Headers {
        source: Address::from_v4(((b >> 32) as u32).to_le_bytes()),
        destination: Address::from_v4((c as u32).to_le_bytes()),
        source_port: [port_a, port_b],
        destination_port: [port_c, port_d],
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
    let [port_a, port_b, port_c, port_d, ..] = ports.to_ne_bytes();
    Some(Headers {
        source,
        destination,
        source_port: [port_a, port_b],
        destination_port: [port_c, port_d],
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
    let asked = FastService::asked(headers.destination_port, headers.protocol, headers.family);
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

/// What differs between the headers of two packets to the same node.
struct Inside<'a> {
    backend: &'a Backend,
    source: [u8; 6],
    ether_type: u16,
    source_port: [u8; 2],
    vxlan_port: [u8; 2],
    /// Bytes of the UDP packet, its header included.
    udp_len: u16,
    ecn: u8,
}

/// The bytes of the outer Ethernet and IPv4 headers; with all that follows up to the inner network header, 64.
const OUTER_V4: usize = ETHERNET + ip_header(Family::V4);
const _: () = assert!(OUTER_V4 + tunnel::INSIDE == size_of::<[u64; 8]>());

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, outer: &OuterHeader, inside: &Inside<'_>) -> Option<()> {
    let [w0, w1, w2, w3, w4, ..] = outer.words;
    let total = inside.udp_len.wrapping_add(ip_header(Family::V4) as u16).to_be_bytes();
    let check = Sum::from_folded(outer.sum).plus16([0, inside.ecn]).plus16(total).checksum();
    let [m0, m1, m2, m3, m4, m5] = inside.backend.mac;
    let [s0, s1, s2, s3, s4, s5] = inside.source;
    let [e0, e1] = inside.ether_type.to_ne_bytes();
    let [v0, v1, v2] = vni(inside.backend);
    let words = [
        w0,
        w1 | u64::from(inside.ecn) << 56,
        w2 | u64::from(u16::from_le_bytes(total)),
        w3 | u64::from(u16::from_le_bytes(check)),
        w4 | ports(inside) << 16 | length(inside) << 48,
        // UDP's checksum, and VXLAN up to the second byte of the VNI.
        u64::from_le_bytes([0, 0, VNI_PRESENT, 0, 0, 0, v0, v1]),
        u64::from_le_bytes([v2, Errand::FIRST.byte(), m0, m1, m2, m3, m4, m5]),
        u64::from_le_bytes([s0, s1, s2, s3, s4, s5, e0, e1]),
    ];
    packet.write(0, &words.map(u64::to_le))
}

#[inline(always)]
fn write_v6<P: Packet>(packet: &mut P, outer: &OuterHeader, inside: &Inside<'_>) -> Option<()> {
    let [w0, w1, w2, w3, w4, w5, w6] = outer.words;
    let [m0, m1, m2, m3, m4, m5] = inside.backend.mac;
    let [s0, s1, s2, s3, s4, s5] = inside.source;
    let [e0, e1] = inside.ether_type.to_ne_bytes();
    let [v0, v1, v2] = vni(inside.backend);
    let ports = ports(inside);
    let words = [
        w0,
        w1 | u64::from(inside.ecn) << 60,
        w2 | length(inside) << 16,
        w3,
        w4,
        w5,
        w6 | ports << 48,
        ports >> 16 | length(inside) << 16 | u64::from(VNI_PRESENT) << 48,
        u64::from_le_bytes([0, 0, v0, v1, v2, Errand::FIRST.byte(), m0, m1]),
        u64::from_le_bytes([m2, m3, m4, m5, s0, s1, s2, s3]),
    ];
    packet.write(0, &words.map(u64::to_le))?;
    packet.write(size_of::<[u64; 10]>(), &[s4, s5, e0, e1])
}

/// The two ports of the outer UDP header, as they lie in memory in little-endian order.
#[inline(always)]
fn ports(inside: &Inside<'_>) -> u64 {
    let [a, b] = inside.source_port;
    let [c, d] = inside.vxlan_port;
    u64::from(u32::from_le_bytes([a, b, c, d]))
}

/// The outer UDP header's length, likewise.
#[inline(always)]
fn length(inside: &Inside<'_>) -> u64 {
    u64::from(inside.udp_len.swap_bytes())
}

#[inline(always)]
fn vni(backend: &Backend) -> [u8; 3] {
    let [_, a, b, c] = backend.vni.to_be_bytes();
    [a, b, c]
}

/// Keeps the outer header of a packet that was just put into a tunnel to a node, for those that follow.
#[inline(always)]
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
