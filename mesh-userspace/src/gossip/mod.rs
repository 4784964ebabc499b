//! Gossip: sockets, disk and keys around [`mesh_cluster::Cluster`], in a task of its own.
//!
//! [`start`] begins it; a [`Handle`] asks it for things, and hands out a [`Snapshot`] whenever something has changed. What a
//! snapshot has is on this node's disk.

mod disk;
mod driver;
mod identity;
mod keyring;
mod keys;
mod log;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_cluster::{
    Key, Member, Stamp, Store, Write,
    seal::{KeyId, Ring, Secret},
    store::EntryFault,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

pub use keyring::{parse as parse_keyring, read as read_keyring, text as keyring_text};

use driver::{Command, Driver};

use crate::problem::Problem;

/// The port of gossip, as Swarm has it.
pub const PORT: u16 = 7946;

/// How many calls may wait for the driver.
const MOST_CALLS: usize = 64;
/// How long the nodes that have a key in use have to tell that they have it no longer, before it may be removed.
const REMOVE_PATIENCE: Duration = Duration::from_secs(3);
/// How often they are asked.
const REMOVE_EVERY: Duration = Duration::from_millis(100);
/// How long nodes have to say that they know a key.
const KNOWN_PATIENCE: Duration = Duration::from_millis(500);

/// What gossip is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen, for datagrams and streams.
    pub listen: SocketAddr,
    /// The address that other nodes reach this one at.
    pub address: SocketAddr,
    /// Nodes to join by.
    pub join: Vec<SocketAddr>,
    /// The keyring's file.
    pub keyring: PathBuf,
    /// What the file says.
    pub ring: Ring,
    /// Where this node keeps what outlives it.
    pub state_dir: PathBuf,
    /// This node's name.
    pub name: String,
    /// The protocol's measures.
    pub protocol: mesh_cluster::Settings,
}

/// Why gossip did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not to be had.
    #[error(
        "gossip cannot listen on {address} (`cluster.listen`): {source}; give an address of this node whose port is free"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error(
        "gossip cannot keep its state in {path}: {source}; make {path} a directory that meshd may write to"
    )]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that every process is given.
    #[error("the system refused to {action}: {source}")]
    System {
        /// What was asked for.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts changes of the store; with [`Handle::applied`], the agent says which one it has applied.
    pub version: u64,
    /// The store, as it is on this node's disk.
    pub store: Store,
    /// Everybody who is or was in the mesh, this node among them. Their times are of the kernel's monotonic clock.
    pub members: Vec<Member>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A write that is on this node's disk, and told to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The stamp of the last of the entries.
    pub stamp: Stamp,
    /// A snapshot of this version or a later one has it.
    pub version: u64,
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is too long.
    #[error(transparent)]
    Entry(#[from] EntryFault),
    /// The disk refused.
    #[error("it is done, but the disk refused to keep it ({0}), so it may not outlive this daemon")]
    Disk(String),
    /// Gossip has ended.
    #[error("this node is leaving the cluster")]
    Ended,
}

/// A key of the keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// What it is known by.
    pub id: KeyId,
    /// Whether this node seals with it.
    pub in_use: bool,
    /// On how many of the living nodes it is, and how many live; none for a key that no command has spread.
    pub known: Option<(usize, usize)>,
}

/// Why keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none of that id.
    #[error("there is no key {0}")]
    Missing(KeyId),
    /// Somebody seals with it.
    #[error("the key {id} is in use on {}", .nodes.join(", "))]
    InUse {
        /// The key.
        id: KeyId,
        /// On which nodes.
        nodes: Vec<String>,
    },
    /// The ring has no room.
    #[error("the keyring has {0} keys, which is as many as it holds")]
    Full(usize),
    /// It was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What asks the driver. The driver ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    address: SocketAddr,
}

/// Starts gossip.
///
/// # Errors
/// It cannot listen, or its state cannot be kept.
pub async fn start(settings: Settings) -> Result<Handle, StartError> {
    let (commands, queue) = mpsc::channel(MOST_CALLS);
    let (driver, snapshot, address) = Driver::new(settings, queue).await?;
    tokio::spawn(driver.run());
    Ok(Handle { commands, snapshot, address })
}

impl Handle {
    /// The address that others reach this node at.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster, as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Waits until there is a snapshot that this handle has not seen yet. Returns false when gossip has ended.
    pub async fn changed(&mut self) -> bool {
        self.snapshot.changed().await.is_ok()
    }

