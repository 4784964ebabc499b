//! A network, clocks and disks in memory, with real nodes on them: whatever happens follows from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mesh_cluster::{
    Cluster, Entry, Identity, Key, Kind, MOST_DATAGRAM, MOST_MESSAGE, MemberState, NodeId, Now, Output,
    Settings, Stamp, Store, Write,
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// 2026, in milliseconds.
const WALL: u64 = 1_770_000_000_000;

/// How the network is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Of each datagram, how likely it is lost.
    pub(crate) loss: f64,
    /// Of each datagram, how likely it comes twice.
    pub(crate) twice: f64,
    /// How long it takes, from and to; in one of twenty cases ten times as long, so that others overtake it.
    pub(crate) latency: (Duration, Duration),
}

impl Default for Weather {
    fn default() -> Self {
        Self { loss: 0.0, twice: 0.0, latency: (Duration::from_micros(200), Duration::from_millis(2)) }
    }
}

impl Weather {
    pub(crate) fn bad() -> Self {
        Self { loss: 0.2, twice: 0.02, latency: (Duration::from_micros(500), Duration::from_millis(8)) }
    }
}

enum Event {
    Deliver { to: usize, from: SocketAddr, message: Arc<[u8]> },
    Tick(usize),
    Applied { node: usize, start: u64, version: u64 },
}

/// What happens when: nanoseconds, a count that keeps the order, and the place of what happens.
type Due = (u64, u64, usize);

/// Millions of events: only those of the next millisecond are in order.
#[derive(Default)]
struct Queue {
    soon: BinaryHeap<Reverse<Due>>,
    millisecond: u64,
    later: BTreeMap<u64, Vec<Due>>,
}

impl Queue {
    fn push(&mut self, entry: Due) {
        let millisecond = entry.0 / 1_000_000;
        if millisecond <= self.millisecond {
            self.soon.push(Reverse(entry));
        } else {
            self.later.entry(millisecond).or_default().push(entry);
        }
    }

    fn next(&mut self) -> Option<u64> {
        if self.soon.is_empty() {
            let (millisecond, entries) = self.later.pop_first()?;
            self.millisecond = millisecond;
            self.soon.extend(entries.into_iter().map(Reverse));
        }
        self.soon.peek().map(|Reverse((at, ..))| *at)
    }

    fn pop(&mut self) -> Option<Due> {
        self.next()?;
        self.soon.pop().map(|Reverse(entry)| entry)
    }
}

pub(crate) struct Node {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) identity: Identity,
    /// What is on its disk: the store, as of its last change.
    pub(crate) disk: Store,
    /// How far its wall clock is from the right time, in milliseconds.
    pub(crate) wrong: i64,
    /// Which side of the partition it is on.
    pub(crate) side: u32,
    /// Until when it stands still, as a paused machine does.
    pub(crate) paused: Duration,
    pub(crate) refused: Vec<String>,
    /// The last stamp that was too far ahead.
    pub(crate) not_taken: Option<Stamp>,
    pub(crate) confirmed: BTreeMap<u64, Vec<String>>,
    pub(crate) sent: u64,
    tick: Duration,
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) weather: Weather,
    pub(crate) rng: Xoshiro256PlusPlus,
    pub(crate) settings: Settings,
    /// How long an agent takes to apply a change, at most.
    pub(crate) applying: Duration,
    /// Every message that was sent, if it is wanted.
    pub(crate) record: Option<Vec<Vec<u8>>>,
    queue: Queue,
    /// What happens at an entry of the queue, and which places are free.
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    count: u64,
}

