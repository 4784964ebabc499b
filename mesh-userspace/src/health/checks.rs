//! When each task is checked, and what its answers make of it. No clock, no sockets: whoever drives it says what time it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::table::{Health, HealthCheck, HealthState, Healths, Probe, plain};

/// How many checks run at once that only need a socket: as many descriptors, of which a daemon has 1,024.
pub(crate) const MOST_SOCKETS: usize = 128;
/// How many run at once that are processes.
pub(crate) const MOST_COMMANDS: usize = 16;
/// A task that starts is checked at least this often, so that it need not wait for its first flow.
const STARTING_INTERVAL: Duration = Duration::from_millis(500);

/// The time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// By a clock that only goes forward.
    pub(crate) monotonic: Duration,
    /// Seconds since 1970, for people.
    pub(crate) wall: u64,
}

/// A task to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service that it is a backend of.
    pub(crate) service: String,
    /// Its own address.
    pub(crate) address: IpAddr,
    /// Its network namespace.
    pub(crate) netns: PathBuf,
    /// How it is checked.
    pub(crate) check: HealthCheck,
    /// Why it may not be checked so on this node.
    pub(crate) forbidden: Option<&'static str>,
    /// It has taken flows before anybody thought of checking it, so it goes on until the checks say otherwise.
    pub(crate) took_flows: bool,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The number of the namespace that the task has; none where there is none.
    pub(crate) task: Option<u64>,
    /// Why it failed.
    pub(crate) failure: Option<String>,
}

/// A check that has begun, to be given back with its outcome.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) endpoint: String,
    pub(crate) target: Arc<Target>,
    /// Nothing is known of its namespace yet, or something is wrong with it.
    pub(crate) is_doubtful: bool,
    number: u64,
}

/// What has changed of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) endpoint: String,
    pub(crate) service: String,
    pub(crate) health: Health,
}

/// What outlives the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    service: String,
    address: IpAddr,
    task: u64,
    health: Health,
}

/// All checks of a node.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    entries: BTreeMap<String, Entry>,
    healths: Healths,
    sockets: Lane,
    commands: Lane,
    /// What an earlier daemon knew of tasks that this one has not seen yet.
    kept: BTreeMap<String, Kept>,
    /// Counts the entries, also those that went.
    numbers: u64,
    /// Counts the changes of what is known.
    changes: u64,
    /// Something that is to be kept has changed.
    is_unkept: bool,
}

/// Checks of one kind: which are due, and how many run.
#[derive(Debug, Default)]
struct Lane {
    due: BTreeSet<(Duration, String)>,
    running: usize,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    /// Tells it from others of the name, before and after it.
    number: u64,
    /// How many checks in a row spoke against what holds.
    against: u8,
    /// When it was asked first since it starts.
    starting: Option<Duration>,
    /// The namespace that it was last seen in.
    task: Option<u64>,
    /// When it is checked next; none while it is being checked.
    due: Option<Duration>,
}

impl Lane {
    fn take(&mut self, now: Duration, most: usize) -> Option<String> {
        let is_ready = self.running < most && self.due.first().is_some_and(|(due, _)| *due <= now);
        let (_, name) = if is_ready { self.due.pop_first()? } else { return None };
        self.running += 1;
        Some(name)
    }

    fn next(&self, most: usize) -> Option<Duration> {
        // Where there is no room, the end of a check is what is waited for.
        if self.running < most { self.due.first().map(|(due, _)| *due) } else { None }
    }
}

