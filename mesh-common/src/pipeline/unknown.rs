//! A client's packet of a flow that the node it was sent to does not know: it is asked for elsewhere, or opens a flow here.
//!
//! An entry of its own, as [`refuse`](super::refuse()) is one: most packets are of known flows, and what a program of its
//! own takes of the verifier's patience and of the stack is not the other entries'. They hand on an [`Arrival`], and the
//! packet, still in its tunnel if it came in one.

use network_types::eth::EthHdr;

use super::{
    Step,
    datagram::Datagram,
    newcomer, outside, persistence,
    published::{self, Forward, Landing},
    second_chance, settle,
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Arrival, Space},
    wire::ETHERNET,
};

/// The way of a client's packet that came to this node, of a flow that it does not know.
#[inline(always)]
pub fn unknown<P: Packet, T: Tables>(packet: &mut P, tables: &T, arrival: &Arrival) -> Verdict {
    settle(arrived(packet, tables, arrival))
}

#[inline(always)]
fn arrived<P: Packet, T: Tables>(packet: &mut P, tables: &T, arrival: &Arrival) -> Step {
    let mut arrival = *arrival;
    let inner = usize::from(arrival.tunnel);
    let ethernet: EthHdr = packet.read(inner).ok_or(Reason::Malformed)?;
    let mut datagram = Datagram::UNREAD;
    datagram.parse(packet, inner + ETHERNET, ethernet.ether_type)?;
    // Its ports were found when the entry met it, and the search for them has left them there.
    if datagram.is_fragment {
        datagram.take_for_fragment(&tables.fragment_handed_on());
        datagram.forget(packet);
    }
    persistence::recall(tables, &datagram, &mut arrival);
    let mut onward = Forward::NOWHERE;
    if second_chance::ask(tables, &mut datagram, &mut arrival, &mut onward)? {
        onward.tunnel = arrival.tunnel;
        return published::forward(packet, tables, &datagram, &onward);
    }
    let mut landing = Landing::NOWHERE;
    published::take(tables, &datagram, &arrival, &mut landing)?;
    if !outside::find_port(tables, &datagram.key, &mut landing.change, arrival.vni) {
        return Err(Reason::NoPort);
    }
    datagram.key_in(Space::Published, arrival.vni);
    published::open(tables, &mut datagram.key, &landing, &arrival);
    newcomer::queue(tables, &datagram.key);
    persistence::note(tables, &datagram.key, &arrival, &landing);
    published::land(packet, tables, &mut datagram, &arrival, &landing)
}
