//! When the mark of a deletion may be forgotten: when nobody who could still have what was deleted can bring it back.
//!
//! A store has a **horizon**: deletions with a stamp that is not greater are forgotten. A node moves it forward over marks
//! that are older than a week ([`Settings::marks_kept`]) if **no known node is missing**: none is dead or suspected here, and
//! each node that the store names (`Kind::Node`) lives. So whoever is away for long holds the horizon where it is, and what
//! it wrote meanwhile is taken when it comes back, until it is removed, or forgotten with its dead self
//! ([`Settings::dead_kept`]) where the store does not name it.
//!
//! The horizon goes with every message about the store, and only nodes with the same one compare. Who meets a greater one
//!
//! - forgets its own marks up to there, if its store was equal to somebody's at least a seventh of that time (a day) after the
//!   horizon: then it has had the marks, and so it keeps nothing that they deleted;
//! - else **was away for too long, and drops whatever it has up to there**, before it says anything about it. What
//!   still counts of that, it gets from the others.
//!
//! What comes from somebody with a lesser horizon, and is not newer than this one's, is not taken.

use std::{cmp::Ordering, collections::BTreeSet, time::Duration};

use crate::{
    cluster::Cluster,
    member::MemberState,
    settings::Settings,
    stamp::{NodeId, Now, Stamp},
    store::{Key, Kind},
};

/// Into how many steps the time for which marks are kept is divided; the horizon moves by such steps.
const STEPS: u32 = 168;
/// For this part of the time for which marks are kept, nodes may take to hear of them.
const MARGIN: u32 = 7;

#[derive(Debug)]
pub(crate) struct Forgetting {
    round: Duration,
}

impl Forgetting {
    pub(crate) fn new(now: Duration, settings: &Settings) -> Self {
        Self { round: now + settings.marks_kept / STEPS }
    }

    pub(crate) const fn next(&self) -> Duration {
        self.round
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Cluster {
    pub(crate) fn tick_forget(&mut self, now: Now) {
        if self.forgetting.round > now.monotonic {
            return;
        }
        let step = self.settings.marks_kept / STEPS;
        self.forgetting.round = now.monotonic + step.max(Duration::from_millis(100));
        let step = millis(step).max(1);
        let time = now.wall.saturating_sub(millis(self.settings.marks_kept)) / step * step;
        let horizon = Stamp { time, count: u32::MAX, node: NodeId(u64::MAX) };
        let old = |stamp: Stamp| stamp > self.store.horizon() && stamp <= horizon;
        let any = self.store.entries().any(|(_, entry)| entry.value.is_none() && old(entry.stamp));
        if any && !self.somebody_is_missing() {
            let gone = self.store.forget(horizon, false);
            self.stored(&gone);
        }
    }

    /// Whether a node that may have something is not here.
    fn somebody_is_missing(&self) -> bool {
        let members = self.swim.members();
        if members.iter().any(|member| matches!(member.state, MemberState::Dead | MemberState::Suspect)) {
            return true;
        }
        let here: BTreeSet<&str> = members
            .iter()
            .filter(|member| member.state == MemberState::Alive)
            .map(|member| member.identity.name.as_str())
            .collect();
        let nodes = self.store.values().filter(|(key, ..)| key.kind == Kind::Node);
        let mut named = nodes.map(|(key, ..)| key.name.as_str()).peekable();
        // Who is alone, and does not know whether anybody else belongs to the mesh, cannot tell.
        (here.len() == 1 && named.peek().is_none()) || named.any(|name| !here.contains(name))
    }

    /// Follows another's horizon, if it is greater; returns how this one's is to it then.
    pub(crate) fn meet_horizon(&mut self, now: Now, theirs: Stamp) -> Ordering {
        let mine = self.store.horizon();
        if theirs <= mine {
            return mine.cmp(&theirs);
        }
        let margin = millis(self.settings.marks_kept / MARGIN);
        let kept = millis(self.settings.marks_kept);
        // From a clock that is wrong by more than that.
        if theirs.time > now.wall.saturating_sub(kept - margin) {
            return Ordering::Less;
        }
        let away = self.store.current() < theirs.time.saturating_add(margin);
        let gone: Vec<Key> = self.store.forget(theirs, away);
        self.stored(&gone);
        Ordering::Equal
    }
}