impl Checks {
    /// Checks nobody yet, and knows what an earlier daemon has kept.
    pub(crate) fn new(kept: BTreeMap<String, Kept>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// What is known of each task that is checked.
    pub(crate) fn healths(&self) -> &Healths {
        &self.healths
    }

    /// Counts the changes of anybody's state, and of who is checked.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// Checks these tasks from now on, and no others.
    pub(crate) fn follow(&mut self, now: Now, wanted: BTreeMap<String, Target>) {
        let gone: Vec<String> =
            self.entries.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name);
            self.healths.remove(&name);
        }
        for (name, target) in wanted {
            self.want(now, name, target);
        }
        self.changes += 1;
        // A task that was not there at the start begins anew if it comes.
        self.kept.clear();
    }

    fn want(&mut self, now: Now, name: String, target: Target) {
        let before = self.entries.get(&name);
        if before.is_some_and(|entry| entry.target.is(&target)) {
            return;
        }
        // Another way to check it says nothing against it; who is elsewhere is somebody else.
        let same = before.filter(|entry| entry.target.is_of_the_task(&target));
        let kept = self.kept.get(&name).filter(|kept| kept.is_of(&target));
        let anew = |state| Health { state, since: now.wall, reason: None };
        let (health, task) = match (same.zip(self.healths.get(&name)), kept) {
            _ if let Some(why) = target.forbidden => {
                (Health { reason: Some(why.to_owned()), ..anew(HealthState::Unhealthy) }, None)
            }
            (Some((entry, health)), _) => (health.clone(), entry.task),
            (None, Some(kept)) => (kept.health.clone(), Some(kept.task)),
            (None, None) if target.took_flows => (anew(HealthState::Healthy), None),
            (None, None) => (anew(HealthState::Starting), None),
        };
        let due = target.forbidden.is_none().then_some(now.monotonic);
        self.remove(&name);
        self.healths.insert(name.clone(), health);
        self.numbers += 1;
        let entry =
            Entry { target: Arc::new(target), number: self.numbers, against: 0, starting: None, task, due };
        if let Some(due) = due {
            self.lane(&entry.target.check.probe).0.due.insert((due, name.clone()));
        }
        self.entries.insert(name, entry);
    }

    /// A check of it that runs goes on, and its outcome counts for nothing.
    fn remove(&mut self, name: &str) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.is_unkept = true;
        if let Some(due) = entry.due {
            self.lane(&entry.target.check.probe).0.due.remove(&(due, name.to_owned()));
        }
    }

    fn lane(&mut self, probe: &Probe) -> (&mut Lane, usize) {
        match probe {
            Probe::Http { .. } | Probe::Tcp { .. } => (&mut self.sockets, MOST_SOCKETS),
            Probe::Command(_) => (&mut self.commands, MOST_COMMANDS),
        }
    }

    /// A check that is due, if there is room for one. It runs until [`Self::finish`].
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Begun> {
        let name = match self.sockets.take(now, MOST_SOCKETS) {
            Some(name) => name,
            None => self.commands.take(now, MOST_COMMANDS)?,
        };
        let entry = self.entries.get_mut(&name)?;
        entry.due = None;
        entry.starting.get_or_insert(now);
        let failed = self.healths.get(&name).is_some_and(|health| health.reason.is_some());
        Some(Begun {
            endpoint: name,
            target: Arc::clone(&entry.target),
            is_doubtful: failed || entry.task.is_none(),
            number: entry.number,
        })
    }

    /// When [`Self::begin`] has something to do, unless a check ends before.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.sockets.next(MOST_SOCKETS).into_iter().chain(self.commands.next(MOST_COMMANDS)).min()
    }

    /// Takes note of what a check came to, and says what that has changed.
    pub(crate) fn finish(&mut self, now: Now, begun: &Begun, outcome: Outcome) -> Option<Change> {
        let (lane, _) = self.lane(&begun.target.check.probe);
        lane.running = lane.running.saturating_sub(1);
        let entry = self.entries.get_mut(&begun.endpoint).filter(|entry| entry.number == begun.number)?;
        let health = self.healths.get_mut(&begun.endpoint)?;
        let (before, task) = (health.state, entry.task);
        entry.hear(now, health, outcome);
        self.is_unkept |= health.state != before || entry.task != task;
        self.changes += u64::from(health.state != before);
        let starts = health.state == HealthState::Starting;
        let changed = (health.state != before).then(|| Change {
            endpoint: begun.endpoint.clone(),
            service: entry.target.service.clone(),
            health: health.clone(),
        });
        let interval = entry.target.check.interval.get();
        let due = match starts {
            true => now.monotonic + interval.min(STARTING_INTERVAL),
            false => turn_after(now.monotonic, interval, &begun.endpoint),
        };
        entry.due = Some(due);
        self.lane(&begun.target.check.probe).0.due.insert((due, begun.endpoint.clone()));
        changed
    }

    /// What is to be known again after a restart, if that has changed since it was asked for last.
    pub(crate) fn take_unkept(&mut self) -> Option<BTreeMap<String, Kept>> {
        if !std::mem::take(&mut self.is_unkept) {
            return None;
        }
        let kept = self.entries.iter().filter_map(|(name, entry)| {
            let kept = Kept {
                service: entry.target.service.clone(),
                address: entry.target.address,
                task: entry.task?,
                health: self.healths.get(name)?.clone(),
            };
            Some((name.clone(), kept))
        });
        Some(kept.collect())
    }
}

