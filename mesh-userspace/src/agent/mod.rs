//! The agent of a node: keeps the kernel as the plan wants it, round after round.

mod backends;
mod changes;
mod cluster;
mod control;
mod desired;
mod flows;
mod forwarding;
mod keys;
mod lock;
mod namespaces;
mod replicated;
mod restarts;
mod round;
mod settling;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trace;
mod watch;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, future::OptionFuture};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch as latest},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

pub use flows::is_over;
pub use forwarding::{TELL_EVERY, Word, word};
pub use lock::LockError;
pub use round::RoundError;
pub use settling::AFTER as FORGET_AFTER;

use changes::Asked;
use cluster::{Cluster, Done};
use control::{AgentControl, Published};
use desired::Desired;
use flows::{Counts, Sweep, monotonic};
use lock::{NamespaceLock, RunDirectory};
use mesh_cluster::Key;
use namespaces::NamespaceWatch;
use replicated::Replicated;
use round::{Kernel, Outcome, lock};
use state::Numbers;
use trace::Tracer;
use watch::FileWatch;

use crate::{
    api::{self, BindError, Changed, Refusal, RefusalKind},
    datapath::{Datapath, DatapathError, Progress, Report},
    dns, gossip,
    health::{self, Keeper},
    links::{LinkError, Links},
    plan,
    spec::Faults,
    table::{self, Healths, Table},
};

