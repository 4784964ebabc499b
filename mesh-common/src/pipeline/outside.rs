//! Between the mesh and the world outside: masquerading, and the node's own routes.

use network_types::eth::EthHdr;

use super::{Step, balance, datagram::Datagram, deliver, published, translate::translate};
use crate::{
    Hop, Packet, Reason, Route, Tables, Verdict,
    abi::{
        Attachment, Family, Flow, FlowKey, HOST_ALIAS_V4, HOST_ALIAS_V6, MASQUERADE_PORTS, Network, Settings,
        Space, flow_flags, network_flags,
    },
    hash,
    wire::{ether_type, protocol},
};

/// How many masquerading ports are tried for a new flow.
const TRIES: u16 = 8;

/// A task's packet to an address that is not of its network.
#[inline(always)]
pub(super) fn masquerade<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    attachment: &Attachment,
    network: &Network,
) -> Step {
    if network.flags & network_flags::INTERNAL != 0 {
        return Err(Reason::Internal);
    }
    let key = datagram.key;
    if key.protocol == protocol::UDP && datagram.has_ports && key.destination_port == settings.vxlan_port {
        let is_node = tables.peer(key.destination).is_some() || tables.is_local(key.destination);
        if is_node {
            return Err(Reason::TunnelForged);
        }
    }
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    let source = if tables.is_local(key.destination) {
        match datagram.family {
            Family::V4 => HOST_ALIAS_V4,
            Family::V6 => HOST_ALIAS_V6,
        }
    } else {
        let Route::Hop(hop) = tables.route(key.source, key.destination) else { return Err(Reason::NoRoute) };
        let uplink = tables.uplink(hop.ifindex).ok_or(Reason::NoRoute)?;
        match datagram.family {
            Family::V4 => uplink.v4,
            Family::V6 => uplink.v6,
        }
    };
    if source.is_unspecified() {
        return Err(Reason::NoRoute);
    }
    let flow = open(tables, datagram, attachment.vni, source)?;
    go(packet, tables, settings, datagram, &flow)
}

/// Finds a free port for a new flow, and remembers the flow in both directions.
#[inline(always)]
fn open<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    vni: u32,
    source: crate::abi::Address,
) -> Result<Flow, Reason> {
    let key = datagram.key_in(Space::Network, vni);
    let span = MASQUERADE_PORTS.end - MASQUERADE_PORTS.start;
    let start = hash::flow(u64::from(vni), key.source, key.source_port, key.destination_port, key.protocol);
    let mut flow = Flow {
        source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        flags: flow_flags::ROUTE,
        seen: tables.now(),
        ..Flow::default()
    };
    let mut back = Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: flow_flags::REPLY,
        vni,
        ..flow
    };
    let mut back_key = FlowKey {
        source: key.destination,
        destination: source,
        source_port: key.destination_port,
        scope: FlowKey::scope(Space::Outside, 0),
        ..key
    };
    back.node = 0;
    for attempt in 0..TRIES {
        let port =
            MASQUERADE_PORTS.start + (hash::slot(start, u32::from(span)) as u16 + attempt * 509) % span;
        back_key.destination_port = port.to_be_bytes();
        if tables.add_flow(&back_key, &back) {
            flow.source_port = port.to_be_bytes();
            tables.put_flow(&key, &flow);
            return Ok(flow);
        }
    }
    Err(Reason::NoPort)
}

/// Sends a masqueraded flow's packet on its way.
#[inline(always)]
pub(super) fn go<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    flow: &Flow,
) -> Step {
    deliver::route_on(packet, datagram)?;
    translate(packet, datagram, Datagram::L3, flow)?;
    if tables.is_local(datagram.key.destination)
        && let Some(service) = published::service(tables, datagram, datagram.key.destination_port)
    {
        return published::enter(packet, tables, settings, service, datagram);
    }
    leave(packet, tables, settings, datagram)
}

/// Sends a packet by the node's routes: to the node itself, to a masqueraded task of its, or out.
#[inline(always)]
pub(super) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
) -> Step {
    leave_tunnel(packet, tables, settings, datagram, 0)
}

/// The same, for a packet with a tunnel of so many bytes around it.
#[inline(always)]
pub(super) fn leave_tunnel<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    tunnel: usize,
) -> Step {
    if tables.is_local(datagram.key.destination) {
        deliver::unwrap(packet, datagram, tunnel)?;
        return match answer(packet, tables, datagram) {
            Some(step) => step,
            None => deliver::hand_to_host(packet, settings, datagram),
        };
    }
    let hop = match tables.route(datagram.key.source, datagram.key.destination) {
        Route::Hop(hop) => hop,
        Route::Later => return Ok(Verdict::Pass),
        Route::None => return Err(Reason::NoRoute),
    };
    deliver::unwrap(packet, datagram, tunnel)?;
    transmit(packet, datagram, &hop)
}

#[inline(always)]
fn transmit<P: Packet>(packet: &mut P, datagram: &Datagram, hop: &Hop) -> Step {
    let ethernet = EthHdr {
        dst_addr: hop.destination,
        src_addr: hop.source,
        ether_type: ether_type::of(datagram.family),
    };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)?;
    Ok(Verdict::Transmit(hop.ifindex))
}

/// Delivers a packet to this node's address if it is the answer to a masqueraded task.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
) -> Option<Step> {
    if !datagram.has_ports || !MASQUERADE_PORTS.contains(&u16::from_be_bytes(datagram.key.destination_port)) {
        return None;
    }
    let key = datagram.key_in(Space::Outside, 0);
    let flow = tables.flow(&key)?;
    balance::mark(tables, &key, &flow, datagram);
    Some(deliver::answer_from_outside(packet, tables, datagram, &flow))
}
