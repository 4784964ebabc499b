//! Published ports: on the node that a client speaks to, on the node that delivers, and on the way back.

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, lookup, outside,
    remember::remember,
    too_big,
    translate::{Rewrite, translate},
    tunnel::{self, RETURN_MAC, Tunnel},
};
use crate::{
    Packet, Reason, Refusal, Tables, Verdict,
    abi::{Family, Flow, FlowKey, MacKey, NodeIndex, Outcome, Service, Space, settings_flags},
};

/// A client's packet at the node that it enters by.
#[inline(never)]
pub(super) fn enter<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    service: &Service,
    way: &mut Way,
) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    let backend = balance::choose_at_entry(tables, settings, service, datagram)?;
    if backend.node == settings.node {
        if !T::DELIVERS {
            *way = Way::Settled(Verdict::PASS);
            return Ok(());
        }
        *way = Way::Deliver(Arrival {
            service: service.id,
            target_port: service.target_port,
            vni: backend.vni,
            mac: backend.mac,
            entry: settings.node,
            tunnel: 0,
        });
        return Ok(());
    }
    *way = Way::Forward(Forward { node: backend.node, vni: backend.vni, mac: backend.mac });
    Ok(())
}

/// Whom a client's packet is for on another node.
#[derive(Clone, Copy)]
pub(super) struct Forward {
    node: NodeIndex,
    vni: u32,
    /// The backend's MAC address.
    mac: [u8; 6],
}

/// Sends a client's packet, untouched, to the node of its backend.
#[inline(always)]
pub(super) fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    to: &Forward,
) -> Step {
    let network = tables.network(to.vni).ok_or(Reason::UnknownNetwork)?;
    let node = tables.node(to.node).ok_or(Reason::NoRoute)?;
    let mtu = tunnel::inner_mtu(node);
    if too_big::is_too_big(packet, mtu) {
        return Ok(Verdict::refuse(Refusal::too_big(mtu)));
    }
    let tunnel = Tunnel { node, vni: to.vni, destination: to.mac, source: network.gateway_mac };
    tunnel::encapsulate(packet, tables, datagram, &tunnel)
}

/// How a client's packet came to the node that delivers it, and whom it is for.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// The service's number.
    pub(super) service: u32,
    /// The backends' port, or 0 to keep the client's.
    pub(super) target_port: [u8; 2],
    pub(super) vni: u32,
    /// The MAC address of the backend that the entry node chose.
    pub(super) mac: [u8; 6],
    /// The entry node.
    pub(super) entry: NodeIndex,
    /// Bytes of the tunnel around the packet, or 0.
    pub(super) tunnel: u8,
}

/// A client's packet at the node that delivers it: the flow is remembered in both directions.
#[inline(never)]
pub(super) fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    arrival: &Arrival,
) -> Step {
    if !datagram.has_ports {
        return Err(Reason::Portless);
    }
    let network = tables.network(arrival.vni).ok_or(Reason::UnknownNetwork)?;
    let key = MacKey { vni: arrival.vni, mac: arrival.mac, reserved: [0; 2] };
    let target = tables.station(&key).ok_or(Reason::NoSuchEndpoint)?;
    let mut change = Rewrite {
        source: datagram.key.source,
        destination: match datagram.family {
            Family::V4 => target.v4,
            Family::V6 => target.v6,
        },
        source_port: datagram.key.source_port,
        destination_port: match arrival.target_port {
            [0, 0] => datagram.key.destination_port,
            port => port,
        },
    };
    if change.destination.is_unspecified() {
        return Err(Reason::NoBackend);
    }
    let mut endpoint = lookup::endpoint(tables, arrival.vni, &change.destination);
    let mut is_known = false;
    if let Some(flow) = tables.flow(datagram.key_in(Space::Published, arrival.vni))
        && !balance::is_over(&flow, datagram)
    {
        // A new connection goes where the ring says now; an old one stays where it is, while that is there.
        let old = lookup::endpoint(tables, arrival.vni, &flow.destination).filter(|old| old.ifindex != 0);
        if old.is_some() && (flow.destination == change.destination || !datagram.is_syn()) {
            change.destination = flow.destination;
            change.destination_port = flow.destination_port;
            change.source_port = flow.source_port;
            endpoint = old;
            is_known = flow.node == arrival.entry;
            if is_known {
                balance::mark(tables, &flow, datagram);
            }
        }
    }
    let endpoint = endpoint.filter(|endpoint| endpoint.ifindex != 0).ok_or(Reason::NoSuchEndpoint)?;
    if !is_known {
        if !datagram.may_open() {
            return Err(Reason::NoFlow);
        }
        if !outside::find_port(tables, &datagram.key, &mut change, arrival.vni) {
            return Err(Reason::NoPort);
        }
        open(tables, &datagram.key, &change, arrival);
    }
    deliver::unwrap(packet, datagram, usize::from(arrival.tunnel))?;
    translate(packet, datagram, &change)?;
    deliver::route_on(packet, datagram)?;
    deliver::hand_over(packet, datagram, network.gateway_mac, endpoint.mac, endpoint.ifindex)
}

