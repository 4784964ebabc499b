//! What an event did to the flows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::flow::{Break, Cause, Flow, Protocol, Verdict};

/// How soon a flow must know that its own backend has died.
pub const FAIL_FAST: Duration = Duration::from_secs(1);

/// The flows that an event met, and what became of them.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The event's name.
    pub event: &'static str,
    /// Flows whose backend lived through the event.
    pub live: usize,
    /// Those of them that broke.
    pub breaks: Vec<Break>,
    /// Flows whose own backend died.
    pub bereft: usize,
    /// Those of them that knew later than [`FAIL_FAST`].
    pub late: Vec<Break>,
    /// How long the last of them took to know.
    pub slowest: Duration,
}

impl Outcome {
    /// No flow met it so far.
    pub(super) const fn none(event: &'static str) -> Self {
        Self { event, live: 0, breaks: Vec::new(), bereft: 0, late: Vec::new(), slowest: Duration::ZERO }
    }

    /// Counts what became of a flow in the event that began at that time.
    pub(super) fn count(&mut self, flow: &Flow, is_visitor: bool, began: Instant) {
        let state = flow.state();
        let broken = |cause, after| Break {
            is_tcp: flow.protocol == Protocol::Tcp,
            is_visitor,
            client: flow.local,
            backend: state.backend.clone(),
            cause,
            after,
        };
        match state.verdict {
            Verdict::Live => self.live += 1,
            Verdict::Broken(cause) => {
                self.live += 1;
                let judged = state.judged.unwrap_or(began);
                self.breaks.push(broken(cause, judged.saturating_duration_since(began)));
            }
            Verdict::Bereft(after, cause) => {
                self.bereft += 1;
                if after > FAIL_FAST {
                    self.late.push(broken(cause, after));
                }
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
        self.breaks.len()
    }

    /// How they broke.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<Cause, usize> {
        let mut causes = BTreeMap::new();
        for broken in &self.breaks {
            *causes.entry(broken.cause).or_default() += 1;
        }
        causes
    }

    /// Whether nothing broke, and who lost his backend knew at once.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.breaks.is_empty() && self.late.is_empty()
    }
}
