//! Hybrid logical clocks: stamps that follow the wall's clock, never run backwards, and put a cause before its effect on
//! whatever nodes they happen, also where clocks are wrong (Kulkarni and others, "Logical Physical Clocks", 2014).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How far ahead of its own clock a node follows another's stamp: more than clocks are wrong by, and less than would
/// use the numbers up.
pub const FURTHEST_AHEAD: Duration = Duration::from_hours(24);

/// A node's own number, drawn by chance when it first starts, and kept in its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// What time it is: told with every call, because nothing here looks at a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since some moment that stays the same; never runs backwards.
    pub monotonic: Duration,
    /// The wall's clock: milliseconds since 1970, and wrong by minutes where nobody sets it.
    pub wall: u64,
}

/// When and by whom something was written. No two writes have the same; a later one that knew of an earlier one is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub time: u64,
    /// Tells writes in the same millisecond apart.
    pub count: u32,
    /// Who wrote: settles what happened at once in two places.
    pub node: NodeId,
}

/// `TIME.COUNT@NODE`, the node in hexadecimal digits.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{:016x}", self.time, self.count, self.node.0)
    }
}

/// A node's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    node: NodeId,
    /// The greatest time and count that was given or seen.
    last: (u64, u32),
}

impl Clock {
    /// A clock that goes on after `last`, the greatest stamp that is known.
    #[must_use]
    pub const fn new(node: NodeId, last: Stamp) -> Self {
        Self { node, last: (last.time, last.count) }
    }

    /// A stamp greater than every one given or seen before.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        let (time, count) = self.last;
        self.last = if now.wall > time {
            (now.wall, 0)
        } else {
            count.checked_add(1).map_or((time.saturating_add(1), 0), |next| (time, next))
        };
        Stamp { time: self.last.0, count: self.last.1, node: self.node }
    }

    /// Follows a stamp that came from elsewhere.
    ///
    /// # Errors
    /// It is further ahead than [`FURTHEST_AHEAD`]; what it stamps is not to be taken.
    pub fn follow(&mut self, now: Now, stamp: Stamp) -> Result<(), TooFarAhead> {
        let most = now.wall.saturating_add(u64::try_from(FURTHEST_AHEAD.as_millis()).unwrap_or(u64::MAX));
        if stamp.time > most.max(self.last.0) {
            return Err(TooFarAhead { stamp });
        }
        self.last = self.last.max((stamp.time, stamp.count));
        Ok(())
    }
}

/// A stamp from a clock that is wrong by more than can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stamp {stamp} is more than a day ahead of this node's clock; set the clocks of both nodes")]
pub struct TooFarAhead {
    /// The stamp.
    pub stamp: Stamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64) -> Now {
        Now { wall, ..Now::default() }
    }

    #[test]
    fn stamps_grow_also_when_the_clock_runs_backwards() {
        let mut clock = Clock::new(NodeId(1), Stamp::default());
        let stamps: Vec<Stamp> = [5, 5, 3, 6, 6].map(|wall| clock.stamp(at(wall))).to_vec();
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
        assert_eq!((stamps[3].time, stamps[3].count), (6, 0));
    }

    #[test]
    fn an_effect_is_later_than_its_cause_though_its_clock_is_behind() {
        let mut fast = Clock::new(NodeId(1), Stamp::default());
        let mut slow = Clock::new(NodeId(2), Stamp::default());
        let cause = fast.stamp(at(600_000));
        slow.follow(at(1), cause).unwrap();
        assert!(slow.stamp(at(2)) > cause);
    }

    #[test]
    fn a_clock_that_is_wrong_by_days_is_not_followed() {
        let mut clock = Clock::new(NodeId(1), Stamp::default());
        let wrong = Stamp { time: 90_000_000, count: 0, node: NodeId(2) };
        assert_eq!(clock.follow(at(1000), wrong), Err(TooFarAhead { stamp: wrong }));
        assert_eq!(clock.stamp(at(1000)).time, 1000);
        assert_eq!(clock.follow(at(4_000_000), wrong), Ok(()));
    }

    #[test]
    fn a_count_that_is_used_up_takes_the_next_millisecond() {
        let last = Stamp { time: 7, count: u32::MAX, node: NodeId(1) };
        assert_eq!(Clock::new(NodeId(1), last).stamp(at(1)), Stamp { time: 8, count: 0, node: NodeId(1) });
    }
}
