//! Restarts of daemons: whose daemon ends for another to follow says so, and keeps its place while its kernel answers, since its
//! data plane goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use mesh_cluster::NodeId;
use tokio::{
    net::TcpStream,
    process::Command,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

/// How often a kernel is asked.
const EVERY: Duration = Duration::from_millis(300);
/// How long it has to answer.
const PATIENCE: Duration = Duration::from_millis(400);
/// How many questions stay without an answer before a node is silent: one may be lost.
const QUESTIONS: usize = 2;
/// How long systemd has to say whether the machine goes down.
const SYSTEMD_PATIENCE: Duration = Duration::from_millis(500);

/// A life of a node's daemon: the node's number, and the daemon's incarnation.
pub(super) type Life = (NodeId, u64);

/// The lives that end, and what the kernels under them say.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    asking: BTreeMap<Life, AbortHandle>,
    tasks: JoinSet<Life>,
    silent: BTreeSet<Life>,
}

impl Restarts {
    /// From now on asks after these lives, at their gossip addresses, and after no others.
    pub(super) fn follow(&mut self, ending: &BTreeMap<Life, SocketAddr>) {
        self.silent.retain(|life| ending.contains_key(life));
        self.asking.retain(|life, task| {
            let stays = ending.contains_key(life);
            if !stays {
                task.abort();
            }
            stays
        });
        for (life, address) in ending {
            let (life, address) = (*life, *address);
            self.asking.entry(life).or_insert_with(|| {
                self.tasks.spawn(async move {
                    silence(address).await;
                    life
                })
            });
        }
    }

    /// Waits until one more is silent.
    pub(super) async fn changed(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(life)) if self.asking.contains_key(&life) => {
                    self.silent.insert(life);
                    return;
                }
                // Nobody asks after it any more.
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a life has ended with its node.
    pub(super) fn is_silent(&self, life: Life) -> bool {
        self.silent.contains(&life)
    }
}

/// Waits until a node's kernel does not answer any more.
async fn silence(address: SocketAddr) {
    let mut unanswered = 0;
    while unanswered < QUESTIONS {
        if is_there(address).await {
            unanswered = 0;
            sleep(EVERY).await;
        } else {
            unanswered += 1;
        }
    }
}

/// Whether there is a kernel at an address: it refuses what nobody listens for. A firewall that lets gossip in lets this in.
async fn is_there(address: SocketAddr) -> bool {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

/// Whether the machine goes down, with all of its tasks. Where there is no systemd, nobody can tell.
pub(super) async fn is_machine_going_down() -> bool {
    // As sd_booted(3) tells.
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(SYSTEMD_PATIENCE, systemctl.output()).await {
        Ok(Ok(output)) => output.stdout.starts_with(b"stopping"),
        Ok(Err(error)) => {
            tracing::debug!(%error, "systemctl does not tell whether the machine goes down");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_kernel_is_there_with_and_without_a_daemon() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_there(address).await);
        drop(listener);
        assert!(is_there(address).await, "it refuses");
        // No route leads to what is reserved for documentation by RFC 5737, or nobody answers there.
        assert!(!is_there("192.0.2.254:7946".parse().unwrap()).await);
    }

    #[tokio::test]
    async fn who_is_silent_is_told_once_and_forgotten_when_nobody_asks() {
        let life = (NodeId(1), 7);
        let mut restarts = Restarts::default();
        restarts.follow(&BTreeMap::from([(life, "192.0.2.254:7946".parse().unwrap())]));
        assert!(!restarts.is_silent(life));
        restarts.changed().await;
        assert!(restarts.is_silent(life));
        assert!(timeout(EVERY, restarts.changed()).await.is_err(), "there is nothing more to tell");
        restarts.follow(&BTreeMap::new());
        assert!(!restarts.is_silent(life));
    }
}
