//! How often, how long, how many.

use std::time::Duration;

/// The protocol's measures. All nodes of a mesh should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every so often a node asks another whether it lives; what has not answered when this is over is suspected.
    pub probe_period: Duration,
    /// Who has not answered by then is asked by way of others. Less than `probe_period`.
    pub probe_timeout: Duration,
    /// How many others ask.
    pub indirect_probes: usize,
    /// How long who is suspected may take to deny it.
    pub suspicion: Duration,
    /// Every so often what is new of members is told to three others.
    pub gossip_period: Duration,
    /// Every so often rumours are passed on.
    pub rumour_period: Duration,
    /// To how many others at a time, also when something is written here. A mesh of no more is told as a whole.
    pub fanout: usize,
    /// Every so often the store is compared with another node's.
    pub sync_period: Duration,
    /// Every so often nodes that are dead, and addresses given to `join` that nobody has, are tried again.
    pub knock_period: Duration,
    /// How long a dead node is remembered and tried again.
    pub dead_kept: Duration,
    /// How long the name of a node that died is kept for it, so that it may be started again; only who comes to its address gets
    /// the name sooner.
    pub name_kept: Duration,
    /// How old a deletion has to be before its mark may be forgotten.
    pub marks_kept: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(250),
            probe_timeout: Duration::from_millis(120),
            indirect_probes: 3,
            suspicion: Duration::from_millis(800),
            gossip_period: Duration::from_millis(100),
            rumour_period: Duration::from_millis(50),
            fanout: 8,
            sync_period: Duration::from_secs(1),
            knock_period: Duration::from_secs(1),
            dead_kept: Duration::from_hours(30 * 24),
            name_kept: Duration::from_secs(20),
            marks_kept: Duration::from_hours(7 * 24),
        }
    }
}
