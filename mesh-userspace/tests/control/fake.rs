//! An agent that only pretends: a mesh of three nodes in memory, and a server for it on a real socket.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use mesh_common::{
    Reason,
    abi::{self, Family},
};
use mesh_userspace::{
    api::{
        Attachment, Change, Changed, Control, FlowDump, KeyChange, Lookup, Refusal, RefusalKind, Snapshot,
        TraceStream, Uplink, bind,
        client::Client,
        server,
        types::{ClusterKey, MapUse, Program},
    },
    table::{Endpoint, Network, Node, Protocol, PublishMode, PublishedPort, Scheduler, Service, Table},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// A directory of its own, removed at the end of the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mesh-control-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing that a test could do about it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A ring of the pretended kernel maps: which service, chosen how, to which port, and the addresses in its slots.
#[derive(Clone)]
pub(crate) struct Ring {
    pub(crate) service: &'static str,
    pub(crate) scheduler: abi::Scheduler,
    pub(crate) target_port: u16,
    pub(crate) slots: Vec<&'static str>,
}

/// The pretended kernel maps.
#[derive(Clone, Default)]
pub(crate) struct Maps {
    services: BTreeMap<abi::ServiceKey, abi::Service>,
    slots: Vec<abi::Slot>,
    backends: Vec<abi::Backend>,
    names: Vec<&'static str>,
}

pub(crate) const SEED: u64 = 0x6d65_7368;

/// The VNI of every backend here.
pub(crate) const BLUE: u32 = 4097;

impl Maps {
    pub(crate) fn add(&mut self, key: abi::ServiceKey, ring: &Ring) {
        let id = match self.names.iter().position(|name| *name == ring.service) {
            Some(position) => position,
            None => {
                self.names.push(ring.service);
                self.names.len() - 1
            }
        };
        let first_slot = u32::try_from(self.slots.len()).unwrap();
        for address in &ring.slots {
            let current = self.backend_index(ip(address));
            self.slots.push(abi::Slot::new(current, [0; 2]));
        }
        let service = abi::Service {
            // Numbers begin at 1: 0 is none.
            id: u32::try_from(id).unwrap() + 1,
            first_slot,
            slots: u32::try_from(ring.slots.len()).unwrap(),
            target_port: ring.target_port.to_be_bytes(),
            scheduler: ring.scheduler as u8,
            reserved: 0,
            flags: 0,
            persistent: 0,
        };
        self.services.insert(key, service);
    }

    pub(crate) fn set_flags(&mut self, key: &abi::ServiceKey, flags: u32) {
        self.services.get_mut(key).unwrap().flags = flags;
    }

    pub(crate) fn backend_index(&mut self, address: IpAddr) -> u32 {
        let address = abi::Address::from(address);
        let position = match self.backends.iter().position(|backend| backend.address == address) {
            Some(position) => position,
            None => {
                self.backends.push(abi::Backend { address, vni: BLUE, ..abi::Backend::default() });
                self.backends.len() - 1
            }
        };
        u32::try_from(position).unwrap() + 1
    }
}

impl Lookup for Maps {
    fn seed(&self) -> u64 {
        SEED
    }

    fn service(&self, key: &abi::ServiceKey) -> Option<abi::Service> {
        self.services.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<abi::Slot> {
        self.slots.get(usize::try_from(index).unwrap()).copied()
    }

    fn backend(&self, index: abi::BackendIndex) -> Option<abi::Backend> {
        self.backends.get(usize::try_from(index.checked_sub(1)?).unwrap()).copied()
    }

    fn service_name(&self, id: u32) -> Option<String> {
        Some((*self.names.get(usize::try_from(id.checked_sub(1)?).unwrap())?).to_owned())
    }

    fn interface_name(&self, index: u32) -> Option<String> {
        (index == 2).then(|| "eth0".to_owned())
    }

    fn node_name(&self, index: abi::NodeIndex) -> Option<String> {
        (1..=3).contains(&index).then(|| format!("n{index}"))
    }
}

/// A virtual IP on blue.
pub(crate) fn vip(address: &str) -> abi::ServiceKey {
    abi::ServiceKey {
        address: ip(address).into(),
        scope: BLUE,
        port: [0; 2],
        protocol: 0,
        family: if ip(address).is_ipv4() { Family::V4 as u8 } else { Family::V6 as u8 },
    }
}

/// A published port.
pub(crate) fn published(port: u16, protocol: Protocol, family: Family) -> abi::ServiceKey {
    abi::ServiceKey {
        address: abi::Address::UNSPECIFIED,
        scope: 0,
        port: port.to_be_bytes(),
        protocol: match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
        family: family as u8,
    }
}

fn endpoint(node: &str, service: Option<&str>, network: &str, addresses: &[&str], netns: &str) -> Endpoint {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
    let [a, b, c, d] = match addresses[0] {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("the first address is IPv4 here"),
    };
    Endpoint {
        node: node.to_owned(),
        service: service.map(str::to_owned),
        weight: 1,
        network: network.to_owned(),
        addresses,
        mac: [2, 0x42, a, b, c, d],
        netns: Some(PathBuf::from(format!("/run/netns/{netns}"))),
        aliases: vec![],
    }
}

fn port(published: u16, target: u16, protocol: Protocol, mode: PublishMode) -> PublishedPort {
    PublishedPort { published, target, protocol, mode, ..PublishedPort::default() }
}

fn service(network: &str, vips: &[&str], scheduler: Scheduler, ports: Vec<PublishedPort>) -> Service {
    Service {
        vips: [(network.to_owned(), vips.iter().map(|address| ip(address)).collect())].into(),
        scheduler,
        endpoint_mode: mesh_userspace::table::EndpointMode::Vip,
        on_no_backend: mesh_userspace::table::OnNoBackend::Reject,
        persistent: None,
        health_check: None,
        ports,
        external: vec![],
        aliases: vec![],
    }
}

/// Three nodes; blue (dual stack) with `search` (mh, 9200) on all, `turns` (rr, 8000→80) on two of them and `agent`
/// (mode host, 9100); vault, internal, with `db`; green, which shares an address with blue.
pub(crate) fn table() -> Table {
    let node = |address: &str| Node { address: ip(address), interface: Some("eth0".to_owned()) };
    let network = |vni, subnets: &[&str], internal| Network {
        vni,
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        internal,
        mtu: None,
    };
    use PublishMode::{Host, Ingress};
    Table {
        nodes: [
            ("n1".to_owned(), node("192.0.2.1")),
            ("n2".to_owned(), node("192.0.2.2")),
            ("n3".to_owned(), node("192.0.2.3")),
        ]
        .into(),
        networks: [
            ("blue".to_owned(), network(BLUE, &["10.0.9.0/24", "fd00:9::/64"], false)),
            ("green".to_owned(), network(4099, &["10.0.9.0/24"], false)),
            ("vault".to_owned(), network(4098, &["10.0.10.0/24"], true)),
        ]
        .into(),
        services: [
            (
                "agent".to_owned(),
                service("blue", &["10.0.9.4"], Scheduler::Mh, vec![port(9100, 9100, Protocol::Tcp, Host)]),
            ),
            ("db".to_owned(), service("vault", &["10.0.10.2"], Scheduler::Mh, vec![])),
            (
                "search".to_owned(),
                service(
                    "blue",
                    &["10.0.9.2", "fd00:9::2"],
                    Scheduler::Mh,
                    vec![port(9200, 9200, Protocol::Tcp, Ingress)],
                ),
            ),
            (
                "turns".to_owned(),
                service("blue", &["10.0.9.3"], Scheduler::Rr, vec![port(8000, 80, Protocol::Tcp, Ingress)]),
            ),
        ]
        .into_iter()
        .collect(),
        endpoints: [
            ("agent.2".to_owned(), endpoint("n2", Some("agent"), "blue", &["10.0.9.32"], "agent2")),
            ("db.1".to_owned(), endpoint("n1", Some("db"), "vault", &["10.0.10.11"], "db1")),
            (
                "search.1".to_owned(),
                endpoint("n1", Some("search"), "blue", &["10.0.9.11", "fd00:9::a00:90b"], "s1"),
            ),
            (
                "search.2".to_owned(),
                endpoint("n2", Some("search"), "blue", &["10.0.9.12", "fd00:9::a00:90c"], "s2"),
            ),
            (
                "search.3".to_owned(),
                endpoint("n3", Some("search"), "blue", &["10.0.9.13", "fd00:9::a00:90d"], "s3"),
            ),
            ("tool".to_owned(), endpoint("n1", None, "blue", &["10.0.9.40"], "tool")),
            ("turns.1".to_owned(), endpoint("n1", Some("turns"), "blue", &["10.0.9.21"], "t1")),
            ("turns.2".to_owned(), endpoint("n2", Some("turns"), "blue", &["10.0.9.22"], "t2")),
            ("twin".to_owned(), endpoint("n2", None, "green", &["10.0.9.40"], "twin")),
        ]
        .into_iter()
        .collect(),
        ..Table::default()
    }
}

/// The maps that go with [`table`], as node n1 has them.
pub(crate) fn maps() -> Maps {
    let mut maps = Maps::default();
    let search = |slots: [&'static str; 3], target_port| Ring {
        service: "search",
        scheduler: abi::Scheduler::Mh,
        target_port,
        slots: slots.iter().copied().cycle().take(7).collect(),
    };
    let v4 = ["10.0.9.11", "10.0.9.12", "10.0.9.13"];
    let v6 = ["fd00:9::a00:90b", "fd00:9::a00:90c", "fd00:9::a00:90d"];
    maps.add(vip("10.0.9.2"), &search(v4, 0));
    maps.add(vip("fd00:9::2"), &search(v6, 0));
    maps.add(published(9200, Protocol::Tcp, Family::V4), &search(v4, 9200));
    maps.add(published(9200, Protocol::Tcp, Family::V6), &search(v6, 9200));
    let turns = |target_port| Ring {
        service: "turns",
        scheduler: abi::Scheduler::Rr,
        target_port,
        slots: vec!["10.0.9.21", "10.0.9.22"],
    };
    maps.add(vip("10.0.9.3"), &turns(0));
    maps.add(published(8000, Protocol::Tcp, Family::V4), &turns(80));
    maps
}

pub(crate) fn snapshot() -> Snapshot {
    let uplink = || Uplink { interface: "eth0".to_owned(), mtu: 1500 };
    let attached = |host: &str| Attachment {
        interface: Some("eth0".to_owned()),
        host_interface: Some(host.to_owned()),
        waiting: None,
    };
    Snapshot {
        node: "n1".to_owned(),
        started: SystemTime::now() - Duration::from_secs(3_700),
        revision: 7,
        table: Arc::new(table()),
        lookup: Arc::new(maps()),
        programs: vec![Program {
            target: "eth0".to_owned(),
            name: "underlay_tc".to_owned(),
            mode: "tcx ingress".to_owned(),
            id: 42,
        }],
        uplinks: [("n2".to_owned(), uplink()), ("n3".to_owned(), uplink())].into(),
        attachments: [
            ("db.1".to_owned(), attached("mesh00000001")),
            ("search.1".to_owned(), attached("mesh00000002")),
            ("turns.1".to_owned(), attached("mesh00000003")),
            ("tool".to_owned(), attached("mesh00000004")),
        ]
        .into(),
        mtus: [("blue".to_owned(), 1450), ("vault".to_owned(), 1450)].into(),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1"), ip("10.77.0.1")],
        serving: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        healths: Default::default(),
        cluster: None,
        problems: vec![],
    }
}

/// The endpoint of a name or an address.
fn named<'t>(table: &'t mut Table, text: &str) -> Option<(String, &'t mut Endpoint)> {
    let has = |endpoint: &Endpoint| endpoint.addresses.iter().any(|address| address.to_string() == text);
    let mut endpoints = table.endpoints.iter();
    let name = endpoints.find(|(name, endpoint)| *name == text || has(endpoint))?.0.clone();
    table.endpoints.get_mut(&name).map(|endpoint| (name, endpoint))
}

/// An agent that only pretends.
pub(crate) struct Fake {
    snapshot: Mutex<Arc<Snapshot>>,
    /// What it was asked for, in order.
    pub(crate) changes: Mutex<Vec<Change>>,
    /// How long the last change waits for the other nodes.
    pub(crate) waited: Mutex<Option<Duration>>,
    /// What the next change is refused with.
    pub(crate) refuse: Mutex<Option<Refusal>>,
    pub(crate) flows: Mutex<FlowDump>,
    pub(crate) maps: Mutex<Vec<MapUse>>,
    pub(crate) drops: Mutex<Vec<u64>>,
    /// How often a packet is traced at the moment; 0 for never.
    pub(crate) traced: Arc<AtomicU32>,
    /// How many lines a trace has; endless where it is none.
    pub(crate) lines: Mutex<Option<usize>>,
    pub(crate) keys: Mutex<Vec<ClusterKey>>,
    /// The texts of the keys that were installed.
    pub(crate) installed: Mutex<Vec<String>>,
    pub(crate) is_down: AtomicBool,
    /// Answers only after this long.
    pub(crate) delay: Mutex<Duration>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            snapshot: Mutex::new(Arc::new(snapshot())),
            changes: Mutex::default(),
            waited: Mutex::default(),
            refuse: Mutex::default(),
            flows: Mutex::default(),
            maps: Mutex::new(vec![map_use("FLOWS", 12, 65_536)]),
            drops: Mutex::default(),
            traced: Arc::default(),
            lines: Mutex::default(),
            is_down: AtomicBool::default(),
            keys: Mutex::new(vec![key("0011223344556677", true)]),
            installed: Mutex::default(),
            delay: Mutex::default(),
        }
    }
}

