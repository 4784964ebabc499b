//! Remembering a flow in both directions.

use core::mem::swap;

use crate::{
    Tables,
    abi::{Flow, FlowKey, flow_flags},
};

/// Remembers the flow with this key, and its answers: what its packets become, turned round, in the scope `back`. The key is
/// afterwards what it was; a second one would find no room on the stack.
#[inline(never)]
pub(super) fn remember<T: Tables>(tables: &T, key: &mut FlowKey, flow: &mut Flow, back: u32) {
    tables.put_flow(key, flow);
    let scope = key.scope;
    turn_round(key, flow);
    key.scope = back;
    flow.flags = flow_flags::REPLY;
    tables.put_flow(key, flow);
    turn_round(key, flow);
    key.scope = scope;
}

/// Makes of a flow the one of its answers, whose packets look as its own become, and become as its own look.
#[inline(always)]
fn turn_round(key: &mut FlowKey, flow: &mut Flow) {
    swap(&mut key.source, &mut flow.destination);
    swap(&mut key.destination, &mut flow.source);
    swap(&mut key.source_port, &mut flow.destination_port);
    swap(&mut key.destination_port, &mut flow.source_port);
}
