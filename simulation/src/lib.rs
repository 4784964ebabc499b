//! A cluster in memory: the pipeline and the agent's logic, the kernel's and user space's real code, under random events.
//!
//! Each node lags behind what is true by its own rounds, has its own rings' history (derived by the agent's code), its own
//! flows, queue and clock, and tells others where its flows live in the agent's own words, which travel as packets. Clients
//! reach it by routers that spread them over all nodes. After each packet it is asked whether it went where it should.
//!
//! Nothing here reads a clock or draws a number that does not come from the seed: the same seed has the same outcome.

mod cluster;
mod events;
mod frame;
mod random;
mod report;
mod slots;
mod tell;
mod traffic;
mod travel;
mod view;

pub use report::Report;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use mesh_common::abi::{Address, Family, NodeIndex, settings_flags};

use cluster::{Cluster, Round, Time};
use events::Event;
use random::Random;
use traffic::Flow;

/// How great a simulation is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes in the beginning; some leave, some join.
    pub nodes: u32,
    /// Published ports.
    pub services: u32,
    /// Flows at a time.
    pub flows: u32,
    /// Packets of clients, of tasks and of agents, until it ends.
    pub packets: u64,
}

/// The longest time between two rounds of an agent, in milliseconds.
pub(crate) const ROUND: Time = 3_000;
/// The longest time that an agent is away while it restarts.
pub(crate) const AWAY: Time = 15_000;
/// No node's view is older.
pub(crate) const LAG: Time = ROUND + AWAY + 1_000;

/// A cluster, what happens to it and what is measured.
#[derive(Debug)]
pub(crate) struct Simulation {
    pub(crate) scale: Scale,
    pub(crate) cluster: Cluster,
    pub(crate) random: Random,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    /// Tells events of one time apart.
    sequence: u64,
    pub(crate) flows: Vec<Flow>,
    /// The flow of a client's address and port and a service.
    pub(crate) by_client: HashMap<(Address, u16, usize), usize>,
    /// Places of `flows` that are free.
    pub(crate) over: Vec<usize>,
    /// The next client's number.
    pub(crate) clients: u32,
    pub(crate) report: Report,
}

/// Runs a simulation to its end.
#[must_use]
pub fn run(seed: u64, scale: Scale) -> Report {
    let mut simulation = Simulation::new(seed, scale);
    simulation.run();
    simulation.report
}

impl Simulation {
    fn new(seed: u64, scale: Scale) -> Self {
        let mut random = Random::new(seed);
        let underlay = random.pick(&[Family::V4, Family::V6]);
        let flags = if random.one_in(4) { settings_flags::RETURN_DIRECT } else { 0 };
        let mut simulation = Self {
            scale,
            cluster: Cluster::new(underlay, flags),
            random,
            queue: BinaryHeap::new(),
            sequence: 0,
            flows: Vec::new(),
            by_client: HashMap::new(),
            over: Vec::new(),
            clients: 0,
            report: Report::new(seed, scale),
        };
        simulation.begin();
        simulation
    }

    fn begin(&mut self) {
        for _ in 0..self.scale.nodes {
            let node = self.cluster.add_node();
            self.cluster.nodes[node as usize].rounds.push(Round { time: 0, version: 0 });
            self.start_agent(node);
        }
        for _ in 0..self.scale.services {
            self.add_service();
        }
        for _ in 0..self.scale.flows {
            let at = self.random.between(0, 20_000);
            self.schedule(at, Event::Open);
        }
        self.schedule(5_000, Event::Something);
        self.schedule(20_000, Event::Clean);
    }

    pub(crate) fn schedule(&mut self, after: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.cluster.now + after, self.sequence, event)));
    }

    fn run(&mut self) {
        while self.report.packets() < self.scale.packets {
            let Some(Reverse((time, _, event))) = self.queue.pop() else { break };
            self.cluster.now = time;
            self.happen(event);
        }
        self.report.seconds = self.cluster.now / 1000;
    }

    /// A node by which clients' packets may come.
    pub(crate) fn entry(&mut self) -> NodeIndex {
        loop {
            let index = self.random.between(1, self.cluster.nodes.len() as u64) as NodeIndex;
            let node = &self.cluster.nodes[index as usize];
            if node.is_alive() && node.enters_from <= self.cluster.now {
                return index;
            }
        }
    }
}
