//! The veth pairs of tasks: one end in the node's namespace, the other in the task's.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;

use super::{
    LinkError, Links, Namespace,
    netlink::{Link, Netlink},
    sysctl::{self, Ipv6},
};

/// The pair that attaches a task to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLink {
    /// The name of the node's end: `mesh` and eight hexadecimal digits.
    pub name: String,
    /// The MAC address of the task's end.
    pub peer_mac: [u8; 6],
    /// The task's network namespace: a name under /run/netns, or a path.
    pub netns: PathBuf,
    /// The addresses of the task's end, with the prefix lengths of the network's subnets.
    pub addresses: Vec<IpNet>,
    /// What else is on the link: the network's other subnets.
    pub routes: Vec<IpNet>,
    /// The network's gateways: at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Whether the task reaches everything else by these gateways. A default route that leaves by an
    /// interface of another kind stays what it is.
    pub default_route: bool,
    /// The longest IP packet, in bytes.
    pub mtu: u32,
    /// The endpoint's name, kept as the alias of the node's end, so that people and the mesh know it again.
    pub alias: String,
}

/// A pair that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPair {
    /// The interface index of the node's end.
    pub ifindex: u32,
    /// The name of the task's end, in its namespace.
    pub interface: String,
}

/// A node's end of a pair, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEndpoint {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// The name of the endpoint, if it is set.
    pub alias: Option<String>,
}

impl Links {
    /// Makes the pair what it should be, and tells what it is.
    pub async fn ensure_endpoint(&self, wanted: &EndpointLink) -> Result<EndpointPair, LinkError> {
        let namespace = Namespace::open(&wanted.netns)?;
        if namespace.id() == self.namespace.id() {
            return Err(LinkError::OwnNamespace {
                endpoint: wanted.alias.clone(),
                path: namespace.path().into(),
            });
        }
        let inside = Netlink::open(&namespace).await?;
        let (host, peer) = match self.find_pair(wanted, &namespace, &inside).await? {
            Some(pair) => pair,
            None => self.make_pair(wanted, &namespace, &inside).await?,
        };

        let name = host.name.clone();
        self.namespace.run(move || sysctl::set_ipv6(&name, Ipv6::Off)).await??;
        self.netlink.shape(&host, None, wanted.mtu, Some(&wanted.alias)).await?;
        self.netlink.limit_aggregates(&host).await;
        self.netlink.raise(&host).await?;

        self.ensure_peer(wanted, &namespace, &inside, &peer).await?;
        Ok(EndpointPair { ifindex: host.index, interface: peer.name })
    }

    /// Removes the pair, wherever its other end is; it is no error if there is none.
    pub async fn remove_endpoint(&self, name: &str) -> Result<(), LinkError> {
        match self.netlink.link_named(name).await? {
            Some(link) => self.netlink.delete_link(link.index, name).await,
            None => Ok(()),
        }
    }

    /// The node's ends of all pairs, by their names.
    pub async fn list_endpoints(&self) -> Result<Vec<ListedEndpoint>, LinkError> {
        let links = self.netlink.links().await?;
        Ok(links
            .into_iter()
            .filter(|link| link.is_veth() && is_endpoint_name(&link.name))
            .map(|link| ListedEndpoint { name: link.name, ifindex: link.index, alias: link.alias })
            .collect())
    }

    /// Both ends, if the node's end is there and the other one is in the right namespace. A node's end
    /// whose other end is elsewhere is removed.
    async fn find_pair(
        &self,
        wanted: &EndpointLink,
        namespace: &Namespace,
        inside: &Netlink,
    ) -> Result<Option<(Link, Link)>, LinkError> {
        let Some(host) = self.netlink.link_named(&wanted.name).await? else {
            return Ok(None);
        };
        if !host.is_veth() {
            let kind = host.kind.unwrap_or_else(|| "no virtual interface".into());
            return Err(LinkError::Foreign { name: host.name, kind });
        }
        // Indices are each namespace's own, so the peer's is worth something in its own namespace alone.
        let number = self.netlink.number_of(namespace).await?;
        if number.is_some()
            && host.peer_netnsid == number
            && let Some(peer) = host.peer
            && let Some(peer) = inside.link_numbered(peer).await?
        {
            return Ok(Some((host, peer)));
        }
        self.netlink.delete_link(host.index, &host.name).await?;
        Ok(None)
    }

