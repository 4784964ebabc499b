//! Published ports: on the node that a client speaks to, on the node that delivers, and on the way back.

use super::{
    Step, balance,
    datagram::Datagram,
    deliver, outside, too_big,
    translate::translate,
    tunnel::{self, RETURN_MAC, Tunnel},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{
        Address, Family, Flow, FlowKey, LocalMac, MacKey, Network, NodeIndex, Service, ServiceKey, Settings,
        Space, flow_flags, settings_flags,
    },
};

/// The service published at a port, by the packet's family.
#[inline(always)]
pub(super) fn service<'a, T: Tables>(
    tables: &'a T,
    datagram: &Datagram,
    port: [u8; 2],
) -> Option<&'a Service> {
    if !datagram.is_transport() || !datagram.has_ports && !datagram.is_fragment {
        return None;
    }
    tables.service(&ServiceKey {
        address: Address::UNSPECIFIED,
        scope: 0,
        port,
        protocol: datagram.key.protocol,
        family: datagram.family as u8,
    })
}

/// A client's packet, untouched, at the node that it enters by.
#[inline(always)]
pub(super) fn enter<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    service: &Service,
    datagram: &mut Datagram,
) -> Step {
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    let backend = balance::choose_at_entry(tables, settings, service, datagram)?;
    let network = tables.network(backend.vni).ok_or(Reason::UnknownNetwork)?;
    if backend.node == settings.node {
        if !T::DELIVERS {
            return Ok(Verdict::Pass);
        }
        let key = MacKey { vni: backend.vni, mac: backend.mac, reserved: [0; 2] };
        let target = tables.local_mac(&key).ok_or(Reason::NoSuchEndpoint)?;
        let arrival = Arrival { vni: backend.vni, mac: backend.mac, entry: settings.node, tunnel: 0 };
        return deliver(packet, tables, service, datagram, network, target, &arrival);
    }
    let node = tables.node(backend.node).ok_or(Reason::NoRoute)?;
    let mtu = tunnel::inner_mtu(node);
    if too_big::is_too_big(packet, mtu) {
        return too_big::answer(packet, datagram, datagram.key.destination, mtu);
    }
    let tunnel = Tunnel { vni: backend.vni, destination: backend.mac, source: network.gateway_mac };
    tunnel::encapsulate(packet, tables, settings, datagram, node, tunnel)
}

/// How a client's packet came to the node that delivers it.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) vni: u32,
    /// The MAC address of the backend that the entry node chose.
    pub(super) mac: [u8; 6],
    /// The entry node.
    pub(super) entry: NodeIndex,
    /// Bytes of the tunnel around the packet, or 0.
    pub(super) tunnel: usize,
}

/// A client's packet at the node that delivers it: the flow is remembered in both directions.
#[inline(always)]
pub(super) fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    datagram: &mut Datagram,
    network: &Network,
    target: &LocalMac,
    arrival: &Arrival,
) -> Step {
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    let address = match datagram.family {
        Family::V4 => target.v4,
        Family::V6 => target.v6,
    };
    if address.is_unspecified() {
        return Err(Reason::NoBackend);
    }
    let key = datagram.key_in(Space::Published, arrival.vni);
    let flow = match tables.flow(&key) {
        // A new connection goes where the ring says now, an old one stays where it is.
        Some(flow)
            if flow.node == arrival.entry
                && flow.destination == address
                && !balance::is_over(&flow, datagram) =>
        {
            balance::mark(tables, &key, &flow, datagram);
            flow
        }
        _ => open(tables, service, &key, address, arrival),
    };
    deliver::unwrap(packet, datagram, arrival.tunnel)?;
    translate(packet, datagram, Datagram::L3, &flow)?;
    deliver::route_on(packet, datagram)?;
    deliver::hand_over(packet, datagram, network.gateway_mac, arrival.mac, target.ifindex)
}

/// Remembers a flow in both directions.
#[inline(always)]
fn open<T: Tables>(
    tables: &T,
    service: &Service,
    key: &FlowKey,
    backend: Address,
    arrival: &Arrival,
) -> Flow {
    let target_port = if service.target_port == [0, 0] { key.destination_port } else { service.target_port };
    let there = Flow {
        source: key.source,
        destination: backend,
        source_port: key.source_port,
        destination_port: target_port,
        node: arrival.entry,
        seen: tables.now(),
        service: service.id,
        ..Flow::default()
    };
    let back_key = FlowKey {
        source: backend,
        destination: key.source,
        source_port: target_port,
        destination_port: key.source_port,
        scope: FlowKey::scope(Space::Network, arrival.vni),
        ..*key
    };
    let back = Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: flow_flags::REPLY,
        ..there
    };
    tables.put_flow(key, &there);
    tables.put_flow(&back_key, &back);
    there
}

/// A task's answer to a client, translated already: it leaves through the entry node, or from here where that is this
/// node or answers go straight.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    vni: u32,
    entry: NodeIndex,
) -> Step {
    deliver::route_on(packet, datagram)?;
    if entry == settings.node || settings.flags & settings_flags::RETURN_DIRECT != 0 {
        return outside::leave(packet, tables, settings, datagram);
    }
    let node = tables.node(entry).ok_or(Reason::NoRoute)?;
    let tunnel = Tunnel { vni, destination: RETURN_MAC, source: settings.host_mac };
    tunnel::encapsulate(packet, tables, settings, datagram, node, tunnel)
}

/// A task's answer to a client, at the entry node.
#[inline(always)]
pub(super) fn returned<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    tunnel: usize,
) -> Step {
    let key = &datagram.key;
    if !datagram.has_ports
        || !tables.is_local(key.source)
        || service(tables, datagram, key.source_port).is_none()
    {
        return Err(Reason::ReturnForged);
    }
    if tables.is_local(key.destination) && !T::DELIVERS {
        return Ok(Verdict::Pass);
    }
    outside::leave_tunnel(packet, tables, settings, datagram, tunnel)
}
