//! Who the nodes of a mesh are, and whether they live.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::stamp::NodeId;

/// The longest name of a node, in bytes: what DNS allows a host.
pub const LONGEST_NODE_NAME: usize = 253;

/// A node, at one start of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its name, which no other living node has; at most [`LONGEST_NODE_NAME`] bytes.
    pub name: String,
    /// Its own number, which stays when it is restarted.
    pub id: NodeId,
    /// Where it is reached by gossip; no other living node has it.
    pub address: SocketAddr,
    /// Grows with each start, so that a node which was restarted takes the place of its dead self at once.
    pub incarnation: u64,
}

impl Identity {
    /// Whether others will have it.
    ///
    /// # Errors
    /// Its name is none, or its address cannot be sent to.
    pub fn check(&self) -> Result<(), IdentityFault> {
        let length = self.name.len();
        if length == 0 || length > LONGEST_NODE_NAME || self.name.chars().any(char::is_control) {
            return Err(IdentityFault::Name);
        }
        if self.address.port() == 0 || self.address.ip().is_unspecified() || self.address.ip().is_multicast()
        {
            return Err(IdentityFault::Address(self.address));
        }
        Ok(())
    }
}

/// What is wrong with an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// Its name is empty, too long or has control characters.
    #[error("a node's name has to have 1 to {LONGEST_NODE_NAME} bytes, without control characters")]
    Name,
    /// Nobody could send to it.
    #[error("{0} is no address that other nodes could send to; give one of this node's own, with a port")]
    Address(SocketAddr),
}

/// How a member is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer, and has not denied yet that it is dead; it counts as alive.
    Suspect,
    /// It did not answer for long enough.
    Dead,
    /// It said that it leaves.
    Left,
}

impl MemberState {
    /// Whether it counts as alive.
    #[must_use]
    pub const fn lives(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A node that is or was in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// How it is seen from here.
    pub state: MemberState,
    /// Since when, in monotonic time.
    pub since: Duration,
}
