//! What is asked for.

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    spec::HealthCheck,
    table::{EndpointMode, OnNoBackend, Protocol, PublishedPort, Scheduler},
};

/// A new network: `POST /v1/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: String,
    /// Its subnets; one is chosen where none is given.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Its VXLAN network identifier; a free one is chosen where none is given.
    #[serde(default)]
    pub vni: Option<u32>,
    /// No way to the world outside.
    #[serde(default)]
    pub internal: bool,
}

/// A new service: `POST /v1/services`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCreate {
    /// Its name.
    pub name: String,
    /// The networks that it has a virtual IP on.
    #[serde(default)]
    pub networks: Vec<String>,
    /// The virtual IPs that are not to be chosen.
    #[serde(default)]
    pub vips: Vec<Vip>,
    /// How a backend is chosen.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Whether its name stands for a virtual IP or for its tasks' addresses.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// What becomes of a request while it has no backend.
    #[serde(default)]
    pub on_no_backend: OnNoBackend,
    /// For how many seconds a client comes back to the backend that it had, IPVS's persistence; none for not at all.
    #[serde(default)]
    pub persistent: Option<NonZeroU32>,
    /// How its tasks are asked whether they are well: by `http` or `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheck>>,
    /// The ports that nodes answer on for it.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

/// A virtual IP that the user chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// Its network; where it is not given, the service's network whose subnet holds the address.
    #[serde(default)]
    pub network: Option<String>,
    /// The address.
    pub address: IpAddr,
}

/// A task joins a network on the daemon's node: `POST /v1/endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The endpoint's name; chosen where it is not given.
    #[serde(default)]
    pub name: Option<String>,
    /// The network.
    pub network: String,
    /// The task's network namespace: a name under `/run/netns`, or an absolute path.
    pub netns: String,
    /// The service that it becomes a backend of.
    #[serde(default)]
    pub service: Option<String>,
    /// Its share of the service's new flows; 1 where it is not given.
    #[serde(default)]
    pub weight: Option<u16>,
    /// Its address; chosen where it is not given.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// An endpoint becomes a backend of a service: `POST /v1/services/{name}/backends`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendAdd {
    /// The endpoint's name, or an address of it on a network of the service, with or without the service's target port.
    pub backend: String,
    /// Its share of the service's new flows; 1 where it is not given.
    #[serde(default)]
    pub weight: Option<u16>,
    /// The node that it is on, to be sure.
    #[serde(default)]
    pub node: Option<String>,
    /// How packets are forwarded to an outside backend; refused for as long as there are none.
    #[serde(default)]
    pub forward: Option<String>,
}

/// Another weight of a backend: `PUT /v1/services/{name}/backends/{backend}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendWeight {
    /// Its share of the service's new flows, in units; 0 drains it.
    pub weight: u16,
}

/// Which flows to list: `GET /v1/flows`. What is not given matches every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Of this service.
    #[serde(default)]
    pub service: Option<String>,
    /// To this backend, by the name or an address of its endpoint.
    #[serde(default)]
    pub backend: Option<String>,
    /// From this client.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// Of this protocol.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// On this network.
    #[serde(default)]
    pub network: Option<String>,
    /// At most this many, the most recent first; 100 where it is not given, 0 for all.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// How much to trace: `GET /v1/trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// One packet in this many.
    pub every: NonZeroU32,
}
