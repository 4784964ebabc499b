//! The desired state of the mesh: what should be, complete and checked.
//!
//! Every name resolves, every address is allocated and every rule of [`crate::spec`] holds, so whoever reads
//! a [`Table`] has nothing left to refuse.

mod health;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    path::PathBuf,
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::health::{Health, HealthCheck, HealthState, Healths, Period, PeriodError, Probe, plain};

/// A backend's weight where none is given.
pub const DEFAULT_WEIGHT: u16 = 1;

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
    pub services: OrdMap<String, Service>,
    /// The tasks' attachments to networks, by name.
    pub endpoints: OrdMap<String, Endpoint>,
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
    /// What keeps a flow of a published port with its backend.
    pub continuity: Continuity,
    /// The interfaces at whose addresses published ports answer; empty for each that is not a task's.
    pub interfaces: Vec<String>,
    /// Whether networks' gateways answer tasks' questions for names.
    #[serde(default = "answers_names")]
    pub dns: bool,
}

const fn answers_names() -> bool {
    true
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

/// What keeps a flow of a published port with its backend while backends and nodes come and go. All but the first are
/// what other load balancers do, for those who want to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Continuity {
    /// The node that a flow lives on, which is asked for it.
    #[default]
    SecondChance,
    /// A cache on the node that the flow enters by.
    EntryCache,
    /// What the node that its hash leads to remembers.
    Node,
    /// Nothing: each packet goes where its hash says.
    None,
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
    /// The virtual IPs by network: one for each family that the network has, IPv4 first; none with `dnsrr`.
    pub vips: BTreeMap<String, Vec<IpAddr>>,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// Whether its name stands for a virtual IP or for the tasks' addresses.
    pub endpoint_mode: EndpointMode,
    /// What becomes of a request while it has no backend.
    #[serde(default)]
    pub on_no_backend: OnNoBackend,
    /// For how many seconds a client comes back to the backend that it had, IPVS's persistence; none for not at all.
    #[serde(default)]
    pub persistent: Option<NonZeroU32>,
    /// How its tasks are asked whether they are well; not at all where there is none.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// The ports that nodes answer on for it, in their order.
    pub ports: Vec<PublishedPort>,
    /// Addresses routed to several nodes, on each of which it answers.
    pub external: Vec<IpAddr>,
    /// Other names that it has for the tasks of its networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
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

/// What becomes of a request that a service has no backend for, by the names of a packet filter's verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNoBackend {
    /// Its client is told at once: TCP by a reset, UDP by "port unreachable".
    #[default]
    Reject,
    /// It is lost in silence.
    Drop,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The nodes' port.
    pub published: u16,
    /// The tasks' port.
    pub target: u16,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// On which nodes.
    #[serde(default)]
    pub mode: PublishMode,
    /// The one address that it answers at; none for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The one interface of each node at whose addresses it answers; none for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The nodes that answer; empty for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The clients that may ask; empty for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
}

impl Table {
    /// The same table, made of `other` and its difference from it, so that whoever compares the two finds it at once.
    #[must_use]
    pub fn sharing(self, other: &Self) -> Self {
        Self {
            services: sharing(&self.services, &other.services),
            endpoints: sharing(&self.endpoints, &other.endpoints),
            ..self
        }
    }
}

fn sharing<V: Clone + PartialEq>(map: &OrdMap<String, V>, other: &OrdMap<String, V>) -> OrdMap<String, V> {
    let mut shared = other.clone();
    for change in other.diff(map) {
        match change {
            DiffItem::Add(name, value) | DiffItem::Update { new: (name, value), .. } => {
                shared.insert(name.clone(), value.clone());
            }
            DiffItem::Remove(name, _) => {
                shared.remove(name);
            }
        }
    }
    shared
}

impl PublishedPort {
    /// Whether a node may answer on it.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|named| named == node)
    }

    /// Whether a client may ask. Answers to what a node's own processes ask do not depend on it.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|range| range.contains(&client))
    }
}

