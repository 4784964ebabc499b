//! What the node's interfaces, addresses and routes are.

use std::net::IpAddr;

use super::{LinkError, Links, netlink::Link};

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The longest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// What kind of virtual interface it is (`veth`, `vxlan`, …); none for a real one and the loopback.
    pub kind: Option<String>,
    /// Its alias: for the node's end of a task's pair the endpoint's name.
    pub alias: Option<String>,
    /// The index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
}

/// An address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of its subnet's prefix, in bits.
    pub prefix: u8,
    /// The index of the interface that holds it.
    pub ifindex: u32,
}

/// All of it at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The interfaces.
    pub interfaces: Vec<Interface>,
    /// Their addresses, link-local ones among them.
    pub addresses: Vec<InterfaceAddress>,
}

/// The way by which packets to an address leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface that they leave by.
    pub ifindex: u32,
    /// The node's address that they carry as their source.
    pub source: Option<IpAddr>,
    /// The router that they are sent to; none for a destination on the link.
    pub gateway: Option<IpAddr>,
    /// The longest IP packet that the route itself allows, in bytes, where it says so; the interface may
    /// allow less.
    pub mtu: Option<u32>,
    /// Whether the address is the node's own.
    pub local: bool,
}

impl Links {
    /// The interfaces and addresses of the node.
    pub async fn observe(&self) -> Result<Facts, LinkError> {
        let interfaces = self.netlink.links().await?.into_iter().map(Interface::from).collect();
        let addresses = self
            .netlink
            .addresses()
            .await?
            .into_iter()
            .map(|address| InterfaceAddress {
                address: address.net.addr(),
                prefix: address.net.prefix_len(),
                ifindex: address.index,
            })
            .collect();
        Ok(Facts { interfaces, addresses })
    }

    /// The way to `address`, or none if the node has no route to it.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<Route>, LinkError> {
        Ok(self.netlink.route_to(address).await?.and_then(|answer| {
            Some(Route {
                ifindex: answer.index?,
                source: answer.source,
                gateway: answer.gateway,
                mtu: answer.mtu,
                local: answer.local,
            })
        }))
    }

    /// The interfaces that default routes of the main table leave by, of either family, each once.
    pub async fn default_route_interfaces(&self) -> Result<Vec<u32>, LinkError> {
        let mut found = Vec::new();
        for ipv6 in [false, true] {
            for route in self.netlink.routes(ipv6).await? {
                if route.destination.prefix_len() == 0 {
                    found.extend(route.interfaces);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

impl From<Link> for Interface {
    fn from(link: Link) -> Self {
        Self {
            index: link.index,
            name: link.name,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            kind: link.kind,
            alias: link.alias,
            master: link.master,
        }
    }
}