/// What the agent looks at again this often, whatever happens or does not.
const EVERY: Duration = Duration::from_secs(5);
/// The least time between two rounds that the network's own changes cause.
const AT_LEAST: Duration = Duration::from_secs(1);
/// How often flows that are over are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The pause between two slices of a sweep.
const SLICE_PAUSE: Duration = Duration::from_millis(2);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The node that it is; found by the host's name where it is not told.
    pub node: Option<String>,
    /// The host's name.
    pub hostname: String,
}

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is faulty.
    #[error("{0}")]
    Config(Faults),
    /// Another agent is there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The interfaces could not be looked at.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The eBPF programs could not be loaded.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// There is no gossip.
    #[error(transparent)]
    Gossip(#[from] gossip::StartError),
    /// There is no plan.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// The socket could not be made.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The system refused something that every process is given.
    #[error("The system refused to {action}: {source}.")]
    System {
        /// What was asked for.
        action: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// What the agent is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Change the desired state; in a cluster, and wait so long for every living node to apply it.
    Change(Asked, Option<Duration>, oneshot::Sender<Result<Changed, Refusal>>),
    /// Look at everything again.
    Look,
    /// Take everything away, and end.
    Down(oneshot::Sender<Result<(), Refusal>>),
    /// Tell the cluster that this node is gone, and then do the same.
    Leave(oneshot::Sender<Result<(), Refusal>>),
}

/// Runs the agent of this network namespace until it is told to end. A signal leaves the data plane running.
///
/// # Errors
/// When it cannot start, or a thing fails that nothing works without.
pub async fn run(options: Options, object: &'static [u8]) -> Result<(), AgentError> {
    let mut desired = Desired::open(&options.config, options.node.as_deref(), &options.hostname)
        .map_err(AgentError::Config)?;
    let run_dir = desired.local().run_dir.clone();
    let _directory = RunDirectory::take(&run_dir)?;
    let links = Links::open().await?;
    let _namespace = NamespaceLock::take()?;
    let cluster = match desired.start_gossip().await? {
        Some(handle) => {
            let mut cluster = Cluster::new(handle, desired.local());
            cluster.catch_up(&mut desired).await;
            Some(cluster)
        }
        None => None,
    };
    let cookie = links.namespace().cookie()?;
    let datapath = Datapath::open(&run_dir, object, cookie, plan::slots_for(desired.table()))?;
    let dns = dns::Server::start(desired.local().resolv_conf.clone())
        .map_err(|source| AgentError::System { action: "start the thread that answers for names", source })?;
    let mut agent = Agent::new(desired, cluster, links, datapath, dns);
    let first = agent.take_over(object, cookie).await?;
    agent.run(first, &options, &run_dir).await
}

/// The agent at work.
struct Agent {
    started: SystemTime,
    desired: Desired,
    health: Keeper,
    /// Without one, its file is the whole mesh.
    cluster: Option<Cluster>,
    links: Links,
    kernel: Kernel,
    datapath: Arc<Mutex<Datapath>>,
    commands: mpsc::Receiver<Command>,
    sender: mpsc::Sender<Command>,
    tracer: Tracer,
    flows: Arc<Counts>,
    dns: dns::Server,
    resolv_confs: dns::ResolvConfs,
    /// Told when a ring has changed.
    rings_changed: Arc<Notify>,
    last: Option<Last>,
}

/// What the last round came to.
struct Last {
    /// What had been said until then: see [`Agent::word`].
    word: u64,
    outcome: Outcome,
    healths: Healths,
}

/// Why the agent ends.
enum End {
    /// It was told to; what it has built stays.
    Signal,
    /// It is to take everything away; who asked waits for it.
    Down(oneshot::Sender<Result<(), Refusal>>),
}

impl Agent {
    fn new(
        desired: Desired,
        cluster: Option<Cluster>,
        links: Links,
        datapath: Datapath,
        dns: dns::Server,
    ) -> Self {
        let datapath = Arc::new(Mutex::new(datapath));
        let (sender, commands) = mpsc::channel(64);
        Self {
            started: SystemTime::now(),
            health: Keeper::open(health::file(&desired.local().state_dir, desired.node())),
            kernel: Kernel::new(links.clone(), Arc::clone(&datapath), &desired.local().run_dir),
            resolv_confs: dns::ResolvConfs::of(&desired.local().run_dir),
            desired,
            cluster,
            links,
            datapath,
            commands,
            tracer: Tracer::new(sender.clone()),
            sender,
            flows: Arc::default(),
            dns,
            rings_changed: Arc::default(),
            last: None,
        }
    }

    /// The first round; where an earlier agent left tables of another layout, with what they hold.
    async fn take_over(&mut self, object: &[u8], cookie: u64) -> Result<Published, AgentError> {
        loop {
            let outcome = self.round().await;
            let mut datapath = lock(&self.datapath);
            let published = outcome.inspect_err(|_| datapath.abandon())?;
            match datapath.commit(object, cookie)? {
                Progress::Attach => {}
                Progress::Done(report) => {
                    tell(&report);
                    return Ok(published);
                }
                Progress::Nothing => return Ok(published),
            }
        }
    }

    async fn run(mut self, first: Published, options: &Options, run_dir: &Path) -> Result<(), AgentError> {
        let signals = Signals::new()?;
        let published = Arc::new(ArcSwap::from_pointee(first));

        let socket = api::socket_path(run_dir);
        let listener = api::bind(&socket)?;
        let control = Arc::new(AgentControl {
            published: Arc::clone(&published),
            commands: self.sender.clone(),
            datapath: Arc::clone(&self.datapath),
            tracer: self.tracer.clone(),
            flows: Arc::clone(&self.flows),
            cluster: self.cluster.as_ref().map(|cluster| cluster.handle().clone()),
        });
        let (stop, stopped) = latest::channel(false);
        let server = tokio::spawn(api::server::serve(listener, control, is_true(stopped)));
        let sweeper =
            tokio::spawn(sweep(Arc::clone(&self.datapath), Arc::clone(&published), Arc::clone(&self.flows)));
        let teller = tokio::spawn(forwarding::leave_addresses(
            Arc::clone(&self.datapath),
            Arc::clone(&published),
            Arc::clone(&self.rings_changed),
        ));
        let ring = lock(&self.datapath).take_ring("TRACES")?;
        let tracer = tokio::spawn(self.tracer.clone().run(ring));
        let file = match FileWatch::new(&options.config) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "the configuration file cannot be watched: SIGHUP reloads it");
                None
            }
        };
        let namespaces = match NamespaceWatch::new() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "namespaces of tasks cannot be watched for: they are noticed later");
                None
            }
        };
        let network = self.links.watch().await?;
        self.health.start()?;
        tracing::info!(node = self.desired.node(), socket = %socket.display(), "ready");
        tell_systemd(&[NotifyState::Ready]);

        let mut events = Events { signals, file, namespaces, network };
        let end = self.serve(&published, &mut events).await;
        tell_systemd(&[NotifyState::Stopping]);
        self.health.stop().await;
        sweeper.abort();
        teller.abort();
        tracer.abort();
        match end {
            End::Signal => {
                if let Some(cluster) = &self.cluster {
                    cluster.announce_restart(&self.desired).await;
                }
                tracing::info!("ending; the data plane stays");
            }
            End::Down(answer) => {
                let result = self.take_down(run_dir).await;
                // Nobody waits any longer: then nobody needs to know.
                let _ = answer.send(result);
            }
        }
        finish(stop, server).await;
        if let Err(error) = api::server::unlink(&socket) {
            tracing::warn!(%error, "the socket could not be removed");
        }
        Ok(())
    }

    /// Round after round, until it is told to end.
    async fn serve(
        &mut self,
        published: &ArcSwap<Published>,
        events: &mut Events<impl Stream<Item = ()> + Unpin>,
    ) -> End {
        let Events { signals, file, namespaces, network } = events;
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut earliest = Instant::now() + AT_LEAST;
        loop {
            if let Some(watch) = namespaces {
                watch.expect(self.expected_namespaces());
            }
            let mut answers = Vec::new();
            let mut is_news = false;
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => return End::Signal,
                _ = signals.interrupt.recv() => return End::Signal,
                _ = signals.hangup.recv() => self.reload(),
                Some(command) = self.commands.recv() => {
                    if let Some(end) = self.obey(command, &mut answers).await {
                        return end;
                    }
                }
                Some(()) = OptionFuture::from(self.cluster.as_mut().map(Cluster::changed)) => is_news = true,
                Some(()) = OptionFuture::from(file.as_mut().map(FileWatch::changed)) => self.reload(),
                Some(()) = OptionFuture::from(namespaces.as_mut().map(NamespaceWatch::changed)) => {}
                () = self.health.changed() => {}
                () = after(earliest, network.next()) => {}
                _ = timer.tick() => {
                    if let Some(replicated) = self.desired.replicated_mut() {
                        replicated.recall();
                    }
                }
            }
            // What has come in the meantime is done in the same round.
            while let Ok(command) = self.commands.try_recv() {
                is_news = false;
                if let Some(end) = self.obey(command, &mut answers).await {
                    return end;
                }
            }
            if let Some(replicated) = self.desired.replicated_mut() {
                replicated.hear_healths(self.health.known());
            }
            if let Some(cluster) = &mut self.cluster {
                cluster.catch_up(&mut self.desired).await;
            }
            // Word of the cluster that changes nothing here needs no look at the kernel.
            let is_known = |last: &&Last| is_news && last.word == self.word();
            let known = self.last.as_ref().filter(is_known).map(|last| self.published(last));
            let is_round = known.is_none();
            let state = match known {
                Some(known) => Ok(known),
                None => self.round().await,
            };
            match state {
                Ok(state) => {
                    let before = published.swap(Arc::new(state));
                    if !published.load().numbers.has_rings_of(&before.numbers) {
                        self.rings_changed.notify_one();
                    }
                }
                Err(error) => tracing::error!(%error, "this round came to nothing; the next one follows"),
            }
            if let Some(cluster) = &mut self.cluster {
                cluster.applied(&self.desired).await;
            }
            for done in answers {
                match &self.cluster {
                    Some(cluster) => cluster.answer(done),
                    // Nobody waits any longer: then nobody needs to know.
                    None => _ = done.answer.send(Ok(done.changed)),
                }
            }
            if is_round {
                earliest = Instant::now() + AT_LEAST;
            }
        }
    }

    /// The namespaces that this node's endpoints are to be attached in.
    fn expected_namespaces(&self) -> impl Iterator<Item = &Path> {
        let ours = |endpoint: &&table::Endpoint| endpoint.node == self.desired.node();
        let endpoints = self.desired.living().endpoints.values().filter(ours);
        endpoints.filter_map(|endpoint| endpoint.netns.as_deref())
    }

    /// Does what needs no round; what a round must follow is answered after it.
    async fn obey(&mut self, command: Command, answers: &mut Vec<Done>) -> Option<End> {
        match command {
            Command::Look => {}
            Command::Down(answer) => return Some(End::Down(answer)),
            Command::Leave(answer) => {
                if let Some(cluster) = &self.cluster {
                    cluster.leave().await;
                }
                if let Some(Err(error)) = self.desired.replicated().map(Replicated::forget_published) {
                    tracing::warn!(%error, "what was published is still noted: should the node join again, it is not published anew");
                }
                return Some(End::Down(answer));
            }
            Command::Change(asked, wait, answer) => match self.change(asked).await {
                Ok((name, keys)) => {
                    let revision = self.desired.revision();
                    tracing::info!(name, revision, "changed by a command");
                    let wait = wait.map(|wait| (keys, wait));
                    answers.push(Done { answer, changed: Changed { name, revision }, wait });
                }
                Err(refusal) => {
                    let _ = answer.send(Err(refusal));
                }
            },
        }
        None
    }

    /// Changes what is asked for; returns the name of what was changed, and under which keys the cluster has it.
    async fn change(&mut self, asked: Asked) -> Result<(String, Vec<Key>), Refusal> {
        let Some(cluster) = &mut self.cluster else {
            return Ok((changes::change(&mut self.desired, asked)?, Vec::new()));
        };
        // What has come meanwhile may have what is asked for already.
        cluster.follow(&mut self.desired);
        let is_last = matches!(asked, Asked::Withdraw);
        let (name, writes) = changes::writes(&self.desired, asked)?;
        if is_last {
            cluster.fall_silent();
        }
        let keys = writes.iter().map(|write| write.key.clone()).collect();
        cluster.write(&mut self.desired, writes).await?;
        Ok((name, keys))
    }

    fn reload(&mut self) {
        tell_systemd(&reloading());
        let before = self.desired.revision();
        match self.desired.reload() {
            Ok(()) if self.desired.revision() == before => tracing::debug!("the configuration says the same"),
            Ok(()) => tracing::info!(revision = self.desired.revision(), "the configuration was read again"),
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("{fault}");
                }
                tracing::error!(
                    faults = faults.count(),
                    "the configuration is faulty, and the mesh stays as it was before"
                );
            }
        }
        tell_systemd(&[NotifyState::Ready]);
    }

    async fn round(&mut self) -> Result<Published, RoundError> {
        self.kernel.trace_every = self.tracer.every();
        let (own, changes) =
            self.health.follow(self.desired.living(), self.desired.node(), self.desired.commands());
        let others =
            self.desired.replicated().map(|replicated| replicated.healths_of_others(self.desired.living()));
        let healths = own.union(others.unwrap_or_default());
        // Each change of health is something new to do, as each table is.
        self.kernel.revision = self.word() + changes;
        let table = self.desired.living().with_health(&healths);
        let mut outcome: Outcome = self.kernel.round(&table, self.desired.node()).await?;
        self.answer_for_names(&table, &mut outcome);
        let last = Last { word: self.word(), outcome, healths };
        let published = self.published(&last);
        self.last = Some(last);
        Ok(published)
    }

    /// Counts what the cluster and the file have said.
    fn word(&self) -> u64 {
        self.desired.revision() + self.desired.replicated().map_or(0, Replicated::reported)
    }

    /// The picture of a round, with what is known of the cluster now.
    fn published(&self, last: &Last) -> Published {
        let Last { outcome, healths, .. } = last;
        let numbers = Arc::new(Numbers::new(self.desired.table(), healths, outcome));
        let snapshot =
            state::snapshot(&self.desired, self.started, outcome, healths.clone(), Arc::clone(&numbers));
        Published { snapshot: Arc::new(snapshot), numbers, uses: Arc::new(outcome.contents.uses()) }
    }

    /// Has names change with the maps, and after them: what an answer says is then there. Maps that could not be written keep
    /// the names that they had.
    fn answer_for_names(&mut self, table: &Arc<Table>, outcome: &mut Outcome) {
        if self.kernel.is_applied() {
            let names = self.dns.names().follow(table, self.desired.node(), self.kernel.revision);
            self.dns.publish(Arc::new(names));
        }
        outcome.problems.extend(self.dns.serve(&outcome.gateways));
        outcome.problems.extend(self.resolv_confs.ensure(&outcome.plan.resolvers));
    }

    /// Takes away what the mesh has made of this node.
    async fn take_down(&mut self, run_dir: &Path) -> Result<(), Refusal> {
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(%error, "not everything could be taken away");
            Refusal::new(RefusalKind::Failed, error.to_string(), "start meshd, and repeat the command")
        };
        // The programs first: nothing must be redirected to an interface that is gone.
        lock(&self.datapath).detach_all_but(&[], false).map_err(|error| failed(&error))?;
        self.dns.serve(&BTreeMap::new());
        self.resolv_confs.remove_all().map_err(|error| failed(&error))?;
        self.kernel.remove_links().await.map_err(|error| failed(&error))?;
        Datapath::remove(run_dir).map_err(|error| failed(&error))?;
        tracing::info!("everything is taken away");
        Ok(())
    }
}