/// A key that two nodes have.
pub(crate) fn key(id: &str, in_use: bool) -> ClusterKey {
    ClusterKey { id: id.to_owned(), in_use, nodes: Some(2) }
}

impl Fake {
    /// Alters what is.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut held = self.snapshot.lock().unwrap();
        edit(Arc::make_mut(&mut held));
    }

    fn apply(&self, change: &Change) -> Result<String, Refusal> {
        let missing = |noun: &str, name: &str| {
            Refusal::new(RefusalKind::NotFound, format!("there is no {noun} {name:?}"), "look again")
        };
        let mut snapshot = self.snapshot.lock().unwrap();
        let snapshot = Arc::make_mut(&mut snapshot);
        let table = Arc::make_mut(&mut snapshot.table);
        snapshot.revision += 1;
        Ok(match change {
            Change::CreateNetwork(network) => {
                if table.networks.contains_key(&network.name) {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        format!("there is a network {:?} already", network.name),
                        "choose another name",
                    ));
                }
                let subnets = if network.subnets.is_empty() {
                    vec!["10.1.0.0/24".parse().unwrap()]
                } else {
                    network.subnets.clone()
                };
                let made = Network {
                    vni: network.vni.unwrap_or(5000),
                    subnets,
                    internal: network.internal,
                    mtu: None,
                };
                table.networks.insert(network.name.clone(), made);
                network.name.clone()
            }
            Change::RemoveNode(name) => name.clone(),
            Change::RemoveNetwork(name) => {
                table.networks.remove(name).ok_or_else(|| missing("network", name))?;
                name.clone()
            }
            Change::CreateService(asked) => {
                let network = asked.networks.first().cloned().unwrap_or_default();
                let vips: Vec<String> = asked.vips.iter().map(|vip| vip.address.to_string()).collect();
                let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
                let mut made = service(&network, &vips, asked.scheduler, asked.ports.clone());
                made.endpoint_mode = asked.endpoint_mode;
                made.on_no_backend = asked.on_no_backend;
                made.persistent = asked.persistent;
                table.services.insert(asked.name.clone(), made);
                asked.name.clone()
            }
            Change::RemoveService(name) => {
                table.services.remove(name).ok_or_else(|| missing("service", name))?;
                name.clone()
            }
            Change::Attach(asked) => {
                let name = asked.name.clone().unwrap_or_else(|| "task.1".to_owned());
                let address = asked.address.unwrap_or_else(|| ip("10.0.9.99")).to_string();
                let mut made = endpoint("n1", asked.service.as_deref(), &asked.network, &[&address], "");
                made.netns = Some(PathBuf::from(&asked.netns));
                table.endpoints.insert(name.clone(), made);
                let attachment = Attachment {
                    interface: Some("eth0".to_owned()),
                    host_interface: Some("mesh0badcafe".to_owned()),
                    waiting: None,
                };
                snapshot.attachments.insert(name.clone(), attachment);
                name
            }
            Change::Detach(name) => {
                table.endpoints.remove(name).ok_or_else(|| missing("endpoint", name))?;
                name.clone()
            }
            Change::AddBackend { service, asked } => {
                let (name, endpoint) =
                    named(table, &asked.backend).ok_or_else(|| missing("endpoint", &asked.backend))?;
                endpoint.service = Some(service.clone());
                endpoint.weight = asked.weight.unwrap_or(1);
                name
            }
            Change::RemoveBackend { backend, .. } => {
                let (name, endpoint) = named(table, backend).ok_or_else(|| missing("backend", backend))?;
                endpoint.service = None;
                name
            }
            Change::WeighBackend { backend, weight, .. } => {
                let (name, endpoint) = named(table, backend).ok_or_else(|| missing("backend", backend))?;
                endpoint.weight = *weight;
                name
            }
        })
    }
}

