//! Whether this node's tasks are well: they are asked again and again, each from within its own network namespace, and what
//! they answer decides who takes new flows.
//!
//! [`checks`] decides when and what follows; [`probe`] asks. The agent tells what is to be checked before each round, and is
//! told when a round is due because somebody's health has changed.

mod checks;
mod command;
mod http;
mod kept;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use self::{
    checks::{Begun, Change, Checks, Now, Outcome, Target},
    probe::Prober,
};
use crate::{
    links::LinkError,
    spec::Spec,
    table::{Endpoint, HealthState, Healths, Probe, Table},
};

/// What is known is written down at most this often.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Why a command is not run.
const FOREIGN: &str = "its command does not stand in this node's own file, which alone may have this node run a program; write \
                       the same health check there";

/// The commands that a node may run, word by word: those of its own file. What comes by other ways may not have a node run
/// programs, since whoever may change the mesh would be root on each node by that.
pub(crate) type Commands = BTreeSet<Vec<String>>;

/// The commands of a file.
pub(crate) fn commands(file: &Spec) -> Commands {
    let checks = file.services.values().filter_map(|service| service.health_check.as_ref());
    checks.filter_map(|check| Some(check.value.command.as_ref()?.value.clone())).collect()
}

/// The health of a node's tasks.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    /// What is being followed.
    followed: Option<(Arc<Table>, Arc<Commands>)>,
    runner: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    checks: Mutex<Checks>,
    file: PathBuf,
    began: Instant,
    /// Told when there is something else to check.
    followed: Notify,
    /// Told when somebody's health has changed.
    changed: Notify,
}

impl Keeper {
    /// Knows what an earlier daemon has kept in a file; nothing is checked yet.
    pub(crate) fn open(file: PathBuf) -> Self {
        let kept = kept::read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %file.display(), "what was known of tasks' health cannot be read: they must show it anew");
            BTreeMap::new()
        });
        let shared = Shared {
            checks: Mutex::new(Checks::new(kept)),
            file,
            began: Instant::now(),
            followed: Notify::new(),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared), followed: None, runner: None }
    }

    /// Has the tasks of this node checked that the table says so of, and tells what is known of them, with a number
    /// that is greater whenever that may be something else.
    pub(crate) fn follow(
        &mut self,
        table: &Arc<Table>,
        node: &str,
        commands: &Arc<Commands>,
    ) -> (Healths, u64) {
        let mut checks = self.shared.checks();
        let before = self.followed.as_ref();
        let is_the_same = |(was, could): &(Arc<Table>, Arc<Commands>)| {
            Arc::ptr_eq(was, table) && Arc::ptr_eq(could, commands)
        };
        if !before.is_some_and(is_the_same) {
            let before = before.map(|(table, _)| table.as_ref());
            checks.follow(self.shared.now(), targets(table, before, node, commands));
            self.followed = Some((Arc::clone(table), Arc::clone(commands)));
            self.shared.followed.notify_one();
        }
        (checks.healths().clone(), checks.changes())
    }

    /// What is known of this node's tasks.
    pub(crate) fn known(&self) -> Healths {
        self.shared.checks().healths().clone()
    }

    /// Begins to check.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub(crate) fn start(&mut self) -> Result<(), LinkError> {
        let prober = Prober::new()?;
        self.runner = Some(tokio::spawn(run(Arc::clone(&self.shared), prober)));
        Ok(())
    }

    /// Waits until somebody's health has changed.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Checks no longer, and keeps what is known.
    pub(crate) async fn stop(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.abort();
            // It was told to end, so it does.
            let _ = runner.await;
        }
        keep(&self.shared);
    }
}

impl Shared {
    /// The checks, which are sound whatever a thread that held them was about to do.
    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.began.elapsed(), wall: wall.as_secs() }
    }
}

/// Where a node keeps what it knows.
pub(crate) fn file(state_dir: &Path, node: &str) -> PathBuf {
    state_dir.join(format!("{node}.health.json"))
}

