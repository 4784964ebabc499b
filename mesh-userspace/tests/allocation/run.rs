//! Random histories: nodes that create and remove networks, services and endpoints, on a network that loses datagrams and falls
//! apart.

use std::{collections::BTreeMap, net::IpAddr, rc::Rc, sync::LazyLock, time::Duration};

use ipnet::IpNet;
use mesh_cluster::{Entry, Key, Kind, Stamp, Store, Write};
use mesh_userspace::{
    replica::{Objects, changes},
    spec::{Allocation, Endpoint, Fault, Given, Membership, Network, Origin, Service, Spec, resolve_with},
};
use rand::{RngExt, seq::IndexedRandom};

use crate::{
    agent::Agent,
    history::{Confirmed, Exhausted, History, View, Wish, Written},
    network::{Network as Wires, Weather, address},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 5;
const STEP: Duration = Duration::from_millis(5);
/// As the agent looks anew at what it would write down.
const EVERY: Duration = Duration::from_secs(5);
const SERVICES: usize = 8;
const ENDPOINTS: usize = 40;

/// What becomes of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Partitions, kills and restarts, and commands on several nodes at once.
    Parted,
    /// Commands on several nodes at once.
    Crowded,
    /// Each change is everywhere before the next.
    Orderly,
}

/// A confirmation that is waited for.
struct Waiting {
    node: usize,
    start: u64,
    id: u64,
    written: Vec<usize>,
}

/// A random history.
pub(crate) struct Run {
    pub(crate) network: Wires,
    pub(crate) history: History,
    agents: Vec<Option<Agent>>,
    /// The last view of each node.
    last: Vec<usize>,
    waiting: Vec<Waiting>,
    wishes: BTreeMap<(Key, Stamp), Rc<Wish>>,
    batches: usize,
    /// How a faulty agent sees its store.
    seen_as: Option<fn(&Store) -> Store>,
}

/// Names of networks, some of which are given the same by nodes that do not hear of each other.
struct Names {
    /// Two that begin to look for a VNI at the same place.
    vni: [String; 2],
    /// Two that begin to look for a subnet at the same place.
    subnet: [String; 2],
}

impl Names {
    /// Found once: it takes thousands of names.
    fn found() -> &'static Self {
        static FOUND: LazyLock<Names> = LazyLock::new(Names::find);
        &FOUND
    }

    fn find() -> Self {
        let given = |name: &str| {
            let mut spec = Spec::default();
            spec.add_network(name, Network::default()).unwrap();
            let table = resolve_with(&spec, Allocation::Scattered).unwrap();
            let network = &table.networks[name];
            (network.vni, network.subnets[0])
        };
        let (mut vnis, mut subnets) = (BTreeMap::new(), BTreeMap::new());
        let (mut vni, mut subnet) = (None, None);
        for number in 0.. {
            let name = format!("net{number}");
            let (its_vni, its_subnet) = given(&name);
            if let Some(other) = subnets.insert(its_subnet, name.clone()) {
                subnet.get_or_insert([other, name.clone()]);
            }
            if let Some(other) = vnis.insert(its_vni, name.clone()) {
                vni = Some([other, name]);
                break;
            }
        }
        Self { vni: vni.unwrap(), subnet: subnet.unwrap() }
    }

    /// The networks that nodes create, by what they ask for: VNI and subnets.
    fn networks(&self) -> Vec<(String, Option<u32>, &'static [&'static str])> {
        let mut networks: Vec<_> =
            self.vni.iter().chain(&self.subnet).map(|name| (name.clone(), None, &[][..])).collect();
        networks.push(("red".to_owned(), Some(5000), &["10.201.0.0/28"]));
        networks.push(("green".to_owned(), Some(5000), &[]));
        networks.push(("tiny".to_owned(), None, &["10.202.0.0/29"]));
        networks.push(("small".to_owned(), None, &["10.203.0.0/29"]));
        networks.push(("both".to_owned(), None, &["10.204.0.0/29", "fd00:204::/64"]));
        networks
    }
}

