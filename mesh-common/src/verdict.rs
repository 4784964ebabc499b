//! What becomes of a packet.

use crate::{Reason, abi::Outcome};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, untouched, to the kernel's own stack.
    Pass,
    /// It is lost, and counted.
    Drop(Reason),
    /// It goes back out of the interface that it came in by.
    Reply,
    /// It goes to the endpoint behind this host-side interface.
    Deliver(u32),
    /// It goes to the node itself, through `mesh0`.
    Host(u32),
    /// It leaves by this interface.
    Transmit(u32),
}

impl Verdict {
    /// What is counted of it.
    #[inline(always)]
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Pass => Outcome::Pass,
            Self::Drop(_) => Outcome::Drop,
            Self::Reply => Outcome::Reply,
            Self::Deliver(_) => Outcome::Deliver,
            Self::Host(_) => Outcome::Host,
            Self::Transmit(_) => Outcome::Transmit,
        }
    }
}
