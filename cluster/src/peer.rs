//! What the failure detector knows a node by.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    member::{Identity, IdentityFault},
    stamp::NodeId,
};

/// A node at one start of it, and at one of its lives since: a node that was taken for dead cannot deny it, and comes
/// back as somebody greater. A copy is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    /// How often it was taken for dead since its start.
    pub(crate) life: u32,
    /// It said that it leaves.
    pub(crate) left: bool,
    pub(crate) host: Arc<Host>,
}

/// What stays the same while a node runs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// A peer as it is told to others.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Told<'a>(
    pub(crate) NodeId,
    pub(crate) u64,
    pub(crate) u32,
    pub(crate) bool,
    pub(crate) &'a str,
    pub(crate) SocketAddr,
);

impl Peer {
    pub(crate) fn new(identity: Identity) -> Self {
        let Identity { name, id, address, incarnation } = identity;
        Self { id, incarnation, life: 0, left: false, host: Arc::new(Host { name, address }) }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            name: self.host.name.clone(),
            id: self.id,
            address: self.host.address,
            incarnation: self.incarnation,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.host.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.host.address
    }

    /// The same node, greater than what is held of it elsewhere; none when the numbers are used up.
    pub(crate) fn over(&self, held: &Self) -> Option<Self> {
        let incarnation = self.incarnation.max(held.incarnation);
        let held_life = if held.incarnation == incarnation { held.life } else { 0 };
        let own_life = if self.incarnation == incarnation { self.life } else { 0 };
        let next = match own_life.max(held_life).checked_add(1) {
            Some(life) => Self { incarnation, life, ..self.clone() },
            None => Self { incarnation: incarnation.checked_add(1)?, life: 0, ..self.clone() },
        };
        Some(next)
    }
}

impl foca::Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        self.over(self)
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self > adversary
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Told(self.id, self.incarnation, self.life, self.left, self.name(), self.address())
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Told::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

impl TryFrom<Told<'_>> for Peer {
    type Error = IdentityFault;

    fn try_from(Told(id, incarnation, life, left, name, address): Told<'_>) -> Result<Self, IdentityFault> {
        let identity = Identity { name: name.to_owned(), id, address, incarnation };
        identity.check()?;
        Ok(Self { life, left, ..Self::new(identity) })
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn peer(incarnation: u64, life: u32) -> Peer {
        let address = "192.0.2.1:7946".parse().unwrap();
        let identity = Identity { name: "n1".to_owned(), id: NodeId(1), address, incarnation };
        Peer { life, ..Peer::new(identity) }
    }

    #[test]
    fn a_later_start_wins_over_any_life_of_an_earlier_one() {
        assert!(peer(2, 0).win_addr_conflict(&peer(1, 9)));
        assert!(!peer(1, 9).win_addr_conflict(&peer(2, 0)));
    }

    #[test]
    fn what_comes_back_is_greater_than_what_is_held_of_it() {
        for held in [peer(1, 0), peer(1, 7), peer(5, 3), peer(1, u32::MAX), peer(9, u32::MAX)] {
            let mine = peer(3, 2);
            let over = mine.over(&held).unwrap();
            assert!(over > held && over > mine, "{over:?} {held:?}");
        }
        assert_eq!(peer(1, 0).over(&peer(u64::MAX, u32::MAX)), None);
    }

    #[test]
    fn who_could_not_be_sent_to_is_not_read() {
        let told = |name, address: &str| Told(NodeId(1), 1, 0, false, name, address.parse().unwrap());
        assert!(Peer::try_from(told("n1", "192.0.2.1:7946")).is_ok());
        assert!(Peer::try_from(told("", "192.0.2.1:7946")).is_err());
        assert!(Peer::try_from(told("n\n", "192.0.2.1:7946")).is_err());
        assert!(Peer::try_from(told("n1", "0.0.0.0:7946")).is_err());
        assert!(Peer::try_from(told("n1", "192.0.2.1:0")).is_err());
    }
}
