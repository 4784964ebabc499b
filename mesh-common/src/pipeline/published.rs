//! Published ports: on the node that a client speaks to, on the node that delivers, and on the way back.

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, exit, fast_path, lookup, mss, newcomer, outside, persistence,
    remember::remember,
    second_chance::{self, Errand},
    too_big,
    translate::{Rewrite, translate},
    tunnel::{self, RETURN_MAC, Tunnel},
};
use crate::{
    Packet, Reason, Refusal, Tables, Verdict,
    abi::{
        Arrival, Family, Flow, FlowKey, MacKey, NodeIndex, Outcome, Service, Space, VNI_MAX, flow_flags,
        service_flags, settings_flags,
    },
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
    if service.flags & service_flags::DRAINING != 0 && datagram.is_syn() {
        return Err(Reason::NoBackend);
    }
    let slot = balance::choose_at_entry(tables, settings, service, datagram)?;
    let backend = tables.backend(slot.current()).ok_or(Reason::NoBackend)?;
    let source = second_chance::named(tables, slot, backend);
    if backend.node != settings.node {
        *way = Way::Forward(Forward {
            node: backend.node,
            vni: backend.vni,
            mac: backend.mac,
            source,
            tunnel: 0,
            errand: Errand::FIRST,
        });
    } else if T::DELIVERS {
        *way = Way::Deliver(Arrival {
            service: service.id,
            persistent: service.persistent,
            flags: service.flags,
            target_port: service.target_port,
            vni: backend.vni,
            mac: backend.mac,
            source,
            entry: settings.node as u16,
            peer: settings.node as u16,
            tunnel: 0,
            errand: Errand::FIRST.byte(),
        });
    } else {
        *way = Way::Settled(Verdict::PASS);
    }
    Ok(())
}

/// Whom a client's packet is for on another node.
#[derive(Clone, Copy)]
pub(super) struct Forward {
    pub(super) node: NodeIndex,
    pub(super) vni: u32,
    /// The backend's MAC address.
    pub(super) mac: [u8; 6],
    /// What stands for the sender: from the entry node the backend to ask next, or zero; from one that did not know the flow
    /// the entry node.
    pub(super) source: [u8; 6],
    /// Bytes of the tunnel around the packet, or 0.
    pub(super) tunnel: u8,
    pub(super) errand: Errand,
}

impl Forward {
    /// None yet.
    pub(super) const NOWHERE: Self =
        Self { node: 0, vni: 0, mac: [0; 6], source: [0; 6], tunnel: 0, errand: Errand::FIRST };
}

/// Sends a client's packet, untouched, to the node of its backend.
#[inline(always)]
pub(super) fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    to: &Forward,
) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    // One without a way has no MTU either.
    let node = tables.node(to.node).filter(|node| node.ifindex != 0).ok_or(Reason::NoRoute)?;
    let mtu = tunnel::inner_mtu(node);
    if too_big::is_too_big(packet, mtu.saturating_add(u32::from(to.tunnel))) {
        // Only whom the packet came from straight can be told.
        if to.tunnel != 0 {
            return Err(Reason::TooBig);
        }
        return Ok(Verdict::refuse(Refusal::too_big(mtu)));
    }
    // The node's own stands for nobody: no endpoint has it.
    let source = if to.source == [0; 6] { settings.host_mac } else { to.source };
    let tunnel = Tunnel { node, vni: to.vni, destination: to.mac, source, errand: to.errand };
    let verdict = tunnel::pass_on(packet, tables, datagram, &tunnel, usize::from(to.tunnel))?;
    if !T::DELIVERS && verdict.outcome() == Outcome::Transmit {
        fast_path::keep(packet, tables, to.node, mtu, verdict.detail());
    }
    Ok(verdict)
}

/// What a client's packet becomes for the task that it is delivered to.
pub(super) struct Landing {
    pub(super) change: Rewrite,
    mac: [u8; 6],
    /// The packet may prove its flow, which is new.
    may_prove: bool,
    /// Its client came by another node before.
    is_moved: bool,
    ifindex: u32,
}

