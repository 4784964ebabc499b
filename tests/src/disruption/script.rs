//! What is done to the mesh, and when: steps in time.

use std::time::Duration;

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A node's file is replaced, and its daemon told.
    Write { node: String, text: String },
    /// The router's ways to the service: nodes and their weights.
    Route(Vec<(String, u32)>),
    /// A node loses what it remembers of the flows that enter by it.
    Forget(String),
    /// A node's daemon is killed.
    Kill(String),
    /// A node's daemon is started.
    Start(String),
    /// A node's daemon is ended as by an upgrade, and started anew.
    Replace(String),
    /// A node's cable is pulled.
    Unplug(String),
}

/// Steps, each at its time after the beginning.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<(Duration, Step)>);

impl Script {
    pub(super) fn at(&mut self, time: Duration, step: Step) {
        self.0.push((time, step));
    }

    /// The steps in the order of their times.
    pub(super) fn in_order(mut self) -> Vec<(Duration, Step)> {
        self.0.sort_by_key(|(time, _)| *time);
        self.0
    }
}
