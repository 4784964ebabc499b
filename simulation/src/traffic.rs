//! Clients' flows, and what must be true of each of their packets.

use mesh_common::{
    Reason,
    abi::{Address, BackendIndex, NodeIndex, Scheduler, settings_flags},
    hash,
    wire::protocol,
};
use mesh_userspace::plan::SEED;

use crate::{
    LAG, Simulation,
    cluster::{FIRST_IFINDEX, GATEWAY_MAC, NEVER, Task, Time, Version, anycast, client, family_of},
    events::{Event, FIRST_PORT},
    frame::{ACK, FIN, Message, RST, SYN},
    travel::{End, Journey, LAST, MOST_TUNNELS, Start},
};

/// A client's conversation with a service.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) service: usize,
    client: Address,
    port: u16,
    hash: u32,
    entry: NodeIndex,
    /// The task that it lives with; 0 while it has none.
    pub(crate) home: BackendIndex,
    /// The change of the ring as of which its node has told of it, or its task was chosen.
    pub(crate) told: Version,
    /// Whether its node has told of it.
    pub(crate) has_told: bool,
    /// When it ends.
    until: Time,
    sent: u64,
}

/// What came of a packet of a client.
enum Outcome {
    /// The flow goes on.
    Goes,
    /// It is over.
    Over,
}

/// How many owners of its slot before the last one a flow is found behind that has not told where it lives.
const HISTORY: u32 = 2;

