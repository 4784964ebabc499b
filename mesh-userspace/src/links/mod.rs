//! The interfaces of a node: what they are, and the ones that the mesh makes, through rtnetlink.
//!
//! Nothing here decides what should be. Every `ensure_…` compares what it is told with what the kernel has,
//! changes what differs and touches nothing that is right, so it may be called again and again.

mod endpoint;
mod error;
mod gate;
mod gro;
mod kept;
mod namespace;
mod netlink;
mod observe;
mod sysctl;
mod visitor;
mod watch;

#[cfg(test)]
mod tests;

pub use endpoint::{EndpointLink, EndpointPair, ListedEndpoint};
pub use error::LinkError;
pub use gate::{GATE_HOST, GATE_NAME, Gate, GateFacts, GateWay};
pub use gro::GRO_NAME;
pub use kept::KeptNamespaces;
pub(crate) use namespace::cookie_here;
pub use namespace::{Namespace, NamespaceId};
pub use observe::{Facts, Interface, InterfaceAddress, Route};
pub(crate) use visitor::Visitor;

use netlink::Netlink;

/// The interfaces of one network namespace: the node's.
///
/// Cheap to clone; each clone speaks through the same netlink socket.
#[derive(Clone, Debug)]
pub struct Links {
    namespace: Namespace,
    netlink: Netlink,
}

impl Links {
    /// Those of the namespace that the calling thread is in.
    pub async fn open() -> Result<Self, LinkError> {
        Self::of(Namespace::current()?).await
    }

    /// Those of another namespace.
    pub async fn of(namespace: Namespace) -> Result<Self, LinkError> {
        let netlink = Netlink::open(&namespace).await?;
        Ok(Self { namespace, netlink })
    }

    /// Raises the loopback interface, without which nothing in the namespace reaches an address of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn raise_loopback(&self) -> Result<(), LinkError> {
        match self.netlink.link_named("lo").await? {
            Some(loopback) => self.netlink.raise(&loopback).await,
            None => Ok(()),
        }
    }

    /// The namespace itself.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
