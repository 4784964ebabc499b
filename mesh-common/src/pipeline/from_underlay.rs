//! A packet from the wire.

use network_types::eth::EthHdr;

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, go, lookup,
    neighbour::{self, Asker},
    outside,
    published::{self, Arrival},
    settle,
    translate::{Rewrite, translate},
    tunnel::{self, RETURN_MAC, VNI_PRESENT},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, MacKey, Space},
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
    let mut datagram = Datagram::UNREAD;
    if datagram.parse(packet, Datagram::L3, ethernet.ether_type).is_err() {
        return Ok(Verdict::Pass);
    }
    let key = &datagram.key;
    if !tables.is_local(key.destination) {
        return Ok(Verdict::Pass);
    }
    if key.protocol == protocol::UDP
        && datagram.has_ports
        && key.destination_port == settings.vxlan_port
        && key.destination == settings.address
    {
        let outer = Outer { source: key.source, l4: datagram.l4, traffic_class: datagram.traffic_class };
        let way = tunnelled(packet, tables, &mut datagram, &outer)?;
        return go(packet, tables, &mut datagram, &way);
    }
    if let Some(service) = lookup::published(tables, &datagram, key.destination_port) {
        let way = published::enter(packet, tables, &mut datagram, service)?;
        return go(packet, tables, &mut datagram, &way);
    }
    if !T::DELIVERS {
        return Ok(Verdict::Pass);
    }
    outside::answer(packet, tables, &mut datagram).unwrap_or(Ok(Verdict::Pass))
}

/// What is still of interest of the outer headers once the inner ones are read.
struct Outer {
    source: Address,
    l4: usize,
    traffic_class: u8,
}

/// A packet in a tunnel to this node.
#[inline(never)]
fn tunnelled<'a, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'a T,
    datagram: &mut Datagram,
    outer: &Outer,
) -> Result<Way<'a>, Reason> {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let peer = tables.peer(outer.source).ok_or(Reason::NotAPeer)?;
    let vxlan: [u8; 8] = packet.read(outer.l4 + 8).ok_or(Reason::Malformed)?;
    if vxlan[0] & VNI_PRESENT == 0 {
        return Err(Reason::Malformed);
    }
    let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
    if tables.network(vni).is_none() {
        return Err(Reason::UnknownNetwork);
    }
    let inner = outer.l4 + 16;
    let ethernet: EthHdr = packet.read(inner).ok_or(Reason::Malformed)?;
    let is_return = ethernet.dst_addr == RETURN_MAC;
    if !T::DELIVERS && !is_return {
        return Ok(Way::Settled(Verdict::Pass));
    }
    if ethernet.ether_type == ether_type::ARP {
        let node = tables.node(peer).ok_or(Reason::NotAPeer)?;
        return Ok(Way::AskedByArp(Asker { settings, vni, node, inner, mac: ethernet.src_addr }));
    }
    *datagram = Datagram::UNREAD;
    datagram.parse(packet, inner + ETHERNET, ethernet.ether_type)?;
    let bytes = inner + ETHERNET - Datagram::L3;
    if is_return {
        return published::returned(packet, tables, datagram, bytes).map(Way::Settled);
    }
    if neighbour::is_solicitation(datagram) {
        let node = tables.node(peer).ok_or(Reason::NotAPeer)?;
        return Ok(Way::Solicited(Asker { settings, vni, node, inner, mac: ethernet.src_addr }));
    }
    if datagram.key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if let Some(mark) = tunnel::congestion(outer.traffic_class, datagram.traffic_class)? {
        tunnel::mark_congestion(packet, datagram.family, inner + ETHERNET, mark).ok_or(Reason::Malformed)?;
    }
    if let Some(endpoint) = lookup::endpoint(tables, vni, &datagram.key.destination) {
        if endpoint.ifindex == 0 {
            return Err(Reason::NoSuchEndpoint);
        }
        let sender = lookup::endpoint(tables, vni, &datagram.key.source)
            .filter(|sender| sender.node == peer)
            .ok_or(Reason::PeerForged)?;
        deliver::unwrap(packet, datagram, bytes)?;
        if datagram.has_ports
            && let Some(flow) = tables.flow(datagram.key_in(Space::Network, vni))
        {
            balance::mark(tables, &flow, datagram);
            translate(packet, datagram, &Rewrite::from(&*flow))?;
        }
        return deliver::hand_over(packet, datagram, sender.mac, endpoint.mac, endpoint.ifindex)
            .map(Way::Settled);
    }
    let to = MacKey { vni, mac: ethernet.dst_addr, reserved: [0; 2] };
    let target = tables.local_mac(&to).ok_or(Reason::NoSuchEndpoint)?;
    let service =
        lookup::published(tables, datagram, datagram.key.destination_port).ok_or(Reason::NotPublished)?;
    Ok(Way::Deliver(Arrival { service, target, vni, mac: ethernet.dst_addr, entry: peer, tunnel: bytes }))
}
