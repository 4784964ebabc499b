//! What is asked for, by the file and by commands, with the place where each thing was asked for.
//!
//! Nothing here is checked yet: names may lead nowhere and addresses may clash. [`resolve()`] holds it against
//! every rule, allocates what was left open, and gives the [`Table`](crate::table::Table).

mod backends;
mod change;
mod fault;
mod health;
mod parse;
mod ports;
mod resolve;
mod suggest;

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU32, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use self::fault::{article, kind_name, listed, quoted};
pub use self::{
    backends::{Membership, Override},
    fault::{Creation, Fault, Faults, Given, Origin},
    health::HealthCheck,
    parse::{Mac, mac, netns, source},
    ports::published_ports,
    resolve::{Allocation, resolve, resolve_with},
};
pub(crate) use self::{
    parse::NETNS_DIRECTORY,
    ports::host_ip,
    resolve::{Unreadable, faults_beside},
    suggest::nearest,
};
use crate::table::{Continuity, EndpointMode, OnNoBackend, PublishedPort, ReturnPath, Scheduler, XdpMode};

/// Everything that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// What holds for the whole mesh.
    pub options: Options,
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    /// The tasks' attachments to networks, in the order in which they were asked for.
    pub endpoints: Vec<Endpoint>,
    /// What commands have changed about endpoints of the file, by name. [`Spec::endpoints`] has it already.
    pub overrides: BTreeMap<String, Override>,
}

/// What holds for the whole mesh; what is not given has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The UDP port of the tunnels.
    pub vxlan_port: Option<Given<u16>>,
    /// How the XDP program is attached.
    pub xdp: Option<XdpMode>,
    /// How answers return to clients of published ports.
    pub r#return: Option<ReturnPath>,
    /// What keeps a flow of a published port with its backend.
    pub continuity: Option<Continuity>,
    /// The interfaces on which published ports are served; empty for each that is not a task's.
    pub interfaces: Vec<Given<String>>,
    /// Whether networks' gateways answer tasks' questions for names.
    pub dns: Option<bool>,
}

/// A host of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Where it was asked for.
    #[serde(skip)]
    pub origin: Origin,
    /// Its underlay address.
    pub address: Given<IpAddr>,
    /// The interface that holds the address; found by the address where none is named.
    #[serde(default)]
    pub interface: Option<Given<String>>,
}

/// An isolated network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Where it was asked for.
    #[serde(skip)]
    pub origin: Origin,
    /// Its VXLAN network identifier; allocated if none is given.
    pub vni: Option<Given<u32>>,
    /// Its subnets; one is allocated if none is given.
    pub subnets: Vec<Given<IpNet>>,
    /// No way to the world outside.
    pub internal: bool,
    /// Bytes of the longest IP packet; what the underlay leaves if it is not given.
    pub mtu: Option<Given<u32>>,
    /// What was allocated for it before: kept as long as nobody else asks for it. See [`Spec::remember`].
    pub remembered: RememberedNetwork,
}

/// What was allocated for a network before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RememberedNetwork {
    /// Its VXLAN network identifier.
    pub vni: Option<u32>,
    /// Its subnet.
    pub subnet: Option<IpNet>,
}

/// A name with backends behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Where it was asked for.
    #[serde(skip)]
    pub origin: Origin,
    /// The networks that it is on.
    pub networks: Vec<Given<String>>,
    /// Virtual IPs by network; allocated where none is given.
    pub vips: BTreeMap<String, Vec<Given<IpAddr>>>,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// Whether its name stands for a virtual IP or for the tasks' addresses.
    pub endpoint_mode: EndpointMode,
    /// What becomes of a request while it has no backend.
    pub on_no_backend: OnNoBackend,
    /// For how many seconds a client comes back to the backend that it had, IPVS's persistence; none for not at all.
    pub persistent: Option<NonZeroU32>,
    /// How its tasks are asked whether they are well; not at all if it is not given.
    pub health_check: Option<Given<HealthCheck>>,
    /// The ports that nodes answer on for it.
    pub ports: Vec<Given<PublishedPort>>,
    /// Addresses routed to several nodes, on each of which it answers.
    pub external: Vec<Given<IpAddr>>,
    /// Other names that it has for the tasks of its networks.
    pub aliases: Vec<Given<String>>,
    /// The virtual IPs that it had before, by network: kept as long as nobody else asks for them. See
    /// [`Spec::remember`].
    pub remembered: BTreeMap<String, Vec<IpAddr>>,
}

/// A task's attachment to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Where it was asked for.
    #[serde(skip)]
    pub origin: Origin,
    /// Its name.
    pub name: Given<String>,
    /// The node that the task runs on.
    pub node: Given<String>,
    /// The service that it is a backend of.
    #[serde(default)]
    pub service: Option<Given<String>>,
    /// Its share of the service's new flows, in units; 1 if it is not given, and 0 to drain it.
    #[serde(default)]
    pub weight: Option<Given<u16>>,
    /// The network.
    pub network: Given<String>,
    /// Its addresses, at most one of each family; what is not given is derived or allocated.
    #[serde(default)]
    pub addresses: Vec<Given<IpAddr>>,
    /// Its MAC address; 02:42 and the IPv4 address if it is not given.
    #[serde(default)]
    pub mac: Option<Given<Mac>>,
    /// The task's network namespace, as a path; none where the endpoint is not ours to attach.
    #[serde(default)]
    pub netns: Option<Given<PathBuf>>,
    /// Other names that it has for the tasks of its network.
    #[serde(default)]
    pub aliases: Vec<Given<String>>,
    /// The addresses that it had before: kept as long as nobody else asks for them. See [`Spec::remember`].
    #[serde(default)]
    pub remembered: Vec<IpAddr>,
}
