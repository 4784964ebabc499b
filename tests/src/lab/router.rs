//! Hosts that are not on the underlay, but behind ones that route.

use anyhow::Result;

use super::{Lab, namespace::Namespace};

/// The addresses of the host behind a router.
pub const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

/// The addresses of the host behind a second router, which is the host behind the first.
pub const FARTHER: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];

impl Lab {
    /// Makes the client `router` a router, puts the new host `far` behind it, and lets every node know the way. The router
    /// sends at most `mtu` bytes at once to it; `far` itself believes in 1500.
    ///
    /// # Errors
    /// If there is no such client, or the kernel refuses.
    pub fn add_host_behind(&mut self, router: &str, far: &str, mtu: u32) -> Result<()> {
        self.add_way("198.51.100", "2001:db8:1:", router)?;
        self.add_host(far)?;
        let (far, router) = (&self.host(far).namespace, &self.host(router).namespace);
        join((router, far), ("198.51.100", "2001:db8:1:"))?;
        router.ip(&format!("link set far mtu {mtu}")).map(drop)
    }

    /// Makes the host `far` that was put behind `router` a router itself, which knows as well as the other how little their
    /// link takes, and puts the new host `farther` behind it, by a link that takes 1500 bytes.
    ///
    /// # Errors
    /// If there are no such hosts, or the kernel refuses.
    pub fn add_host_behind_both(&mut self, router: &str, far: &str, farther: &str, mtu: u32) -> Result<()> {
        self.add_way("203.0.113", "2001:db8:2:", router)?;
        self.add_host(farther)?;
        let first = &self.host(router).namespace;
        first.ip(&format!("route add 203.0.113.0/24 via {}", FAR[0]))?;
        first.ip(&format!("route add 2001:db8:2::/64 via {}", FAR[1]))?;
        let (farther, far) = (&self.host(farther).namespace, &self.host(far).namespace);
        far.ip(&format!("link set eth0 mtu {mtu}"))?;
        join((far, farther), ("203.0.113", "2001:db8:2:"))
    }

    /// Lets every node know the way to what is behind a client.
    fn add_way(&self, v4: &str, v6: &str, router: &str) -> Result<()> {
        let (router_v4, router_v6) = (self.mesh().address_v4(router)?, self.mesh().address_v6(router)?);
        for node in &self.mesh().nodes {
            let namespace = &self.host(node).namespace;
            namespace.ip(&format!("route add {v4}.0/24 via {router_v4}"))?;
            namespace.ip(&format!("route add {v6}:/64 via {router_v6}"))?;
        }
        Ok(())
    }
}

/// Makes a host a router, by its interface `far`, of the only link of another.
fn join((router, far): (&Namespace, &Namespace), (v4, v6): (&str, &str)) -> Result<()> {
    far.ip(&format!("link add eth0 type veth peer name far netns {}", router.name()))?;
    far.exec("ethtool -K eth0 tx off")?;
    router.exec("ethtool -K far tx off")?;
    for (namespace, interface, last) in [(router, "far", 1), (far, "eth0", 2)] {
        namespace.ip(&format!("link set {interface} up"))?;
        namespace.ip(&format!("address add {v4}.{last}/24 dev {interface}"))?;
        namespace.ip(&format!("address add {v6}:{last}/64 dev {interface} nodad"))?;
    }
    far.ip(&format!("route add default via {v4}.1"))?;
    far.ip(&format!("route add default via {v6}:1"))?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.sysctl("net.ipv6.conf.all.forwarding", "1")
}