    async fn make_pair(
        &self,
        wanted: &EndpointLink,
        namespace: &Namespace,
        inside: &Netlink,
    ) -> Result<(Link, Link), LinkError> {
        let vanished = || LinkError::Vanished { name: wanted.name.clone() };
        // Somebody else may take the name between the look and the leap.
        for _ in 0..16 {
            let taken: Vec<String> = inside.links().await?.into_iter().map(|link| link.name).collect();
            let free = (0u32..).map(|n| format!("eth{n}")).find(|name| !taken.contains(name));
            let Some(peer_name) = free else { break };
            let made = self
                .netlink
                .add_veth(&wanted.name, &peer_name, Some(wanted.peer_mac), wanted.mtu, Some(namespace))
                .await?;
            if !made {
                continue;
            }
            let host = self.netlink.link_named(&wanted.name).await?.ok_or_else(vanished)?;
            let peer = inside.link_named(&peer_name).await?.ok_or_else(vanished)?;
            return Ok((host, peer));
        }
        Err(vanished())
    }

    async fn ensure_peer(
        &self,
        wanted: &EndpointLink,
        namespace: &Namespace,
        inside: &Netlink,
        peer: &Link,
    ) -> Result<(), LinkError> {
        inside.shape(peer, Some(wanted.peer_mac), wanted.mtu, None).await?;
        inside.limit_aggregates(peer).await;
        if let Some(address) = wanted.addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv6) {
            let name = peer.name.clone();
            namespace
                .run(move || {
                    if sysctl::has_ipv6() {
                        sysctl::set_ipv6(&name, Ipv6::On)
                    } else {
                        Err(LinkError::NoIpv6 { address, interface: name })
                    }
                })
                .await??;
        }
        inside.ensure_addresses(peer, &wanted.addresses).await?;
        inside.raise(peer).await?;
        for ipv6 in [false, true] {
            ensure_link_routes(inside, peer, ipv6, &wanted.routes).await?;
            let gateway = wanted
                .gateways
                .iter()
                .copied()
                .find(|gateway| gateway.is_ipv6() == ipv6)
                .filter(|_| wanted.default_route);
            ensure_default_route(inside, peer, ipv6, gateway).await?;
        }
        Ok(())
    }
}

/// Makes `wanted` the only routes by `link` that lead no further than it, besides the kernel's own and what somebody else
/// has added.
async fn ensure_link_routes(
    inside: &Netlink,
    link: &Link,
    ipv6: bool,
    wanted: &[IpNet],
) -> Result<(), LinkError> {
    let mut missing: Vec<IpNet> =
        wanted.iter().copied().filter(|route| route.addr().is_ipv6() == ipv6).collect();
    for route in inside.routes(ipv6).await? {
        let is_ours = route.interfaces == [link.index]
            && route.gateway.is_none()
            && route.is_static
            && route.destination.prefix_len() != 0;
        if !is_ours {
            continue;
        }
        match missing.iter().position(|wanted| *wanted == route.destination) {
            Some(position) => drop(missing.swap_remove(position)),
            None => inside.delete_route(&route).await?,
        }
    }
    for route in missing {
        if !inside.add_route(link, route, None, None).await? {
            tracing::debug!(interface = link.name, %route, "the task keeps the route that it already has");
        }
    }
    Ok(())
}

/// Makes `gateway` the only default route by `link`, or leaves none by it.
async fn ensure_default_route(
    inside: &Netlink,
    link: &Link,
    ipv6: bool,
    gateway: Option<IpAddr>,
) -> Result<(), LinkError> {
    let mut right = false;
    for route in inside.routes(ipv6).await? {
        if route.destination.prefix_len() != 0 || route.interfaces != [link.index] {
            continue;
        }
        if gateway.is_some() && route.gateway == gateway {
            right = true;
        } else {
            inside.delete_route(&route).await?;
        }
    }
    let Some(gateway) = gateway.filter(|_| !right) else {
        return Ok(());
    };
    let everything = IpNet::new_assert(
        if ipv6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() },
        0,
    );
    if !inside.add_route(link, everything, Some(gateway), None).await? {
        tracing::debug!(interface = link.name, "the task keeps the default route that it already has");
    }
    Ok(())
}

fn is_endpoint_name(name: &str) -> bool {
    name.strip_prefix("mesh").is_some_and(|digits| {
        digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::is_endpoint_name;

    #[test]
    fn a_pair_is_known_by_its_name() {
        assert!(is_endpoint_name("mesh0123abcd"));
        for other in
            ["mesh0", "mesh0-gate", "mesh0123abc", "mesh0123abcde", "mesh0123abcg", "eth0", "mesh0123ABCD"]
        {
            assert!(!is_endpoint_name(other), "{other}");
        }
    }
}
