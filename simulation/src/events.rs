//! What happens to the cluster, and when.

use mesh_common::abi::{BackendIndex, Family, NodeIndex, Scheduler, ServiceKey, Space};
use mesh_common::{abi::Address, wire::protocol};

use crate::{
    AWAY, LAG, ROUND, Simulation,
    cluster::{Cluster, FIRST_VNI, NETWORKS, NEVER, Round, Service},
    slots::FORGOTTEN,
};

/// The port of the first service.
pub(crate) const FIRST_PORT: u16 = 10_000;

/// How long the pause between two random events is at the most, in milliseconds.
const PAUSE: u64 = 120;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A node's agent looks at what is true.
    Round(NodeIndex),
    /// A node's agent tells of all its flows.
    Tell(NodeIndex),
    /// A node's agent tells of the flows of services that changed.
    TellNews(NodeIndex),
    /// A node's agent forgets flows that are over.
    Sweep(NodeIndex),
    /// A client opens a flow.
    Open,
    /// A client sends the next packet of a flow.
    Send(usize),
    /// A random event.
    Something,
    /// So many tasks of a service are still to be replaced.
    Replace(usize, u32),
    /// A service gets one more task.
    Grow(usize),
    /// A task that drained ends.
    Retire(BackendIndex),
    /// What no node remembers any more is taken away.
    Clean,
}

