//! What the API may ask of the agent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh_common::abi::{Counter, Flow, FlowKey, Shortage, capacity};
use tokio::sync::{mpsc, oneshot};

use super::{
    Command,
    changes::Asked,
    flows::{Counts, SLICE, monotonic},
    keys,
    round::lock,
    state::Numbers,
    trace::Tracer,
};
use crate::{
    api::{
        Change, Changed, Control, FlowDump, KeyChange, Refusal, RefusalKind, Snapshot, TraceStream,
        types::{ClusterKey, MapUse},
    },
    apply::{Flows, MapError, Maps},
    datapath::Datapath,
    gossip::Handle,
};

/// The agent's last word, which is read without waiting for it.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) uses: Arc<Vec<(&'static str, usize, u32)>>,
}

/// The agent as the API sees it.
pub(crate) struct AgentControl {
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) datapath: Arc<Mutex<Datapath>>,
    pub(crate) tracer: Tracer,
    /// The cluster that this node is in.
    pub(crate) cluster: Option<Handle>,
    /// The flows that the last sweep left.
    pub(crate) flows: Arc<Counts>,
}

impl AgentControl {
    /// Has the agent do something, and waits until it is done.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let ending = || {
            Refusal::new(
                RefusalKind::Unavailable,
                "the daemon is going down",
                "start it again, and repeat the command",
            )
        };
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }
}

impl Control for AgentControl {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.load().snapshot)
    }

    async fn change(&self, change: Change, wait: Option<Duration>) -> Result<Changed, Refusal> {
        self.ask(|answer| Command::Change(Asked::Change(change), wait, answer)).await
    }

    async fn leave(&self, wait: Duration) -> Result<(), Refusal> {
        for step in [Asked::Drain, Asked::Withdraw] {
            match self.ask(|answer| Command::Change(step, Some(wait), answer)).await {
                // Who does not answer is not waited for any longer; the others see the node leave.
                Err(refusal) if refusal.kind == RefusalKind::Unconfirmed => {
                    tracing::warn!(%refusal, "leaving all the same");
                }
                other => drop(other?),
            }
        }
        self.ask(Command::Leave).await
    }

    async fn flows(&self) -> Result<FlowDump, Refusal> {
        let datapath = Arc::clone(&self.datapath);
        let entries = tokio::task::spawn_blocking(move || all_flows(&datapath)).await;
        let entries = entries.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(FlowDump { entries, now: monotonic().as_secs(), capacity: capacity::FLOWS })
    }

    async fn drops(&self) -> Result<Vec<u64>, Refusal> {
        let datapath = lock(&self.datapath);
        datapath.per_cpu("DROPS").and_then(|drops| drops.sums()).map_err(|error| failed(&error))
    }

    async fn counters(&self) -> Result<Vec<Counter>, Refusal> {
        let datapath = lock(&self.datapath);
        let sum = |sum: Counter, one: Counter| Counter {
            packets: sum.packets.wrapping_add(one.packets),
            bytes: sum.bytes.wrapping_add(one.bytes),
        };
        let counters = datapath.per_cpu::<Counter>("COUNTERS").map_err(|error| failed(&error))?;
        (0..counters.len())
            .map(|index| {
                let of_each = counters.get(index).map_err(|error| failed(&error))?;
                Ok(of_each.into_iter().fold(Counter::default(), sum))
            })
            .collect()
    }

    async fn map_uses(&self) -> Result<Vec<MapUse>, Refusal> {
        let counted = |count: &AtomicUsize| Some(count.load(Ordering::Relaxed));
        let filled_by_programs = [
            ("FLOWS", counted(&self.flows.all), capacity::FLOWS),
            ("NEW_FLOWS", counted(&self.flows.new), capacity::NEW_FLOWS),
            // The kernel does not tell how full these are.
            ("DIALLED", None, capacity::DIALLED),
            ("HELD", None, capacity::HELD),
            ("TRACES", None, capacity::TRACES),
        ];
        let shortages = lock(&self.datapath).per_cpu("SHORTAGES").and_then(|counts| counts.sums());
        let shortages = shortages.map_err(|error| failed(&error))?;
        let lost = |name: &str| {
            Shortage::ALL.into_iter().zip(&shortages).find(|(of, _)| of.map() == name).map_or(0, |(_, n)| *n)
        };
        let filled_by_agent = Arc::clone(&self.published.load().uses);
        Ok(filled_by_agent
            .iter()
            .map(|(name, entries, capacity)| (*name, Some(*entries), *capacity))
            .chain(filled_by_programs)
            .map(|(name, entries, capacity)| MapUse {
                name: name.to_owned(),
                entries: entries.map(|entries| entries as u64),
                capacity: capacity.into(),
                lost: lost(name),
            })
            .collect())
    }

    async fn trace(&self, every: u32) -> Result<TraceStream, Refusal> {
        Ok(self.tracer.listen(every))
    }

    async fn keys(&self) -> Result<Vec<ClusterKey>, Refusal> {
        keys::list(self.cluster.as_ref()).await
    }

    async fn change_key(&self, change: KeyChange) -> Result<String, Refusal> {
        keys::change(self.cluster.as_ref(), change).await
    }

    async fn down(&self) -> Result<(), Refusal> {
        self.ask(Command::Down).await
    }
}

/// Every flow, in slices between which others have their turn.
fn all_flows(datapath: &Mutex<Datapath>) -> Result<Vec<(FlowKey, Flow)>, MapError> {
    let mut flows = Vec::new();
    let mut last: Option<FlowKey> = None;
    let mut seen = 0;
    loop {
        let datapath = lock(datapath);
        let maps = datapath.kernel_maps();
        let keys = maps.keys_after::<Flows>(last.as_ref(), SLICE)?;
        for key in &keys {
            if let Some(flow) = maps.get::<Flows>(key)? {
                flows.push((*key, flow));
            }
        }
        seen += keys.len();
        last = keys.last().copied();
        // A key that has gone in the meantime leads back to the beginning: nothing may go round forever.
        if keys.len() < SLICE || seen >= capacity::FLOWS as usize {
            break;
        }
    }
    flows.sort_unstable_by_key(|(key, _)| *key);
    flows.dedup_by_key(|(key, _)| *key);
    Ok(flows)
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string(), "see the daemon's log")
}
