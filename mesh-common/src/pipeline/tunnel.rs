//! VXLAN (RFC 7348): putting a packet into a tunnel to another node, and the outer header's part in congestion marks.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Step, datagram::Datagram, second_chance::Errand};
use crate::{
    Packet, Reason, Route, Tables, Verdict,
    abi::{Address, Family, Node, Settings, VNI_PRESENT},
    checksum::Sum,
    hash,
    wire::{ETHERNET, HOP_LIMIT, ether_type, ip_header, ipv4_checksum, protocol},
};

/// The inner destination MAC address of an answer that returns to its client through the entry node: locally
/// administered, "MESH" in its last four bytes.
pub(super) const RETURN_MAC: [u8; 6] = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];

/// Bytes of the UDP, VXLAN and inner Ethernet headers.
pub(super) const INSIDE: usize = 8 + 8 + ETHERNET;

/// Bytes that a tunnel over this family puts before a packet: outer IP, UDP, VXLAN and inner Ethernet headers.
#[inline(always)]
#[must_use]
pub const fn overhead(outer: Family) -> usize {
    ip_header(outer) + INSIDE
}

/// What a packet is put into a tunnel with.
#[derive(Clone, Copy)]
pub(super) struct Tunnel<'a> {
    /// The node at its other end.
    pub(super) node: &'a Node,
    pub(super) vni: u32,
    pub(super) destination: [u8; 6],
    pub(super) source: [u8; 6],
    pub(super) errand: Errand,
}

/// The longest IP packet that fits into a tunnel to a node.
#[inline(always)]
pub(super) fn inner_mtu(node: &Node) -> u32 {
    node.mtu.saturating_sub(overhead(node.address.family()) as u32)
}

/// Puts the packet into a tunnel to a node.
#[inline(always)]
pub(super) fn encapsulate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    tunnel: &Tunnel<'_>,
) -> Step {
    pass_on(packet, tables, datagram, tunnel, 0)
}

/// Puts the packet into a tunnel to a node, in the place of the tunnel of so many bytes around it, if it has one: all nodes'
/// underlay addresses are of one family. (The kernel lets no program open what it has closed.)
#[inline(never)]
pub(super) fn pass_on<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    tunnel: &Tunnel<'_>,
    old: usize,
) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let node = tunnel.node;
    let hop = match tables.route_to_node(node) {
        Route::Hop(hop) => hop,
        Route::Later => return Ok(Verdict::PASS),
        Route::None => return Err(Reason::NoRoute),
    };
    let inner = packet.length().saturating_sub(ETHERNET + old);
    let outer = node.address.family();
    if old == 0 {
        packet.open(outer).ok_or(Reason::NoRoom)?;
    } else if old != overhead(outer) {
        return Err(Reason::NoRoute);
    }
    let key = &datagram.key;
    let ports = hash::ports(key.source_port, key.destination_port);
    let frame = Frame {
        inner_ether_type: ether_type::of(datagram.family),
        inner_len: inner,
        source_port: source_port(key.source, key.destination, ports, key.protocol).to_be_bytes(),
        ecn: datagram.traffic_class & ECN,
    };
    packet
        .write(
            0,
            &EthHdr { dst_addr: hop.destination, src_addr: hop.source, ether_type: ether_type::of(outer) },
        )
        .ok_or(Reason::Malformed)?;
    write_outer(packet, settings, tunnel, &frame).ok_or(Reason::Malformed)?;
    Ok(Verdict::transmit(hop.ifindex))
}

/// What the headers of a tunnel say of the packet inside.
pub(super) struct Frame {
    pub(super) inner_ether_type: u16,
    /// Bytes behind the inner Ethernet header.
    pub(super) inner_len: usize,
    pub(super) source_port: [u8; 2],
    pub(super) ecn: u8,
}

