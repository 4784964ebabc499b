//! Between the mesh and the world outside: masquerading, and the node's own routes.

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, lookup, newcomer, published, refuse,
    translate::{Rewrite, translate},
};
use crate::{
    Packet, Reason, Route, Tables, Verdict,
    abi::{
        Address, Attachment, Family, Flow, FlowKey, HOST_ALIAS_V4, HOST_ALIAS_V6, MASQUERADE_PORTS, Space,
        VNI_MAX, flow_flags, network_flags,
    },
    hash,
    wire::protocol,
};

/// How many masquerading ports there are.
const PORTS: u16 = MASQUERADE_PORTS.end - MASQUERADE_PORTS.start;

/// How many masquerading ports are tried for a new flow.
const TRIES: u16 = 8;

/// How far apart they lie.
const STEP: u16 = 509;

/// A task's packet to an address that is not of its network: finds what it goes out as.
#[inline(always)]
pub(super) fn masquerade<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    attachment: &Attachment,
    change: &mut Rewrite,
) -> Result<(), Reason> {
    find_source(tables, datagram, attachment, &mut change.source)?;
    change.destination = datagram.key.destination;
    change.destination_port = datagram.key.destination_port;
    change.source_port = open(tables, datagram.key_in(Space::Network, attachment.vni), &change.source)
        .ok_or(Reason::NoPort)?;
    newcomer::queue(tables, &datagram.key);
    Ok(())
}

/// Finds the address of this node that a task's packet goes out from.
#[inline(never)]
fn find_source<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    attachment: &Attachment,
    source: &mut Address,
) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let network = tables.network(attachment.vni).ok_or(Reason::UnknownNetwork)?;
    if network.flags & network_flags::INTERNAL != 0 {
        return Err(Reason::Internal);
    }
    let key = &datagram.key;
    if key.protocol == protocol::UDP && datagram.has_ports && key.destination_port == settings.vxlan_port {
        let is_node = tables.peer(key.destination).is_some() || tables.is_local(key.destination);
        if is_node {
            return Err(Reason::TunnelForged);
        }
    }
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    if !datagram.may_open() || lookup::is_lost_answer(tables, attachment.vni, datagram) {
        return Err(Reason::NoFlow);
    }
    *source = if tables.is_local(key.destination) {
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
    Ok(())
}

/// Finds a free port for the new flow with this key, and remembers the flow in both directions.
#[inline(never)]
fn open<T: Tables>(tables: &T, key: &FlowKey, source: &Address) -> Option<[u8; 2]> {
    let first = first_port(u64::from(key.scope), key.source, key);
    let mut flow = Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: flow_flags::REPLY,
        vni: key.scope & VNI_MAX,
        seen: tables.now(),
        ..Flow::default()
    };
    let mut back_key = FlowKey {
        source: key.destination,
        destination: *source,
        source_port: key.destination_port,
        destination_port: [0, 0],
        scope: FlowKey::scope(Space::Outside, 0),
        protocol: key.protocol,
        reserved: [0; 7],
    };
    for attempt in 0..TRIES {
        let port = nth_port(first, attempt);
        back_key.destination_port = port;
        if tables.add_flow(&back_key, &flow) {
            flow.source = *source;
            flow.destination = key.destination;
            flow.source_port = port;
            flow.destination_port = key.destination_port;
            flow.flags = flow_flags::ROUTE | flow_flags::NEW;
            flow.vni = 0;
            tables.put_flow(key, &flow);
            return Some(port);
        }
    }
    None
}

/// Finds the port that a client's packets come to their backend from: the client's own, unless answers to that belong to
/// another conversation. A client may use one port for conversations with several nodes, or with several ports of one.
///
/// Puts it into `change`; false if none is free.
#[inline(never)]
pub(super) fn find_port<T: Tables>(tables: &T, key: &FlowKey, change: &mut Rewrite, vni: u32) -> bool {
    let first = first_port(u64::from(vni), key.destination, key);
    let mut back_key = FlowKey {
        source: change.destination,
        destination: change.source,
        source_port: change.destination_port,
        destination_port: change.source_port,
        scope: FlowKey::scope(Space::Network, vni),
        protocol: key.protocol,
        reserved: [0; 7],
    };
    for attempt in 0..TRIES {
        let is_free = tables.flow(&back_key).is_none_or(|other| {
            let is_same = other.source == key.destination
                && other.source_port == key.destination_port
                && other.destination_port == key.source_port;
            is_same || other.flags & (flow_flags::FIN | flow_flags::RST) != 0
        });
        if is_free {
            change.source_port = back_key.destination_port;
            return true;
        }
        back_key.destination_port = nth_port(first, attempt);
    }
    false
}

/// The first masquerading port that is tried for a flow, counted from 0.
#[inline(always)]
fn first_port(seed: u64, address: Address, key: &FlowKey) -> u16 {
    let hash = hash::flow(seed, address, key.source_port, key.destination_port, key.protocol);
    hash::slot(hash, u32::from(PORTS)) as u16
}

/// The masquerading port that is tried after so many others.
#[inline(always)]
fn nth_port(first: u16, attempt: u16) -> [u8; 2] {
    (MASQUERADE_PORTS.start + (first + attempt * STEP) % PORTS).to_be_bytes()
}

/// Sends a masqueraded packet on its way: it may ask for a port that this very node publishes.
#[inline(always)]
pub(super) fn go<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    change: &Rewrite,
    way: &mut Way,
) -> Result<(), Reason> {
    if let Some(local) = tables.local(change.destination) {
        let (client, port) = (&datagram.key.source, change.destination_port);
        if let Some(service) = lookup::published(tables, datagram, &change.destination, port, local.flags) {
            lookup::admit(tables, service, client)?;
            // While the packet is as its sender knows it.
            if service.slots == 0 {
                *way = Way::Settled(refuse::unserved(service, Reason::NoBackend)?);
                return Ok(());
            }
            deliver::route_on(packet, datagram)?;
            translate(packet, datagram, change)?;
            return published::enter(tables, datagram, service, way);
        }
        if local.ifindex == 0 {
            return Err(Reason::NotPublished);
        }
    }
    deliver::route_on(packet, datagram)?;
    translate(packet, datagram, change)?;
    *way = Way::Settled(leave(packet, tables, datagram, 0)?);
    Ok(())
}

/// Sends a packet with a tunnel of so many bytes (0 for none) around it by the node's routes: to the node itself, to a
/// masqueraded task of its, or out.
#[inline(never)]
pub(super) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    tunnel: usize,
) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    if lookup::is_here(tables, &datagram.key.destination) {
        deliver::unwrap(packet, datagram, tunnel)?;
        return match answer(packet, tables, datagram) {
            Some(step) => step,
            None => deliver::hand_to_host(packet, settings, datagram),
        };
    }
    let hop = match tables.route(datagram.key.source, datagram.key.destination) {
        Route::Hop(hop) => hop,
        Route::Later => return Ok(Verdict::PASS),
        Route::None => return Err(Reason::NoRoute),
    };
    deliver::unwrap(packet, datagram, tunnel)?;
    deliver::address(packet, datagram, hop.source, hop.destination)?;
    Ok(Verdict::transmit(hop.ifindex))
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
    let flow = tables.flow(datagram.key_in(Space::Outside, 0))?;
    balance::mark(tables, &flow, datagram);
    Some(deliver::answer_from_outside(packet, tables, datagram, &flow))
}
