//! The underlay: nodes, this node's interfaces, and the networks that it carries.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_common::abi::{Address, Local, Network, ServiceKey, SubnetKey, Uplink, local_flags, network_flags};

use super::{Interface, NodeFacts, PlannedNode, PlannedService, aliases::Aliases};
use crate::{
    apply::SubnetPrefix,
    problem::Problem,
    table::{self, Table},
};

/// What an outer IPv4 packet adds to an inner one, in bytes: inner Ethernet, VXLAN, UDP and IPv4 headers.
const OVERHEAD_V4: u32 = 14 + 8 + 8 + 20;
/// The same with an outer IPv6 header.
const OVERHEAD_V6: u32 = 14 + 8 + 8 + 40;
/// Ethernet's usual MTU, where nothing better is known.
const USUAL_MTU: u32 = 1500;
/// The smallest MTU that IPv6 allows (RFC 8200, section 5).
const LEAST_MTU_V6: u32 = 1280;

/// The underlay's part of the plan.
#[derive(Debug)]
pub(super) struct Underlay {
    pub(super) nodes: BTreeMap<IpAddr, PlannedNode>,
    pub(super) uplinks: BTreeMap<u32, Uplink>,
    /// Bytes of the longest inner IP packet that reaches every node.
    pub(super) inner_mtu: u32,
}

pub(super) fn underlay(
    table: &Table,
    name: &str,
    this: &table::Node,
    facts: &NodeFacts,
    problems: &mut Vec<Problem>,
) -> Underlay {
    let own = own_interface(name, this, facts, problems);
    let uplinks = uplinks(table, this, own, facts, problems);
    let nodes = nodes(table, name, own, facts, problems);
    let inner_mtu = inner_mtu(&nodes);
    if inner_mtu < LEAST_MTU_V6
        && table.networks.values().any(|network| network.gateways().any(|ip| ip.is_ipv6()))
    {
        problems.push(Problem::new(
            format!("node {name}"),
            format!(
                "The underlay leaves {inner_mtu} bytes for packets inside the tunnels, and IPv6 needs \
                 {LEAST_MTU_V6}. Raise the MTU of the nodes' interfaces to at least {}.",
                LEAST_MTU_V6 + OVERHEAD_V6
            ),
        ));
    }
    problems.extend(table.networks.iter().filter_map(|(name, network)| {
        let mtu = network.mtu.filter(|mtu| *mtu > inner_mtu)?;
        Some(Problem::new(
            format!("network {name}"),
            format!(
                "Its MTU is {mtu}, and the underlay leaves {inner_mtu} bytes for packets inside the tunnels, which holds \
                 here. Raise the MTU of the nodes' interfaces, or give `mtu:` of this network as {inner_mtu} at most."
            ),
        ))
    }));
    Underlay { inner_mtu, nodes, uplinks }
}

/// The interface that carries this node's tunnels: the one that holds its address.
fn own_interface<'a>(
    name: &str,
    this: &table::Node,
    facts: &'a NodeFacts,
    problems: &mut Vec<Problem>,
) -> Option<&'a Interface> {
    let holder = facts.addresses.iter().find(|local| local.address == this.address);
    let found = match &this.interface {
        Some(wanted) => facts.interfaces.iter().find(|interface| interface.name == *wanted),
        None => holder.and_then(|local| facts.interface(local.ifindex)),
    };
    let subject = || format!("node {name}");
    match (&this.interface, found, holder) {
        (Some(wanted), None, _) => problems.push(Problem::new(
            subject(),
            format!(
                "There is no interface {wanted}. Bring it up, or name another one under `interface:` of this node."
            ),
        )),
        (_, _, None) => problems.push(Problem::new(
            subject(),
            format!(
                "No interface of this node has its address {0}. Add it with `ip address add {0}/… dev …`, or \
                 correct `address:` of this node.",
                this.address
            ),
        )),
        (_, Some(interface), _) if !interface.up => problems.push(Problem::new(
            subject(),
            format!("The interface {0} is down. Bring it up with `ip link set {0} up`.", interface.name),
        )),
        _ => {}
    }
    found
}