/// Writes everything between the outer and the inner network header, both included in the former's case.
#[inline(always)]
pub(super) fn write_outer<P: Packet>(
    packet: &mut P,
    settings: &Settings,
    tunnel: &Tunnel<'_>,
    frame: &Frame,
) -> Option<()> {
    let node = tunnel.node;
    // What stands for many packets may be longer than such a field: the kernel writes it anew in each of them.
    let udp_len = (frame.inner_len + INSIDE) as u16;
    let l4 = match node.address.family() {
        Family::V4 => {
            let mut header = Ipv4Hdr {
                vihl: 0x45,
                tos: frame.ecn,
                tot_len: udp_len.wrapping_add(ip_header(Family::V4) as u16).to_be_bytes(),
                id: [0, 0],
                // Don't fragment: the network's MTU leaves room for this header.
                frags: [0x40, 0],
                ttl: HOP_LIMIT,
                proto: protocol::UDP,
                check: [0, 0],
                src_addr: settings.address.v4_octets(),
                dst_addr: node.address.v4_octets(),
            };
            header.check = ipv4_checksum(&header);
            packet.write(ETHERNET, &header)?;
            ETHERNET + ip_header(Family::V4)
        }
        Family::V6 => {
            let header = Ipv6Hdr {
                vcf: [0x60 | frame.ecn >> 4, frame.ecn << 4, 0, 0],
                payload_len: udp_len.to_be_bytes(),
                next_hdr: protocol::UDP,
                hop_limit: HOP_LIMIT,
                src_addr: settings.address.octets(),
                dst_addr: node.address.octets(),
            };
            packet.write(ETHERNET, &header)?;
            ETHERNET + ip_header(Family::V6)
        }
    };
    packet.write(
        l4,
        &UdpHdr {
            src: frame.source_port,
            dst: settings.vxlan_port,
            len: udp_len.to_be_bytes(),
            // None: the inner packet has its own (RFC 7348, section 5; RFC 6935 for IPv6).
            check: [0, 0],
        },
    )?;
    let [_, a, b, c] = tunnel.vni.to_be_bytes();
    packet.write(l4 + 8, &[VNI_PRESENT, 0, 0, 0, a, b, c, tunnel.errand.byte()])?;
    packet.write(
        l4 + 16,
        &EthHdr { dst_addr: tunnel.destination, src_addr: tunnel.source, ether_type: frame.inner_ether_type },
    )
}

/// The bits of the traffic class that carry congestion marks (RFC 3168).
pub(super) const ECN: u8 = 3;

/// The outer source port, by which routers spread flows over paths: from the dynamic range 49152–65535
/// (RFC 7348, section 5), the same for all packets of a flow, fragments too where they have no ports. `ports` are both of the
/// flow's, by [`hash::ports`].
#[inline(always)]
pub(super) fn source_port(source: Address, destination: Address, ports: u32, protocol: u8) -> u16 {
    // One round of mixing: whoever wants his flows on one path can choose their ports anyway.
    let ports = u64::from(protocol) << 32 | u64::from(ports);
    let [from_high, from_low] = source.0;
    let [to_high, to_low] = destination.0;
    let addresses = from_high ^ from_low.rotate_left(7) ^ to_high.rotate_left(29) ^ to_low.rotate_left(51);
    let hash = hash::words(0, [addresses ^ ports.rotate_left(40)]);
    0xc000 | (hash >> 48) as u16
}

/// What an inner packet's congestion mark becomes when its outer header goes (RFC 6040, section 4.2): `None` to leave
/// it as it is.
#[inline(always)]
pub(super) fn congestion(outer: u8, inner: u8) -> Result<Option<u8>, Reason> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (outer & ECN, inner & ECN) {
        (CE, NOT_ECT) => Err(Reason::Congestion),
        (CE, ECT_0 | ECT_1) => Ok(Some(CE)),
        (ECT_1, ECT_0) => Ok(Some(ECT_1)),
        _ => Ok(None),
    }
}

/// Sets the congestion mark of the packet at `l3`.
#[inline(always)]
pub(super) fn mark_congestion<P: Packet>(packet: &mut P, family: Family, l3: usize, mark: u8) -> Option<()> {
    let old: [u8; 2] = packet.read(l3)?;
    let new = match family {
        Family::V4 => [old[0], old[1] & !ECN | mark],
        Family::V6 => [old[0], old[1] & !(ECN << 4) | mark << 4],
    };
    let change = Sum::ZERO.plus16(new).minus(Sum::ZERO.plus16(old));
    packet.write(l3, &new)?;
    match family {
        Family::V4 => {
            let checksum: [u8; 2] = packet.read(l3 + 10)?;
            packet.write(l3 + 10, &change.update(checksum))
        }
        Family::V6 => {
            packet.changed(change);
            Some(())
        }
    }
}
