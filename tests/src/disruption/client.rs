//! The client: thousands of flows, worked by one thread in its namespace.

use std::{
    iter::repeat_n,
    sync::Arc,
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use super::{
    Event, Options, Outcome,
    census::Census,
    flow::{Flow, Protocol, Rhythm, Verdict},
    ports::Ports,
    stage::{CLIENT, Stage},
    visitors::Visitors,
};
use crate::lab::Namespace;

/// How long the flows may take to show what became of them: a TCP flow's patience, and a rhythm.
const JUDGEMENT: Duration = Duration::from_secs(9);

/// How long the flows may take to be opened.
const OPENING: Duration = Duration::from_secs(20);

/// The client and its flows. Dropped, it closes them.
#[derive(Debug)]
pub struct Client {
    flows: Vec<Arc<Flow>>,
    census: Census,
    interval: Duration,
    ports: Ports,
    visitors: Visitors,
    /// When the event began.
    began: Instant,
    work: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts the client's thread. It has no open flow yet.
    ///
    /// # Errors
    /// If the kernel grants no thread, or too few open files.
    pub fn start(stage: &Stage<'_>, options: &Options) -> Result<Self> {
        // Both ends of each TCP flow are this process's.
        allow_open_files(2 * options.tcp + options.udp + 1024)?;
        let namespace = Namespace::open(&stage.namespace_name(CLIENT))?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let work = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        // Every socket that this thread opens is in the namespace.
        let thread = thread::spawn(move || {
            // The other side says nothing: that it goes is all that is waited for.
            let worked = namespace.inside(|| runtime.block_on(stopped));
            if let Err(error) = worked {
                eprintln!("{error:#}");
            }
        });
        let (ports, census) = (Ports::new(options.seed), stage.census().clone());
        let wanted = repeat_n(Protocol::Tcp, options.tcp).chain(repeat_n(Protocol::Udp, options.udp));
        let flows = wanted.enumerate().map(|(number, protocol)| {
            let flow = ports.flow(protocol, number % 2 == 1);
            // Not opened yet, which is all the same as over.
            flow.state().over = true;
            Arc::new(flow)
        });
        let flows = flows.collect();
        let visitors = Visitors::start(&work, &ports, &census, options);
        let (interval, began) = (options.interval, Instant::now());
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Self { flows, census, interval, ports, visitors, began, work, stop, thread })
    }

    /// Opens anew each flow that is over, and waits until all have been answered.
    ///
    /// # Errors
    /// If one cannot be opened, though nothing changes any more.
    pub fn open(&mut self) -> Result<()> {
        let deadline = Instant::now() + OPENING;
        loop {
            self.open_once();
            let pending = self.pending();
            if pending == 0 {
                return Ok(());
            }
            let over = self.flows.iter().filter(|flow| flow.state().over).count();
            ensure!(Instant::now() < deadline, "{pending} flows do not open, {over} of them were refused");
            sleep(Duration::from_millis(100));
        }
    }

    fn open_once(&mut self) {
        let over: Vec<_> = (0..self.flows.len()).filter(|number| self.flows[*number].state().over).collect();
        let (now, count) = (Instant::now(), over.len());
        for (turn, number) in over.into_iter().enumerate() {
            let old = &self.flows[number];
            let flow = Arc::new(self.ports.flow(old.protocol, old.remote.is_ipv6()));
            // Evenly over the interval, so that the load is.
            let first = now + self.interval.mul_f64(turn as f64 / count as f64);
            let rhythm = Rhythm { first, interval: self.interval, requests: u64::MAX };
            let (worked, census) = (Arc::clone(&flow), self.census.clone());
            self.work.spawn(async move { worked.live(rhythm, &census).await });
            self.flows[number] = flow;
        }
    }

    /// How many flows are not known to work.
    fn pending(&self) -> usize {
        let works = |flow: &Arc<Flow>| {
            let state = flow.state();
            !state.over && state.answered.is_some()
        };
        self.flows.iter().filter(|flow| !works(flow)).count()
    }

    /// An event begins: what becomes of the flows from now on is its doing.
    pub fn begin(&mut self) {
        self.began = Instant::now();
        for flow in &self.flows {
            let mut state = flow.state();
            if !state.over {
                state.verdict = Verdict::Live;
            }
        }
        self.visitors.begin();
    }

    /// Waits until each flow has shown what became of it: it got an answer to what it asked after `since`, or it is over.
    ///
    /// # Errors
    /// If one does neither: then the client itself does not keep up.
    pub fn judge(&self, since: Instant) -> Result<()> {
        loop {
            let is_undecided = |flow: &&Arc<Flow>| {
                let state = flow.state();
                state.verdict == Verdict::Live && state.answered.is_none_or(|asked| asked < since)
            };
            let undecided = self.flows.iter().filter(is_undecided).count();
            if undecided == 0 {
                return Ok(());
            }
            ensure!(
                since.elapsed() < JUDGEMENT,
                "{undecided} flows neither live nor break: is the machine overloaded?"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// What became of the flows since the event began, and of the visitors' flows that ended since.
    #[must_use]
    pub fn outcome(&self, event: &Event) -> Outcome {
        let mut outcome = Outcome::none(event.name);
        self.flows.iter().for_each(|flow| outcome.count(flow, false, self.began));
        self.visitors.count(&mut outcome, self.began);
        outcome
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("The client's thread panicked.");
        }
    }
}

/// Raises this process's limit of open files where it is lower.
fn allow_open_files(count: usize) -> Result<()> {
    let wanted = u64::try_from(count)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).map_err(|error| anyhow!(error)).with_context(
        || format!("{count} files must be open at once: raise the limit with `ulimit -n {count}`"),
    )
}