/// Whether an interface may lead outside: neither loopback, nor one that the mesh made.
fn may_be_outside(interface: &Interface) -> bool {
    interface.name != "lo" && !interface.name.starts_with("mesh")
}

/// Whether an interface is a port of one that takes each of its frames: the veth pairs of containers on a bridge, say, of
/// which there may be hundreds.
fn is_port(interface: &Interface, facts: &NodeFacts) -> bool {
    let master = interface.master.and_then(|master| facts.interface(master));
    master.is_some_and(|master| {
        matches!(master.kind.as_str(), "bridge" | "bond" | "team" | "openvswitch" | "ovs-system")
    })
}

/// The interfaces to the outside world: all, or those that the options list and the one with the tunnels.
fn uplinks(
    table: &Table,
    this: &table::Node,
    own: Option<&Interface>,
    facts: &NodeFacts,
    problems: &mut Vec<Problem>,
) -> BTreeMap<u32, Uplink> {
    let listed = &table.options.interfaces;
    for name in listed {
        if !facts.interfaces.iter().any(|interface| interface.name == *name) {
            problems.push(Problem::new(
                format!("interface {name}"),
                "There is no such interface, so nothing is served on it. Bring it up, or take it out of \
                 `options: {interfaces: …}`.",
            ));
        }
    }
    let chosen = |interface: &Interface| {
        let is_listed = listed.contains(&interface.name);
        let is_own = own.is_some_and(|own| own.index == interface.index);
        let is_asked_for = if listed.is_empty() { !is_port(interface, facts) } else { is_listed };
        is_own || is_asked_for && may_be_outside(interface)
    };
    facts
        .interfaces
        .iter()
        .filter(|interface| chosen(interface))
        .map(|interface| (interface.index, uplink(this, interface, facts)))
        .collect()
}

fn uplink(this: &table::Node, interface: &Interface, facts: &NodeFacts) -> Uplink {
    // The node's own address first: that is the one by which the world should know it.
    let masquerade = |is_family: fn(&IpAddr) -> bool| {
        let global = |address: &IpAddr| is_family(address) && is_global(*address);
        facts
            .addresses_of(interface.index)
            .find(|address| global(address) && *address == this.address)
            .or_else(|| facts.addresses_of(interface.index).find(global))
            .or_else(|| Some(this.address).filter(is_family))
            .map_or(Address::UNSPECIFIED, Address::from)
    };
    Uplink {
        v4: masquerade(IpAddr::is_ipv4),
        v6: masquerade(IpAddr::is_ipv6),
        mac: interface.mac,
        reserved: [0; 2],
        mtu: interface.mtu,
        reserved2: 0,
    }
}

/// Whether an address means the same beyond its own link and host.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    }
}

fn nodes(
    table: &Table,
    name: &str,
    own: Option<&Interface>,
    facts: &NodeFacts,
    problems: &mut Vec<Problem>,
) -> BTreeMap<IpAddr, PlannedNode> {
    let mut nodes = BTreeMap::new();
    for (other, node) in &table.nodes {
        let peer = other != name;
        let route = facts.routes.get(&node.address);
        let planned = match route {
            _ if !peer => PlannedNode {
                peer,
                ifindex: own.map_or(0, |interface| interface.index),
                mtu: own.map_or(USUAL_MTU, |interface| interface.mtu),
            },
            Some(route) => PlannedNode { peer, ifindex: route.ifindex, mtu: route.mtu },
            None => {
                problems.push(Problem::new(
                    format!("node {other}"),
                    format!(
                        "There is no route to its address {0}. Check `ip route get {0}`, or correct `address:` of \
                         this node.",
                        node.address
                    ),
                ));
                PlannedNode { peer, ifindex: 0, mtu: USUAL_MTU }
            }
        };
        nodes.insert(node.address, planned);
    }
    nodes
}