impl Landing {
    /// None yet.
    pub(super) const NOWHERE: Self =
        Self { change: Rewrite::NONE, mac: [0; 6], may_prove: false, is_moved: false, ifindex: 0 };
}

/// A client's packet at the node of a backend. What it does not know is handed on to [`unknown`](super::unknown()).
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
    let mut landing = Landing::NOWHERE;
    if !resume(tables, datagram, arrival, &mut landing)? {
        tables.hand_on(arrival);
        return Ok(Verdict::UNKNOWN);
    }
    if landing.may_prove {
        newcomer::prove(tables, &datagram.key);
    }
    persistence::note(tables, &datagram.key, arrival, &landing);
    if landing.is_moved {
        enter_by(tables, &mut datagram.key, arrival.entry.into());
    }
    land(packet, tables, datagram, arrival, &landing)
}

/// Hands a client's packet to the task that it is for.
#[inline(always)]
pub(super) fn land<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    arrival: &Arrival,
    landing: &Landing,
) -> Step {
    let network = tables.network(arrival.vni).ok_or(Reason::UnknownNetwork)?;
    deliver::unwrap(packet, datagram, usize::from(arrival.tunnel))?;
    translate(packet, datagram, &landing.change)?;
    mss::clamp(packet, datagram, network.mtu)?;
    deliver::route_on(packet, datagram)?;
    deliver::hand_over(packet, datagram, network.gateway_mac, landing.mac, landing.ifindex)
}

/// Finds what becomes of a packet whose flow this node knows. False if it does not, or the flow's task is gone.
#[inline(never)]
fn resume<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    arrival: &Arrival,
    landing: &mut Landing,
) -> Result<bool, Reason> {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let Some(flow) = tables.flow(datagram.key_in(Space::Published, arrival.vni)) else {
        return Ok(false);
    };
    if balance::is_over(&flow, datagram)
        || balance::is_stale(tables, &flow, datagram) && !Errand::from_byte(arrival.errand).is_to_take()
    {
        return Ok(false);
    }
    let endpoint = lookup::endpoint(tables, arrival.vni, &flow.destination)
        .filter(|endpoint| endpoint.ifindex != 0)
        .filter(|endpoint| settings.flags & settings_flags::FORGETFUL == 0 || endpoint.mac == arrival.mac);
    let Some(endpoint) = endpoint else { return Ok(false) };
    landing.change = Rewrite::from(&*flow);
    landing.mac = endpoint.mac;
    landing.ifindex = endpoint.ifindex;
    balance::mark(tables, &flow, datagram);
    landing.may_prove = newcomer::may_prove(&flow, datagram);
    // A router's error may come by any node.
    landing.is_moved = flow.node != NodeIndex::from(arrival.entry) && datagram.may_open();
    Ok(true)
}

/// Finds what becomes of a packet that opens a flow to the backend that it was sent to.
#[inline(never)]
pub(super) fn take<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    arrival: &Arrival,
    landing: &mut Landing,
) -> Result<(), Reason> {
    let key = MacKey { vni: arrival.vni, mac: arrival.mac, reserved: [0; 2] };
    let station = tables.station(&key).ok_or(Reason::NoSuchEndpoint)?;
    let destination = match datagram.family {
        Family::V4 => station.v4,
        Family::V6 => station.v6,
    };
    if destination.is_unspecified() {
        return Err(Reason::NoBackend);
    }
    let endpoint = lookup::endpoint(tables, arrival.vni, &destination)
        .filter(|endpoint| endpoint.ifindex != 0)
        .ok_or(Reason::NoSuchEndpoint)?;
    if !datagram.may_open() {
        return Err(Reason::NoFlow);
    }
    if arrival.flags & service_flags::DRAINING != 0 {
        return Err(Reason::NoBackend);
    }
    let key = &datagram.key;
    landing.change = Rewrite {
        source: key.source,
        destination,
        source_port: key.source_port,
        destination_port: match arrival.target_port {
            [0, 0] => key.destination_port,
            port => port,
        },
    };
    landing.mac = endpoint.mac;
    landing.ifindex = endpoint.ifindex;
    Ok(())
}

