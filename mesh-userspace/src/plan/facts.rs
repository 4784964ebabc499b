//! What is true of this node at the moment: what the plan is made for.

use std::{collections::BTreeMap, net::IpAddr};

/// What is true of this node's own network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The interfaces of the node's namespace.
    pub interfaces: Vec<Interface>,
    /// The addresses on these interfaces, loopback's included.
    pub addresses: Vec<LocalAddress>,
    /// The route to each node, by its underlay address; a node that cannot be reached is missing, and so may be
    /// this node itself.
    pub routes: BTreeMap<IpAddr, NodeRoute>,
    /// The interface index of the host side of each endpoint that is attached, by the endpoint's name.
    pub attached: BTreeMap<String, u32>,
    /// The interface index of the host side of each gateway that is attached, by the network's name.
    pub gateways: BTreeMap<String, u32>,
    /// The pair of interfaces by which this node's own packets enter the mesh, once it exists.
    pub gate: Option<GateFacts>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, zero where it has none.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet that it takes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// The kind that the kernel names (`veth`, `bridge`, …), empty for hardware.
    pub kind: String,
    /// The index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The bits of its prefix.
    pub prefix_len: u8,
    /// Its interface's index.
    pub ifindex: u32,
}

/// The route to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The interface that it leaves by.
    pub ifindex: u32,
    /// Bytes of the longest IP packet that it takes.
    pub mtu: u32,
    /// The source address that the kernel would choose, where it names one.
    pub source: Option<IpAddr>,
}

/// The veth pair of the node itself: `mesh0` and its eBPF side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateFacts {
    /// The interface index of the eBPF side.
    pub host_ifindex: u32,
    /// The MAC address of `mesh0`.
    pub mesh0_mac: [u8; 6],
}

impl NodeFacts {
    /// The interface of this index.
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.index == index)
    }

    /// The addresses of an interface, in the kernel's order.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().filter(move |local| local.ifindex == ifindex).map(|local| local.address)
    }
}
