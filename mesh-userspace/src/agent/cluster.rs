//! The agent's part in its cluster: takes over what the others say, and says what is this node's to say.

use std::time::Duration;

use mesh_cluster::{Key, Write};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    desired::Desired,
    flows::monotonic,
    replicated::Replicated,
    restarts::{Restarts, is_machine_going_down},
};
use crate::{
    api::{Changed, Refusal, RefusalKind},
    config::LocalConfig,
    gossip::{Handle, WriteError},
    replica::GRACE,
    spec::listed,
};

/// How long a node that has found others listens before it publishes its file: they may have what it asks for already.
const LISTEN: Duration = Duration::from_secs(1);
/// How long a node looks for others before it takes itself for the first.
const SEARCH: Duration = Duration::from_secs(3);
/// How long the others have to hear that this daemon ends for another to follow.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How often what follows from a write is written at once; the rest waits for the next event.
const MOST_AT_ONCE: usize = 4;

/// Gossip, and what the agent has made of it.
#[derive(Debug)]
pub(super) struct Cluster {
    handle: Handle,
    started: Instant,
    /// Whether there is anybody to look for.
    searches: bool,
    /// Since when another member is known.
    company_since: Option<Instant>,
    /// Whether it has listened for long enough.
    speaks: bool,
    /// Whether it is leaving, and says nothing more of itself.
    leaves: bool,
    /// Whether those who were not heard of since the start count as gone.
    is_grace_over: bool,
    /// Daemons that end for others to follow.
    restarts: Restarts,
    /// When the first of those has had its time.
    restart_ends: Option<Instant>,
    /// The version that the others were told is applied.
    told: u64,
}

/// A change that is done here, and whom it is to be told.
pub(super) struct Done {
    pub(super) answer: oneshot::Sender<Result<Changed, Refusal>>,
    pub(super) changed: Changed,
    /// What every living node is to have applied first, and for how long that is waited for.
    pub(super) wait: Option<(Vec<Key>, Duration)>,
}

impl Cluster {
    /// A node that has just started gossip.
    pub(super) fn new(handle: Handle, local: &LocalConfig) -> Self {
        let own = handle.address();
        let searches = local.cluster.iter().flat_map(|cluster| &cluster.join).any(|place| *place != own);
        Self {
            handle,
            started: Instant::now(),
            searches,
            company_since: None,
            speaks: false,
            leaves: false,
            is_grace_over: false,
            restarts: Restarts::default(),
            restart_ends: None,
            told: 0,
        }
    }

