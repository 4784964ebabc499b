//! Choosing a backend.

use super::{
    datagram::{Datagram, tcp},
    newcomer,
};
use crate::{
    Reason, Tables,
    abi::{
        Backend, BackendIndex, Flow, Scheduler, Service, Settings, Slot, Space, UDP_IDLE, flow_flags,
        service_flags, settings_flags,
    },
    hash,
    wire::protocol,
};

/// The slot of a service's ring that a flow's hash names.
#[inline(always)]
pub(super) fn slot<T: Tables>(
    tables: &T,
    settings: &Settings,
    service: &Service,
    datagram: &Datagram,
) -> Option<Slot> {
    if service.slots == 0 {
        return None;
    }
    let key = &datagram.key;
    let hash = service.hash(settings.seed, key.source, key.source_port, key.destination_port, key.protocol);
    tables.slot(service.first_slot.wrapping_add(hash::slot(hash, service.slots)))
}

/// The slot that a flow which this node does not know belongs to. A service whose scheduler counts gives one that begins
/// its turn; one that is under way may have begun at another node: it is asked for where its hash says.
#[inline(always)]
fn choose<T: Tables>(
    tables: &T,
    settings: &Settings,
    service: &Service,
    datagram: &Datagram,
) -> Result<Slot, Reason> {
    if service.takes_turns() && service.slots != 0 && datagram.may_begin() {
        let turn = (tables.turn(service.id) % u64::from(service.slots)) as u32;
        return tables.slot(service.first_slot.wrapping_add(turn)).ok_or(Reason::NoBackend);
    }
    slot(tables, settings, service, datagram).ok_or(Reason::NoBackend)
}

/// The backend of a flow to a virtual IP that begins, and its index. A service whose scheduler counts takes none that is
/// under way: the client's node would know it.
#[inline(always)]
pub(super) fn choose_for_task<'a, T: Tables>(
    tables: &'a T,
    settings: &Settings,
    service: &Service,
    datagram: &Datagram,
) -> Result<(BackendIndex, &'a Backend), Reason> {
    if service.scheduler == Scheduler::Rr as u8 && !datagram.may_begin() {
        return Err(Reason::NoFlow);
    }
    if service.flags & service_flags::DRAINING != 0 {
        return Err(Reason::NoBackend);
    }
    let slot = choose(tables, settings, service, datagram)?;
    let backend = tables.backend(slot.current()).ok_or(Reason::NoBackend)?;
    Ok((slot.current(), backend))
}

/// The slot of a packet on the node that it enters by. Maglev hashing needs no memory for this; round robin remembers its
/// choice.
#[inline(always)]
pub(super) fn choose_at_entry<T: Tables>(
    tables: &T,
    settings: &Settings,
    service: &Service,
    datagram: &mut Datagram,
) -> Result<Slot, Reason> {
    let needs_memory =
        service.scheduler != Scheduler::Mh as u8 || settings.flags & settings_flags::ENTRY_CACHE != 0;
    if !needs_memory || service.persistent != 0 {
        return slot(tables, settings, service, datagram).ok_or(Reason::NoBackend);
    }
    if let Some(flow) = tables.flow(datagram.key_in(Space::Entry, 0))
        && flow.service == service.id
        && !is_over(&flow, datagram)
        && is_reachable(tables, settings, flow.backend)
    {
        mark(tables, &flow, datagram);
        let slot = Slot::new(flow.backend, [0; Slot::HISTORY]);
        if newcomer::may_prove(&flow, datagram) {
            newcomer::prove(tables, &datagram.key);
        }
        return Ok(slot);
    }
    let slot = choose(tables, settings, service, datagram)?;
    if datagram.may_begin() || service.scheduler == Scheduler::Mh as u8 {
        let flow = Flow {
            backend: slot.current(),
            service: service.id,
            flags: flow_flags::NEW,
            seen: tables.now(),
            ..Flow::default()
        };
        tables.put_flow(&datagram.key, &flow);
        newcomer::queue(tables, &datagram.key);
    }
    Ok(slot)
}

/// Whether there is a way to a backend's node: one that left takes its flows' memory with it.
#[inline(never)]
fn is_reachable<T: Tables>(tables: &T, settings: &Settings, backend: BackendIndex) -> bool {
    let Some(backend) = tables.backend(backend) else { return false };
    backend.node == settings.node || tables.node(backend.node).is_some_and(|node| node.ifindex != 0)
}

/// Whether a flow has ended, and this packet opens another between the same ports.
#[inline(always)]
pub(super) fn is_over(flow: &Flow, datagram: &Datagram) -> bool {
    datagram.is_syn() && flow.flags & (flow_flags::FIN | flow_flags::RST) != 0
}

/// Whether a flow that this node remembers is so long silent that another node may know one between the same ports: after
/// its end, or where it has none, as by UDP.
#[inline(always)]
pub(super) fn is_stale<T: Tables>(tables: &T, flow: &Flow, datagram: &Datagram) -> bool {
    let limit = match datagram.key.protocol {
        protocol::UDP => UDP_IDLE,
        _ if flow.flags & (flow_flags::FIN | flow_flags::RST) != 0 => TIME_WAIT,
        _ => return false,
    };
    tables.now().saturating_sub(flow.seen) > limit
}

/// For how long a connection's last packets may be about, in seconds: what Linux makes of the two maximum segment lifetimes
/// of RFC 9293, section 3.6.1.
const TIME_WAIT: u64 = 60;

/// Notes in the flow that the datagram was last looked up as that a packet passed, where there is anything new to note.
#[inline(always)]
pub(super) fn mark<T: Tables>(tables: &T, flow: &Flow, datagram: &Datagram) {
    let mut flags = flow.flags;
    if datagram.tcp_flags & tcp::FIN != 0 {
        flags |= flow_flags::FIN;
    }
    if datagram.tcp_flags & tcp::RST != 0 {
        flags |= flow_flags::RST;
    }
    if flags & flow_flags::REPLY != 0 && newcomer::is_answer(datagram) {
        flags |= flow_flags::ANSWERED;
    }
    let now = tables.now();
    if flags != flow.flags || now != flow.seen {
        tables.mark_flow(&datagram.key, now, flags);
    }
}
