//! The gate: the veth pair by which the node's own packets enter the mesh.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    LinkError, Links,
    netlink::Link,
    sysctl::{self, Ipv6},
};

/// The node's side.
pub const GATE_NAME: &str = "mesh0";
/// The side that the eBPF program reads from.
pub const GATE_HOST: &str = "mesh0-gate";

/// What the gate should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The longest IP packet, in bytes.
    pub mtu: u32,
    /// The addresses that are reached through it: at most one of each family.
    pub ways: Vec<GateWay>,
}

/// An address that is reached through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateWay {
    /// The address, on-link on `mesh0`.
    pub alias: IpAddr,
    /// The other addresses that lead there, by way of the first.
    pub aliases: IpNet,
    /// The address that the node's own packets to it carry as their source.
    pub source: IpAddr,
    /// Whether `mesh0` itself holds that source; otherwise another interface of the node does.
    pub own: bool,
}

/// What the programs must know of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateFacts {
    /// The index of `mesh0-gate`.
    pub host_ifindex: u32,
    /// The index of `mesh0`.
    pub mesh0_ifindex: u32,
    /// The MAC address of `mesh0`.
    pub mesh0_mac: [u8; 6],
}

impl Links {
    /// Makes the gate what it should be. On a kernel that runs without IPv6 there is no such way.
    pub async fn ensure_gate(&self, wanted: &Gate) -> Result<GateFacts, LinkError> {
        let (inner, outer) = match self.find_gate().await? {
            Some(pair) => pair,
            None => self.make_gate(wanted.mtu).await?,
        };
        let vanished = |link: &Link| LinkError::Vanished { name: link.name.clone() };
        let inner_mac = inner.mac.ok_or_else(|| vanished(&inner))?;
        let outer_mac = outer.mac.ok_or_else(|| vanished(&outer))?;

        let v6 = wanted.ways.iter().any(|way| way.alias.is_ipv6());
        let has_ipv6 = self
            .namespace
            .run(move || {
                sysctl::set_ipv6(GATE_HOST, Ipv6::Off)?;
                sysctl::set_forwarding(GATE_HOST)?;
                sysctl::set_no_reverse_path(GATE_NAME)?;
                sysctl::set_ipv6(GATE_NAME, if v6 { Ipv6::Bare } else { Ipv6::Off })?;
                Ok::<bool, LinkError>(sysctl::has_ipv6())
            })
            .await??;
        let ways: Vec<GateWay> =
            wanted.ways.iter().filter(|way| has_ipv6 || way.alias.is_ipv4()).copied().collect();

        for link in [&outer, &inner] {
            self.netlink.shape(link, None, wanted.mtu, None).await?;
            self.netlink.limit_aggregates(link).await;
            self.netlink.raise(link).await?;
        }
        let own: Vec<IpNet> = ways.iter().filter(|way| way.own).map(|way| IpNet::from(way.source)).collect();
        self.netlink.ensure_addresses(&inner, &own).await?;
        for ipv6 in [false, true] {
            let way = ways.iter().find(|way| way.alias.is_ipv6() == ipv6);
            self.ensure_way(&inner, ipv6, way).await?;
        }
        for way in &ways {
            self.netlink.ensure_neighbour(&inner, way.alias, outer_mac).await?;
        }
        Ok(GateFacts { host_ifindex: outer.index, mesh0_ifindex: inner.index, mesh0_mac: inner_mac })
    }

    /// Removes the gate; it is no error if there is none.
    pub async fn remove_gate(&self) -> Result<(), LinkError> {
        match self.find_gate().await? {
            Some((inner, _)) => self.netlink.delete_link(inner.index, GATE_NAME).await,
            None => Ok(()),
        }
    }

    /// Both sides, if they are each other's.
    async fn find_gate(&self) -> Result<Option<(Link, Link)>, LinkError> {
        let inner = self.netlink.link_named(GATE_NAME).await?;
        let outer = self.netlink.link_named(GATE_HOST).await?;
        match (inner, outer) {
            (None, None) => Ok(None),
            (Some(inner), Some(outer))
                if inner.is_veth()
                    && outer.is_veth()
                    && inner.peer == Some(outer.index)
                    && outer.peer == Some(inner.index)
                    && inner.peer_netnsid.is_none() =>
            {
                Ok(Some((inner, outer)))
            }
            (Some(other), _) | (None, Some(other)) => {
                let kind = match other.kind {
                    Some(kind) => format!("a {kind} that is not paired as the mesh does it"),
                    None => "no virtual interface".into(),
                };
                Err(LinkError::Foreign { name: other.name, kind })
            }
        }
    }

    async fn make_gate(&self, mtu: u32) -> Result<(Link, Link), LinkError> {
        self.netlink.add_veth(GATE_NAME, GATE_HOST, None, mtu, None).await?;
        self.find_gate().await?.ok_or_else(|| LinkError::Vanished { name: GATE_NAME.into() })
    }

    /// Makes the way's routes, to its alias and by that to the others, the only ones by the gate in its family to a host or
    /// to the others, or leaves none.
    async fn ensure_way(&self, link: &Link, ipv6: bool, way: Option<&GateWay>) -> Result<(), LinkError> {
        let mut missing: Vec<(IpNet, Option<IpAddr>)> = way.map_or_else(Vec::new, |way| {
            vec![(IpNet::from(way.alias), None), (way.aliases, Some(way.alias))]
        });
        for route in self.netlink.routes(ipv6).await? {
            // The routes of the gate's own addresses are the kernel's, in the table `local` or by prefix.
            let own = |way: &GateWay| way.own && route.destination == IpNet::from(way.source);
            if route.interfaces != [link.index]
                || way.is_some_and(own)
                || route.destination.prefix_len() != route.destination.max_prefix_len()
                    && way.is_none_or(|way| route.destination != way.aliases)
            {
                continue;
            }
            let is_wanted = |wanted: &(IpNet, Option<IpAddr>)| {
                *wanted == (route.destination, route.gateway)
                    && way.is_some_and(|way| route.source == Some(way.source))
            };
            match missing.iter().position(is_wanted) {
                Some(index) => drop(missing.remove(index)),
                None => self.netlink.delete_route(&route).await?,
            }
        }
        for (destination, gateway) in missing {
            let source = way.map(|way| way.source);
            if !self.netlink.add_route(link, destination, gateway, source).await? {
                return Err(LinkError::Kernel {
                    doing: format!("add a route to {destination} by the interface {}", link.name),
                    source: std::io::Error::other(format!(
                        "there is one already: remove it with `ip route del {destination}`"
                    )),
                });
            }
        }
        Ok(())
    }
}
