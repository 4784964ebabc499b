//! Answering for the addresses of a network: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).

use network_types::{arp::ArpHdr, eth::EthHdr, ip::Ipv6Hdr};

use super::{
    Step,
    datagram::Datagram,
    lookup::{self, Place},
    second_chance::Errand,
    tunnel::{self, Frame, Tunnel},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, Attachment, Family, Network, NodeIndex},
    checksum::Sum,
    wire::{ETHERNET, ether_type, icmp, ip_header, protocol},
};

/// Bytes of a neighbour solicitation or advertisement behind the IPv6 header, with one link-layer address option.
const NEIGHBOUR_MESSAGE: usize = 32;

/// Flags of an advertisement: solicited, override.
const ADVERTISEMENT_FLAGS: u8 = 0x60;

/// Who has an address of a network: an endpoint, or the gateway, which speaks for virtual IPs too and has an address in each
/// subnet.
#[inline(always)]
fn resolve<T: Tables>(tables: &T, vni: u32, network: &Network, address: Address) -> Option<[u8; 6]> {
    if let Some(endpoint) = lookup::endpoint(tables, vni, &address) {
        return Some(endpoint.mac);
    }
    let is_gateway = lookup::vip(tables, vni, &address).is_some()
        || lookup::place(tables, vni, &address) == Place::Gateway;
    is_gateway.then_some(network.gateway_mac)
}

/// An ARP request whose header stands at `at`, read and checked: the question, and nothing else.
#[inline(always)]
fn arp_request<P: Packet>(packet: &P, at: usize) -> Result<ArpHdr, Reason> {
    let arp: ArpHdr = packet.read(at).ok_or(Reason::Malformed)?;
    let is_request =
        arp.htype == [0, 1] && arp.ptype == [8, 0] && arp.hlen == 6 && arp.plen == 4 && arp.oper == [0, 1];
    if is_request { Ok(arp) } else { Err(Reason::Multicast) }
}

#[inline(always)]
fn arp_reply(request: &ArpHdr, mac: [u8; 6]) -> ArpHdr {
    ArpHdr { oper: [0, 2], sha: mac, spa: request.tpa, tha: request.sha, tpa: request.spa, ..*request }
}

/// A task asks by ARP.
#[inline(never)]
pub(super) fn arp_from_endpoint<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    attachment: &Attachment,
) -> Step {
    let network = tables.network(attachment.vni).ok_or(Reason::UnknownNetwork)?;
    let request = arp_request(packet, ETHERNET)?;
    let sender = Address::from_v4(request.spa);
    let target = Address::from_v4(request.tpa);
    // A sender of 0.0.0.0 only probes (RFC 5227): nobody else has its address, or the plan would be wrong.
    let is_probe = request.spa == [0; 4];
    if request.sha != attachment.mac || (!is_probe && sender != attachment.v4) {
        return Err(Reason::SourceForged);
    }
    if target == attachment.v4 {
        return Err(Reason::Multicast);
    }
    let mac = resolve(tables, attachment.vni, network, target).ok_or(Reason::NoSuchEndpoint)?;
    packet.write(ETHERNET, &arp_reply(&request, mac)).ok_or(Reason::Malformed)?;
    let ethernet = EthHdr { dst_addr: attachment.mac, src_addr: mac, ether_type: ether_type::ARP };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)?;
    Ok(Verdict::REPLY)
}

/// The far side of a question that came through a tunnel: only this node's own endpoints are answered for.
pub(super) struct Asker {
    pub(super) vni: u32,
    pub(super) node: NodeIndex,
    /// Where the inner Ethernet header stands: a byte, so that the verifier knows its range.
    pub(super) inner: u8,
    /// The inner source MAC address.
    pub(super) mac: [u8; 6],
}

/// A node without meshd asks by ARP, through the tunnel.
#[inline(never)]
pub(super) fn arp_from_tunnel<P: Packet, T: Tables>(packet: &mut P, tables: &T, asker: &Asker) -> Step {
    let request = arp_request(packet, usize::from(asker.inner) + ETHERNET)?;
    let endpoint =
        lookup::endpoint(tables, asker.vni, &Address::from_v4(request.tpa)).ok_or(Reason::NoSuchEndpoint)?;
    if endpoint.ifindex == 0 {
        return Err(Reason::NoSuchEndpoint);
    }
    let mac = endpoint.mac;
    packet.write(usize::from(asker.inner) + ETHERNET, &arp_reply(&request, mac)).ok_or(Reason::Malformed)?;
    let node = tables.node(asker.node).ok_or(Reason::NotAPeer)?;
    let tunnel =
        Tunnel { node, vni: asker.vni, destination: request.sha, source: mac, errand: Errand::FIRST };
    answer_through_tunnel(packet, tables, asker, &tunnel, ether_type::ARP)
}

