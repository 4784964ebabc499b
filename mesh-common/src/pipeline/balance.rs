//! Choosing a backend.

use super::{
    datagram::{Datagram, tcp},
    newcomer,
};
use crate::{
    Reason, Tables,
    abi::{Backend, BackendIndex, Flow, Scheduler, Service, Settings, Space, flow_flags},
    hash,
    wire::protocol,
};

/// The backend of a new flow, and its index. A service whose scheduler counts takes no flow that is under way.
#[inline(always)]
pub(super) fn choose<'a, T: Tables>(
    tables: &'a T,
    settings: &Settings,
    service: &Service,
    datagram: &Datagram,
) -> Result<(BackendIndex, &'a Backend), Reason> {
    if service.slots == 0 {
        return Err(Reason::NoBackend);
    }
    let key = &datagram.key;
    let turn = if service.scheduler == Scheduler::Rr as u8 {
        if !datagram.may_open() || key.protocol == protocol::TCP && !datagram.is_syn() {
            return Err(Reason::NoFlow);
        }
        (tables.turn(service.id) % u64::from(service.slots)) as u32
    } else {
        let hash = hash::flow(settings.seed, key.source, key.source_port, key.destination_port, key.protocol);
        hash::slot(hash, service.slots)
    };
    let slot = tables.slot(service.first_slot.wrapping_add(turn)).ok_or(Reason::NoBackend)?;
    let backend = tables.backend(slot.current()).ok_or(Reason::NoBackend)?;
    Ok((slot.current(), backend))
}

/// The backend of a packet on the node that it enters by. Maglev hashing needs no memory for this; round robin
/// remembers its choice.
#[inline(always)]
pub(super) fn choose_at_entry<'a, T: Tables>(
    tables: &'a T,
    settings: &Settings,
    service: &Service,
    datagram: &mut Datagram,
) -> Result<&'a Backend, Reason> {
    if service.scheduler == Scheduler::Mh as u8 {
        return choose(tables, settings, service, datagram).map(|(_, backend)| backend);
    }
    if let Some(flow) = tables.flow(datagram.key_in(Space::Entry, 0))
        && flow.service == service.id
        && !is_over(&flow, datagram)
    {
        mark(tables, &flow, datagram);
        return tables.backend(flow.backend).ok_or(Reason::NoBackend);
    }
    let (index, backend) = choose(tables, settings, service, datagram)?;
    let flow = Flow {
        backend: index,
        service: service.id,
        flags: flow_flags::NEW,
        seen: tables.now(),
        ..Flow::default()
    };
    tables.put_flow(&datagram.key, &flow);
    newcomer::queue(tables, &datagram.key);
    Ok(backend)
}

/// Whether a flow has ended, and this packet opens another between the same ports.
#[inline(always)]
pub(super) fn is_over(flow: &Flow, datagram: &Datagram) -> bool {
    datagram.is_syn() && flow.flags & (flow_flags::FIN | flow_flags::RST) != 0
}

/// Notes in the flow that the datagram was last looked up as that a packet passed, where there is anything new to note.
#[inline(never)]
pub(super) fn mark<T: Tables>(tables: &T, flow: &Flow, datagram: &Datagram) {
    let mut flags = flow.flags;
    if datagram.tcp_flags & tcp::FIN != 0 {
        flags |= flow_flags::FIN;
    }
    if datagram.tcp_flags & tcp::RST != 0 {
        flags |= flow_flags::RST;
    }
    if flags & flow_flags::REPLY != 0 {
        if newcomer::may_prove(datagram) {
            flags |= flow_flags::ANSWERED;
        }
    } else if flags & flow_flags::NEW != 0 && newcomer::is_proved(tables, flow, datagram) {
        flags &= !flow_flags::NEW;
    }
    let now = tables.now();
    if flags != flow.flags || now != flow.seen {
        tables.mark_flow(&datagram.key, now, flags);
    }
}