/// What a command came to.
enum Outcome {
    Done,
    Refused(String),
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let mut network = Wires::new(seed);
        network.weather = Weather { loss: 0.1, ..Weather::bad() };
        network.applying = None;
        let mut run = Self {
            network,
            history: History::default(),
            agents: Vec::new(),
            last: vec![usize::MAX; NODES],
            waiting: Vec::new(),
            wishes: BTreeMap::new(),
            batches: 0,
            seen_as: None,
        };
        for _ in 0..NODES {
            run.network.add();
            run.agents.push(None);
        }
        for node in 0..NODES {
            run.start(node);
        }
        let is_ready = |run: &Self| {
            run.network.all_know_all()
                && (0..NODES).all(|node| run.history.views[run.last[node]].table.nodes.len() == NODES)
        };
        for _ in 0..4000 {
            if is_ready(&run) {
                return run;
            }
            run.step();
        }
        panic!("seed {seed}: the nodes have not found one another");
    }

    /// From now on all agents see their stores as something else.
    pub(crate) fn with_fault(mut self, seen_as: fn(&Store) -> Store) -> Self {
        self.seen_as = Some(seen_as);
        self
    }

    fn start(&mut self, node: usize) {
        self.network.start(node, &[address(0), address(1), address(2)]);
        let mut agent = Agent::new(self.network.nodes[node].identity.clone(), self.network.now);
        agent.looks = Some(self.network.now);
        agent.recalls = self.network.now + EVERY;
        self.agents[node] = Some(agent);
        self.catch_up(node);
    }

    fn kill(&mut self, node: usize) {
        self.network.kill(node);
        self.agents[node] = None;
    }

    /// Lets a little time pass.
    fn step(&mut self) {
        self.network.run(STEP);
        let now = self.network.now;
        for node in self.network.running() {
            let version = self.network.cluster(node).version();
            let Some(agent) = &mut self.agents[node] else { continue };
            if let Some((_, applied)) = agent.applies.take_if(|(at, _)| *at <= now) {
                self.network.call(node, |cluster, now| cluster.applied(now, applied));
            }
            if agent.applies.is_some() {
                continue;
            }
            if agent.recalls <= now {
                agent.recalls = now + EVERY;
                agent.recall();
                agent.looks = Some(now);
            }
            if version != agent.version && agent.looks.is_none() {
                let after = self.network.rng.random_range(0..10);
                agent.looks = Some(now + Duration::from_millis(after));
            }
            if agent.looks.take_if(|at| *at <= now).is_some() {
                self.catch_up(node);
            }
        }
        self.take_confirmed();
    }

    /// An agent takes over what its store is, writes what follows from it, and begins to apply it.
    fn catch_up(&mut self, node: usize) {
        // As in the agent: the rest waits for the next event.
        for _ in 0..4 {
            self.follow(node);
            let now = self.network.now;
            let Some(agent) = &mut self.agents[node] else { return };
            let writes = agent.pending(now);
            if writes.is_empty() {
                break;
            }
            self.history.amended += writes.iter().filter(|write| write.key.kind != Kind::Node).count();
            self.write(node, writes);
        }
        let after = Duration::from_millis(self.network.rng.random_range(5..30));
        let now = self.network.now;
        if let Some(agent) = &mut self.agents[node] {
            agent.applies = Some((now + after, agent.version));
        }
    }

    fn follow(&mut self, node: usize) {
        let Some(agent) = &mut self.agents[node] else { return };
        if !agent.follow(self.network.cluster(node), self.seen_as) {
            return;
        }
        let wishes = &mut self.wishes;
        let objects = agent.objects.iter().map(|(key, read)| {
            let wish = wishes.entry((key.clone(), read.stamp)).or_insert_with(|| Rc::new(Wish::of(read)));
            (key.clone(), wish.clone())
        });
        let objects = objects.collect();
        let (table, aside) = (agent.table.clone(), agent.settled.aside.clone());
        self.last[node] = self.history.views.len();
        self.history.views.push(View { node, digest: agent.digest(), table, objects, aside });
    }

    /// Writes, and notes it; returns which writes these are.
    fn write(&mut self, node: usize, writes: Vec<Write>) -> Vec<usize> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let store = self.network.cluster(node).store();
        let before: Vec<Option<Stamp>> = keys.iter().map(|key| Some(store.entry(key)?.stamp)).collect();
        self.network.call(node, |cluster, now| cluster.write(now, writes).unwrap());
        let store = self.network.cluster(node).store();
        let objects = Objects::of(store);
        self.batches += 1;
        let first = self.history.written.len();
        for (key, before) in keys.into_iter().zip(before) {
            let stamp = store.entry(&key).unwrap().stamp;
            let wish = objects.get(&key).map(|read| Rc::new(Wish::of(read)));
            let (view, batch) = (self.last[node], self.batches);
            self.history.written.push(Written { key, stamp, wish, before, view, batch });
        }
        (first..self.history.written.len()).collect()
    }

    /// A command on a node, as the agent does it.
    fn command(&mut self, node: usize, change: impl FnOnce(&mut Spec) -> Result<(), Fault>) -> Outcome {
        self.follow(node);
        let Some(agent) = &self.agents[node] else { return Outcome::Done };
        let mut after = agent.settled.spec.clone();
        if let Err(fault) = change(&mut after) {
            return Outcome::Refused(fault.to_string());
        }
        let writes = match changes(&agent.settled, after) {
            Ok(writes) => writes,
            Err(faults) => return Outcome::Refused(faults.to_string()),
        };
        if writes.iter().any(|write| agent.settled.aside.contains_key(&write.key)) {
            return Outcome::Refused("it is set aside".to_owned());
        }
        self.done(node, writes);
        Outcome::Done
    }

    /// A command that is not refused; half of them wait for everybody.
    fn done(&mut self, node: usize, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let keys = writes.iter().map(|write| write.key.clone()).collect();
        let written = self.write(node, writes);
        self.catch_up(node);
        if self.network.rng.random_bool(0.5) {
            let start = self.network.nodes[node].identity.incarnation;
            let id = self.network.call(node, |cluster, now| cluster.confirm(now, keys));
            self.waiting.push(Waiting { node, start, id, written });
        }
    }

    /// Removes an object, also one that is set aside.
    fn remove(
        &mut self,
        node: usize,
        key: Key,
        change: impl FnOnce(&mut Spec) -> Result<(), Fault>,
    ) -> Outcome {
        self.follow(node);
        if self.agents[node].as_ref().is_some_and(|agent| agent.settled.aside.contains_key(&key)) {
            self.done(node, vec![Write { key, value: None }]);
            return Outcome::Done;
        }
        self.command(node, change)
    }

    /// Notes which confirmations have come.
    fn take_confirmed(&mut self) {
        let Self { network, history, waiting, last, .. } = self;
        waiting.retain(|Waiting { node, start, id, written }| {
            let is_same = network.nodes[*node].identity.incarnation == *start;
            let is_confirmed = network.nodes[*node].confirmed.get(id).is_some_and(Vec::is_empty);
            if is_same && is_confirmed {
                let views: Vec<usize> = network.running().into_iter().map(|node| last[node]).collect();
                let at = history.views.len();
                let given = written.iter().filter_map(|number| {
                    let Written { key, wish, .. } = &history.written[*number];
                    Some((key.clone(), wish.as_ref()?.created))
                });
                let view = last[*node];
                let confirmed =
                    given.map(|(key, created)| Confirmed { key, created, view, at, views: views.clone() });
                history.confirmed.extend(confirmed.collect::<Vec<_>>());
            }
            is_same && !is_confirmed
        });
    }

    /// Some command, on some node.
    pub(crate) fn ask(&mut self) {
        let Some(node) = self.network.running().choose(&mut self.network.rng).copied() else { return };
        let what = self.network.rng.random_range(0..100);
        let outcome = match what {
            0..10 => self.create_network(node),
            10..26 => self.create_service(node),
            26..70 => self.attach(node),
            70..86 => {
                let name = format!("e{}", self.network.rng.random_range(0..ENDPOINTS));
                let key = Key::new(Kind::Endpoint, &name);
                self.remove(node, key, |spec| spec.remove_endpoint(&name).map(drop))
            }
            86..93 => {
                let name = format!("s{}", self.network.rng.random_range(0..SERVICES));
                self.remove(node, Key::new(Kind::Service, &name), |spec| remove_service(spec, &name))
            }
            93..96 => {
                let (name, ..) = Names::found().networks().choose(&mut self.network.rng).unwrap().clone();
                self.remove(node, Key::new(Kind::Network, &name), |spec| spec.remove_network(&name).map(drop))
            }
            _ => self.weigh(node),
        };
        if let Outcome::Refused(why) = outcome
            && why.contains("has no free IPv4")
            && let Some((_, full)) = why.split_once("The network \"")
        {
            let network = full.split('"').next().unwrap().to_owned();
            self.history.exhausted.push(Exhausted { network, view: self.last[node] });
        }
    }

    fn create_network(&mut self, node: usize) -> Outcome {
        let (name, vni, subnets) = Names::found().networks().choose(&mut self.network.rng).unwrap().clone();
        let network = Network {
            vni: vni.map(Given::from),
            subnets: subnets.iter().map(|subnet| subnet.parse::<IpNet>().unwrap().into()).collect(),
            ..Network::default()
        };
        self.command(node, |spec| spec.add_network(&name, network))
    }

    /// Some name, mostly one that is free as far as a node knows.
    fn some_name(&mut self, node: usize, kind: Kind, stem: &str, many: usize) -> String {
        let number = self.network.rng.random_range(0..many);
        let any = self.network.rng.random_bool(0.15);
        let is_free = |name: &String| {
            let agent = self.agents[node].as_ref();
            agent.is_none_or(|agent| agent.objects.get(&Key::new(kind, name)).is_none())
        };
        let mut names = (0..many).map(|more| format!("{stem}{}", (number + more) % many));
        names.find(|name| any || is_free(name)).unwrap_or_else(|| format!("{stem}{number}"))
    }

    /// Some networks that a node knows.
    fn some_networks(&mut self, node: usize, most: usize) -> Vec<String> {
        let networks: Vec<String> =
            self.agents[node].iter().flat_map(|agent| agent.settled.spec.networks.keys().cloned()).collect();
        let many = self.network.rng.random_range(1..=most);
        networks.sample(&mut self.network.rng, many).cloned().collect()
    }

    /// Some address of a network that a node knows.
    fn some_address(&mut self, node: usize, network: &str) -> Option<IpAddr> {
        let subnets = &self.agents[node].as_ref()?.table.networks.get(network)?.subnets;
        let hosts: Vec<IpAddr> = subnets.first()?.hosts().skip(1).take(6).collect();
        hosts.choose(&mut self.network.rng).copied()
    }

    fn create_service(&mut self, node: usize) -> Outcome {
        let name = self.some_name(node, Kind::Service, "s", SERVICES);
        let networks = self.some_networks(node, 2);
        let mut service =
            Service { networks: networks.iter().cloned().map(Given::from).collect(), ..Service::default() };
        if let Some(network) = networks.first()
            && self.network.rng.random_bool(0.25)
            && let Some(vip) = self.some_address(node, network)
        {
            service.vips.insert(network.clone(), vec![vip.into()]);
        }
        self.command(node, |spec| spec.add_service(&name, service))
    }

    fn attach(&mut self, node: usize) -> Outcome {
        let name = self.some_name(node, Kind::Endpoint, "e", ENDPOINTS);
        let Some(network) = self.some_networks(node, 1).pop() else { return Outcome::Done };
        let services: Vec<String> = self.agents[node]
            .iter()
            .flat_map(|agent| &agent.settled.spec.services)
            .filter(|(_, service)| service.networks.iter().any(|on| on.value == network))
            .map(|(name, _)| name.clone())
            .collect();
        let is_task = self.network.rng.random_bool(0.4);
        let service = services.choose(&mut self.network.rng).filter(|_| is_task).cloned();
        let asks = self.network.rng.random_bool(0.3);
        let addresses = if asks { self.some_address(node, &network) } else { None };
        let endpoint = Endpoint {
            origin: Origin::default(),
            netns: Some(std::path::PathBuf::from(format!("/run/netns/{name}")).into()),
            name: name.into(),
            node: self.network.nodes[node].identity.name.clone().into(),
            service: service.map(Given::from),
            weight: None,
            network: network.into(),
            addresses: addresses.into_iter().map(Given::from).collect(),
            mac: None,
            aliases: Vec::new(),
            remembered: Vec::new(),
        };
        self.command(node, |spec| spec.add_endpoint(endpoint))
    }

    /// Changes a backend's weight, wherever it is: a whole entry is written for it.
    fn weigh(&mut self, node: usize) -> Outcome {
        let tasks: Vec<(String, String)> = self.agents[node]
            .iter()
            .flat_map(|agent| &agent.settled.spec.endpoints)
            .filter_map(|endpoint| {
                Some((endpoint.name.value.clone(), endpoint.service.as_ref()?.value.clone()))
            })
            .collect();
        let Some((name, service)) = tasks.choose(&mut self.network.rng).cloned() else {
            return Outcome::Done;
        };
        let weight = self.network.rng.random_range(0..10);
        let now = Membership { service: Some(service), weight: Some(weight) };
        self.command(node, |spec| spec.set_membership(&name, now, &Origin::default()))
    }

    fn disturb(&mut self) {
        match self.network.rng.random_range(0..10) {
            0..=2 => {
                for node in 0..NODES {
                    self.network.nodes[node].side = self.network.rng.random_range(0..2);
                }
            }
            3..=5 => {
                for node in &mut self.network.nodes {
                    node.side = 0;
                }
            }
            6..=8 => {
                let node = self.network.rng.random_range(0..NODES);
                if self.network.nodes[node].cluster.is_some() {
                    self.kill(node);
                } else {
                    self.start(node);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.network.now + time;
        while self.network.now < end {
            self.step();
        }
    }

    /// So many commands, some of them at once.
    pub(crate) fn rounds(mut self, many: usize, how: How) -> Self {
        self.history.is_orderly = how == How::Orderly;
        for round in 0..many {
            self.ask();
            if how == How::Orderly {
                self.rest();
            } else if self.network.rng.random_bool(0.8) {
                let pause = self.network.rng.random_range(1..400);
                self.wait(Duration::from_millis(pause));
            }
            if how == How::Parted && round % 5 == 4 {
                self.disturb();
            }
        }
        self
    }

    /// Lets time pass until everybody has taken over everything.
    pub(crate) fn rest(&mut self) {
        let begin = self.network.now;
        let is_over = |run: &Self| {
            let mut digests = run.last.iter().map(|view| run.history.views[*view].digest);
            let first = digests.next();
            run.network.all_equal()
                && run.network.all_know_all()
                && digests.all(|digest| Some(digest) == first)
        };
        while self.network.now - begin < 20 * SECOND {
            // Until it is not only that nobody has begun.
            self.wait(SECOND / 10);
            if is_over(self) {
                return;
            }
        }
    }

    /// Everybody comes back, with what the disks have.
    pub(crate) fn heal(&mut self) {
        for node in &mut self.network.nodes {
            node.side = 0;
        }
        for node in 0..NODES {
            if self.network.nodes[node].cluster.is_none() {
                self.start(node);
            }
        }
    }

    /// All nodes lose what came after some moment.
    pub(crate) fn fall_back(&mut self, disks: Vec<Store>) {
        for (node, disk) in disks.into_iter().enumerate() {
            self.kill(node);
            self.network.nodes[node].disk = disk;
        }
    }

    pub(crate) fn disks(&self) -> Vec<Store> {
        self.network.nodes.iter().map(|node| node.disk.clone()).collect()
    }

    /// All nodes come back and hear of each other, until nothing changes any more.
    pub(crate) fn finish(mut self) -> History {
        self.heal();
        self.wait(SECOND / 5);
        self.rest();
        // What settling has moved is written down by then.
        self.wait(6 * SECOND);
        self.history.ends = self.last.clone();
        self.history
    }
}

/// As the agent does: its tasks stay on their networks.
fn remove_service(spec: &mut Spec, name: &str) -> Result<(), Fault> {
    let tasks = spec.endpoints.iter().filter(|endpoint| endpoint.is_backend_of(name));
    let tasks: Vec<String> = tasks.map(|endpoint| endpoint.name.value.clone()).collect();
    for task in tasks {
        spec.set_membership(&task, Membership::default(), &Origin::default())?;
    }
    spec.remove_service(name).map(drop)
}

/// A store in which what came last seems to have come first.
pub(crate) fn turned_about(store: &Store) -> Store {
    const LATEST: u64 = 1 << 60;
    let mut other = Store::default();
    for (key, entry) in store.entries() {
        let created = Stamp { time: LATEST - entry.created.time, ..entry.created };
        let stamp = Stamp { time: LATEST, ..entry.stamp };
        other.merge(key.clone(), Entry { created, stamp, ..entry.clone() }).unwrap();
    }
    other
}
