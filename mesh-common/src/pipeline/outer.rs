//! The headers of a tunnel, put together in registers and written at once.

use core::mem::size_of;

use super::tunnel;
use crate::{
    Packet,
    abi::{Family, Node, OuterHeader, Settings},
    checksum::Sum,
    wire::{ETHERNET, HOP_LIMIT, ip_header, protocol},
};

/// The outer headers of a packet to a node, without Ethernet addresses, which the kernel writes on the way out.
#[inline(always)]
pub(super) fn unaddressed(settings: &Settings, node: &Node) -> OuterHeader {
    let family = node.address.family();
    let mut header = OuterHeader { ifindex: node.ifindex, family: family as u32, ..OuterHeader::default() };
    match family {
        Family::V4 => {
            let (source, destination) = (settings.address.v4_octets(), node.address.v4_octets());
            let [s, d] = [source, destination].map(|octets| u64::from(u32::from_le_bytes(octets)));
            /// Don't fragment: the network's MTU leaves room for this header.
            const DONT_FRAGMENT: u64 = 0x40;
            header.words = [
                0,
                0x0008 << 32 | 0x45 << 48,
                DONT_FRAGMENT << 32 | (HOP_LIMIT as u64) << 48 | (protocol::UDP as u64) << 56,
                s << 16 | d << 48,
                d >> 16,
                0,
                0,
            ];
            let fixed = Sum::ZERO.plus16([0x45, 0]).plus16([0x40, 0]).plus16([HOP_LIMIT, protocol::UDP]);
            header.sum = fixed.plus32(source).plus32(destination).folded32();
        }
        Family::V6 => {
            let ([s0, s1], [d0, d1]) =
                (settings.address.0.map(u64::from_le), node.address.0.map(u64::from_le));
            header.words = [
                0,
                0xdd86 << 32 | 0x60 << 48,
                (protocol::UDP as u64) << 32 | (HOP_LIMIT as u64) << 40 | s0 << 48,
                s0 >> 16 | s1 << 48,
                s1 >> 16 | d0 << 48,
                d0 >> 16 | d1 << 48,
                d1 >> 16,
            ];
        }
    }
    header
}

/// Writes all headers up to the inner network header of a packet, for which a tunnel was opened.
#[inline(always)]
pub(super) fn write<P: Packet>(
    packet: &mut P,
    family: Family,
    outer: &OuterHeader,
    inside: &Inside,
) -> Option<()> {
    match family {
        Family::V4 => write_v4(packet, outer, inside),
        Family::V6 => write_v6(packet, outer, inside),
    }
}

/// What differs between the headers of two packets to the same node, in little-endian order.
pub(super) struct Inside {
    /// From the UDP checksum to the second byte of the VNI.
    pub(super) vxlan: u64,
    /// From there to the end of the inner destination MAC address.
    pub(super) inner: u64,
    /// The rest of the inner Ethernet header.
    pub(super) source: u64,
    /// Both outer ports.
    pub(super) ports: u64,
    /// Bytes of the UDP packet, its header included: a number.
    pub(super) udp_len: u16,
    pub(super) ecn: u8,
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