/// Says what came of a take-over.
fn tell(report: &Report) {
    if report.carried.is_empty() && report.fresh.is_empty() {
        tracing::info!(maps = report.kept.len(), "took over the tables of an earlier meshd as they are");
        return;
    }
    tracing::info!(
        kept = report.kept.join(", "),
        carried = report.carried.join(", "),
        fresh = report.fresh.join(", "),
        flows = report.flows,
        passes = report.passes,
        milliseconds = report.took.as_millis(),
        "took over the data plane of an earlier meshd whose tables are laid out otherwise"
    );
    if let Some(why) = &report.loss {
        tracing::warn!(
            "flows could not be carried over, because {why}: connections that are under way may break. To go back to \
             an earlier version without loss, go through one that knows both layouts"
        );
    }
}

/// Forgets flows that are over, again and again.
async fn sweep(datapath: Arc<Mutex<Datapath>>, published: Arc<ArcSwap<Published>>, counts: Arc<Counts>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let gone = published.load().numbers.gone();
        let mut sweep = Sweep::after(counts.all.load(Ordering::Relaxed));
        loop {
            let more = {
                let datapath = lock(&datapath);
                sweep.slice(&mut datapath.kernel_maps(), monotonic().as_secs(), &gone)
            };
            match more {
                Ok(true) => sleep(SLICE_PAUSE).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "flows that are over could not be forgotten");
                    break;
                }
            }
        }
        counts.all.store(sweep.left, Ordering::Relaxed);
        counts.new.store(sweep.new, Ordering::Relaxed);
        if sweep.removed > 0 {
            tracing::debug!(removed = sweep.removed, left = sweep.left, "flows that are over were forgotten");
        }
    }
}