/// What is to be checked on a node, given the table before, if there was one.
fn targets(
    table: &Table,
    before: Option<&Table>,
    node: &str,
    commands: &Commands,
) -> BTreeMap<String, Target> {
    let one = |(name, endpoint): (&String, &Endpoint)| {
        let service = endpoint.service.as_ref()?;
        let check = table.services.get(service)?.health_check.as_ref()?;
        let was_unchecked = before.is_some_and(|before| {
            let is_same =
                |was: &Endpoint| was.service == endpoint.service && was.addresses == endpoint.addresses;
            before.endpoints.get(name).is_some_and(is_same)
                && before.services.get(service).is_some_and(|service| service.health_check.is_none())
        });
        let is_foreign = matches!(&check.probe, Probe::Command(words) if !commands.contains(words));
        let target = Target {
            service: service.clone(),
            address: *endpoint.addresses.first()?,
            // An endpoint without one is not ours to attach, nor to check.
            netns: endpoint.netns.clone()?,
            check: check.clone(),
            forbidden: is_foreign.then_some(FOREIGN),
            took_flows: was_unchecked,
        };
        Some((name.clone(), target))
    };
    table.endpoints.iter().filter(|(_, endpoint)| endpoint.node == node).filter_map(one).collect()
}

/// Checks what is due, for ever.
async fn run(shared: Arc<Shared>, prober: Prober) {
    let mut running = JoinSet::new();
    let mut begun = HashMap::new();
    let mut keep_at = None;
    loop {
        while let Some(next) = begin(&shared) {
            let (next, prober) = (Arc::new(next), prober.clone());
            let asked = Arc::clone(&next);
            let task = running.spawn(async move { prober.check(&asked).await });
            begun.insert(task.id(), next);
        }
        let due = shared.checks().next().map(|due| shared.began + due);
        tokio::select! {
            Some(done) = running.join_next_with_id() => {
                let mut done = Some(done);
                let mut has_changed = false;
                // What has ended in the meantime makes no round of its own.
                while let Some(ended) = done {
                    has_changed |= finish(&shared, &mut begun, ended);
                    done = running.try_join_next_with_id();
                }
                if has_changed {
                    shared.changed.notify_one();
                }
                keep_at.get_or_insert_with(|| Instant::now() + KEEP_EVERY);
            }
            () = shared.followed.notified() => {
                keep_at.get_or_insert_with(|| Instant::now() + KEEP_EVERY);
            }
            () = at(due) => {}
            () = at(keep_at) => {
                keep_at = None;
                let shared = Arc::clone(&shared);
                // It says itself what goes wrong.
                let _ = tokio::task::spawn_blocking(move || keep(&shared)).await;
            }
        }
    }
}

fn begin(shared: &Shared) -> Option<Begun> {
    shared.checks().begin(shared.now().monotonic)
}

/// Takes note of a check that has ended; whether anybody's health has changed by it.
fn finish(
    shared: &Shared,
    begun: &mut HashMap<Id, Arc<Begun>>,
    ended: Result<(Id, Outcome), JoinError>,
) -> bool {
    let (id, outcome) = match ended {
        Ok((id, outcome)) => (id, outcome),
        Err(error) => {
            (error.id(), Outcome { task: None, failure: Some("the check itself failed".to_owned()) })
        }
    };
    let Some(begun) = begun.remove(&id) else { return false };
    let changed = shared.checks().finish(shared.now(), &begun, outcome);
    let Some(change) = changed else { return false };
    tell(&change);
    true
}

fn tell(Change { endpoint, service, health }: &Change) {
    let reason = health.reason.as_deref().unwrap_or_default();
    match health.state {
        HealthState::Healthy => tracing::info!(endpoint, service, "healthy: it takes new flows"),
        HealthState::Starting => {
            tracing::info!(endpoint, service, reason, "starting anew: it takes no new flow yet");
        }
        HealthState::Unhealthy => {
            tracing::warn!(endpoint, service, reason, "unhealthy: it takes no new flow");
        }
    }
}

fn keep(shared: &Shared) {
    let Some(tasks) = shared.checks().take_unkept() else { return };
    if let Err(error) = kept::write(&shared.file, tasks) {
        tracing::warn!(%error, file = %shared.file.display(), "what is known of tasks' health cannot be kept");
    }
}

/// Waits until a time, or for ever where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