impl Simulation {
    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Round(node) => self.round(node),
            Event::Tell(node) => self.tell_all(node),
            Event::TellNews(node) => self.tell_news(node),
            Event::Sweep(node) => self.sweep(node),
            Event::Open => self.open(),
            Event::Send(flow) => self.send(flow),
            Event::Something => {
                let pause = self.random.between(1, PAUSE);
                self.schedule(pause, Event::Something);
                self.something();
            }
            Event::Replace(service, left) => self.replace(service, left),
            Event::Grow(service) => self.change(service, |simulation| simulation.add_tasks(service, 1)),
            Event::Retire(task) => self.retire(task),
            Event::Clean => {
                self.schedule(20_000, Event::Clean);
                (0..self.cluster.services.len()).for_each(|service| self.cluster.forget_old_rings(service));
            }
        }
    }

    pub(crate) fn start_agent(&mut self, node: NodeIndex) {
        let first = self.random.between(1, ROUND);
        self.schedule(first, Event::Round(node));
        let first = self.random.between(1, 10_000);
        self.schedule(first, Event::Tell(node));
        self.schedule(30_000 + first, Event::Sweep(node));
    }

    pub(crate) fn add_service(&mut self) {
        let number = self.cluster.services.len();
        let random = &mut self.random;
        let family = random.pick(&[Family::V4, Family::V6]);
        let port = FIRST_PORT + number as u16;
        let key = ServiceKey {
            address: Address::UNSPECIFIED,
            scope: 0,
            port: port.to_be_bytes(),
            protocol: random.pick(&[protocol::TCP, protocol::TCP, protocol::UDP]),
            family: family as u8,
        };
        let vni = FIRST_VNI + random.between(0, NETWORKS.into()) as u32;
        let target_port = random.pick(&[0, 80, 8080]);
        let scheduler = if random.one_in(10) { Scheduler::Rr } else { Scheduler::Mh };
        let tasks = match random.between(0, 10) {
            0 => random.between(21, 41),
            1 | 2 => random.between(11, 21),
            _ => random.between(1, 11),
        };
        self.cluster.services.push(Service {
            key,
            vni,
            target_port,
            scheduler,
            members: vec![],
            ended: vec![],
            changes: vec![],
            places: Default::default(),
            made: Default::default(),
            fresh: Default::default(),
        });
        self.add_tasks(number, tasks);
        self.cluster.change_ring(number);
    }

    /// Puts so many more tasks of a service on random nodes.
    fn add_tasks(&mut self, service: usize, count: u64) {
        for _ in 0..count {
            let node = loop {
                let node = self.random.between(1, self.cluster.nodes.len() as u64) as NodeIndex;
                if self.cluster.nodes[node as usize].is_alive() {
                    break node;
                }
            };
            let weight = if self.random.one_in(4) { self.random.between(1, 4) as u32 } else { 1 };
            self.cluster.add_task(service, node, weight);
        }
    }

    /// A change of a service, as one version with all that `what` does.
    fn change(&mut self, service: usize, what: impl FnOnce(&mut Self)) {
        self.cluster.version += 1;
        what(self);
        self.ring_changed(service);
    }

    /// To be called when the version has begun and the members are what they should be.
    fn ring_changed(&mut self, service: usize) {
        self.report.count("changes of a service");
        self.cluster.forget_old_rings(service);
        let cluster = &mut self.cluster;
        // A service whose tasks are all gone or drain takes nothing new: that is not what is simulated.
        if !cluster.services[service].members.iter().any(|index| cluster.tasks[*index as usize].weight > 0) {
            self.add_tasks(service, 1);
        }
        self.cluster.change_ring(service);
        let cluster = &mut self.cluster;
        let version = cluster.version;
        for index in &cluster.services[service].members {
            let node = cluster.tasks[*index as usize].backend.node;
            cluster.nodes[node as usize].news.push((version, service));
        }
    }

    fn something(&mut self) {
        let service = self.some_service();
        match self.random.between(0, 100) {
            0..20 => {
                self.report.count("events: scaled up");
                let count = self.random.between(1, 4);
                self.change(service, |simulation| simulation.add_tasks(service, count));
            }
            20..38 => {
                self.report.count("events: scaled down by draining");
                self.drain_one(service);
            }
            38..48 => {
                self.report.count("events: a task died");
                if let Some(task) = self.some_task(service) {
                    self.change(service, |simulation| simulation.cluster.end_task(task));
                }
            }
            48..66 => {
                self.report.count("events: weights changed");
                self.change(service, |simulation| simulation.change_weights(service));
            }
            66..76 => {
                self.report.count("events: two changes at once");
                if let Some(task) = self.some_task(service) {
                    self.change(service, |simulation| {
                        simulation.add_tasks(service, 1);
                        simulation.cluster.end_task(task);
                    });
                }
            }
            76..84 => {
                self.report.count("events: two changes in quick succession");
                self.change(service, |simulation| simulation.add_tasks(service, 1));
                let soon = self.random.between(1, 1_500);
                self.schedule(soon, Event::Grow(service));
            }
            84..89 => {
                self.report.count("events: rolling replacement");
                let left = self.cluster.services[service].members.len() as u32;
                self.replace(service, left);
            }
            89..94 => {
                self.report.count("events: an agent restarted");
                let node = self.entry();
                let away = self.random.between(2_000, AWAY);
                self.cluster.nodes[node as usize].frozen_until = self.cluster.now + away;
            }
            94..99 => {
                self.report.count("events: an entry node's memory emptied");
                let node = self.entry();
                let is_entry = |scope: u32| scope >> 24 == Space::Entry as u32;
                self.cluster.nodes[node as usize].own.keep_flows(|key, _| !is_entry(key.scope));
            }
            _ => self.node_comes_or_goes(),
        }
    }

    fn some_service(&mut self) -> usize {
        if self.random.one_in(3) {
            return self.random.between(0, self.cluster.services.len() as u64) as usize;
        }
        let flow = self.random.between(0, self.flows.len().max(1) as u64) as usize;
        self.flows.get(flow).map_or(0, |flow| flow.service)
    }

    fn some_task(&mut self, service: usize) -> Option<BackendIndex> {
        let members = &self.cluster.services[service].members;
        (!members.is_empty()).then(|| self.random.pick(members))
    }

    fn change_weights(&mut self, service: usize) {
        for _ in 0..self.random.between(1, 4) {
            let Some(task) = self.some_task(service) else { return };
            let weight = self.random.between(1, 5) as u32;
            let task = &mut self.cluster.tasks[task as usize];
            // What drains goes on to do so: it is to end soon.
            if task.weight > 0 {
                task.weight = weight;
            }
        }
    }

    /// Lets a task drain that takes new flows, if another does too.
    fn drain_one(&mut self, service: usize) {
        let tasks = &self.cluster.tasks;
        let members = &self.cluster.services[service].members;
        let open: Vec<BackendIndex> =
            members.iter().copied().filter(|task| tasks[*task as usize].weight > 0).collect();
        if open.len() < 2 {
            return;
        }
        let task = self.random.pick(&open);
        self.drain(service, task, |_| {});
    }

    fn drain(&mut self, service: usize, task: BackendIndex, and: impl FnOnce(&mut Self)) {
        let now = self.cluster.now;
        self.change(service, |simulation| {
            let version = simulation.cluster.version;
            let task = &mut simulation.cluster.tasks[task as usize];
            task.weight = 0;
            task.closed = now;
            task.drains = version;
            and(simulation);
        });
        let later = self.random.between(5_000, 90_000);
        self.schedule(later, Event::Retire(task));
    }

    fn retire(&mut self, task: BackendIndex) {
        let of = &self.cluster.tasks[task as usize];
        let service = of.service;
        if of.died == NEVER {
            self.change(service, |simulation| simulation.cluster.end_task(task));
        }
    }

    /// Replaces the oldest task that takes new flows, and soon the next.
    fn replace(&mut self, service: usize, left: u32) {
        let tasks = &self.cluster.tasks;
        let members = &self.cluster.services[service].members;
        let oldest = members.iter().copied().find(|task| tasks[*task as usize].weight > 0);
        if let Some(task) = oldest {
            self.drain(service, task, |simulation| simulation.add_tasks(service, 1));
        }
        if left > 1 {
            let pause = self.random.between(2_000, 10_000);
            self.schedule(pause, Event::Replace(service, left - 1));
        }
    }

    fn node_comes_or_goes(&mut self) {
        // The table of nodes has room for 1,023, also for those that left.
        let is_full = self.cluster.nodes.len() > 1_023;
        if self.random.one_in(2) && !is_full {
            self.report.count("events: a node joined");
            self.cluster.version += 1;
            let node = self.cluster.add_node();
            let (now, version) = (self.cluster.now, self.cluster.version);
            let joined = &mut self.cluster.nodes[node as usize];
            joined.rounds.push(Round { time: now, version });
            // What another node has not heard of is no peer: routers are told last.
            joined.enters_from = now + LAG;
            self.start_agent(node);
        } else if self.random.one_in(4) {
            self.report.count("events: a node died");
            let node = self.entry();
            self.node_dies(node);
        }
    }

    fn node_dies(&mut self, node: NodeIndex) {
        let now = self.cluster.now;
        self.cluster.version += 1;
        let of = &mut self.cluster.nodes[node as usize];
        of.died = now;
        of.left = self.cluster.version;
        let tasks: Vec<BackendIndex> = (1..self.cluster.tasks.len() as BackendIndex)
            .filter(|task| {
                let task = &self.cluster.tasks[*task as usize];
                task.backend.node == node && (task.died == NEVER || task.died + FORGOTTEN > now)
            })
            .collect();
        let mut services: Vec<usize> = vec![];
        for task in tasks {
            let service = self.cluster.tasks[task as usize].service;
            services.push(service);
            if self.cluster.tasks[task as usize].died == NEVER {
                self.cluster.end_task(task);
                let soon = self.random.between(1_000, 5_000);
                self.schedule(soon, Event::Grow(service));
            }
        }
        services.sort_unstable();
        services.dedup();
        for service in services {
            self.ring_changed(service);
        }
    }

    fn round(&mut self, index: NodeIndex) {
        let (now, version) = (self.cluster.now, self.cluster.version);
        let node = &mut self.cluster.nodes[index as usize];
        if !node.is_alive() {
            return;
        }
        if node.frozen_until > now {
            let after = node.frozen_until - now;
            node.restarts.push(node.frozen_until);
            self.schedule(after, Event::Round(index));
            return;
        }
        node.rounds.push(Round { time: now, version });
        let has_news = node.news.iter().any(|(of, _)| *of <= version);
        let next = self.random.between(200, ROUND);
        self.schedule(next, Event::Round(index));
        if has_news {
            let soon = self.random.between(1, 500);
            self.schedule(soon, Event::TellNews(index));
        }
    }
}

impl Cluster {
    /// A task ceases to be, from this version on: its service's ring is then to be changed.
    fn end_task(&mut self, index: BackendIndex) {
        let (now, version) = (self.now, self.version);
        let task = &mut self.tasks[index as usize];
        task.died = now;
        task.gone = version;
        task.closed = task.closed.min(now);
        let service = task.service;
        self.services[service].members.retain(|member| *member != index);
        self.services[service].ended.push(index);
    }
}
