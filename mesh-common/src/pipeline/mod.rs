//! The way of a packet: a function of the packet and the tables.
//!
//! Each hook has one entry. What is read is read before anything is changed, because a packet that has been changed
//! can only be sent on or dropped.

mod balance;
mod datagram;
mod deliver;
mod echo;
mod from_endpoint;
mod from_host;
mod from_underlay;
mod lookup;
mod neighbour;
mod outside;
mod published;
mod too_big;
mod translate;
mod tunnel;

pub use from_endpoint::from_endpoint;
pub use from_host::from_host;
pub use from_underlay::from_underlay;
pub use tunnel::overhead;

use self::{datagram::Datagram, neighbour::Asker, published::Arrival};
use crate::{Packet, Reason, Tables, Verdict};

/// What a step of the pipeline comes to.
type Step = Result<Verdict, Reason>;

/// What a step comes to that may leave more to do. Its caller does it: a program has a stack of 512 bytes, and what
/// called a function need not lie on it any more.
enum Way<'a> {
    Settled(Verdict),
    /// A client's packet has come to the node of its backend.
    Deliver(Arrival<'a>),
    /// A node without meshd asks for an address by ARP.
    AskedByArp(Asker<'a>),
    /// A node without meshd asks for an address by neighbour solicitation.
    Solicited(Asker<'a>),
}

/// Goes a way to its end.
#[inline(always)]
fn go<P: Packet, T: Tables>(packet: &mut P, tables: &T, datagram: &mut Datagram, way: &Way<'_>) -> Step {
    // Constant: it keeps what only other hooks can do out of this one's program.
    if !T::DELIVERS {
        return match way {
            Way::Settled(verdict) => Ok(*verdict),
            _ => Ok(Verdict::Pass),
        };
    }
    match way {
        Way::Settled(verdict) => Ok(*verdict),
        Way::Deliver(arrival) => published::deliver(packet, tables, datagram, arrival),
        Way::AskedByArp(asker) => neighbour::arp_from_tunnel(packet, tables, asker),
        Way::Solicited(asker) => neighbour::solicitation_from_tunnel(packet, tables, asker, datagram),
    }
}

#[inline(always)]
fn settle(step: Step) -> Verdict {
    match step {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}
