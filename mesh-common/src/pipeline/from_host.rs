//! A packet from this node itself, come through `mesh0`.

use network_types::eth::EthHdr;

use super::{Step, Way, datagram::Datagram, fragment, go, lookup, outside, published, refuse, settle};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{FlowKey, Space},
};

/// The way of a packet from this node itself.
#[inline(always)]
pub fn from_host<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    settle(host(packet, tables))
}

#[inline(always)]
fn host<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Step {
    let ethernet: EthHdr = packet.read(0).ok_or(Reason::Malformed)?;
    let mut datagram = Datagram::UNREAD;
    datagram.parse(packet, Datagram::L3, ethernet.ether_type)?;
    let key = &datagram.key;
    if key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if !key.destination.is_host_alias() {
        return Err(Reason::NoRoute);
    }
    let scope = FlowKey::scope(Space::Entry, 0);
    if fragment::goes_on(tables, &mut datagram, Datagram::L3, scope) {
        return Ok(Verdict::FRAGMENT);
    }
    let key = &datagram.key;
    if let Some(service) = lookup::asked(tables, &datagram, &key.destination, key.destination_port) {
        let mut way = Way::NOWHERE;
        if let Err(reason) = published::enter(tables, &mut datagram, service, &mut way) {
            return refuse::unserved(service, reason);
        }
        return go(packet, tables, &mut datagram, &way);
    }
    outside::answer(packet, tables, &mut datagram).unwrap_or(Err(Reason::NotPublished))
}