pub(crate) fn address(index: usize) -> SocketAddr {
    let index = u32::try_from(index).unwrap();
    SocketAddr::new(Ipv4Addr::from(0x0a00_0001 + index).into(), 7946)
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Duration::from_secs(1),
            nodes: Vec::new(),
            weather: Weather::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            settings: Settings::default(),
            applying: Duration::from_millis(30),
            record: None,
            queue: Queue::default(),
            events: Vec::new(),
            free: Vec::new(),
            count: 0,
        }
    }

    /// So many nodes, all of which have found one another by the first.
    pub(crate) fn mesh(seed: u64, nodes: usize) -> Self {
        let mut network = Self::new(seed);
        for _ in 0..nodes {
            network.add();
        }
        for index in 0..nodes {
            network.start(index, &[address(0)]);
        }
        let found = network.until(Duration::from_secs(10), Network::all_know_all);
        assert!(found.is_some(), "{nodes} nodes have not found one another within ten seconds");
        network
    }

    /// A node, not started yet.
    pub(crate) fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let wrong = self.rng.random_range(-300_000..300_000);
        let id = NodeId(self.rng.random());
        self.nodes.push(Node {
            cluster: None,
            identity: Identity { name: format!("n{index}"), id, address: address(index), incarnation: 0 },
            disk: Store::default(),
            wrong,
            side: 0,
            paused: Duration::ZERO,
            refused: Vec::new(),
            not_taken: None,
            confirmed: BTreeMap::new(),
            sent: 0,
            tick: Duration::MAX,
        });
        index
    }

    /// Starts a node with what is on its disk.
    pub(crate) fn start(&mut self, index: usize, seeds: &[SocketAddr]) {
        let seed = self.rng.random();
        let now = self.now_of(index);
        let settings = self.settings.clone();
        let node = &mut self.nodes[index];
        assert!(node.cluster.is_none());
        node.identity.incarnation += 1;
        node.refused.clear();
        node.confirmed.clear();
        let mut cluster = Cluster::new(node.identity.clone(), node.disk.clone(), settings, seed, now);
        cluster.applied(now, cluster.version());
        cluster.join(now, seeds);
        node.cluster = Some(cluster);
        node.tick = Duration::MAX;
        self.drain(index);
    }

    /// Ends a node as a power cut does; its disk stays.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].cluster = None;
    }

    pub(crate) fn now_of(&self, index: usize) -> Now {
        let millis = u64::try_from(self.now.as_millis()).unwrap();
        let wall = (WALL + millis).saturating_add_signed(self.nodes[index].wrong);
        // Monotonic clocks begin anywhere.
        Now { monotonic: self.now + Duration::from_secs(index as u64), wall }
    }

    pub(crate) fn cluster(&self, index: usize) -> &Cluster {
        self.nodes[index].cluster.as_ref().unwrap()
    }

    /// Calls a node, and does what it wants done.
    pub(crate) fn call<T>(&mut self, index: usize, call: impl FnOnce(&mut Cluster, Now) -> T) -> T {
        let now = self.now_of(index);
        let result = call(self.nodes[index].cluster.as_mut().unwrap(), now);
        self.drain(index);
        result
    }

    pub(crate) fn write(&mut self, index: usize, name: &str, value: Option<&str>) -> Stamp {
        let write = Write { key: Key::new(Kind::Service, name), value: value.map(Into::into) };
        self.call(index, |cluster, now| cluster.write(now, vec![write]).unwrap())
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].cluster.is_some()).collect()
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].cluster.as_mut().and_then(Cluster::output) {
            match output {
                Output::Send { to, message, reliable } => self.send(index, to, &message, reliable),
                Output::Changed => {
                    let node = &mut self.nodes[index];
                    let cluster = node.cluster.as_ref().unwrap();
                    node.disk = cluster.store().clone();
                    let (start, version) = (node.identity.incarnation, cluster.version());
                    let after = self.applying.mul_f64(self.rng.random_range(0.3..1.0));
                    self.push(self.now + after, Event::Applied { node: index, start, version });
                }
                Output::Confirmed { id, missing } => {
                    self.nodes[index].confirmed.insert(id, missing);
                }
                Output::Refused { by, why } => self.nodes[index].refused.push(format!("{by}: {why}")),
                Output::NotTaken(fault) => self.nodes[index].not_taken = Some(fault.stamp),
            }
        }
        let Some(cluster) = &self.nodes[index].cluster else { return };
        let next = cluster.next();
        if next == Duration::MAX {
            return;
        }
        let next = next.saturating_sub(Duration::from_secs(index as u64)).max(self.now);
        if next < self.nodes[index].tick {
            self.nodes[index].tick = next;
            self.push(next, Event::Tick(index));
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, message: &[u8], reliable: bool) {
        assert!(message.len() <= if reliable { MOST_MESSAGE } else { MOST_DATAGRAM });
        if let Some(record) = &mut self.record {
            record.push(message.to_vec());
        }
        // What sealing, UDP and IP add; or TCP.
        self.nodes[from].sent += message.len() as u64 + if reliable { 200 } else { 64 };
        let to = index_of(to);
        if to >= self.nodes.len() {
            return;
        }
        let from = self.nodes[from].identity.address;
        let message: Arc<[u8]> = message.into();
        let lost = !reliable && self.rng.random_bool(self.weather.loss);
        let copies =
            if lost { 0 } else { 1 + u32::from(!reliable && self.rng.random_bool(self.weather.twice)) };
        for _ in 0..copies {
            let (least, most) = self.weather.latency;
            let mut after = self.rng.random_range(least..most);
            if self.rng.random_bool(0.05) {
                after *= 10;
            }
            if reliable {
                // A connection is opened first, and what is lost is sent again.
                after *= 3;
                if self.rng.random_bool(self.weather.loss) {
                    after += Duration::from_millis(200);
                }
            }
            self.push(self.now + after, Event::Deliver { to, from, message: message.clone() });
        }
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.count += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        let nanos = u64::try_from(at.as_nanos()).unwrap();
        self.queue.push((nanos, self.count, slot));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.queue.next() {
            if Duration::from_nanos(at) > end {
                break;
            }
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until something holds, looked at each 20 ms; returns how long it took.
    pub(crate) fn until(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        while self.now - begin <= most {
            if holds(self) {
                return Some(self.now - begin);
            }
            self.run(Duration::from_millis(20));
        }
        None
    }

    fn step(&mut self) {
        let Some((at, _, slot)) = self.queue.pop() else { return };
        self.now = Duration::from_nanos(at);
        self.free.push(slot);
        let Some(event) = self.events[slot].take() else { return };
        let node = match &event {
            Event::Tick(node) | Event::Deliver { to: node, .. } | Event::Applied { node, .. } => *node,
        };
        let paused = self.nodes[node].paused;
        if paused > self.now {
            self.push(paused, event);
            return;
        }
        match event {
            Event::Tick(index) => {
                self.nodes[index].tick = Duration::MAX;
                if self.nodes[index].cluster.is_some() {
                    self.call(index, Cluster::tick);
                }
            }
            Event::Deliver { to, from, message } => {
                let side = self.nodes.get(index_of(from)).map(|node| node.side);
                if self.nodes[to].cluster.is_some() && side == Some(self.nodes[to].side) {
                    self.call(to, |cluster, now| cluster.receive(now, from, &message));
                }
            }
            Event::Applied { node, start, version } => {
                let same = self.nodes[node].identity.incarnation == start;
                if same && self.nodes[node].cluster.is_some() {
                    self.call(node, |cluster, now| cluster.applied(now, version));
                }
            }
        }
    }

    /// How a node sees another.
    pub(crate) fn sees(&self, index: usize, other: usize) -> Option<MemberState> {
        let members = self.cluster(index).members();
        members
            .into_iter()
            .find(|member| member.identity.id == self.nodes[other].identity.id)
            .map(|member| member.state)
    }

    /// Whether each running node sees all running nodes alive, and no others.
    pub(crate) fn all_know_all(&self) -> bool {
        let running = self.running();
        // Looked at first, because it is quick.
        if running.iter().any(|index| self.cluster(*index).living() != running.len()) {
            return false;
        }
        let names: BTreeSet<&str> =
            running.iter().map(|index| self.nodes[*index].identity.name.as_str()).collect();
        running.iter().all(|index| {
            let members = self.cluster(*index).members();
            let mut living = members.iter().filter(|member| member.state.lives());
            living.all(|member| names.contains(member.identity.name.as_str()))
        })
    }

    /// Whether all running nodes have the same store.
    pub(crate) fn all_equal(&self) -> bool {
        let mut digests = self.running().into_iter().map(|index| self.cluster(index).store().digest());
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    pub(crate) fn entry(&self, index: usize, name: &str) -> Option<Entry> {
        self.cluster(index).store().entry(&Key::new(Kind::Service, name)).cloned()
    }

    pub(crate) fn value(&self, index: usize, name: &str) -> Option<String> {
        self.entry(index, name)?.value.map(|value| value.to_string())
    }
}

fn index_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => address.ip().to_bits().wrapping_sub(0x0a00_0001) as usize,
        SocketAddr::V6(_) => usize::MAX,
    }
}
