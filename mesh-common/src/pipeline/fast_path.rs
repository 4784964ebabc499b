//! The fast path: an ordinary packet for a published port, from the wire to the node of its backend in one go.
//!
//! It does what [`published::enter`](super::published::enter) and [`published::forward`](super::published::forward) do, to the
//! byte, for packets of which nothing unusual is true; all others it leaves untouched to them. What it saves is looking things
//! up one by one: whom the client asks for is one entry of a table, and the outer header is that of the last packet to the
//! same node, which the longer way has made, at most a moment ago.

use super::{
    datagram::Datagram,
    exit,
    foreign::foreign,
    headers::{self, Headers},
    outer::{self, Inside},
    second_chance,
    tunnel::{self, ECN},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Family, FastService, OuterHeader},
    checksum::Sum,
    hash,
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// The way of an ordinary packet for a published port, or `None`, and the packet untouched, if it is to go the longer way.
#[inline(never)]
pub(super) fn fast_path<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Verdict> {
    let headers = headers::read(packet, Datagram::L3, packet.read(ETHERNET - 2)?)?;
    let settings = tables.settings()?;
    if headers.protocol == protocol::UDP
        && (headers.ports >> 16) as u16 == u16::from_le_bytes(settings.vxlan_port)
        && headers.destination == settings.address
    {
        return tunnelled(packet, tables, &headers);
    }
    let Some(service) = find(tables, &headers) else { return foreign(tables, &headers) };
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
    Some(match outer::write(packet, family, &outer, &inside) {
        Some(()) => Verdict::transmit(ifindex),
        None => Verdict::drop(Reason::Malformed),
    })
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

/// A packet in a tunnel to this node: only what returns to a client goes on from here.
#[inline(always)]
fn tunnelled<P: Packet, T: Tables>(packet: &mut P, tables: &T, outer: &Headers) -> Option<Verdict> {
    let inside = headers::inside(packet, Datagram::L3 + ip_header(outer.family) + 8)?;
    if !inside.is_return {
        return Some(Verdict::PASS);
    }
    exit::leave(packet, tables, outer, &inside)
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
