//! The way of a packet: a function of the packet and the tables.
//!
//! Each hook has one entry, and what an entry refuses is answered by another, [`refuse`]. What is read is read before anything is changed, because a packet that has been changed
//! can only be sent on or dropped.

mod balance;
mod datagram;
mod deliver;
mod echo;
mod exit;
mod fast_path;
mod foreign;
mod fragment;
mod from_endpoint;
mod from_host;
mod from_underlay;
mod headers;
mod icmp_error;
mod known;
mod lookup;
mod made;
mod mss;
mod neighbour;
mod newcomer;
mod outer;
mod outside;
mod persistence;
mod published;
mod refuse;
mod remember;
mod reset;
mod second_chance;
mod too_big;
mod translate;
mod tunnel;
mod unknown;

pub use fragment::find_ports;
pub use from_endpoint::from_endpoint;
pub use from_host::from_host;
pub use from_underlay::from_underlay;
pub use known::{known_from_endpoint, known_from_underlay};
pub use refuse::refuse;
pub use tunnel::overhead;
pub use unknown::unknown;

use self::{
    datagram::Datagram,
    neighbour::Asker,
    published::{Answer, Forward, Returned},
    second_chance::Told,
};
use crate::{Packet, Reason, Tables, Verdict, abi::Arrival};

/// What a step of the pipeline comes to.
type Step = Result<Verdict, Reason>;

/// What a step comes to that may leave more to do. Its caller does it: a program has a stack of 512 bytes, and the
/// frame of what came before need not lie on it any more. No references: the verifier forgets what a variant holds.
///
/// Functions that stay functions in the program write it where they are told: one that returns more than a register holds
/// may leave a pointer to its stack in that register, which the verifier refuses.
enum Way {
    Settled(Verdict),
    /// A client's packet goes on to the node of its backend.
    Forward(Forward),
    /// A client's packet has come to the node of its backend.
    Deliver(Arrival),
    /// A task answers a client.
    Answer(Answer),
    /// A task's answer to a client has come to the entry node.
    Return(Returned),
    /// Another node says where a flow lives.
    Told(Told),
    /// A node without meshd asks for an address by ARP.
    AskedByArp(Asker),
    /// A node without meshd asks for an address by neighbour solicitation.
    Solicited(Asker),
}

impl Way {
    /// None yet.
    const NOWHERE: Self = Self::Settled(Verdict::PASS);
}

/// Goes a way to its end.
#[inline(always)]
fn go<P: Packet, T: Tables>(packet: &mut P, tables: &T, datagram: &mut Datagram, way: &Way) -> Step {
    // A constant: it keeps what only other hooks can do out of this one's program.
    if !T::DELIVERS {
        return match way {
            Way::Settled(verdict) => Ok(*verdict),
            Way::Forward(to) => published::forward(packet, tables, datagram, to),
            Way::Return(returned) => published::returned(packet, tables, datagram, returned),
            Way::Deliver(_) | Way::Answer(_) | Way::Told(_) | Way::AskedByArp(_) | Way::Solicited(_) => {
                Ok(Verdict::PASS)
            }
        };
    }
    match way {
        Way::Settled(verdict) => Ok(*verdict),
        Way::Forward(to) => published::forward(packet, tables, datagram, to),
        Way::Return(returned) => published::returned(packet, tables, datagram, returned),
        Way::Deliver(arrival) => published::deliver(packet, tables, datagram, arrival),
        Way::Answer(to) => published::answer(packet, tables, datagram, to),
        Way::Told(told) => second_chance::learn(packet, tables, told),
        Way::AskedByArp(asker) => neighbour::arp_from_tunnel(packet, tables, asker),
        Way::Solicited(asker) => neighbour::solicitation_from_tunnel(packet, tables, asker, datagram),
    }
}

#[inline(always)]
fn settle(step: Step) -> Verdict {
    match step {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::drop(reason),
    }
}
