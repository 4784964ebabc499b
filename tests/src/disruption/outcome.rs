//! What an event did to the flows.

use std::{collections::BTreeMap, time::Duration};

use super::flow::{Cause, Protocol, Verdict};

/// How soon a flow must know that its own backend has died.
pub const FAIL_FAST: Duration = Duration::from_secs(1);

/// The flows that an event met, and what became of them.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The event's name.
    pub event: &'static str,
    /// Flows whose backend lived through the event.
    pub live: usize,
    /// How many of those broke, by TCP.
    pub broken_tcp: usize,
    /// How many of those broke, by UDP.
    pub broken_udp: usize,
    /// How they broke.
    pub causes: BTreeMap<Cause, usize>,
    /// Flows whose own backend died.
    pub bereft: usize,
    /// How many of those knew later than [`FAIL_FAST`].
    pub late: usize,
    /// How long the last of them took to know.
    pub slowest: Duration,
}

impl Outcome {
    /// No flow met it so far.
    pub(super) const fn none(event: &'static str) -> Self {
        Self {
            event,
            live: 0,
            broken_tcp: 0,
            broken_udp: 0,
            causes: BTreeMap::new(),
            bereft: 0,
            late: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Counts what became of a flow.
    pub(super) fn count(&mut self, protocol: Protocol, verdict: Verdict) {
        match verdict {
            Verdict::Live => self.live += 1,
            Verdict::Broken(cause) => {
                self.live += 1;
                match protocol {
                    Protocol::Tcp => self.broken_tcp += 1,
                    Protocol::Udp => self.broken_udp += 1,
                }
                *self.causes.entry(cause).or_default() += 1;
            }
            Verdict::Bereft(after) => {
                self.bereft += 1;
                self.late += usize::from(after > FAIL_FAST);
                self.slowest = self.slowest.max(after);
            }
        }
    }

    /// Takes over what has happened since this was counted. Who has lost his backend only since then was alive in the event.
    pub(super) fn update(&mut self, later: Self) {
        *self = Self { live: self.live.max(later.live), ..later };
    }

    /// How many flows broke whose backend lived.
    #[must_use]
    pub const fn broken(&self) -> usize {
        self.broken_tcp + self.broken_udp
    }

    /// Whether nothing broke, and who lost his backend knew at once.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.broken() == 0 && self.late == 0
    }
}
