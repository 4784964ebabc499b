//! The headers of an ordinary packet: TCP or UDP, whole, without options or extension headers. What the fast ways take; what is
//! none goes the longer way, which reads it as a [`Datagram`](super::datagram::Datagram).

use super::tunnel::RETURN_MAC;
use crate::{
    Packet,
    abi::{Address, Family, VNI_PRESENT},
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// The VXLAN and Ethernet headers in a tunnel.
pub(super) struct Inside {
    pub(super) vni: u32,
    /// The header's last byte: how often the packet was passed on.
    pub(super) errand: u8,
    /// The packet returns to a client.
    pub(super) is_return: bool,
    /// The last four bytes of the destination's MAC address, in little-endian order.
    pub(super) station: u32,
    pub(super) ether_type: u16,
    /// Where the inner network header begins.
    pub(super) l3: usize,
}

/// Reads what follows the outer UDP header, at `vxlan`.
#[inline(always)]
pub(super) fn inside<P: Packet>(packet: &P, vxlan: usize) -> Option<Inside> {
    // And two bytes more.
    let [header, to, from] = packet.read::<[u64; 3]>(vxlan)?.map(u64::from_le);
    if header as u8 & VNI_PRESENT == 0 {
        return None;
    }
    Some(Inside {
        vni: ((header >> 32) as u32).swap_bytes() >> 8,
        errand: (header >> 56) as u8,
        is_return: to << 16 == mac(RETURN_MAC) << 16,
        station: (to >> 16) as u32,
        ether_type: ((from >> 32) as u16).to_le(),
        l3: vxlan + 8 + ETHERNET,
    })
}

/// A MAC address in the lower six bytes of a little-endian word.
#[inline(always)]
pub(super) const fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// What of a packet's headers decides its way.
pub(super) struct Headers {
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Both [`hash::ports`](crate::hash::ports).
    pub(super) ports: u32,
    pub(super) protocol: u8,
    pub(super) family: Family,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
    /// The eight bytes that hold the hop limit, in little-endian order: the second of an IPv4 header, the first of an IPv6 one.
    pub(super) head: u64,
    /// The four bytes behind the ports, likewise, where they are read: behind an IPv6 header.
    pub(super) tail: u32,
}

/// Reads the headers at `l3`.
#[inline(always)]
pub(super) fn read<P: Packet>(packet: &P, l3: usize, ether_type: u16) -> Option<Headers> {
    match ether_type {
        ether_type::IPV4 => read_v4(packet, l3),
        ether_type::IPV6 => read_v6(packet, l3),
        _ => None,
    }
}

#[inline(always)]
fn read_v4<P: Packet>(packet: &P, l3: usize) -> Option<Headers> {
    let [a, b, c] = packet.read::<[u64; 3]>(l3)?.map(u64::from_le);
    let total = (a >> 16) as u16;
    let total = usize::from(total.swap_bytes());
    let protocol = (b >> 8) as u8;
    /// Its version and the length of a header without options.
    const PLAIN: u64 = 0x45;
    /// Where "more fragments" and the fragment's offset stand, the first eight bytes read in little-endian order.
    const FRAGMENT: u64 = 0xff3f << 48;
    let is_plain = a & 0xff == PLAIN && a & FRAGMENT == 0;
    let header = ip_header(Family::V4);
    if !is_plain || total < header + least(protocol)? || l3 + total > packet.length() {
        return None;
    }
    Some(Headers {
        source: Address::from_v4(((b >> 32) as u32).to_le_bytes()),
        destination: Address::from_v4((c as u32).to_le_bytes()),
        ports: (c >> 32) as u32,
        protocol,
        family: Family::V4,
        traffic_class: (a >> 8) as u8,
        hop_limit: b as u8,
        head: b,
        tail: 0,
    })
}

#[inline(always)]
fn read_v6<P: Packet>(packet: &P, l3: usize) -> Option<Headers> {
    let [first, source_a, source_b, destination_a, destination_b, behind] = packet.read::<[u64; 6]>(l3)?;
    let [version, flow, _, _, length_a, length_b, protocol, hop_limit] = first.to_ne_bytes();
    let payload = usize::from(u16::from_be_bytes([length_a, length_b]));
    let (source, destination) = (Address([source_a, source_b]), Address([destination_a, destination_b]));
    let end = l3 + ip_header(Family::V6) + payload;
    let is_plain = version >> 4 == 6
        && payload >= least(protocol)?
        && end <= packet.length()
        // What is mapped into IPv6 would be taken for IPv4.
        && source.family() == Family::V6
        && destination.family() == Family::V6;
    if !is_plain {
        return None;
    }
    let behind = u64::from_le(behind);
    Some(Headers {
        source,
        destination,
        ports: behind as u32,
        protocol,
        family: Family::V6,
        traffic_class: version << 4 | flow >> 4,
        hop_limit,
        head: u64::from_le(first),
        tail: (behind >> 32) as u32,
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
