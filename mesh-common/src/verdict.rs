//! What becomes of a packet.

use core::fmt;

use crate::{Reason, abi::Outcome};

/// What becomes of a packet.
///
/// Not an enum with data: the verifier refuses a program that moves the unset bytes of a variant without data about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    outcome: Outcome,
    detail: u32,
}

impl Verdict {
    /// It goes on, untouched, to the kernel's own stack.
    pub const PASS: Self = Self { outcome: Outcome::Pass, detail: 0 };
    /// It goes back out of the interface that it came in by.
    pub const REPLY: Self = Self { outcome: Outcome::Reply, detail: 0 };
    /// It was for the node's tables, and ends here.
    pub const LEARN: Self = Self { outcome: Outcome::Learn, detail: 0 };

    /// It is lost, and counted.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { outcome: Outcome::Drop, detail: reason as u32 }
    }

    /// It is lost, and counted; what goes back out of the interface that it came in by tells its sender so.
    #[inline(always)]
    #[must_use]
    pub const fn refuse(reason: Reason) -> Self {
        Self { outcome: Outcome::Refuse, detail: reason as u32 }
    }

    /// It goes to the endpoint behind this host-side interface.
    #[inline(always)]
    #[must_use]
    pub const fn deliver(ifindex: u32) -> Self {
        Self { outcome: Outcome::Deliver, detail: ifindex }
    }

    /// It goes to the node itself, out of the inner side of `mesh0`.
    #[inline(always)]
    #[must_use]
    pub const fn host(ifindex: u32) -> Self {
        Self { outcome: Outcome::Host, detail: ifindex }
    }

    /// It leaves by this interface.
    #[inline(always)]
    #[must_use]
    pub const fn transmit(ifindex: u32) -> Self {
        Self { outcome: Outcome::Transmit, detail: ifindex }
    }

    /// What is done with it.
    #[inline(always)]
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        self.outcome
    }

    /// The interface that it goes to, or the number of the [`Reason`] that it is lost for, or 0.
    #[inline(always)]
    #[must_use]
    pub const fn detail(self) -> u32 {
        self.detail
    }

    /// Why it is lost.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self.outcome {
            Outcome::Drop | Outcome::Refuse => Reason::ALL.get(self.detail as usize).copied(),
            _ => None,
        }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Pass => f.write_str("pass"),
            Outcome::Reply => f.write_str("reply"),
            Outcome::Learn => f.write_str("learn"),
            Outcome::Drop => write!(f, "drop ({})", self.reason().map_or("?", Reason::label)),
            Outcome::Refuse => write!(f, "refuse ({})", self.reason().map_or("?", Reason::label)),
            Outcome::Deliver => write!(f, "deliver to {}", self.detail),
            Outcome::Host => write!(f, "host by {}", self.detail),
            Outcome::Transmit => write!(f, "transmit by {}", self.detail),
        }
    }
}