/// The trace of a TCP packet from 198.51.100.9:40000 to 192.0.2.1:9200 that came in by interface 2 and is delivered by
/// interface 7; seen so many nanoseconds after the machine started.
fn record(time: u64) -> abi::Trace {
    let mut bytes = [0; abi::TRACE_BYTES];
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..34].copy_from_slice(&[0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1]);
    bytes[34..38].copy_from_slice(&[0x9c, 0x40, 0x23, 0xf0]);
    bytes[47] = 2;
    abi::Trace {
        time,
        ifindex: 2,
        detail: 7,
        length: 74,
        hook: abi::Hook::Underlay as u8,
        outcome: abi::Outcome::Deliver as u8,
        reserved: 0,
        captured: 74,
        bytes,
    }
}

/// Tells that nobody listens to a trace any longer.
struct Traced(Arc<AtomicU32>);

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

impl Control for Fake {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock().unwrap())
    }

    async fn change(&self, change: Change, wait: Option<Duration>) -> Result<Changed, Refusal> {
        *self.waited.lock().unwrap() = wait;
        if let Some(refusal) = self.refuse.lock().unwrap().take() {
            return Err(refusal);
        }
        let name = self.apply(&change)?;
        self.changes.lock().unwrap().push(change);
        Ok(Changed { name, revision: self.snapshot().revision })
    }

    async fn flows(&self) -> Result<FlowDump, Refusal> {
        Ok(self.flows.lock().unwrap().clone())
    }

    async fn drops(&self) -> Result<Vec<u64>, Refusal> {
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        if let Some(refusal) = self.refuse.lock().unwrap().take() {
            return Err(refusal);
        }
        Ok(self.drops.lock().unwrap().clone())
    }

    async fn counters(&self) -> Result<Vec<abi::Counter>, Refusal> {
        let mut counters = vec![abi::Counter::default(); usize::try_from(abi::Counter::COUNT).unwrap()];
        let index = abi::Counter::index(abi::Hook::Xdp, abi::Outcome::Transmit);
        counters[usize::try_from(index).unwrap()] = abi::Counter { packets: 5, bytes: 500 };
        Ok(counters)
    }

    async fn map_uses(&self) -> Result<Vec<MapUse>, Refusal> {
        Ok(self.maps.lock().unwrap().clone())
    }

    async fn trace(&self, every: u32) -> Result<TraceStream, Refusal> {
        self.traced.store(every, Ordering::SeqCst);
        let guard = Traced(Arc::clone(&self.traced));
        let numbered = stream::unfold((0, guard), move |(number, guard)| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((record(number), (number + 1, guard)))
        });
        let limit = self.lines.lock().unwrap().unwrap_or(usize::MAX);
        Ok(Box::pin(numbered.take(limit)))
    }

    async fn leave(&self, wait: Duration) -> Result<(), Refusal> {
        *self.waited.lock().unwrap() = Some(wait);
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<ClusterKey>, Refusal> {
        if let Some(refusal) = self.refuse.lock().unwrap().take() {
            return Err(refusal);
        }
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn change_key(&self, change: KeyChange) -> Result<String, Refusal> {
        if let Some(refusal) = self.refuse.lock().unwrap().take() {
            return Err(refusal);
        }
        let mut keys = self.keys.lock().unwrap();
        Ok(match change {
            KeyChange::Install(text) => {
                keys.push(key("8899aabbccddeeff", false));
                self.installed.lock().unwrap().push(text.0);
                "8899aabbccddeeff".to_owned()
            }
            KeyChange::Use(id) => {
                for key in keys.iter_mut() {
                    key.in_use = key.id == id;
                }
                id
            }
            KeyChange::Remove(id) => {
                keys.retain(|key| key.id != id);
                id
            }
        })
    }

    async fn down(&self) -> Result<(), Refusal> {
        self.is_down.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// A server for a [`Fake`] on a socket of its own.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    directory: Directory,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = Directory::new();
        let fake = Arc::new(Fake::default());
        let listener = bind(&directory.path().join("meshd.sock")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server::serve(listener, Arc::clone(&fake), async {
            // A test that ends without a word ends the server as well.
            let _ = stopped.await;
        }));
        Self { fake, directory, stop: Some(stop), task }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("meshd.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// An orderly end.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), &mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A map of which so many entries are used.
pub(crate) fn map_use(name: &str, entries: u64, capacity: u64) -> MapUse {
    MapUse { name: name.to_owned(), entries: Some(entries), capacity, lost: 0 }
}

/// Counts of drops, by reason.
pub(crate) fn dropped(counts: &[(Reason, u64)]) -> Vec<u64> {
    let mut all = vec![0; Reason::ALL.len()];
    for (reason, count) in counts {
        all[*reason as usize] = *count;
    }
    all
}
