//! What the server asks of the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::Stream;
use mesh_common::abi;

use super::types::{
    Attach, BackendAdd, ClusterKey, KeyText, MapUse, NetworkCreate, NodeState, Problem, Program,
    ServiceCreate,
};
use crate::table::{Healths, Table};

/// The agent, as the API sees it: one published picture of what is, and a few things to ask for.
///
/// Reading never waits for the agent: [`Control::snapshot`] is a pointer. What changes the mesh goes through
/// [`Control::change`], which answers when this node has applied the change, so that the next snapshot shows it.
pub trait Control: Send + Sync + 'static {
    /// What is: the last state that was applied, and what was found of it.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Changes the desired state, and returns once this node has applied it; in a cluster with `wait`, once every living node
    /// has, or after that time with [`RefusalKind::Unconfirmed`].
    fn change(
        &self,
        change: Change,
        wait: Option<Duration>,
    ) -> impl Future<Output = Result<Changed, Refusal>> + Send;

    /// Leaves the cluster: this node's tasks take no new flow, what it brought is withdrawn, and the data plane goes as with
    /// [`Control::down`]. Each step waits for the other nodes no longer than `wait`.
    fn leave(&self, wait: Duration) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Every flow that this node keeps.
    fn flows(&self) -> impl Future<Output = Result<FlowDump, Refusal>> + Send;

    /// Packets dropped since the maps were made, summed over the processors, indexed by
    /// [`mesh_common::Reason`].
    fn drops(&self) -> impl Future<Output = Result<Vec<u64>, Refusal>> + Send;

    /// Packets and bytes seen since the maps were made, summed over the processors, indexed by
    /// [`abi::Counter::index`].
    fn counters(&self) -> impl Future<Output = Result<Vec<abi::Counter>, Refusal>> + Send;

    /// How full the kernel's maps are.
    fn map_uses(&self) -> impl Future<Output = Result<Vec<MapUse>, Refusal>> + Send;

    /// Traces one packet in `every` (at least 1) for as long as the stream lives. With several listeners the
    /// most frequent sampling holds for all.
    fn trace(&self, every: u32) -> impl Future<Output = Result<TraceStream, Refusal>> + Send;

    /// The keys of the cluster, the one in use first.
    fn keys(&self) -> impl Future<Output = Result<Vec<ClusterKey>, Refusal>> + Send;

    /// Changes every node's keyring, and returns the key's id once this node's disk has the change.
    fn change_key(&self, change: KeyChange) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Takes the whole data plane away: programs, maps, and every interface that the daemon made. Returns when
    /// it is gone; the daemon ends after that.
    fn down(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Traced packets as they pass, as the programs wrote them.
pub type TraceStream = Pin<Box<dyn Stream<Item = abi::Trace> + Send>>;

/// A picture of the mesh as this node has applied it.
#[derive(Clone)]
pub struct Snapshot {
    /// This node's name in the table.
    pub node: String,
    /// When the daemon started.
    pub started: SystemTime,
    /// The revision of the table that was applied last.
    pub revision: u64,
    /// The desired state.
    pub table: Arc<Table>,
    /// What the plan made of it, by the numbers that the kernel's maps use.
    pub lookup: Arc<dyn Lookup>,
    /// The programs that are attached.
    pub programs: Vec<Program>,
    /// How the underlay reaches each other node, by name; a node without a route is missing here.
    pub uplinks: BTreeMap<String, Uplink>,
    /// What stands of this node's own endpoints, by name.
    pub attachments: BTreeMap<String, Attachment>,
    /// Bytes of the longest IP packet of each network, by name.
    pub mtus: BTreeMap<String, u32>,
    /// Addresses of this node's own interfaces.
    pub addresses: Vec<std::net::IpAddr>,
    /// Addresses of this node at which published ports answer, beside loopback, at which its own processes ask.
    pub serving: Vec<std::net::IpAddr>,
    /// What is known of endpoints' health, by name.
    pub healths: Healths,
    /// What this node knows of its cluster; none without one.
    pub cluster: Option<Cluster>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What a node knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Everybody who is or was in it, by name.
    pub members: BTreeMap<String, Member>,
    /// The nodes that are not there, whose endpoints are in no ring.
    pub gone: BTreeSet<String>,
    /// The digest of the store, in hexadecimal digits: the same where the store is.
    pub digest: String,
}

/// A node that is or was in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its gossip address.
    pub address: SocketAddr,
    /// How it is seen from here.
    pub state: NodeState,
    /// Since when it is seen so.
    pub since: SystemTime,
}

