//! The desired state of the mesh: what should be, complete and checked.
//!
//! Every name resolves, every address is allocated and every rule of [`crate::spec`] holds, so whoever reads
//! a [`Table`] has nothing left to refuse.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The whole desired state, the same on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What holds for the whole mesh.
    pub options: Options,
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    /// The tasks' attachments to networks, by name.
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The UDP port of the tunnels.
    pub vxlan_port: u16,
    /// How the XDP program is attached.
    pub xdp: XdpMode,
    /// How answers return to clients of published ports.
    pub r#return: ReturnPath,
    /// The interfaces on which published ports are served; empty for each that is not a task's.
    pub interfaces: Vec<String>,
}

/// How the XDP program is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// By the driver where it can, otherwise not at all: tc does the same work.
    #[default]
    Auto,
    /// By the driver, or not at all with an error in the status.
    Native,
    /// By the kernel's generic hook.
    Generic,
    /// Not at all: tc does the same work.
    Off,
}

/// How answers return to clients of published ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnPath {
    /// Through the node that the client spoke to.
    #[default]
    Tunnel,
    /// Straight from the task's node.
    Direct,
}

/// A host of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its underlay address.
    pub address: IpAddr,
    /// The interface that holds the address; found by the address where none is named.
    pub interface: Option<String>,
}

/// An isolated network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its subnets; the first address of each is the gateway's.
    pub subnets: Vec<IpNet>,
    /// No way to the world outside.
    pub internal: bool,
    /// Bytes of the longest IP packet, where the user set it; otherwise what the underlay leaves.
    pub mtu: Option<u32>,
}

/// A name with backends behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The virtual IPs by network: one for each family that the network has; none with `dnsrr`.
    pub vips: BTreeMap<String, Vec<IpAddr>>,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// Whether its name stands for a virtual IP or for the tasks' addresses.
    pub endpoint_mode: EndpointMode,
    /// The ports that nodes answer on for it.
    pub ports: Vec<PublishedPort>,
    /// Addresses routed to several nodes, on each of which it answers.
    pub external: Vec<IpAddr>,
}

/// How a backend is chosen for a new flow, by IPVS's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Maglev hashing.
    #[default]
    Mh,
    /// Round robin.
    Rr,
}

/// What a service's name stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// Its virtual IP.
    #[default]
    Vip,
    /// Its tasks' addresses.
    Dnsrr,
}

/// A port that nodes answer on for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The nodes' port.
    pub published: u16,
    /// The tasks' port.
    pub target: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// On which nodes.
    pub mode: PublishMode,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// On which nodes a published port answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node.
    #[default]
    Ingress,
    /// Where a task runs, and to that task.
    Host,
}

/// A task's attachment to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The node that the task runs on.
    pub node: String,
    /// The service that it is a backend of.
    pub service: Option<String>,
    /// The network.
    pub network: String,
    /// Its addresses: one for each family that the network has.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The task's network namespace; none where the endpoint is not ours to attach (a node without meshd).
    pub netns: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // RFC 7348, section 8.1.
            vxlan_port: 4789,
            xdp: XdpMode::default(),
            r#return: ReturnPath::default(),
            interfaces: Vec::new(),
        }
    }
}

impl Network {
    /// The gateway's addresses: the first of each subnet.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        // `hosts` leaves out an IPv4 subnet's own address, but not an IPv6 subnet's.
        self.subnets.iter().filter_map(|subnet| subnet.hosts().find(|host| *host != subnet.network()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_the_first_address_after_the_subnets_own() {
        let subnets = ["10.0.9.0/24", "fd00:9::/64"].map(|subnet| subnet.parse().unwrap()).to_vec();
        let network = Network { vni: 1, subnets, internal: false, mtu: None };
        let gateways: Vec<String> = network.gateways().map(|gateway| gateway.to_string()).collect();
        assert_eq!(gateways, ["10.0.9.1", "fd00:9::1"]);
    }
}
