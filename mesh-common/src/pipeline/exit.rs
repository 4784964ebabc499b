//! The short way out of an answer that came in a tunnel to the node that its client entered by: the way that the last one of its
//! kind took, at most a moment ago.
//!
//! It does what [`published::returned`](super::published::returned) does, to the byte, which found the way and keeps it here:
//! what was true of the last answer (that its node is of the mesh, that somebody answers at its port, and where its client is)
//! is true of this one.

use network_types::eth::EthHdr;

use super::{
    datagram::Datagram,
    headers::{self, Headers, Inside},
    tunnel,
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Address, Exit, NodeIndex},
    wire::ether_type,
};

/// The way of an answer in a tunnel, or `None`, and the packet untouched, if it is to go the longer way.
#[inline(always)]
pub(super) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    outer: &Headers,
    inside: &Inside,
) -> Option<Verdict> {
    let answer = headers::read(packet, inside.l3, inside.ether_type)?;
    if !matches!(tunnel::congestion(outer.traffic_class, answer.traffic_class), Ok(None)) {
        return None;
    }
    let [a, b, ..] = answer.ports.to_le_bytes();
    let wanted = Exit {
        port: [a, b],
        protocol: answer.protocol,
        ..of::<T>(answer.destination, answer.source, outer.source, inside.vni)
    };
    let exit = tables.exit(wanted.place())?;
    if !exit.is_for(&wanted) {
        return None;
    }
    let &Exit { ifindex, destination, source, .. } = &*exit;
    if packet.close(tunnel::overhead(outer.family), answer.family).is_none() {
        return Some(Verdict::drop(Reason::NoRoom));
    }
    let ethernet =
        EthHdr { dst_addr: destination, src_addr: source, ether_type: ether_type::of(answer.family) };
    Some(match packet.write(0, &ethernet) {
        Some(()) => Verdict::transmit(ifindex),
        None => Verdict::drop(Reason::Malformed),
    })
}

/// What answers from a node for a client have in common at this hook.
#[inline(always)]
fn of<T: Tables>(client: Address, published: Address, peer: Address, vni: u32) -> Exit {
    let scope = if T::DELIVERS { vni | Exit::AT_TC } else { vni };
    Exit { client, published, peer, scope, ..Exit::default() }
}

/// Keeps the way of an answer that is about to leave by an interface, for those that follow. Out of line, for it takes more stack
/// than the way that ends here has to spare.
#[inline(never)]
pub(super) fn keep<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    datagram: &Datagram,
    (peer, vni): (NodeIndex, u32),
    ifindex: u32,
) {
    let Some(node) = tables.node(peer) else { return };
    let Some(ethernet) = packet.read::<EthHdr>(0) else { return };
    let key = &datagram.key;
    if datagram.is_error() || !datagram.is_transport() {
        return;
    }
    let exit = Exit {
        port: key.source_port,
        protocol: key.protocol,
        ifindex,
        destination: ethernet.dst_addr,
        source: ethernet.src_addr,
        ..of::<T>(key.destination, key.source, node.address, vni)
    };
    let place = exit.place();
    // Where there are more clients than places, they do not drive each other out with every packet.
    if tables.exit(place).is_none() {
        tables.keep_exit(place, &exit);
    }
}