/// What makes the agent look again.
struct Events<N> {
    signals: Signals,
    /// The configuration file, if it can be watched.
    file: Option<FileWatch>,
    /// The namespaces of its tasks, if they can be watched for.
    namespaces: Option<NamespaceWatch>,
    /// The node's interfaces, addresses and routes.
    network: N,
}

/// The signals that the agent heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let of = |kind| {
            signal(kind).map_err(|source| AgentError::System { action: "let signals be heard", source })
        };
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
        })
    }
}

/// Waits for an event, and then until some time.
async fn after(earliest: Instant, event: impl Future<Output = Option<()>>) {
    if event.await.is_none() {
        // The kernel tells nothing any more: the timer goes on.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(earliest).await;
}

async fn is_true(mut value: latest::Receiver<bool>) {
    // It is an end as well if nobody can say so any more.
    let _ = value.wait_for(|value| *value).await;
}

/// Lets the server answer what is under way, but not for long.
async fn finish(stop: latest::Sender<bool>, server: JoinHandle<()>) {
    let _ = stop.send(true);
    match tokio::time::timeout(Duration::from_secs(2), server).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the socket's server failed"),
        Err(_) => tracing::warn!("somebody still speaks on the socket; ending all the same"),
    }
}

fn reloading() -> Vec<NotifyState<'static>> {
    let mut states = vec![NotifyState::Reloading];
    // systemd wants to know when (sd_notify(3)); without it, it only waits longer.
    states.extend(NotifyState::monotonic_usec_now().ok());
    states
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    // No systemd is no fault.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// The host's name; empty where it has none that can be read.
#[must_use]
pub fn hostname() -> String {
    nix::sys::utsname::uname()
        .map(|names| names.nodename().to_string_lossy().into_owned())
        .unwrap_or_default()
}