/// How the underlay reaches another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface that its route leaves by.
    pub interface: String,
    /// Bytes of the longest outer IP packet that the route takes.
    pub mtu: u32,
}

/// What stands of an endpoint of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The interface in the task's namespace.
    pub interface: Option<String>,
    /// The host side of the pair.
    pub host_interface: Option<String>,
    /// Why it is not attached, as a sentence without its full stop.
    pub waiting: Option<String>,
}

/// What the plan put into the kernel's maps, and the names behind the numbers in them.
///
/// An IPv4 and an IPv6 client of one service may have different rings, so a [`abi::ServiceKey`] names the family.
pub trait Lookup: Send + Sync {
    /// The seed of every flow hash.
    fn seed(&self) -> u64;
    /// A virtual IP or a published port.
    fn service(&self, key: &abi::ServiceKey) -> Option<abi::Service>;
    /// An entry of the table of slots.
    fn slot(&self, index: u32) -> Option<abi::Slot>;
    /// An entry of the table of backends.
    fn backend(&self, index: abi::BackendIndex) -> Option<abi::Backend>;
    /// The name of the service with this number ([`abi::Service::id`]).
    fn service_name(&self, id: u32) -> Option<String>;
    /// The name of the node with this index.
    fn node_name(&self, index: abi::NodeIndex) -> Option<String>;
    /// The name of this node's interface with this index.
    fn interface_name(&self, index: u32) -> Option<String>;
}

/// The flows of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowDump {
    /// The map's entries, in the order of their keys.
    pub entries: Vec<(abi::FlowKey, abi::Flow)>,
    /// Seconds of the kernel's monotonic clock when they were read, the clock of [`abi::Flow::seen`].
    pub now: u64,
    /// How many entries the map has room for.
    pub capacity: u32,
}

/// A change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new network.
    CreateNetwork(NetworkCreate),
    /// A network with nothing on it goes.
    RemoveNetwork(String),
    /// A new service.
    CreateService(ServiceCreate),
    /// A service goes; its tasks stay on their networks.
    RemoveService(String),
    /// A task joins a network on this node.
    Attach(Attach),
    /// An endpoint goes.
    Detach(String),
    /// An endpoint becomes a backend of a service.
    AddBackend {
        /// The service.
        service: String,
        /// The backend.
        asked: BackendAdd,
    },
    /// A backend becomes an endpoint without a service.
    RemoveBackend {
        /// The service.
        service: String,
        /// The endpoint's name or an address.
        backend: String,
    },
    /// A backend gets another weight.
    WeighBackend {
        /// The service.
        service: String,
        /// The endpoint's name or an address.
        backend: String,
        /// Its share of new flows; 0 drains it.
        weight: u16,
    },
    /// A node that does not come back goes, with its endpoints.
    RemoveNode(String),
}

/// A change of the cluster's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Every node's keyring gets a key.
    Install(KeyText),
    /// Every node seals with the key of this id.
    Use(String),
    /// No node has the key of this id any longer.
    Remove(String),
}

/// A change that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The name of what was changed: the given one, or the one that was chosen.
    pub name: String,
    /// The table's revision that has it.
    pub revision: u64,
}

/// Why the agent did not do what it was asked for, told to people as "error; mend".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub kind: RefusalKind,
    /// What is wrong, without a full stop.
    pub error: String,
    /// What to do about it, without a full stop; empty where the error says it already.
    pub mend: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It can never be: a rule of the configuration forbids it.
    Invalid,
    /// The thing that was named is not there.
    NotFound,
    /// It clashes with what is there.
    Conflict,
    /// It cannot be now: the daemon is still starting, or going down.
    Unavailable,
    /// It is done here, and not yet known to be on every node.
    Unconfirmed,
    /// The kernel or the daemon failed.
    Failed,
}

impl Refusal {
    /// A refusal in full.
    pub fn new(kind: RefusalKind, error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { kind, error: error.into(), mend: mend.into() }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tell(f, &self.error, &self.mend)
    }
}

impl std::error::Error for Refusal {}

/// What is wrong and what mends it, as one sentence.
pub(super) fn tell(f: &mut fmt::Formatter<'_>, error: &str, mend: &str) -> fmt::Result {
    f.write_str(error)?;
    if mend.is_empty() { Ok(()) } else { write!(f, "; {mend}") }
}
