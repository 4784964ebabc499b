//! What is, as people and scripts see it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::MapUse;
use crate::{
    spec::HealthCheck,
    table::{EndpointMode, HealthState, OnNoBackend, PublishedPort, Scheduler},
};

/// The daemon and its node: `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Its underlay address, where the table has it.
    pub address: Option<IpAddr>,
    /// The daemon's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The revision of the desired state that was applied last.
    pub revision: u64,
    /// How many things there are.
    pub counts: Counts,
    /// The programs that are attached, on this node.
    pub programs: Vec<Program>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The cluster, if the node is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// How full the kernel's maps are.
    pub maps: Vec<MapUse>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// The cluster, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Everybody who is or was in it, by name.
    pub members: Vec<Member>,
    /// A digest of the cluster's store, in hexadecimal digits: nodes that have the same know the same.
    pub digest: String,
}

/// A node that is or was in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its gossip address.
    pub address: SocketAddr,
    /// How it is seen from here.
    pub state: NodeState,
    /// For how many seconds it has been seen so.
    pub seconds: u64,
}

/// How a node is seen by another, as a member of their cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It did not answer, and has not denied yet that it is dead; it counts as alive.
    Suspect,
    /// Its daemon has said that another follows, and its kernel answers: what it has counts as there for a while.
    Restarting,
    /// It did not answer for long enough.
    Dead,
    /// It said that it leaves.
    Left,
}

/// How many things there are, in the whole mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Nodes, this one included.
    pub nodes: usize,
    /// Networks.
    pub networks: usize,
    /// Services.
    pub services: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Endpoints on this node.
    pub local_endpoints: usize,
}

/// An attached eBPF program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The interface or the cgroup that it hangs on.
    pub target: String,
    /// Its name.
    pub name: String,
    /// How it is attached: `tcx ingress`, `tc ingress`, `xdp native`, `xdp generic` or `cgroup`.
    pub mode: String,
    /// Its number in the kernel, as bpftool shows it.
    pub id: u32,
}

/// Another node, as this one reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// The interface that its route leaves by; none without a route.
    pub interface: Option<String>,
    /// Bytes of the longest outer IP packet that the route takes.
    pub mtu: Option<u32>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: `endpoint search.1`, `node n2`.
    pub subject: String,
    /// What is wrong, and what would mend it, in full sentences.
    pub message: String,
}

/// A node: `GET /v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// The interface that the table names for it.
    pub interface: Option<String>,
    /// Whether it is the one that answers.
    pub this: bool,
    /// How this node reaches it; none without a route, and for this node itself.
    pub route: Option<String>,
    /// How it is seen as a member of the cluster; none for a node without meshd, and without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NodeState>,
    /// For how many seconds it has been seen so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// The endpoints on it, by name.
    pub endpoints: Vec<String>,
}

/// A network: `GET /v1/networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Its gateway's addresses.
    pub gateways: Vec<IpAddr>,
    /// No way to the world outside.
    pub internal: bool,
    /// Bytes of its longest IP packet, once known.
    pub mtu: Option<u32>,
    /// The services with a virtual IP on it, by name.
    pub services: Vec<String>,
    /// The endpoints on it, by name.
    pub endpoints: Vec<String>,
}

/// A service: `GET /v1/services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its virtual IPs by network.
    pub vips: BTreeMap<String, Vec<IpAddr>>,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// What its name stands for.
    pub endpoint_mode: EndpointMode,
    /// What becomes of a request while it has no backend.
    #[serde(default)]
    pub on_no_backend: OnNoBackend,
    /// For how many seconds a client comes back to the backend that it had, IPVS's persistence; none for not at all.
    #[serde(default)]
    pub persistent: Option<NonZeroU32>,
    /// How its tasks are asked whether they are well; none for not at all.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// The ports that nodes answer on for it.
    pub ports: Vec<PublishedPort>,
    /// Addresses routed to several nodes, on each of which it answers.
    pub external: Vec<IpAddr>,
    /// Its backends, by the name of their endpoint.
    pub backends: Vec<String>,
}

/// A backend of a service: `GET /v1/backends`, `GET /v1/services/{name}/tasks` and others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service.
    pub service: String,
    /// Its endpoint.
    pub endpoint: String,
    /// The endpoint's network.
    pub network: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// The node that it runs on.
    pub node: String,
    /// Its share of the service's new flows, in units; with 0 it drains.
    pub weight: u16,
    /// The live flows to it that this node keeps. On its own node these are all that come through published ports of
    /// whatever node, and those of tasks there to the service's virtual IP; on another node, only those of tasks there
    /// to the virtual IP, and none (rather than 0) where they have none: what else it has, its own node knows.
    pub flows: Option<u64>,
    /// What stands of it.
    pub state: EndpointState,
    /// What its health checks came to; none where there are none, or another node knows.
    #[serde(default)]
    pub health: Option<Health>,
}

/// A task's attachment to a network: `GET /v1/endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// The node that it is on.
    pub node: String,
    /// The service that it is a backend of.
    pub service: Option<String>,
    /// Its network.
    pub network: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    pub mac: String,
    /// The task's network namespace.
    pub netns: Option<String>,
    /// The interface in the task's namespace.
    pub interface: Option<String>,
    /// The host side of the pair.
    pub host_interface: Option<String>,
    /// What stands of it.
    pub state: EndpointState,
    /// What its health checks came to; none where there are none, or another node knows.
    #[serde(default)]
    pub health: Option<Health>,
}

/// What an endpoint's health checks came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub is: HealthState,
    /// For how many seconds.
    pub seconds: u64,
    /// Why its last failed check failed; none for a healthy one whose last check succeeded.
    pub why: Option<String>,
}

/// What stands of an endpoint, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "why", rename_all = "lowercase")]
pub enum EndpointState {
    /// On this node, attached.
    Attached,
    /// On this node, not attached; why.
    Waiting(String),
    /// On another node, which knows.
    Remote,
    /// On another node, which is not there.
    Gone,
}
