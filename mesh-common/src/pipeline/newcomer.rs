//! Flows that have not proved themselves: a flood of them must not drive out those that have.
//!
//! A flow is new until an answer to it has passed and its client then spoke again, so that nobody proves one by a packet with
//! a source that is not his. New flows wait in a queue, and the oldest of a full queue is forgotten. One that has proved itself
//! stays where it is in the table, and its key falls out of the queue without a trace.

use super::datagram::{Datagram, tcp};
use crate::{
    Tables,
    abi::{Flow, FlowKey, Shortage, flow_flags},
};

/// Takes note that the flow with this key is new, and forgets the one that has been so for longest, if there are too many.
#[inline(never)]
pub(super) fn queue<T: Tables>(tables: &T, key: &FlowKey) {
    let place = tables.next_place();
    if let Some(oldest) = tables.queued(place) {
        forget(tables, &oldest);
    }
    tables.queue(place, key);
}

/// Forgets a flow in both directions, unless it has proved itself.
#[inline(always)]
fn forget<T: Tables>(tables: &T, key: &FlowKey) {
    let Some(flow) = tables.flow(key) else { return };
    if flow.flags & flow_flags::NEW == 0 {
        return;
    }
    if let Some(scope) = flow.back_scope(key) {
        tables.remove_flow(&flow.back_key_in(scope, key.protocol));
    }
    tables.remove_flow(key);
    tables.count_shortage(Shortage::NewFlows);
}

/// Whether a packet is what the other end says, or goes on to say: a router's error is not, and a RST says that there is
/// nobody.
#[inline(always)]
pub(super) fn is_answer(datagram: &Datagram) -> bool {
    !datagram.is_error() && datagram.tcp_flags & tcp::RST == 0
}

/// Whether a packet of a new flow proves it, if an answer passed before: its client heard that. A SYN sent again heard nothing.
#[inline(always)]
pub(super) fn may_prove(flow: &Flow, datagram: &Datagram) -> bool {
    flow.flags & (flow_flags::NEW | flow_flags::REPLY) == flow_flags::NEW
        && is_answer(datagram)
        && datagram.tcp_flags & tcp::SYN == 0
}

/// Takes a flow for proved if an answer to it has passed. Where answers do not pass, at the node that a client enters by, the
/// client's second packet is proof.
#[inline(never)]
pub(super) fn prove<T: Tables>(tables: &T, key: &FlowKey) {
    let Some(flow) = tables.flow(key) else { return };
    if let Some(scope) = flow.back_scope(key) {
        let back = tables.flow(&flow.back_key_in(scope, key.protocol));
        if back.is_none_or(|back| back.flags & flow_flags::ANSWERED == 0) {
            return;
        }
    }
    tables.mark_flow(key, flow.seen, flow.flags & !flow_flags::NEW);
}
