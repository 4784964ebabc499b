//! A packet from the wire.

use network_types::eth::EthHdr;

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, echo, fast_path, fragment, go, lookup,
    neighbour::{self, Asker},
    outside,
    published::{self, Returned},
    refuse,
    second_chance::{self, Errand, Told},
    settle,
    translate::{Rewrite, translate},
    tunnel::{self, RETURN_MAC},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, Arrival, FlowKey, ForwardingAddress, Space, VNI_PRESENT},
    wire::{ETHERNET, ether_type, ip_header, protocol},
};

/// The way of a packet from the wire.
#[inline(always)]
pub fn from_underlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    settle(underlay(packet, tables))
}

#[inline(always)]
fn underlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Step {
    if !T::DELIVERS
        && let Some(verdict) = fast_path::fast_path(packet, tables)
    {
        return Ok(verdict);
    }
    let Some(settings) = tables.settings() else { return Ok(Verdict::PASS) };
    let Some(ethernet) = packet.read::<EthHdr>(0) else { return Ok(Verdict::PASS) };
    // What the mesh cannot read is not the mesh's: the kernel knows what to do with it.
    let mut datagram = Datagram::UNREAD;
    if datagram.parse(packet, Datagram::L3, ethernet.ether_type).is_err() {
        return Ok(Verdict::PASS);
    }
    let key = &datagram.key;
    let Some(local) = tables.local(key.destination) else { return Ok(Verdict::PASS) };
    if key.protocol == protocol::UDP
        && datagram.has_ports
        && key.destination_port == settings.vxlan_port
        && key.destination == settings.address
    {
        // No node of the mesh sends options or extension headers: the inner headers' places are then known.
        let l4 = Datagram::L3 + ip_header(datagram.family);
        if datagram.l4() != l4 {
            return Err(Reason::Malformed);
        }
        let outer = Outer { source: key.source, l4, traffic_class: datagram.traffic_class };
        let mut way = Way::NOWHERE;
        tunnelled(packet, tables, &mut datagram, &outer, &mut way)?;
        return go(packet, tables, &mut datagram, &way);
    }
    if !T::DELIVERS && datagram.is_fragment {
        return Ok(Verdict::PASS);
    }
    let scope = FlowKey::scope(Space::Outside, 0);
    if fragment::goes_on(tables, &mut datagram, Datagram::L3, scope) {
        return Ok(Verdict::FRAGMENT);
    }
    let key = &datagram.key;
    if let Some(service) =
        lookup::published(tables, &datagram, &key.destination, key.destination_port, local.flags)
    {
        lookup::admit(tables, service, &key.source)?;
        let mut way = Way::NOWHERE;
        if let Err(reason) = published::enter(tables, &mut datagram, service, &mut way) {
            return refuse::unserved(service, reason);
        }
        return go(packet, tables, &mut datagram, &way);
    }
    if !T::DELIVERS {
        return Ok(Verdict::PASS);
    }
    if local.ifindex == 0 {
        // The kernel knows nothing of such an address: it would route the packet back to where it came from.
        return external(packet, &datagram);
    }
    outside::answer(packet, tables, &mut datagram).unwrap_or(Ok(Verdict::PASS))
}

/// A packet to an address that is routed here and on no interface, for none of the ports that answer there.
#[inline(always)]
fn external<P: Packet>(packet: &mut P, datagram: &Datagram) -> Step {
    if datagram.is_echo_request() { echo::answer(packet, datagram) } else { Err(Reason::NotPublished) }
}

/// What is still of interest of the outer headers once the inner ones are read.
struct Outer {
    source: Address,
    l4: usize,
    traffic_class: u8,
}

/// A packet in a tunnel to this node.
#[inline(never)]
fn tunnelled<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    outer: &Outer,
    way: &mut Way,
) -> Result<(), Reason> {
    // Nothing else is looked at for what only the later hook can deliver.
    if !T::DELIVERS {
        let destination: [u8; 6] = packet.read(outer.l4 + 16).ok_or(Reason::Malformed)?;
        if destination != RETURN_MAC {
            *way = Way::Settled(Verdict::PASS);
            return Ok(());
        }
    }
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
    let is_return = !T::DELIVERS || ethernet.dst_addr == RETURN_MAC;
    if !T::FRAGMENTS && ethernet.ether_type == ForwardingAddress::ETHER_TYPE.to_be() {
        *way = Way::Told(Told { vni, peer, at: (inner + ETHERNET) as u8 });
        return Ok(());
    }
    if !T::FRAGMENTS && ethernet.ether_type == ether_type::ARP {
        *way = Way::AskedByArp(Asker { vni, node: peer, inner: inner as u8, mac: ethernet.src_addr });
        return Ok(());
    }
    *datagram = Datagram::UNREAD;
    datagram.parse(packet, inner + ETHERNET, ethernet.ether_type)?;
    let bytes = inner + ETHERNET - Datagram::L3;
    if !is_return && neighbour::is_solicitation(datagram) {
        *way = Way::Solicited(Asker { vni, node: peer, inner: inner as u8, mac: ethernet.src_addr });
        return Ok(());
    }
    if datagram.key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if !T::DELIVERS && datagram.is_fragment {
        *way = Way::Settled(Verdict::PASS);
        return Ok(());
    }
    let scope = FlowKey::scope(Space::Published, vni);
    if fragment::goes_on(tables, datagram, inner + ETHERNET, scope) {
        *way = Way::Settled(Verdict::FRAGMENT);
        return Ok(());
    }
    let mark = tunnel::congestion(outer.traffic_class, datagram.traffic_class)?;
    if is_return {
        *way = Way::Return(Returned { tunnel: bytes as u8, mark: mark.unwrap_or(0), peer, vni });
        return Ok(());
    }
    if let Some(mark) = mark {
        tunnel::mark_congestion(packet, datagram.family, inner + ETHERNET, mark).ok_or(Reason::Malformed)?;
    }
    if let Some(endpoint) = lookup::endpoint(tables, vni, &datagram.key.destination) {
        if endpoint.ifindex == 0 {
            return Err(Reason::NoSuchEndpoint);
        }
        let sender = lookup::endpoint(tables, vni, &datagram.key.source)
            .filter(|sender| sender.node == peer && !datagram.is_from_router)
            .ok_or(Reason::PeerForged)?;
        deliver::unwrap(packet, datagram, bytes)?;
        if datagram.has_ports
            && let Some(flow) = tables.flow(datagram.key_in(Space::Network, vni))
        {
            balance::mark(tables, &flow, datagram);
            translate(packet, datagram, &Rewrite::from(&*flow))?;
        }
        *way =
            Way::Settled(deliver::hand_over(packet, datagram, sender.mac, endpoint.mac, endpoint.ifindex)?);
        return Ok(());
    }
    let key = &datagram.key;
    let service = lookup::asked(tables, datagram, &key.destination, key.destination_port)
        .ok_or(Reason::NotPublished)?;
    let errand = Errand::from_byte(vxlan[7]);
    let entry = if errand.is_first() {
        peer
    } else {
        second_chance::entry(tables, &ethernet.src_addr).ok_or(Reason::NotAPeer)?
    };
    *way = Way::Deliver(Arrival {
        service: service.id,
        persistent: service.persistent,
        flags: service.flags,
        target_port: service.target_port,
        vni,
        mac: ethernet.dst_addr,
        source: ethernet.src_addr,
        entry: entry as u16,
        peer: peer as u16,
        tunnel: bytes as u8,
        errand: errand.byte(),
    });
    Ok(())
}
