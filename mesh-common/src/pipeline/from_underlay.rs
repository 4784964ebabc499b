//! A packet from the wire.

use network_types::eth::EthHdr;

use super::{
    Step, balance,
    datagram::Datagram,
    deliver,
    neighbour::{self, Asker},
    outside,
    published::{self, Arrival},
    settle,
    translate::translate,
    tunnel::{self, RETURN_MAC, VNI_PRESENT},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{EndpointKey, MacKey, Settings, Space},
    wire::{ETHERNET, ether_type, protocol},
};

/// The way of a packet from the wire.
#[inline(always)]
pub fn from_underlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    settle(underlay(packet, tables))
}

#[inline(always)]
fn underlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Step {
    let (Some(settings), Some(ethernet)) = (tables.settings(), packet.read::<EthHdr>(0)) else {
        return Ok(Verdict::Pass);
    };
    // What the mesh cannot read is not the mesh's: the kernel knows what to do with it.
    let Ok(mut datagram) = Datagram::parse(packet, Datagram::L3, ethernet.ether_type) else {
        return Ok(Verdict::Pass);
    };
    let key = datagram.key;
    if !tables.is_local(key.destination) {
        return Ok(Verdict::Pass);
    }
    if key.protocol == protocol::UDP
        && datagram.has_ports
        && key.destination_port == settings.vxlan_port
        && key.destination == settings.address
    {
        return tunnelled(packet, tables, settings, &datagram);
    }
    if let Some(service) = published::service(tables, &datagram, key.destination_port) {
        return published::enter(packet, tables, settings, service, &mut datagram);
    }
    if !T::DELIVERS {
        return Ok(Verdict::Pass);
    }
    outside::answer(packet, tables, &mut datagram).unwrap_or(Ok(Verdict::Pass))
}

/// A packet in a tunnel to this node.
#[inline(always)]
fn tunnelled<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    outer: &Datagram,
) -> Step {
    let peer = tables.peer(outer.key.source).ok_or(Reason::NotAPeer)?;
    let vxlan: [u8; 8] = packet.read(outer.l4 + 8).ok_or(Reason::Malformed)?;
    if vxlan[0] & VNI_PRESENT == 0 {
        return Err(Reason::Malformed);
    }
    let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
    let network = tables.network(vni).ok_or(Reason::UnknownNetwork)?;
    let inner = outer.l4 + 16;
    let ethernet: EthHdr = packet.read(inner).ok_or(Reason::Malformed)?;
    let is_return = ethernet.dst_addr == RETURN_MAC;
    if !T::DELIVERS && !is_return {
        return Ok(Verdict::Pass);
    }
    if ethernet.ether_type == ether_type::ARP {
        let node = tables.node(peer).ok_or(Reason::NotAPeer)?;
        return neighbour::arp_from_tunnel(packet, tables, &Asker { settings, vni, node, inner });
    }
    let mut datagram = Datagram::parse(packet, inner + ETHERNET, ethernet.ether_type)?;
    let bytes = inner + ETHERNET - Datagram::L3;
    if is_return {
        return published::returned(packet, tables, settings, &mut datagram, bytes);
    }
    if neighbour::is_solicitation(&datagram) {
        let node = tables.node(peer).ok_or(Reason::NotAPeer)?;
        let asker = Asker { settings, vni, node, inner };
        return neighbour::solicitation_from_tunnel(packet, tables, &asker, &datagram, ethernet.src_addr);
    }
    if datagram.key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if let Some(mark) = tunnel::congestion(outer.traffic_class, datagram.traffic_class)? {
        tunnel::mark_congestion(packet, datagram.family, inner + ETHERNET, mark).ok_or(Reason::Malformed)?;
    }
    let to = EndpointKey { address: datagram.key.destination, vni, reserved: 0 };
    if let Some(endpoint) = tables.endpoint(&to) {
        if endpoint.ifindex == 0 {
            return Err(Reason::NoSuchEndpoint);
        }
        let from = EndpointKey { address: datagram.key.source, vni, reserved: 0 };
        let sender = tables.endpoint(&from).filter(|sender| sender.node == peer).ok_or(Reason::PeerForged)?;
        deliver::unwrap(packet, &mut datagram, bytes)?;
        if datagram.has_ports {
            let key = datagram.key_in(Space::Network, vni);
            if let Some(flow) = tables.flow(&key) {
                balance::mark(tables, &key, &flow, &datagram);
                translate(packet, &mut datagram, Datagram::L3, &flow)?;
            }
        }
        return deliver::hand_over(packet, &datagram, sender.mac, endpoint.mac, endpoint.ifindex);
    }
    let to = MacKey { vni, mac: ethernet.dst_addr, reserved: [0; 2] };
    let target = tables.local_mac(&to).ok_or(Reason::NoSuchEndpoint)?;
    let service =
        published::service(tables, &datagram, datagram.key.destination_port).ok_or(Reason::NotPublished)?;
    let arrival = Arrival { vni, mac: ethernet.dst_addr, entry: peer, tunnel: bytes };
    published::deliver(packet, tables, service, &mut datagram, network, target, &arrival)
}
