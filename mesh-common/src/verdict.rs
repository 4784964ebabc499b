//! What becomes of a packet.

use core::fmt;

use crate::{Reason, abi::Outcome};

/// Why a packet is refused, and what its sender needs to know besides: one number, because one program hands it on to
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(u32);

impl Refusal {
    /// The bits that hold the number of the [`Reason`]; the uppermost sixteen hold the MTU.
    const REASON: u32 = 0xff;

    /// For this reason.
    #[inline(always)]
    #[must_use]
    pub const fn because(reason: Reason) -> Self {
        Self(reason as u32)
    }

    /// For being longer than the way's MTU: bytes of an IP packet.
    #[inline(always)]
    #[must_use]
    pub const fn too_big(mtu: u32) -> Self {
        let mtu = if mtu > 0xffff { 0xffff } else { mtu };
        Self(mtu << 16 | Reason::TooBig as u32)
    }

    /// From the number that was handed on.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number to hand on.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The MTU of the way that the packet is too long for, in bytes of an IP packet.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(self) -> Option<u32> {
        if self.0 & Self::REASON == Reason::TooBig as u32 { Some(self.0 >> 16) } else { None }
    }

    /// The verdict once the sender is told.
    #[inline(always)]
    #[must_use]
    pub const fn told(self) -> Verdict {
        Verdict { outcome: Outcome::Refuse, detail: self.0 & Self::REASON }
    }

    /// The verdict where the sender is not told.
    #[inline(always)]
    #[must_use]
    pub const fn dropped(self) -> Verdict {
        Verdict { outcome: Outcome::Drop, detail: self.0 & Self::REASON }
    }
}

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

    /// It is a fragment, and for the program that deals with those, untouched.
    pub const FRAGMENT: Self = Self::hold(0);

    /// It waits, untouched, for the first fragment of its datagram, under the number of its turn.
    #[inline(always)]
    #[must_use]
    pub const fn hold(turn: u32) -> Self {
        Self { outcome: Outcome::Hold, detail: turn }
    }

    /// It comes in once more, untouched, and behind it the fragments that have waited for it: the one of this turn, and those
    /// before it.
    #[inline(always)]
    #[must_use]
    pub const fn release(turn: u32) -> Self {
        Self { outcome: Outcome::Release, detail: turn }
    }

    /// Whether it is for the program that deals with fragments.
    #[inline(always)]
    #[must_use]
    pub const fn is_for_fragments(self) -> bool {
        matches!(self.outcome, Outcome::Hold) && self.detail == 0
    }

    /// It is of a flow that this node does not know: [`pipeline::unknown`](crate::pipeline::unknown) goes on with it. From an
    /// entry of the pipeline only, and never counted.
    pub const UNKNOWN: Self = Self { outcome: Outcome::Drop, detail: u32::MAX };

    /// Whether it is of a flow that this node does not know.
    #[inline(always)]
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        matches!(self.outcome, Outcome::Drop) && self.detail == u32::MAX
    }

    /// It is lost, and counted.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { outcome: Outcome::Drop, detail: reason as u32 }
    }

    /// It is lost, counted, and its sender told. From an entry of the pipeline: it is untouched, and
    /// [`pipeline::refuse`](crate::pipeline::refuse) has yet to make the answer of it. From that: it is the answer, which goes
    /// back out of the interface that it came in by.
    #[inline(always)]
    #[must_use]
    pub const fn refuse(refusal: Refusal) -> Self {
        Self { outcome: Outcome::Refuse, detail: refusal.0 }
    }

    /// What its sender is to be told, if it is refused.
    #[inline(always)]
    #[must_use]
    pub const fn refusal(self) -> Option<Refusal> {
        match self.outcome {
            Outcome::Refuse => Some(Refusal(self.detail)),
            _ => None,
        }
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

    /// The interface that it goes to, or the number of the [`Reason`] that it is lost for (below that of a [`Refusal`] that is
    /// not made yet, its MTU), or the turn of a fragment that waits, or 0.
    #[inline(always)]
    #[must_use]
    pub const fn detail(self) -> u32 {
        self.detail
    }

    /// Why it is lost.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self.outcome {
            Outcome::Drop | Outcome::Refuse => {
                Reason::ALL.get((self.detail & Refusal::REASON) as usize).copied()
            }
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
            Outcome::Hold => write!(f, "hold as {}", self.detail),
            Outcome::Release => write!(f, "release {}", self.detail),
            Outcome::Refuse => write!(f, "refuse ({})", self.reason().map_or("?", Reason::label)),
            Outcome::Deliver => write!(f, "deliver to {}", self.detail),
            Outcome::Host => write!(f, "host by {}", self.detail),
            Outcome::Transmit => write!(f, "transmit by {}", self.detail),
        }
    }
}
