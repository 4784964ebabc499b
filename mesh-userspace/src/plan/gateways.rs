//! The gateways of networks as endpoints of this node: each answers its tasks' questions for names, in a namespace of its
//! own.
//!
//! They are on every node with tasks of the network, under the same addresses and the same MAC address, so no other node
//! needs to know of them and the table does not have them: a task always asks the gateway of its own node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use imbl::OrdMap;
use ipnet::IpNet;
use mesh_common::abi::{Address, Attachment, EndpointKey, Network};

use super::{
    NodeFacts, PlannedEndpoint,
    links::{by_namespace, host_interface},
    services::family,
};
use crate::table::{self, Endpoint, Table};

/// How many name servers the C libraries ask (glibc's `MAXNS`, musl's as well).
const MOST_NAME_SERVERS: usize = 3;

/// The veth pair of a network's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLink {
    /// The name of its host side, in the node's namespace.
    pub host_name: String,
    /// The MAC address of its other side.
    pub mac: [u8; 6],
    /// The addresses of its other side, with their subnets' prefixes: at most one of each family.
    pub addresses: Vec<IpNet>,
    /// The network's other subnets, which are on the link as well.
    pub routes: Vec<IpNet>,
    /// Bytes of the longest IP packet, for both sides.
    pub mtu: u32,
}

/// Where a task asks for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolvers {
    /// The task's network namespace.
    pub netns: PathBuf,
    /// The gateways of its networks, the first network's first.
    pub name_servers: Vec<IpAddr>,
}

/// The name of the host side of a gateway's veth pair.
#[must_use]
pub fn gateway_interface(network: &str) -> String {
    // No endpoint's name has a space.
    host_interface(&format!("gateway of {network}"))
}

/// A gateway of this node.
pub(super) struct Gateway<'a> {
    name: &'a str,
    network: &'a table::Network,
    vni: u32,
    planned: Network,
}

/// The gateways that this node should have: those of the networks of its tasks.
pub(super) fn gateways<'a>(
    table: &'a Table,
    ours: &[(&'a str, &'a Endpoint)],
    networks: &BTreeMap<u32, Network>,
) -> Vec<Gateway<'a>> {
    if !table.options.dns {
        return Vec::new();
    }
    let attached = ours.iter().filter(|(_, endpoint)| endpoint.netns.is_some());
    let names: BTreeSet<&str> = attached.map(|(_, endpoint)| endpoint.network.as_str()).collect();
    let found = names.into_iter().filter_map(|name| {
        let network = table.networks.get(name)?;
        Some(Gateway { name, network, vni: network.vni, planned: *networks.get(&network.vni)? })
    });
    found.collect()
}

impl Gateway<'_> {
    fn addresses(&self) -> impl Iterator<Item = Address> {
        let both = [self.planned.gateway_v4, self.planned.gateway_v6];
        both.into_iter().filter(|address| !address.is_unspecified())
    }

    fn link(&self) -> GatewayLink {
        let (mut addresses, mut routes) = (Vec::new(), Vec::new());
        for address in self.addresses().map(IpAddr::from) {
            let of_family = self.network.subnets.iter().filter(|net| family(net.addr()) == family(address));
            let (own, others): (Vec<IpNet>, Vec<IpNet>) = of_family.partition(|net| net.contains(&address));
            addresses.extend(own.first().and_then(|own| IpNet::new(address, own.prefix_len()).ok()));
            routes.extend(others);
        }
        GatewayLink {
            host_name: gateway_interface(self.name),
            mac: self.planned.gateway_mac,
            addresses,
            routes,
            mtu: self.planned.mtu,
        }
    }
}

/// The veth pairs by the networks' names.
pub(super) fn links(gateways: &[Gateway<'_>]) -> BTreeMap<String, GatewayLink> {
    gateways.iter().map(|gateway| (gateway.name.to_owned(), gateway.link())).collect()
}

/// Adds those that are attached to the endpoints: what tasks send to them is then delivered like any task's. Until one is
/// attached, its address is nobody's but the network's.
pub(super) fn add_to(
    endpoints: &mut OrdMap<EndpointKey, PlannedEndpoint>,
    gateways: &[Gateway<'_>],
    facts: &NodeFacts,
    node: IpAddr,
) {
    for gateway in gateways {
        let Some(ifindex) = facts.gateways.get(gateway.name) else { continue };
        let planned = PlannedEndpoint { mac: gateway.planned.gateway_mac, node, ifindex: *ifindex };
        let keys = gateway.addresses().map(|address| EndpointKey { address, vni: gateway.vni, reserved: 0 });
        endpoints.extend(keys.map(|key| (key, planned)));
    }
}

/// What hangs on the host sides of those that are attached.
pub(super) fn attachments(
    gateways: &[Gateway<'_>],
    facts: &NodeFacts,
) -> impl Iterator<Item = (u32, Attachment)> {
    gateways.iter().filter_map(|gateway| {
        let Network { gateway_v4: v4, gateway_v6: v6, gateway_mac: mac, mtu, .. } = gateway.planned;
        let vni = gateway.vni;
        let attachment = Attachment { v4, v6, vni, mac, gateway_mac: mac, mtu, reserved: 0 };
        Some((*facts.gateways.get(gateway.name)?, attachment))
    })
}

/// Where this node's tasks ask for names, by the endpoint's name. A task on several networks may ask any of their gateways,
/// which know it by its address and answer for all of its networks.
pub(super) fn resolvers(
    table: &Table,
    ours: &[(&str, &Endpoint)],
    gateways: &[Gateway<'_>],
) -> BTreeMap<String, Resolvers> {
    let mut resolvers = BTreeMap::new();
    for (netns, here) in by_namespace(table, ours) {
        let mut name_servers: Vec<IpAddr> = Vec::new();
        for (_, endpoint, _) in &here {
            let gateway = gateways.iter().find(|gateway| gateway.name == endpoint.network);
            let addresses = gateway.into_iter().flat_map(Gateway::addresses).map(IpAddr::from);
            for address in addresses {
                if !name_servers.contains(&address) && name_servers.len() < MOST_NAME_SERVERS {
                    name_servers.push(address);
                }
            }
        }
        if name_servers.is_empty() {
            continue;
        }
        for (name, _, _) in here {
            let of_task = Resolvers { netns: netns.clone(), name_servers: name_servers.clone() };
            resolvers.insert(name.to_owned(), of_task);
        }
    }
    resolvers
}
