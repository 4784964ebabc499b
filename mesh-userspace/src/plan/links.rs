//! The links that a node should have: a veth pair for each of its endpoints, and one for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use mesh_common::abi::{Family, Network};

use super::{GatewayLink, NodeFacts, natural, nodes::is_global, services::family};
use crate::table::{self, Endpoint, Table};

/// The links that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The veth pairs of its endpoints, by the endpoint's name.
    pub endpoints: BTreeMap<String, EndpointLink>,
    /// The veth pairs of the networks' gateways, by the network's name.
    pub gateways: BTreeMap<String, GatewayLink>,
    /// The veth pair of the node itself.
    pub gate: GateLink,
}

/// The veth pair of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLink {
    /// The name of its host side, in the node's namespace.
    pub host_name: String,
    /// The task's network namespace.
    pub netns: PathBuf,
    /// The MAC address of the task's side.
    pub mac: [u8; 6],
    /// The addresses of the task's side, with their subnets' prefixes.
    pub addresses: Vec<IpNet>,
    /// The network's other subnets, which are on the link as well.
    pub routes: Vec<IpNet>,
    /// The gateways of the default routes, at most one for each family: only on the first of a namespace's
    /// networks, by name, that leads outside.
    pub gateways: Vec<IpAddr>,
    /// Bytes of the longest IP packet, for both sides.
    pub mtu: u32,
}

/// The veth pair by which the node's own packets enter the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateLink {
    /// The source of the node's own packets to the alias address, and whether `mesh0` itself must carry it for
    /// want of an IPv4 address of the node.
    pub v4: GateSource<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: GateSource<Ipv6Addr>,
    /// Bytes of the longest IP packet, for both sides.
    pub mtu: u32,
}

/// A source address of the node's own packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSource<A> {
    /// The address.
    pub address: A,
    /// Whether `mesh0` must carry it, because no interface of the node does.
    pub on_mesh0: bool,
}

/// The name of the host side of an endpoint's veth pair: `mesh` and eight hexadecimal digits of the FNV-1a hash
/// of the endpoint's name. It says to a restarted agent which interface is whose.
#[must_use]
pub fn host_interface(endpoint: &str) -> String {
    let hash = endpoint.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("mesh{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

pub(super) fn links(
    table: &Table,
    ours: &[(&str, &Endpoint)],
    this: &table::Node,
    facts: &NodeFacts,
    networks: &BTreeMap<u32, Network>,
) -> Links {
    let mtu = |network: &table::Network| networks.get(&network.vni).map_or(0, |network| network.mtu);
    let mut endpoints = BTreeMap::new();
    for (netns, here) in by_namespace(table, ours) {
        let mut led_outside = BTreeSet::new();
        for (name, endpoint, network) in here {
            let (mut addresses, mut routes, mut gateways) = (Vec::new(), Vec::new(), Vec::new());
            for address in &endpoint.addresses {
                let same_family = network.subnets.iter().filter(|net| family(net.addr()) == family(*address));
                let (own, others): (Vec<IpNet>, Vec<IpNet>) =
                    same_family.copied().partition(|net| net.contains(address));
                routes.extend(others);
                let Some(own) = own.first() else { continue };
                addresses.extend(IpNet::new(*address, own.prefix_len()));
                if !network.internal && led_outside.insert(family(*address)) {
                    gateways.push(table::gateway(own));
                }
            }
            let link = EndpointLink {
                host_name: host_interface(name),
                netns: netns.clone(),
                mac: endpoint.mac,
                addresses,
                routes,
                gateways,
                mtu: mtu(network),
            };
            endpoints.insert(name.to_owned(), link);
        }
    }
    Links { endpoints, gateways: BTreeMap::new(), gate: gate(this, facts) }
}

/// This node's endpoints by the namespace they are attached in, there in the order of networks' names.
pub(super) fn by_namespace<'a>(
    table: &'a Table,
    ours: &[(&'a str, &'a Endpoint)],
) -> BTreeMap<&'a PathBuf, Vec<(&'a str, &'a Endpoint, &'a table::Network)>> {
    let mut by_namespace: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, endpoint) in ours {
        if let (Some(netns), Some(network)) = (&endpoint.netns, table.networks.get(&endpoint.network)) {
            by_namespace.entry(netns).or_default().push((*name, *endpoint, network));
        }
    }
    for here in by_namespace.values_mut() {
        here.sort_by(|(a, x, _), (b, y, _)| x.network.cmp(&y.network).then_with(|| natural::compare(a, b)));
    }
    by_namespace
}

/// The node's own pair: its packets come from an address of the node where it has one of the family, so that a
/// task sees the node itself as its client.
fn gate(this: &table::Node, facts: &NodeFacts) -> GateLink {
    let interface =
        facts.addresses.iter().find(|local| local.address == this.address).map(|local| local.ifindex);
    let interface = interface.and_then(|index| facts.interface(index));
    let own = |wanted: Family| {
        let on_interface = interface.into_iter().flat_map(|interface| facts.addresses_of(interface.index));
        std::iter::once(this.address)
            .chain(on_interface)
            .find(|address| family(*address) == wanted && is_global(*address))
    };
    let v4 = match own(Family::V4) {
        Some(IpAddr::V4(address)) => GateSource { address, on_mesh0: false },
        _ => GateSource { address: fallback_v4(this.address), on_mesh0: true },
    };
    let v6 = match own(Family::V6) {
        Some(IpAddr::V6(address)) => GateSource { address, on_mesh0: false },
        _ => GateSource { address: fallback_v6(v4.address), on_mesh0: true },
    };
    GateLink { v4, v6, mtu: interface.map_or(1500, |interface| interface.mtu) }
}

/// `169.254.77.x`, with x between 2 and 254 taken from the node's address.
fn fallback_v4(node: IpAddr) -> Ipv4Addr {
    let last = match node {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    Ipv4Addr::new(169, 254, 77, 2 + last % 253)
}

/// `fdfe:6d65:7368::ffff:a.b.c.d`, with the node's IPv4 address at its end.
fn fallback_v6(node: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = node.octets().map(u16::from);
    Ipv6Addr::new(0xfdfe, 0x6d65, 0x7368, 0, 0, 0xffff, a << 8 | b, c << 8 | d)
}