/// Remembers a flow: what its packets become, and that its answers leave by the entry node.
#[inline(never)]
pub(super) fn open<T: Tables>(tables: &T, key: &mut FlowKey, landing: &Landing, arrival: &Arrival) {
    let change = &landing.change;
    let mut flow = Flow {
        source: change.source,
        destination: change.destination,
        source_port: change.source_port,
        destination_port: change.destination_port,
        node: arrival.entry.into(),
        seen: tables.now(),
        service: arrival.service,
        flags: flow_flags::NEW,
        // Each packet of a client with a session keeps that alive, which only the longer way does.
        vni: if arrival.persistent == 0 { landing.ifindex } else { 0 },
        ..Flow::default()
    };
    remember(tables, key, &mut flow, FlowKey::scope(Space::Network, arrival.vni));
}

/// Remembers of a known flow that its client now comes by another node, which its answers leave by.
#[inline(never)]
fn enter_by<T: Tables>(tables: &T, key: &mut FlowKey, entry: NodeIndex) {
    let back = FlowKey::scope(Space::Network, key.scope & VNI_MAX);
    if let Some(flow) = tables.flow(key) {
        let mut flow = Flow { node: entry, ..*flow };
        remember(tables, key, &mut flow, back);
    }
}

/// How a task's answer returns to its client.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    /// The task's network.
    pub(super) vni: u32,
    pub(super) entry: NodeIndex,
}

/// A task's answer to a client, translated already: it leaves through the entry node, or from here where that is this
/// node or answers go straight.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    to: &Answer,
) -> Step {
    let &Answer { vni, entry } = to;
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    deliver::route_on(packet, datagram)?;
    if entry == settings.node || may_go_straight(tables, datagram, entry) {
        return outside::leave(packet, tables, datagram, 0);
    }
    let node = tables.node(entry).ok_or(Reason::NoRoute)?;
    let tunnel =
        Tunnel { node, vni, destination: RETURN_MAC, source: settings.host_mac, errand: Errand::FIRST };
    tunnel::encapsulate(packet, tables, datagram, &tunnel)
}

/// Whether an answer leaves from here though its client came by another node.
#[inline(never)]
fn may_go_straight<T: Tables>(tables: &T, datagram: &Datagram, entry: NodeIndex) -> bool {
    let Some(settings) = tables.settings() else { return false };
    let key = &datagram.key;
    // What stands for the entry node is on no wire: such an answer has no other way than the one it came by.
    if key.source.is_host_alias() || key.destination.is_host_alias() {
        return false;
    }
    // The entry node may be gone, and its client have asked at an address that this node has as well.
    settings.flags & settings_flags::RETURN_DIRECT != 0
        || tables.is_local(key.source) && tables.node(entry).is_none_or(|node| node.ifindex == 0)
}

/// How a task's answer to a client came to its entry node.
#[derive(Clone, Copy)]
pub(super) struct Returned {
    /// Bytes of the tunnel around the packet.
    pub(super) tunnel: u8,
    /// The congestion mark that the packet leaves with, or 0 for the one it has.
    pub(super) mark: u8,
    /// The node that it came from.
    pub(super) peer: NodeIndex,
    /// The tunnel's VNI.
    pub(super) vni: u32,
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
    let was_asked = if key.source.is_host_alias() {
        is_here && lookup::asked(tables, datagram, &key.source, key.source_port).is_some()
    } else {
        let flags = tables.local(key.source).map_or(0, |local| local.flags);
        lookup::published(tables, datagram, &key.source, key.source_port, flags).is_some()
    };
    if !datagram.has_ports || !was_asked {
        return Err(Reason::ReturnForged);
    }
    if is_here && !T::DELIVERS {
        return Ok(Verdict::PASS);
    }
    let verdict = outside::leave(packet, tables, datagram, usize::from(returned.tunnel))?;
    if verdict.outcome() == Outcome::Transmit {
        exit::keep(packet, tables, datagram, (returned.peer, returned.vni), verdict.detail());
    }
    // Not before: what is left to a later hook is left untouched.
    if returned.mark != 0 && verdict.outcome() != Outcome::Pass {
        tunnel::mark_congestion(packet, datagram.family, Datagram::L3, returned.mark)
            .ok_or(Reason::Malformed)?;
    }
    Ok(verdict)
}