impl Service {
    /// The single addresses that one of its ports answers at: the one that it names, or else, where it answers at every
    /// address of the nodes, also those that are routed to several of them.
    pub fn addresses_of<'a>(&'a self, port: &'a PublishedPort) -> impl Iterator<Item = IpAddr> + 'a {
        let everywhere = port.host_ip.is_none() && port.interface.is_none();
        let external = if everywhere { self.external.as_slice() } else { &[] };
        port.host_ip.into_iter().chain(external.iter().copied())
    }
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
    /// Its share of the service's new flows, in units; with 0 it drains: no new flow, and those that live go on.
    pub weight: u16,
    /// The network.
    pub network: String,
    /// Its addresses: one for each family that the network has, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The path of the task's network namespace; none where the endpoint is not ours to attach (a node without meshd).
    pub netns: Option<PathBuf>,
    /// Other names that it has for the tasks of its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // RFC 7348, section 8.1.
            vxlan_port: 4789,
            xdp: XdpMode::default(),
            r#return: ReturnPath::default(),
            continuity: Continuity::default(),
            interfaces: Vec::new(),
            dns: answers_names(),
        }
    }
}

impl Network {
    /// The gateways' addresses: the first of each subnet.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.subnets.iter().map(gateway)
    }

    /// The gateways' MAC address, which follows from the first IPv4 gateway's address, or from the first IPv6
    /// one's where there is no IPv4.
    #[must_use]
    pub fn gateway_mac(&self) -> Option<[u8; 6]> {
        let v4 = self.gateways().find(IpAddr::is_ipv4);
        v4.or_else(|| self.gateways().next()).map(mac_of)
    }
}

/// The gateway of a subnet: the address after the one that stands for the subnet itself.
#[must_use]
pub fn gateway(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => Ipv4Addr::from_bits(subnet.network().to_bits() | 1).into(),
        IpNet::V6(subnet) => Ipv6Addr::from_bits(subnet.network().to_bits() | 1).into(),
    }
}

/// The MAC address that follows from an address: 02:42, and the IPv4 address or the last four bytes of the IPv6
/// one.
#[must_use]
pub const fn mac_of(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    [0x02, 0x42, a, b, c, d]
}

/// A MAC address as people write it.
#[must_use]
pub fn mac_text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_the_first_address_of_its_subnet() {
        let network = Network {
            vni: 4097,
            subnets: vec!["fd00:9::/64".parse().unwrap(), "10.0.9.0/24".parse().unwrap()],
            internal: false,
            mtu: None,
        };
        let gateways: Vec<String> = network.gateways().map(|gateway| gateway.to_string()).collect();
        assert_eq!(gateways, ["fd00:9::1", "10.0.9.1"]);
        assert_eq!(network.gateway_mac(), Some([0x02, 0x42, 10, 0, 9, 1]));
    }

    #[test]
    fn a_table_that_shares_is_the_same_and_shares() {
        let of = |names: &[&str]| Table {
            endpoints: names.iter().map(|name| ((*name).to_owned(), endpoint(name.len()))).collect(),
            ..Table::default()
        };
        let (was, is) = (of(&["a", "bb", "c"]), of(&["a", "c", "dd"]));
        let shared = is.clone().sharing(&was);
        assert_eq!(shared, is);
        assert!(of(&["a", "bb", "c"]).sharing(&was).endpoints.ptr_eq(&was.endpoints));
    }

    fn endpoint(number: usize) -> Endpoint {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0900 + u32::try_from(number).unwrap()));
        Endpoint {
            node: "n1".to_owned(),
            service: None,
            weight: 1,
            network: "blue".to_owned(),
            addresses: vec![address],
            mac: mac_of(address),
            netns: None,
            aliases: Vec::new(),
        }
    }

    #[test]
    fn a_mac_address_follows_from_either_family() {
        assert_eq!(mac_text(mac_of("10.0.9.11".parse().unwrap())), "02:42:0a:00:09:0b");
        assert_eq!(mac_text(mac_of("fd00:9::a00:90b".parse().unwrap())), "02:42:0a:00:09:0b");
    }
}
