//! Remembering a flow in both directions.

use crate::{
    Tables,
    abi::{Flow, FlowKey, flow_flags},
};

/// Remembers the flow with this key, and its answers: what its packets become, turned round, in the scope `back`.
#[inline(never)]
pub(super) fn remember<T: Tables>(tables: &T, key: &FlowKey, flow: &mut Flow, back: u32) {
    tables.put_flow(key, flow);
    let back_key = FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        scope: back,
        ..*key
    };
    flow.source = key.destination;
    flow.destination = key.source;
    flow.source_port = key.destination_port;
    flow.destination_port = key.source_port;
    flow.flags = flow_flags::REPLY;
    tables.put_flow(&back_key, flow);
}