impl Entry {
    fn hear(&mut self, now: Now, health: &mut Health, outcome: Outcome) {
        let is_another = matches!((self.task, outcome.task), (Some(was), Some(is)) if was != is);
        let is_gone = outcome.task.is_none();
        if (is_another || is_gone) && health.state != HealthState::Starting {
            // Who was well has ended. What has its name now, or will have, must show that it is.
            become_of(health, HealthState::Starting, now);
        }
        if is_another || is_gone {
            self.starting = None;
            self.against = 0;
        }
        self.task = outcome.task;
        let succeeded = outcome.failure.is_none();
        match outcome.failure {
            Some(why) => health.reason = Some(plain(&why)),
            // Why somebody became unhealthy is to be read for as long as that holds.
            None if health.state != HealthState::Unhealthy => health.reason = None,
            None => {}
        }
        if is_gone {
            return;
        }
        let check = &self.target.check;
        let next = match (health.state, succeeded) {
            (HealthState::Starting, true) => HealthState::Healthy,
            (HealthState::Starting, false) => {
                let patience = check.interval.get() * u32::from(check.fall.get());
                if now.monotonic.saturating_sub(*self.starting.get_or_insert(now.monotonic)) < patience {
                    return;
                }
                HealthState::Unhealthy
            }
            (HealthState::Healthy, true) | (HealthState::Unhealthy, false) => {
                self.against = 0;
                return;
            }
            (state, _) => {
                let (enough, next) = match state {
                    HealthState::Healthy => (check.fall, HealthState::Unhealthy),
                    HealthState::Starting | HealthState::Unhealthy => (check.rise, HealthState::Healthy),
                };
                self.against = self.against.saturating_add(1);
                if self.against < enough.get() {
                    return;
                }
                next
            }
        };
        self.against = 0;
        become_of(health, next, now);
        if succeeded {
            health.reason = None;
        }
    }
}

fn become_of(health: &mut Health, state: HealthState, now: Now) {
    health.state = state;
    health.since = now.wall;
}

impl Target {
    /// Whether it is the same to be checked in the same way.
    fn is(&self, other: &Self) -> bool {
        self.is_of_the_task(other) && self.check == other.check && self.forbidden == other.forbidden
    }

    fn is_of_the_task(&self, other: &Self) -> bool {
        self.service == other.service && self.address == other.address && self.netns == other.netns
    }
}

impl Kept {
    fn is_of(&self, target: &Target) -> bool {
        self.service == target.service && self.address == target.address
    }
}

/// When a task has its next turn. Each has its own moment within the interval, which follows from its name: so that those of
/// a node do not have theirs all at once, and keep their distance from one another.
fn turn_after(now: Duration, interval: Duration, name: &str) -> Duration {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (now, interval) = (nanoseconds(now), nanoseconds(interval).max(1));
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let moment = hasher.finish() % interval;
    let since = (now % interval + interval - moment) % interval;
    Duration::from_nanos(now.saturating_add(interval - since))
}
