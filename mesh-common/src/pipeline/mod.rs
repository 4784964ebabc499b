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

use crate::{Reason, Verdict};

/// What a step of the pipeline comes to.
type Step = Result<Verdict, Reason>;

#[inline(always)]
fn settle(step: Step) -> Verdict {
    match step {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}
