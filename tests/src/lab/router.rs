//! A host that is not on the underlay, but behind one that routes.

use anyhow::Result;

use super::Lab;

/// The addresses of the host behind the router.
pub const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

impl Lab {
    /// Makes the client `router` a router, puts the new host `far` behind it, and lets every node know the way. The router
    /// sends at most `mtu` bytes at once to it; `far` itself believes in 1500.
    ///
    /// # Errors
    /// If there is no such client, or the kernel refuses.
    pub fn add_host_behind(&mut self, router: &str, far: &str, mtu: u32) -> Result<()> {
        let (router_v4, router_v6) = (self.mesh().address_v4(router)?, self.mesh().address_v6(router)?);
        for node in &self.mesh().nodes {
            let namespace = &self.host(node).namespace;
            namespace.ip(&format!("route add 198.51.100.0/24 via {router_v4}"))?;
            namespace.ip(&format!("route add 2001:db8:1::/64 via {router_v6}"))?;
        }
        self.add_host(far)?;
        let (far, router) = (&self.host(far).namespace, &self.host(router).namespace);
        far.ip(&format!("link add eth0 type veth peer name far netns {}", router.name()))?;
        far.exec("ethtool -K eth0 tx off")?;
        router.exec("ethtool -K far tx off")?;
        router.ip(&format!("link set far mtu {mtu}"))?;
        for (namespace, interface, last) in [(router, "far", 1), (far, "eth0", 2)] {
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.ip(&format!("address add 198.51.100.{last}/24 dev {interface}"))?;
            namespace.ip(&format!("address add 2001:db8:1::{last}/64 dev {interface} nodad"))?;
        }
        far.ip("route add default via 198.51.100.1")?;
        far.ip("route add default via 2001:db8:1::1")?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")
    }
}
