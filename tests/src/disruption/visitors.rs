//! Visitors: flows that open, ask a few times and end in good order, one after the other, so that an event also meets new ones.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    Options, Outcome,
    census::Census,
    flow::{Cause, Flow, Protocol, Rhythm, Verdict},
    ports::Ports,
};

/// One visitor at a time for so many flows that stay.
const FLOWS_PER_VISITOR: usize = 20;

/// How often a visitor asks.
const REQUESTS: u64 = 4;

/// What became of the visits that ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Visitors(Arc<Mutex<Vec<Flow>>>);

impl Visitors {
    /// Lets visitors come, for as long as the runtime works.
    pub(super) fn start(work: &Handle, ports: &Ports, census: &Census, options: &Options) -> Self {
        let visitors = Self::default();
        let of =
            |protocol, flows: usize| (0..flows / FLOWS_PER_VISITOR).map(move |number| (protocol, number));
        for (protocol, number) in of(Protocol::Tcp, options.tcp).chain(of(Protocol::Udp, options.udp)) {
            let visits = Visits {
                ports: ports.clone(),
                census: census.clone(),
                ended: visitors.clone(),
                protocol,
                is_v6: number % 2 == 1,
                interval: options.interval,
            };
            work.spawn(visits.go_on());
        }
        visitors
    }

    /// An event begins.
    pub(super) fn begin(&self) {
        self.lock().clear();
    }

    /// Counts the visits that ended since the event began, at that time.
    pub(super) fn count(&self, outcome: &mut Outcome, began: Instant) {
        self.lock().iter().for_each(|flow| outcome.count(flow, true, began));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Flow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one visitor at a time.
struct Visits {
    ports: Ports,
    census: Census,
    ended: Visitors,
    protocol: Protocol,
    is_v6: bool,
    interval: Duration,
}

impl Visits {
    async fn go_on(self) {
        loop {
            let flow = self.ports.flow(self.protocol, self.is_v6);
            let rhythm = Rhythm { first: Instant::now(), interval: self.interval, requests: REQUESTS };
            flow.live(rhythm, &self.census).await;
            let verdict = flow.state().verdict;
            self.ended.lock().push(flow);
            if verdict == Verdict::Broken(Cause::NotOpened) {
                // Not in a rush, whatever it is that keeps it out.
                tokio::time::sleep(self.interval).await;
            }
        }
    }
}