impl Simulation {
    pub(crate) fn open(&mut self) {
        let services = self.cluster.services.len() as u64;
        // Half of them ask for the tenth of services that everybody asks for.
        let service = if self.random.one_in(2) {
            self.random.between(0, services)
        } else {
            self.random.between(0, services.div_ceil(10))
        } as usize;
        let of = &self.cluster.services[service];
        self.clients += 1;
        let port = self.random.between(1024, 65536) as u16;
        let client = client(family_of(of), self.clients);
        let hash = hash::flow(SEED, client, port.to_be_bytes(), of.key.port, of.key.protocol);
        let now = self.cluster.now;
        let flow = Flow {
            service,
            client,
            port,
            hash,
            entry: self.entry(),
            home: 0,
            told: 0,
            has_told: false,
            until: now + self.random.between(1_000, 300_000),
            sent: 0,
        };
        let index = match self.over.pop() {
            Some(index) => {
                self.flows[index] = flow;
                index
            }
            None => {
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        self.by_client.insert((client, port, service), index);
        self.report.count("flows");
        self.send(index);
    }

    /// The next packet of a flow.
    pub(crate) fn send(&mut self, index: usize) {
        let is_lost = !self.cluster.nodes[self.flows[index].entry as usize].is_alive();
        if is_lost || self.random.one_in(12) {
            self.report.count(if is_lost {
                "flows whose entry node died"
            } else {
                "reshuffles of entry nodes"
            });
            self.flows[index].entry = self.entry();
        }
        match self.exchange(index) {
            Outcome::Goes => {
                let pause = if self.random.one_in(4) {
                    self.random.between(20, 300)
                } else {
                    self.random.between(300, 12_000)
                };
                self.schedule(pause, Event::Send(index));
            }
            Outcome::Over => {
                let flow = &self.flows[index];
                self.by_client.remove(&(flow.client, flow.port, flow.service));
                self.over.push(index);
                let pause = self.random.between(1, 1_000);
                self.schedule(pause, Event::Open);
            }
        }
    }

    /// Sends a packet, and has it answered.
    fn exchange(&mut self, index: usize) -> Outcome {
        let now = self.cluster.now;
        let flow = &mut self.flows[index];
        flow.sent += 1;
        let service = &self.cluster.services[flow.service];
        let is_tcp = service.key.protocol == protocol::TCP;
        let is_last = now >= flow.until;
        let flags = match (is_tcp, flow.home) {
            (false, _) => 0,
            (true, 0) => SYN,
            _ if is_last => FIN | ACK,
            _ => ACK,
        };
        let sent = Message {
            source: flow.client,
            destination: anycast(family_of(service)),
            from: flow.port,
            to: FIRST_PORT + flow.service as u16,
            protocol: service.key.protocol,
            flags,
            token: (index as u64) << 32 | flow.sent,
        };
        let flow = flow.clone();
        self.report.count("packets: of clients");
        let frame = sent.frame([2, 0, 0, 0, 1, 254], [2, 0, 0, 0, 0, 1]);
        let journey = self.cluster.travel(flow.entry, Start::Wire, frame, flow.service);
        self.check_errands(index, &journey);
        match &journey.end {
            End::Task { task, frame } => {
                let task = *task;
                let outcome = self.arrived(index, &flow, &sent, task, frame, &journey);
                if is_last { Outcome::Over } else { outcome }
            }
            End::AtDeadNode { node } => {
                let died = self.cluster.nodes[*node as usize].died;
                self.lost_with(index, died, "lost: others had not heard that a node had died", &journey);
                Outcome::Goes
            }
            End::Lost { reason: Reason::NoSuchEndpoint }
                if flow.home == 0 && self.is_unborn(&flow, &journey) =>
            {
                self.report
                    .count("lost: its own node had not heard that a task had begun (a packet of a new flow)");
                Outcome::Goes
            }
            End::Lost { .. } if flow.home != 0 && !self.lives(flow.home) => {
                let died = self.cluster.tasks[flow.home as usize].died;
                self.lost_with(
                    index,
                    died,
                    "lost: others had not heard that the flow's task had died",
                    &journey,
                );
                Outcome::Goes
            }
            End::Refused { .. } if flow.home != 0 && !self.lives(flow.home) => {
                self.report.count("flows refused after their task had died");
                Outcome::Over
            }
            End::Refused { .. } | End::Lost { .. } => {
                self.fault(index, "lost or refused although its task lives", &journey);
                Outcome::Over
            }
            End::Out { .. } | End::Learned | End::Astray { .. } => {
                self.fault(index, "went astray", &journey);
                Outcome::Over
            }
        }
    }

    fn lives(&self, task: BackendIndex) -> bool {
        self.cluster.tasks[task as usize].died == NEVER
    }

    /// Whether a packet was lost on the node of a task that took the flow's slot, of which that node has not heard yet; or on
    /// the one that it was sent back to from there, as the last, and whose own task has ended.
    fn is_unborn(&self, flow: &Flow, journey: &Journey) -> bool {
        let is_unborn_on = |node| {
            self.has_owner_on(flow, node, |owner, version, since| version < owner.born && since <= LAG)
        };
        let has_ended_on = |node| self.has_owner_on(flow, node, |owner, version, _| owner.gone <= version);
        match (journey.nodes.as_slice(), journey.errands.last()) {
            ([.., last], _) if is_unborn_on(*last) => true,
            ([.., before, last], Some(&LAST)) => is_unborn_on(*before) && has_ended_on(*last),
            _ => false,
        }
    }

    /// Whether a flow's slot has had a task on a node for which something holds: of the task, of the version that the node
    /// knows, and of the time since the task took the slot.
    fn has_owner_on(
        &self,
        flow: &Flow,
        node: NodeIndex,
        holds: impl Fn(&Task, Version, Time) -> bool,
    ) -> bool {
        let version = self.cluster.nodes[node as usize].version();
        self.cluster.services[flow.service].changes.iter().any(|change| {
            let owner = change.owner(flow.hash).map(|owner| &self.cluster.tasks[owner as usize]);
            let since = self.cluster.now - change.time;
            owner.is_some_and(|owner| owner.backend.node == node && holds(owner, version, since))
        })
    }

    fn check_errands(&mut self, index: usize, journey: &Journey) {
        let grows = journey.errands.windows(2).all(|pair| pair[0] < pair[1]);
        if !grows || journey.errands.len() > MOST_TUNNELS {
            self.fault(index, "was passed on too often", journey);
        }
        let name = match journey.errands.len() {
            0 => "packets of clients in no tunnel",
            1 => "packets of clients in 1 tunnel",
            2 => "packets of clients in 2 tunnels",
            3 => "packets of clients in 3 tunnels",
            _ => "packets of clients in 4 tunnels or more",
        };
        self.report.count(name);
    }

    /// What is lost because something died is lost for as long as it takes the slowest node to hear of it.
    fn lost_with(&mut self, index: usize, died: Time, name: &'static str, journey: &Journey) {
        if died != NEVER && self.cluster.now - died <= LAG {
            self.report.count(name);
        } else {
            self.fault(index, name, journey);
        }
    }

    /// A packet came to a task.
    fn arrived(
        &mut self,
        index: usize,
        flow: &Flow,
        sent: &Message,
        task: BackendIndex,
        frame: &[u8],
        journey: &Journey,
    ) -> Outcome {
        let of = &self.cluster.tasks[task as usize];
        let port = self.cluster.services[flow.service].target_port;
        let expected =
            Message { destination: of.backend.address, to: if port == 0 { sent.to } else { port }, ..*sent };
        if Message::read(frame) != Some(expected) || frame[..6] != of.backend.mac {
            self.fault(index, "came to a task other than it should look", journey);
            return Outcome::Over;
        }
        if of.died != NEVER {
            let died = of.died;
            self.lost_with(index, died, "lost: its own node had not heard that a task had died", journey);
            return Outcome::Goes;
        }
        let is_tcp = sent.protocol == protocol::TCP;
        if flow.home == task {
            self.answer(index, flow, sent, task, frame, if sent.flags & FIN != 0 { FIN | ACK } else { ACK });
            return Outcome::Goes;
        }
        if flow.home != 0 && self.lives(flow.home) {
            return self.misdelivered(index, flow, journey);
        }
        let since_closed = self.cluster.now.saturating_sub(of.closed);
        if since_closed > LAG {
            self.fault(index, "came to a task that takes no new flows", journey);
        }
        if flow.home != 0 {
            self.report.count("flows moved after their task had died");
        }
        if is_tcp && flow.home != 0 {
            self.answer(index, flow, sent, task, frame, RST | ACK);
            return Outcome::Over;
        }
        if self.answer(index, flow, sent, task, frame, SYN | ACK) {
            let changes = &self.cluster.services[flow.service].changes;
            let chosen = changes.iter().rev().find(|change| change.owner(flow.hash) == Some(task));
            let told = chosen.map_or(0, |change| change.version);
            let flow = &mut self.flows[index];
            flow.home = task;
            flow.told = told;
            flow.has_told = false;
        }
        Outcome::Goes
    }

    /// A packet of a flow whose task lives came to another.
    fn misdelivered(&mut self, index: usize, flow: &Flow, journey: &Journey) -> Outcome {
        let service = &self.cluster.services[flow.service];
        let owners = self.owners_since(flow);
        if service.scheduler == Scheduler::Rr {
            // An entry node that does not know a datagram's flow gives it a turn; a connection is looked for where its hash
            // leads by the ring as that node knows it, which its home may not have told of.
            self.report.count("misdelivered beyond bounds: round robin, by another entry node");
        } else if self.is_unheard_of(flow, journey) {
            self.report.count(
                "misdelivered beyond bounds: no node on its way had heard of the ring that it began by",
            );
        } else if owners > HISTORY {
            self.report.count("misdelivered beyond bounds: more changes of its slot than it remembers");
        } else {
            self.report.count("misdelivered");
            self.fault(index, "misdelivered", journey);
        }
        Outcome::Over
    }

    /// Whether a packet came by such nodes only as had not heard that its flow's task ever had the slot, which it took just now.
    fn is_unheard_of(&self, flow: &Flow, journey: &Journey) -> bool {
        let changes = &self.cluster.services[flow.service].changes;
        let Some(taken) = changes.iter().find(|change| change.owner(flow.hash) == Some(flow.home)) else {
            return false;
        };
        let has_heard = |node: &NodeIndex| self.cluster.nodes[*node as usize].version() >= taken.version;
        !flow.has_told && self.cluster.now - taken.time <= LAG && !journey.nodes.iter().any(has_heard)
    }

    /// How many backends a flow's slot was given since the flow was told of; a ring that shrinks to half takes two at once.
    fn owners_since(&self, flow: &Flow) -> u32 {
        let changes = &self.cluster.services[flow.service].changes;
        let mut count = 0;
        for pair in changes.windows(2).filter(|pair| pair[1].version > flow.told) {
            let [old, new] = pair else { continue };
            let shrinks = (old.planned.ring.len() / new.planned.ring.len().max(1)).max(1) as u32 - 1;
            count += u32::from(old.owner(flow.hash) != new.owner(flow.hash)) + shrinks;
        }
        count
    }

    /// The task answers; says whether the client gets it.
    fn answer(
        &mut self,
        index: usize,
        flow: &Flow,
        sent: &Message,
        task: BackendIndex,
        frame: &[u8],
        flags: u8,
    ) -> bool {
        let Some(got) = Message::read(frame) else { return false };
        let backend = self.cluster.tasks[task as usize].backend;
        let flags = if got.protocol == protocol::TCP { flags } else { 0 };
        let answer = got.reply(flags).frame(backend.mac, GATEWAY_MAC);
        self.report.count("packets: of tasks");
        let journey = self.cluster.travel(backend.node, Start::Task(task), answer, flow.service);
        let is_direct = self.cluster.flags & settings_flags::RETURN_DIRECT != 0;
        let expected = if is_direct { backend.node } else { flow.entry };
        let is_right = match &journey.end {
            End::Out { node, frame } => *node == expected && Message::read(frame) == Some(sent.reply(flags)),
            _ => false,
        };
        if !is_right {
            self.fault(index, "was answered wrongly", &journey);
        }
        is_right
    }

    fn fault(&mut self, index: usize, what: &str, journey: &Journey) {
        let flow = &self.flows[index];
        let service = &self.cluster.services[flow.service];
        let now = self.cluster.now;
        let cluster = &self.cluster;
        let tasks: Vec<String> = service
            .changes
            .iter()
            .map(|change| {
                let owner = change.owner(flow.hash).unwrap_or(0);
                format!(
                    "{}@{}ms: {owner} on {}",
                    change.version, change.time, cluster.tasks[owner as usize].backend.node
                )
            })
            .collect();
        let rounds: Vec<String> = journey
            .nodes
            .iter()
            .map(|node| {
                let of = &cluster.nodes[*node as usize];
                let place = service.places.get(node);
                let slot = place.and_then(|place| {
                    let block = cluster.blocks[place.block as usize].as_ref()?;
                    let slot = hash::slot(flow.hash, block.slots().len() as u32);
                    block.slots().get(slot as usize).map(|slot| (slot.current(), slot.before()))
                });
                format!("{node} (version {}, slot {slot:?})", of.version())
            })
            .collect();
        let end = match &journey.end {
            End::Task { task, .. } => {
                format!("task {task} on {}", cluster.tasks[*task as usize].backend.node)
            }
            End::Refused { reason } => format!("be refused because of {reason:?}"),
            End::Lost { reason } => format!("be lost because of {reason:?}"),
            End::Astray { verdict } => format!("end astray: {verdict:?}"),
            End::AtDeadNode { node } => format!("dead node {node}"),
            End::Out { node, .. } => format!("leave node {node}"),
            End::Learned => "be learned of".into(),
        };
        let home = &cluster.tasks[flow.home as usize];
        let text = format!(
            "{now}ms: {what}: flow {index} of service {} ({:?}, protocol {}) with task {} on {} (interface {}, told of \
             version {}, {}), packet {}, by {:?} with errands {:?} to {end}; the slot: {tasks:?}",
            flow.service,
            service.scheduler,
            service.key.protocol,
            flow.home,
            home.backend.node,
            FIRST_IFINDEX + flow.home,
            flow.told,
            flow.has_told,
            flow.sent,
            rounds,
            journey.errands,
        );
        self.report.fault(|| text);
    }
}
