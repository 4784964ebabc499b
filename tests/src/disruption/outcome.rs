//! What an event did to the flows.

use std::{collections::BTreeMap, time::Duration};

use super::flow::Cause;

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
