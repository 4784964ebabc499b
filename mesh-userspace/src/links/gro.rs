//! The device for whose sake the kernel merges what comes in tunnels (docs/decisions/0017).
//!
//! What a card has received, the kernel merges (GRO) before any tc program sees it; what is inside a tunnel only if a socket on
//! the tunnel's port knows how, and such a socket belongs to a device of the kernel's own. This one carries nothing: it has no
//! address, and it is told to take the packets of certain VNIs and of none.

use super::{
    LinkError, Links,
    netlink::Link,
    sysctl::{self, Ipv6},
};

/// The device's name.
pub const GRO_NAME: &str = "mesh0-gro";

impl Links {
    /// Makes the device what it should be, for tunnels to this UDP port.
    pub async fn ensure_gro(&self, port: u16) -> Result<(), LinkError> {
        let link = match self.find_gro().await? {
            Some(link) if link.vxlan_port == Some(port) => link,
            Some(other) => {
                self.netlink.delete_link(other.index, GRO_NAME).await?;
                self.make_gro(port).await?
            }
            None => self.make_gro(port).await?,
        };
        self.namespace.run(|| sysctl::set_ipv6(GRO_NAME, Ipv6::Off)).await??;
        self.netlink.raise(&link).await
    }

    /// Removes the device; it is no error if there is none.
    pub async fn remove_gro(&self) -> Result<(), LinkError> {
        match self.find_gro().await? {
            Some(link) => self.netlink.delete_link(link.index, GRO_NAME).await,
            None => Ok(()),
        }
    }

    async fn find_gro(&self) -> Result<Option<Link>, LinkError> {
        match self.netlink.link_named(GRO_NAME).await? {
            Some(link) if !link.is_vxlan() => {
                let kind = link.kind.unwrap_or_else(|| "no virtual interface".into());
                Err(LinkError::Foreign { name: link.name, kind })
            }
            found => Ok(found),
        }
    }

    async fn make_gro(&self, port: u16) -> Result<Link, LinkError> {
        self.netlink.add_vxlan(GRO_NAME, port).await?;
        self.find_gro().await?.ok_or_else(|| LinkError::Vanished { name: GRO_NAME.into() })
    }
}
