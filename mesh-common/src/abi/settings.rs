//! What the programs know of their own node.

use core::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{Address, Family, pod::pod};

/// The address by which a node's own processes reach published ports, and as which tasks reach the node:
/// link-local (RFC 3927), never on a wire.
pub const HOST_ALIAS_V4: Address = Address::from_v4(Ipv4Addr::new(169, 254, 77, 1).octets());

/// The same for IPv6, unique-local (RFC 4193) because a link-local one would need a scope in every socket call.
pub const HOST_ALIAS_V6: Address =
    Address::from_v6(Ipv6Addr::new(0xfdfe, 0x6d65, 0x7368, 0, 0, 0, 0, 1).octets());

/// The first address of the /24 of aliases for single addresses that ports are published at: by them it is still known
/// which of those a process of the node has asked for.
pub const HOST_ALIASES_V4: Address = Address::from_v4(Ipv4Addr::new(169, 254, 78, 0).octets());

/// The same for IPv6, the first address of a /64.
pub const HOST_ALIASES_V6: Address =
    Address::from_v6(Ipv6Addr::new(0xfdfe, 0x6d65, 0x7368, 1, 0, 0, 0, 0).octets());

/// The greatest number of such an alias, in either family; they begin with 1.
pub const HOST_ALIASES: u32 = 254;

/// The alias with a number, or that of the whole node for 0.
#[inline(always)]
#[must_use]
pub const fn host_alias(family: Family, number: u32) -> Address {
    let [high, low] = match (family, number) {
        (Family::V4, 0) => return HOST_ALIAS_V4,
        (Family::V6, 0) => return HOST_ALIAS_V6,
        (Family::V4, _) => HOST_ALIASES_V4.0,
        (Family::V6, _) => HOST_ALIASES_V6.0,
    };
    // The last byte of an address is the last of its second word.
    Address([high, low | (number as u64 & 0xff).to_be()])
}

/// The ports that tasks are masqueraded to: above the range 32768–60999 that Linux gives its own sockets.
pub const MASQUERADE_PORTS: Range<u16> = 61001..65535;

/// The one entry of the settings' table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// This node's underlay address.
    pub address: Address,
    /// The seed of every flow hash, the same on every node of the cluster.
    pub seed: u64,
    /// This node's own index.
    pub node: u32,
    /// The inner side of the veth pair by which this node's own packets enter the mesh; its other side is
    /// `mesh0`.
    pub host_ifindex: u32,
    /// The MAC address of `mesh0`.
    pub host_mac: [u8; 6],
    /// The VXLAN port.
    pub vxlan_port: [u8; 2],
    /// One packet in this many is traced; 0 for none.
    pub trace_every: u32,
    /// Flags of the module [`settings_flags`].
    pub flags: u32,
}

/// Flags of [`Settings`].
pub mod settings_flags {
    /// Answers go straight to the client rather than through the entry node.
    pub const RETURN_DIRECT: u32 = 1;
    /// A flow that this node does not know is taken here rather than asked for elsewhere.
    pub const NO_SECOND_CHANCE: u32 = 2;
    /// Each packet goes to the backend that its entry node chose, whatever this node remembers of its flow.
    pub const FORGETFUL: u32 = 4;
    /// The node that a flow enters by remembers its backend, for all schedulers.
    pub const ENTRY_CACHE: u32 = 8;
}

pod!(Settings);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_told_by_their_prefix() {
        use core::net::IpAddr;

        for (family, number, text) in [
            (Family::V4, 0, "169.254.77.1"),
            (Family::V4, 7, "169.254.78.7"),
            (Family::V6, 0, "fdfe:6d65:7368::1"),
            (Family::V6, 254, "fdfe:6d65:7368:1::fe"),
        ] {
            let alias = host_alias(family, number);
            assert_eq!(IpAddr::from(alias), text.parse::<IpAddr>().unwrap());
            assert!(alias.is_host_alias(), "{text}");
        }
        for text in
            ["169.254.77.2", "169.254.79.7", "fdfe:6d65:7368::2", "fdfe:6d65:7368:2::1", "::a9fe:4e07"]
        {
            assert!(!Address::from(text.parse::<IpAddr>().unwrap()).is_host_alias(), "{text}");
        }
    }

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<Settings>(), 16 + 8 + 8 + 8 + 8);
    }
}
