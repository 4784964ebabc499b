//! Persistence: for some time a client comes back to the backend that it had, whatever the ring says by then.
//!
//! IPVS keeps a template for this on the director (`ipvsadm -p`). Here the slot is named by the client's address alone, so that
//! entry nodes need to remember nothing, and the node of the backend keeps the session. A flow that opens elsewhere, because
//! the ring has changed, is asked for as one that is under way would be, and finds the session of its client. As IPVS's
//! templates, sessions are kept alive by their clients' flows.

use super::{datagram::Datagram, lookup, published::Landing, second_chance::Errand};
use crate::{
    Tables,
    abi::{Arrival, Flow, FlowKey, Space},
};

/// The key of a client's session with a service: a flow's, without the client's port.
#[inline(always)]
fn session(key: &FlowKey, vni: u32) -> FlowKey {
    FlowKey { source_port: [0, 0], scope: FlowKey::scope(Space::Session, vni), ..*key }
}

/// Sends a packet that opens a flow to the backend of this node that its client has a session with, if it has one.
///
/// Here as in `note` it is the function that asks whether the service keeps sessions: the verifier would follow the two
/// answers of its caller apart to the program's end.
#[inline(never)]
pub(super) fn recall<T: Tables>(tables: &T, datagram: &Datagram, arrival: &mut Arrival) {
    if arrival.persistent == 0 || !datagram.may_begin() {
        return;
    }
    let Some(flow) = tables.flow(&session(&datagram.key, arrival.vni)) else { return };
    if tables.now().saturating_sub(flow.seen) > u64::from(arrival.persistent) {
        return;
    }
    let endpoint = lookup::endpoint(tables, arrival.vni, &flow.destination);
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.ifindex != 0) {
        arrival.mac = endpoint.mac;
        arrival.errand = Errand::LAST.byte();
    }
}

/// Notes that a client speaks to a backend of this node, if it is to come back to it.
#[inline(never)]
pub(super) fn note<T: Tables>(tables: &T, key: &FlowKey, arrival: &Arrival, landing: &Landing) {
    if arrival.persistent == 0 {
        return;
    }
    let key = session(key, arrival.vni);
    if let Some(flow) = tables.flow(&key)
        && flow.destination == landing.change.destination
    {
        // Not before the look-up: the stack has no room to keep it meanwhile.
        let now = tables.now();
        if flow.seen != now {
            tables.mark_flow(&key, now, 0);
        }
        return;
    }
    let flow = Flow {
        destination: landing.change.destination,
        service: arrival.service,
        vni: arrival.persistent,
        seen: tables.now(),
        ..Flow::default()
    };
    tables.put_flow(&key, &flow);
}
