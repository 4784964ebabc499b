//! The nodes of the mesh, and the interfaces of this one.

use super::{Address, Family, pod::pod};
use crate::hash;

/// Where a node stands in the table of nodes. 0 is no node.
pub type NodeIndex = u32;

/// A node of the mesh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its underlay address; `::` in an unused entry.
    pub address: Address,
    /// The interface of this node that the underlay route to it leaves by; 0 while there is no route.
    pub ifindex: u32,
    /// The longest outer IP packet that the route takes, in bytes.
    pub mtu: u32,
    /// The MAC address that names it inside tunnels: [`node_mac`] of its address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

impl Node {
    /// An unused entry, as the kernel's array has it: zero.
    pub const UNUSED: Self =
        Self { address: Address::UNSPECIFIED, ifindex: 0, mtu: 0, mac: [0; 6], reserved: [0; 2] };
}

/// The MAC address that names a node inside tunnels, where its underlay address has no room: locally administered, then
/// an IPv4 address behind `4e`, or 40 bits of a hash of an IPv6 address behind another first byte.
#[must_use]
pub fn node_mac(address: Address) -> [u8; 6] {
    match address.family() {
        Family::V4 => {
            let [a, b, c, d] = address.v4_octets();
            [0x02, 0x4e, a, b, c, d]
        }
        Family::V6 => {
            let [high, low] = address.0.map(u64::from_le);
            let [a, b, c, d, e, ..] = hash::words(0, [high, low]).to_le_bytes();
            [0x06, a, b, c, d, e]
        }
    }
}

/// An address that packets come to this node for; keyed by the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The interface that has the address; 0 for one that is routed to this node and on no interface of it.
    pub ifindex: u32,
    /// Flags of the module [`local_flags`].
    pub flags: u32,
    /// The number of the [`host_alias`](super::host_alias) by which the node's own processes reach what is published at
    /// this very address; 0 where nothing is, or where that of the whole node will do.
    pub alias: u32,
}

/// Flags of a [`Local`].
pub mod local_flags {
    /// Ports that are published on every address answer here.
    pub const SERVES: u32 = 1;
    /// Ports are published at this very address: they are looked for first.
    pub const OWN: u32 = 2;
}

/// An interface of this node by which the outside world is reached; keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// What tasks' IPv4 traffic is masqueraded as, or `::`.
    pub v4: Address,
    /// What tasks' IPv6 traffic is masqueraded as, or `::`.
    pub v6: Address,
    /// The interface's MAC address, zero where it has none.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// The longest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// Zero.
    pub reserved2: u32,
}

pod!(Node, Local, Uplink);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<Node>(), 16 + 8 + 8);
        assert_eq!(size_of::<Local>(), 3 * 4);
        assert_eq!(size_of::<Uplink>(), 32 + 8 + 8);
    }
}