/// Remembers a flow: what its packets become, and that its answers leave by the entry node.
#[inline(never)]
fn open<T: Tables>(tables: &T, key: &FlowKey, change: &Rewrite, arrival: &Arrival) {
    let mut flow = Flow {
        source: change.source,
        destination: change.destination,
        source_port: change.source_port,
        destination_port: change.destination_port,
        node: arrival.entry,
        seen: tables.now(),
        service: arrival.service,
        ..Flow::default()
    };
    remember(tables, key, &mut flow, FlowKey::scope(Space::Network, arrival.vni));
}

/// A task's answer to a client, translated already: it leaves through the entry node, or from here where that is this
/// node or answers go straight.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    vni: u32,
    entry: NodeIndex,
) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    deliver::route_on(packet, datagram)?;
    // What stands for the entry node is on no wire: such an answer has no other way than the one it came by.
    let may_go_straight = settings.flags & settings_flags::RETURN_DIRECT != 0
        && !datagram.key.source.is_host_alias()
        && !datagram.key.destination.is_host_alias();
    if entry == settings.node || may_go_straight {
        return outside::leave(packet, tables, datagram, 0);
    }
    let node = tables.node(entry).ok_or(Reason::NoRoute)?;
    let tunnel = Tunnel { node, vni, destination: RETURN_MAC, source: settings.host_mac };
    tunnel::encapsulate(packet, tables, datagram, &tunnel)
}

/// How a task's answer to a client came to its entry node.
#[derive(Clone, Copy)]
pub(super) struct Returned {
    /// Bytes of the tunnel around the packet.
    pub(super) tunnel: u8,
    /// The congestion mark that the packet leaves with, or 0 for the one it has.
    pub(super) mark: u8,
}

/// A task's answer to a client, at the entry node.
#[inline(always)]
pub(super) fn returned<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    returned: &Returned,
) -> Step {
    let key = &datagram.key;
    // Clients speak to this node's addresses; its own processes and tasks, and they alone, to the alias.
    let is_here = lookup::is_here(tables, &key.destination);
    let was_asked = tables.serves(key.source) || key.source.is_host_alias() && is_here;
    if !datagram.has_ports || !was_asked || lookup::published(tables, datagram, key.source_port).is_none() {
        return Err(Reason::ReturnForged);
    }
    if is_here && !T::DELIVERS {
        return Ok(Verdict::PASS);
    }
    let verdict = outside::leave(packet, tables, datagram, usize::from(returned.tunnel))?;
    // Not before: what is left to a later hook is left untouched.
    if returned.mark != 0 && verdict.outcome() != Outcome::Pass {
        tunnel::mark_congestion(packet, datagram.family, Datagram::L3, returned.mark)
            .ok_or(Reason::Malformed)?;
    }
    Ok(verdict)
}