    /// Gossip.
    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until there is something to [`Self::catch_up`] with.
    pub(super) async fn changed(&mut self) {
        let wake = self.wake();
        let woken = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        let is_there = tokio::select! {
            is_there = self.handle.changed() => is_there,
            () = self.restarts.changed() => true,
            () = woken => true,
        };
        if !is_there {
            // Gossip has ended, and nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// When time alone changes something.
    fn wake(&self) -> Option<Instant> {
        let listened = self.company_since.map(|since| since + LISTEN);
        let speaks = (!self.speaks).then(|| listened.unwrap_or(self.started + SEARCH));
        let graced = (!self.is_grace_over).then_some(self.started + GRACE);
        speaks.into_iter().chain(graced).chain(self.restart_ends).min()
    }

    /// Takes over the last snapshot, and writes what this node has to say to it.
    pub(super) async fn catch_up(&mut self, desired: &mut Desired) {
        for _ in 0..MOST_AT_ONCE {
            self.follow(desired);
            let may_speak = self.may_speak(desired);
            let Some(replicated) = desired.replicated_mut().filter(|_| !self.leaves) else { return };
            let mut pending = replicated.pending(may_speak);
            let writes = std::mem::take(&mut pending.writes);
            if !writes.is_empty()
                && let Err(error) = self.handle.write(writes.clone()).await
            {
                tracing::warn!(%error, entries = writes.len(), "what this node has to say could not be written");
                replicated.recall();
                return;
            }
            if let Err(error) = replicated.done(pending) {
                tracing::warn!(%error, "what was published could not be noted: after a restart it may be published again");
            }
            if writes.is_empty() {
                return;
            }
            tracing::debug!(entries = writes.len(), "told the cluster");
        }
    }

    /// Takes over the last snapshot.
    pub(super) fn follow(&mut self, desired: &mut Desired) {
        let snapshot = self.handle.snapshot();
        desired.follow(&snapshot);
        let (now, since_start) = (monotonic(), self.started.elapsed());
        self.is_grace_over |= since_start >= GRACE;
        let ending = desired.replicated().map(|replicated| replicated.ending(now)).unwrap_or_default();
        self.restarts.follow(&ending);
        desired.look(since_start, |life| ending.contains_key(&life) && !self.restarts.is_silent(life));
        let ends = desired.replicated().and_then(|replicated| replicated.restarting().values().min());
        self.restart_ends = ends.map(|ends| Instant::now() + ends.saturating_sub(now));
    }

    /// Whether this node has listened for long enough to say what its file asks for.
    fn may_speak(&mut self, desired: &Desired) -> bool {
        let has_company = desired.replicated().is_some_and(Replicated::has_company);
        if has_company {
            self.company_since.get_or_insert_with(Instant::now);
        }
        let has_listened = self.company_since.is_some_and(|since| since.elapsed() >= LISTEN);
        let is_alone = self.company_since.is_none() && self.started.elapsed() >= SEARCH;
        self.speaks |= has_listened || is_alone || !self.searches;
        self.speaks
    }

    /// Writes what a command asks for, and takes it over.
    ///
    /// # Errors
    /// It is not written.
    pub(super) async fn write(&mut self, desired: &mut Desired, writes: Vec<Write>) -> Result<(), Refusal> {
        if !writes.is_empty() {
            self.handle.write(writes).await.map_err(|error| refusal(&error))?;
        }
        self.follow(desired);
        Ok(())
    }

    /// From now on this node says nothing of itself any more.
    pub(super) const fn fall_silent(&mut self) {
        self.leaves = true;
    }

    /// Tells the others that this node has applied what it has taken over.
    pub(super) async fn applied(&mut self, desired: &Desired) {
        let version = desired.replicated().map_or(0, Replicated::version);
        if version != self.told {
            self.told = version;
            self.handle.applied(version).await;
        }
    }

    /// Answers a change, once every living node has applied it if that is wanted.
    pub(super) fn answer(&self, done: Done) {
        let Done { answer, changed, wait } = done;
        let Some((keys, wait)) = wait else {
            // Nobody waits any longer: then nobody needs to know.
            let _ = answer.send(Ok(changed));
            return;
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let confirmed = handle.confirm(keys, wait).await;
            let _ = answer.send(confirmed.map_err(|missing| unconfirmed(&missing, wait)).map(|()| changed));
        });
    }

    /// Tells the others that this daemon ends and another follows, so that they wait for it; not where the machine goes down.
    pub(super) async fn announce_restart(&self, desired: &Desired) {
        if is_machine_going_down().await {
            tracing::info!("the machine goes down, and the others need not wait for it");
            return;
        }
        let write = match desired.replicated().map_or(Ok(None), Replicated::restart) {
            Ok(Some(write)) => write,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the others cannot be told that another daemon follows");
                return;
            }
        };
        let key = write.key.clone();
        match self.handle.write(vec![write]).await {
            Ok(written) => {
                // Here is nothing to apply of it.
                self.handle.applied(written.version).await;
                if let Err(missing) = self.handle.confirm(vec![key], LAST_WORDS).await {
                    tracing::debug!(?missing, "not all have heard that another daemon follows");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the others could not be told that another daemon follows");
            }
        }
    }

    /// Tells the others that this node is no longer there.
    pub(super) async fn leave(&self) {
        self.handle.leave().await;
    }
}

fn refusal(error: &WriteError) -> Refusal {
    let (kind, mend) = match error {
        WriteError::Entry(_) => (RefusalKind::Invalid, "ask for less at a time"),
        WriteError::Disk(_) => {
            (RefusalKind::Failed, "make room in its state_dir, and make the directory writable")
        }
        WriteError::Ended => (RefusalKind::Unavailable, "start meshd again, and repeat the command"),
    };
    Refusal::new(kind, error.to_string(), mend)
}

fn unconfirmed(missing: &[String], wait: Duration) -> Refusal {
    let who = match missing {
        [] => "it is not known whether the other nodes have".to_owned(),
        [one] => format!("{one} has not"),
        several => format!("{} have not", listed(several, "and")),
    };
    Refusal::new(
        RefusalKind::Unconfirmed,
        format!("it is done here and the others are told, but {who} applied it within {} s", wait.as_secs()),
        "`meshctl nodes ls` tells who is there; whoever comes back applies it then",
    )
}