fn inner_mtu(nodes: &BTreeMap<IpAddr, PlannedNode>) -> u32 {
    nodes
        .iter()
        .map(|(address, node)| {
            node.mtu.saturating_sub(if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 })
        })
        .min()
        .unwrap_or(USUAL_MTU - OVERHEAD_V6)
}

/// The addresses that packets come to this node for: its own, at which published ports answer or do not
/// (docs/decisions/0008), and those that are routed to several nodes.
pub(super) fn locals(
    table: &Table,
    facts: &NodeFacts,
    services: &BTreeMap<ServiceKey, PlannedService>,
    aliases: &Aliases,
) -> BTreeMap<Address, Local> {
    let mut locals: BTreeMap<Address, Local> = BTreeMap::new();
    for local in &facts.addresses {
        let serves = !local.address.is_loopback() && serves(table, facts, local.ifindex);
        let flags = if serves { local_flags::SERVES } else { 0 };
        // Two interfaces may have the same link-local address: the one that serves, or else the last.
        let known = locals.entry(Address::from(local.address)).or_default();
        if flags >= known.flags {
            *known = Local { ifindex: local.ifindex, flags, alias: 0 };
        }
    }
    for address in services.keys().filter(|key| key.scope == 0).map(|key| key.address) {
        if !address.is_unspecified() && !address.is_host_alias() {
            let local = locals.entry(address).or_default();
            local.flags |= local_flags::OWN;
            local.alias = aliases.number(address.into()).unwrap_or_default();
        }
    }
    locals
}

/// Whether published ports answer at the addresses of an interface: at each, or at those that the options list.
fn serves(table: &Table, facts: &NodeFacts, ifindex: u32) -> bool {
    let listed = &table.options.interfaces;
    listed.is_empty() || facts.interface(ifindex).is_some_and(|interface| listed.contains(&interface.name))
}

/// The networks by VNI.
pub(super) fn networks(table: &Table, underlay: &Underlay) -> BTreeMap<u32, Network> {
    table.networks.values().map(|network| (network.vni, one_network(network, underlay))).collect()
}

fn one_network(network: &table::Network, underlay: &Underlay) -> Network {
    let gateway = |is_family: fn(&IpAddr) -> bool| {
        network.gateways().find(is_family).map_or(Address::UNSPECIFIED, Address::from)
    };
    let (gateway_v4, gateway_v6) = (gateway(IpAddr::is_ipv4), gateway(IpAddr::is_ipv6));
    let [a, b, c, d] = if gateway_v4.is_unspecified() { gateway_v6 } else { gateway_v4 }.v4_octets();
    Network {
        gateway_v4,
        gateway_v6,
        gateway_mac: [0x02, 0x42, a, b, c, d],
        flags: if network.internal { network_flags::INTERNAL } else { 0 },
        // Never more than every tunnel takes: what is longer would be lost on the wire, and nobody told.
        mtu: network.mtu.map_or(underlay.inner_mtu, |mtu| mtu.min(underlay.inner_mtu)),
        reserved: 0,
    }
}

/// The networks' subnets, with how many of an address's last bits tell their hosts apart.
pub(super) fn subnets(table: &Table) -> BTreeMap<SubnetPrefix, u32> {
    let entry = |vni: u32, subnet: &ipnet::IpNet| {
        let key = SubnetKey { vni: vni.to_be_bytes(), address: Address::from(subnet.network()).octets() };
        let host_bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
        (SubnetPrefix { prefix_len: 32 + 128 - host_bits, key }, host_bits)
    };
    let of =
        |network: &table::Network| network.subnets.iter().map(|s| entry(network.vni, s)).collect::<Vec<_>>();
    table.networks.values().flat_map(of).collect()
}
