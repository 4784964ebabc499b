//! What the programs tell of their work: counters and traces.

use super::pod::pod;

/// A program that sees packets.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tc, frames from tasks.
    Endpoint = 0,
    /// tc, packets from the node itself.
    Host = 1,
    /// tc, packets from the wire.
    Underlay = 2,
    /// XDP, packets from the wire.
    Xdp = 3,
}

/// What a hook did with a packet: a [`Verdict`](crate::Verdict) without its particulars.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left to the kernel's own stack.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Answered.
    Reply = 2,
    /// Delivered to a task.
    Deliver = 3,
    /// Delivered to the node.
    Host = 4,
    /// Sent out.
    Transmit = 5,
    /// Dropped, and its sender told.
    Refuse = 6,
    /// Taken note of: one node's word to another.
    Learn = 7,
    /// A fragment, held until the first of its datagram comes.
    Hold = 8,
    /// A first fragment that others have waited for: it comes in once more, and they behind it.
    Release = 9,
}

impl Hook {
    /// Each hook, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Endpoint, Self::Host, Self::Underlay, Self::Xdp];

    /// Its name in output and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Host => "host",
            Self::Underlay => "underlay",
            Self::Xdp => "xdp",
        }
    }
}

impl Outcome {
    /// Each outcome, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::Pass,
        Self::Drop,
        Self::Reply,
        Self::Deliver,
        Self::Host,
        Self::Transmit,
        Self::Refuse,
        Self::Learn,
        Self::Hold,
        Self::Release,
    ];

    /// Its name in output and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reply => "reply",
            Self::Deliver => "deliver",
            Self::Host => "host",
            Self::Transmit => "transmit",
            Self::Refuse => "refuse",
            Self::Learn => "learn",
            Self::Hold => "hold",
            Self::Release => "release",
        }
    }
}

/// What one hook did in one way, on one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Frames; one that stands for many (GSO) counts once.
    pub packets: u64,
    /// Their bytes, as they came in.
    pub bytes: u64,
}

impl Counter {
    /// The entries of the table of counters.
    pub const COUNT: u32 = (Hook::ALL.len() * Outcome::ALL.len()) as u32;

    /// Where the counter of a hook and an outcome stands.
    #[inline(always)]
    #[must_use]
    pub const fn index(hook: Hook, outcome: Outcome) -> u32 {
        hook as u32 * Outcome::ALL.len() as u32 + outcome as u32
    }
}

/// Something that a packet needed and that there was no room for: the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// A flow that had not proved itself was forgotten, to make room for a newer one.
    NewFlows = 0,
    /// A flow was not remembered.
    Flows = 1,
    /// A socket's peer was not remembered.
    Dialled = 2,
    /// A packet was not traced, because nobody had read those before it.
    Traces = 3,
    /// A fragment that waited for its first was forgotten, to make room for a newer one.
    Fragments = 4,
}

impl Shortage {
    /// Each, in the order of its number.
    pub const ALL: [Self; 5] = [Self::NewFlows, Self::Flows, Self::Dialled, Self::Traces, Self::Fragments];

    /// The name of the map that was full.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            Self::NewFlows => "NEW_FLOWS",
            Self::Flows => "FLOWS",
            Self::Dialled => "DIALLED",
            Self::Traces => "TRACES",
            Self::Fragments => "HELD",
        }
    }
}

/// Bytes of a packet that a trace holds.
pub const TRACE_BYTES: usize = 128;

/// A traced packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// The interface that it leaves by, the number of the [`Reason`](crate::Reason) it was dropped for, or 0.
    pub detail: u32,
    /// Bytes of the frame before anything was done to it.
    pub length: u32,
    /// A [`Hook`].
    pub hook: u8,
    /// An [`Outcome`].
    pub outcome: u8,
    /// Zero.
    pub reserved: u8,
    /// How many of `bytes` are the frame's.
    pub captured: u8,
    /// The frame's first bytes, as it leaves.
    pub bytes: [u8; TRACE_BYTES],
}

pod!(Counter, Trace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<Counter>(), 16);
        assert_eq!(size_of::<Trace>(), 24 + TRACE_BYTES);
    }

    #[test]
    fn numbers_are_in_order() {
        for (index, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook as usize, index);
        }
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        assert_eq!(Counter::index(Hook::Xdp, Outcome::Release) + 1, Counter::COUNT);
        for (index, shortage) in Shortage::ALL.into_iter().enumerate() {
            assert_eq!(shortage as usize, index);
        }
    }
}