    /// Writes into the store. Returns when it is on this node's disk; the others are told in the meantime.
    ///
    /// # Errors
    /// It is too long, or the disk refused.
    pub async fn write(&self, writes: Vec<Write>) -> Result<Written, WriteError> {
        self.call(|answer| Command::Write(writes, answer)).await.unwrap_or(Err(WriteError::Ended))
    }

    /// Waits until every living node has applied what is written here under these keys.
    ///
    /// # Errors
    /// The time is over: the names of the nodes that have not.
    pub async fn confirm(&self, keys: Vec<Key>, within: Duration) -> Result<(), Vec<String>> {
        let until = Instant::now() + within;
        let Some((id, mut missing)) = self.call(|answer| Command::Confirm(keys, answer)).await else {
            return Err(Vec::new());
        };
        let is_done = |missing: &Option<Vec<String>>| missing.as_ref().is_some_and(Vec::is_empty);
        let done = timeout_at(until, missing.wait_for(is_done)).await.is_ok_and(|waited| waited.is_ok());
        if done {
            return Ok(());
        }
        // Who has ended, or has too much to do, finds out for itself.
        let _ = self.commands.try_send(Command::Abandon(id));
        let left = missing.borrow().clone();
        Err(left.unwrap_or_default())
    }

    /// The agent has applied the store of a snapshot of this version.
    pub async fn applied(&self, version: u64) {
        // Who has ended does not tell the others any longer.
        let _ = self.commands.send(Command::Applied(version)).await;
    }

    /// Tells the others that this node leaves, and ends gossip. What is on the disk stays.
    pub async fn leave(&self) {
        self.call(Command::Leave).await;
    }

    /// The keyring, the key in use first.
    pub async fn keys(&self) -> Vec<KeyInfo> {
        let mut keys = self.call(Command::Keys).await.unwrap_or_default();
        let store = self.snapshot().store.clone();
        let spread: Vec<&mut KeyInfo> =
            keys.iter_mut().filter(|key| store.value(&keys::entry_key(key.id)).is_some()).collect();
        let known = spread.into_iter().map(|key| async {
            let confirmed = self.confirm(vec![keys::entry_key(key.id)], KNOWN_PATIENCE).await;
            let living = self.snapshot().members.iter().filter(|member| member.state.lives()).count();
            let missing = confirmed.err().map_or(0, |missing| missing.len());
            key.known = Some((living.saturating_sub(missing), living));
        });
        futures::future::join_all(known).await;
        keys
    }

    /// Has every node add a key to its keyring. Returns what it is known by.
    ///
    /// # Errors
    /// The keyring is full, or it could not be written.
    pub async fn install_key(&self, key: Secret) -> Result<KeyId, KeyError> {
        self.call(|answer| Command::InstallKey(key, answer)).await.unwrap_or(Err(WriteError::Ended.into()))
    }

    /// Has every node seal with a key that is in this node's keyring.
    ///
    /// # Errors
    /// There is none of that id, or it could not be written.
    pub async fn use_key(&self, id: KeyId) -> Result<(), KeyError> {
        self.call(|answer| Command::UseKey(id, answer)).await.unwrap_or(Err(WriteError::Ended.into()))
    }

    /// Has every node remove a key from its keyring, once none that lives seals with it.
    ///
    /// # Errors
    /// There is none of that id, somebody seals with it, or it could not be written.
    pub async fn remove_key(&self, id: KeyId) -> Result<(), KeyError> {
        let until = Instant::now() + REMOVE_PATIENCE;
        loop {
            let answer = self.call(|answer| Command::RemoveKey(id, answer)).await;
            match answer.unwrap_or(Err(WriteError::Ended.into())) {
                // This node's own does not change by waiting.
                Err(KeyError::InUse { nodes, .. })
                    if !nodes.contains(&driver::HERE.to_owned()) && Instant::now() < until =>
                {
                    sleep(REMOVE_EVERY).await;
                }
                other => return other,
            }
        }
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            // What is sent in the moment in which the driver ends may lie in its queue for as long as this handle lives.
            () = self.commands.closed() => answered.try_recv().ok(),
        }
    }
}

/// The kernel's monotonic clock.
fn monotonic() -> Duration {
    // Linux always has this clock.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The wall's clock, in milliseconds since 1970.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes that nobody can guess.
fn chance<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// A new key.
///
/// # Errors
/// The system has no chance to give.
pub fn generate_key() -> io::Result<Secret> {
    chance().map(Secret::new)
}

/// Problems by what they are about, so that each is told once.
type Problems = BTreeMap<&'static str, Problem>;

/// Where a node of this name keeps what is the cluster's.
fn state_of(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join(format!("{name}.cluster"))
}
