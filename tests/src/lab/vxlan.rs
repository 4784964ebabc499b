//! The Linux kernel's own `vxlan` device in the place of a node.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::{Lab, host::Host};

/// What a kernel's device does of the mesh: one endpoint of one network.
#[derive(Clone, Debug)]
pub struct VxlanDevice {
    /// The network's VNI.
    pub vni: u32,
    /// The endpoint's addresses, with their prefix lengths.
    pub addresses: Vec<String>,
    /// The other node.
    pub remote: IpAddr,
    /// Bytes of the longest IP packet inside.
    pub mtu: u32,
}

impl VxlanDevice {
    /// Makes the device `vx0` on a node that runs no daemon, with the MAC address that the mesh derives. The
    /// neighbours on the network are found by ARP and neighbour discovery through the tunnel, as the kernel
    /// does without further ado, unless [`Self::neighbour`] names them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn create(&self, lab: &Lab, node: &str) -> Result<()> {
        let host = lab.host(node);
        let local = lab.mesh().address(node)?;
        // IPv6 allows no UDP checksum of zero but for tunnels that say so (RFC 6935), and eBPF sends zero.
        let checksums = if local.is_ipv6() { "udp6zerocsumrx" } else { "" };
        let first = self.addresses.first().context("the device needs an address")?;
        let Self { vni, remote, mtu, .. } = self;
        host.namespace.ip(&format!(
            "link add vx0 address {mac} mtu {mtu} type vxlan id {vni} local {local} remote {remote} \
             dstport 4789 {checksums}",
            mac = mac_of(first.split('/').next().unwrap_or_default().parse()?),
        ))?;
        host.namespace.ip("link set vx0 up")?;
        for address in &self.addresses {
            let no_dad = if address.contains(':') { "nodad" } else { "" };
            host.namespace.ip(&format!("address add {address} dev vx0 {no_dad}"))?;
        }
        Ok(())
    }

    /// Tells a node's device the MAC address of an endpoint elsewhere.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn neighbour(host: &Host, address: IpAddr, mac: &str) -> Result<()> {
        host.namespace
            .ip(&format!("neighbour replace {address} lladdr {mac} dev vx0 nud permanent"))
            .map(drop)
    }
}

/// The MAC address that the mesh gives to an endpoint of this address: 02:42 and its last four bytes.
#[must_use]
pub fn mac_of(address: IpAddr) -> String {
    let [.., a, b, c, d] = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_follows_the_address() {
        assert_eq!(mac_of("10.0.9.11".parse().unwrap()), "02:42:0a:00:09:0b");
        assert_eq!(mac_of("fd00:9::a00:90b".parse().unwrap()), "02:42:0a:00:09:0b");
    }
}