#[inline(always)]
fn answer_through_tunnel<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    asker: &Asker,
    tunnel: &Tunnel<'_>,
    inner_ether_type: u16,
) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    // The answer takes the place of the question, so it goes back over the same family.
    if tunnel::overhead(tunnel.node.address.family()) != usize::from(asker.inner) {
        return Err(Reason::NotAPeer);
    }
    let ethernet: EthHdr = packet.read(0).ok_or(Reason::Malformed)?;
    let inner_len = packet.length() - usize::from(asker.inner) - ETHERNET;
    let frame = Frame { inner_ether_type, inner_len, source_port: [0xc0, 0], ecn: 0 };
    let swapped =
        EthHdr { dst_addr: ethernet.src_addr, src_addr: ethernet.dst_addr, ether_type: ethernet.ether_type };
    packet.write(0, &swapped).ok_or(Reason::Malformed)?;
    tunnel::write_outer(packet, settings, tunnel, &frame).ok_or(Reason::Malformed)?;
    Ok(Verdict::REPLY)
}

/// Whether this is a neighbour solicitation, with the hop limit that proves it to be of the link.
#[inline(always)]
pub(super) fn is_solicitation(datagram: &Datagram) -> bool {
    datagram.key.protocol == protocol::ICMPV6
        && datagram.icmp_type == icmp::V6_NEIGHBOUR_SOLICITATION
        && !datagram.is_fragment
        && datagram.hop_limit == 255
}

#[inline(always)]
fn solicited<P: Packet>(packet: &P, datagram: &Datagram) -> Result<Address, Reason> {
    packet.read(datagram.l4() + 8).ok_or(Reason::Malformed)
}

/// A task asks by neighbour solicitation.
#[inline(never)]
pub(super) fn solicitation_from_endpoint<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    attachment: &Attachment,
    datagram: &Datagram,
) -> Step {
    let network = tables.network(attachment.vni).ok_or(Reason::UnknownNetwork)?;
    let target = solicited(packet, datagram)?;
    let source = datagram.key.source;
    // Duplicate address detection has no source, and wants no answer unless there is a duplicate.
    if source.is_unspecified() || target == attachment.v6 {
        return Err(Reason::Multicast);
    }
    if source != attachment.v6 && !is_link_local(source) {
        return Err(Reason::SourceForged);
    }
    let mac = resolve(tables, attachment.vni, network, target).ok_or(Reason::NoSuchEndpoint)?;
    packet.resize(ETHERNET + ip_header(Family::V6) + NEIGHBOUR_MESSAGE).ok_or(Reason::NoRoom)?;
    let ethernet = EthHdr { dst_addr: attachment.mac, src_addr: mac, ether_type: ether_type::IPV6 };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)?;
    write_advertisement(packet, ETHERNET, target, source, mac).ok_or(Reason::Malformed)?;
    Ok(Verdict::REPLY)
}

/// A node without meshd asks by neighbour solicitation, through the tunnel.
#[inline(never)]
pub(super) fn solicitation_from_tunnel<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    asker: &Asker,
    datagram: &Datagram,
) -> Step {
    let target = solicited(packet, datagram)?;
    let source = datagram.key.source;
    if source.is_unspecified() {
        return Err(Reason::Multicast);
    }
    let endpoint = lookup::endpoint(tables, asker.vni, &target).ok_or(Reason::NoSuchEndpoint)?;
    if endpoint.ifindex == 0 {
        return Err(Reason::NoSuchEndpoint);
    }
    let mac = endpoint.mac;
    let l3 = usize::from(asker.inner) + ETHERNET;
    packet.resize(l3 + ip_header(Family::V6) + NEIGHBOUR_MESSAGE).ok_or(Reason::NoRoom)?;
    write_advertisement(packet, l3, target, source, mac).ok_or(Reason::Malformed)?;
    let node = tables.node(asker.node).ok_or(Reason::NotAPeer)?;
    let tunnel = Tunnel { node, vni: asker.vni, destination: asker.mac, source: mac, errand: Errand::FIRST };
    answer_through_tunnel(packet, tables, asker, &tunnel, ether_type::IPV6)
}

#[inline(always)]
fn write_advertisement<P: Packet>(
    packet: &mut P,
    l3: usize,
    target: Address,
    asker: Address,
    mac: [u8; 6],
) -> Option<()> {
    let length = (NEIGHBOUR_MESSAGE as u16).to_be_bytes();
    packet.write(
        l3,
        &Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: length,
            next_hdr: protocol::ICMPV6,
            hop_limit: 255,
            src_addr: target.octets(),
            dst_addr: asker.octets(),
        },
    )?;
    // The option "target link-layer address" (RFC 4861, section 4.6.1): type 2, one unit of eight bytes.
    let [a, b, c, d, e, f] = mac;
    let option = [2, 1, a, b, c, d, e, f];
    let kind = [icmp::V6_NEIGHBOUR_ADVERTISEMENT, 0];
    let [check_a, check_b] = Sum::ZERO
        .plus_address(target)
        .plus_address(asker)
        .plus16(length)
        .plus16([0, protocol::ICMPV6])
        .plus16(kind)
        .plus16([ADVERTISEMENT_FLAGS, 0])
        .plus_address(target)
        .plus32([2, 1, a, b])
        .plus32([c, d, e, f])
        .checksum();
    let l4 = l3 + ip_header(Family::V6);
    packet.write(l4, &[kind[0], kind[1], check_a, check_b, ADVERTISEMENT_FLAGS, 0, 0, 0])?;
    packet.write(l4 + 8, &target)?;
    packet.write(l4 + 24, &option)
}

#[inline(always)]
fn is_link_local(address: Address) -> bool {
    let octets = address.octets();
    octets[0] == 0xfe && octets[1] & 0xc0 == 0x80
}
