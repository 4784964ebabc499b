//! One address type for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::pod::pod;

/// The family of an address or a packet, by its IP version number.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// An IP address: 16 bytes in network order held as two words, IPv4 mapped into `::ffff:0:0/96` (RFC 4291,
/// section 2.5.5.2). Words make a map key of it that is hashed and compared without byte loads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u64; 2]);

pod!(Address);

/// The second half of an IPv4-mapped address before its last four bytes: `00 00 ff ff`.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `::`, which stands for "none" or "any".
    pub const UNSPECIFIED: Self = Self([0, 0]);

    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        let low = u32::from_ne_bytes(bytes);
        Self([
            0,
            if cfg!(target_endian = "little") {
                (low as u64) << 32 | MAPPED as u64
            } else {
                (MAPPED as u64) << 32 | low as u64
            },
        ])
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    /// The sixteen bytes, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The last four bytes, in network order: the address itself if it is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn v4_octets(self) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = self.0[1].to_ne_bytes();
        [a, b, c, d]
    }

    /// The family. `::` counts as IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn family(self) -> Family {
        let [a, b, c, d, ..] = self.0[1].to_ne_bytes();
        if self.0[0] == 0 && u32::from_ne_bytes([a, b, c, d]) == MAPPED { Family::V4 } else { Family::V6 }
    }

    /// Whether this is `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0
    }

    /// Whether this stands for the node itself: a [`host_alias`](super::host_alias) of any number.
    #[inline(always)]
    #[must_use]
    pub fn is_host_alias(self) -> bool {
        let [high, low] = self.0;
        let [aliases_high, aliases_low] = super::HOST_ALIASES_V4.0;
        self == super::HOST_ALIAS_V4
            || self == super::HOST_ALIAS_V6
            || high == super::HOST_ALIASES_V6.0[0]
            || high == aliases_high && low & !0xff_u64.to_be() == aliases_low
    }

    /// Whether this is a multicast address, or IPv4's limited broadcast address.
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        match self.family() {
            Family::V4 => {
                self.v4_octets()[0] & 0xf0 == 0xe0 || u32::from_ne_bytes(self.v4_octets()) == u32::MAX
            }
            Family::V6 => self.octets()[0] == 0xff,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::from_v4(ip.octets()),
            IpAddr::V6(ip) => Self::from_v6(ip.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.family() {
            Family::V4 => Self::V4(Ipv4Addr::from(address.v4_octets())),
            Family::V6 => Self::V6(Ipv6Addr::from(address.octets())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_there_and_back() {
        for text in ["10.0.9.11", "0.0.0.0", "255.255.255.255", "fd00:9::11", "::", "::1", "fe80::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip);
            assert_eq!(address.family() == Family::V4, ip.is_ipv4());
        }
    }

    #[test]
    fn multicast_is_known_in_both_families() {
        for (text, expected) in [
            ("224.0.0.1", true),
            ("239.255.255.255", true),
            ("255.255.255.255", true),
            ("10.0.0.255", false),
            ("ff02::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(Address::from(text.parse::<IpAddr>().unwrap()).is_multicast(), expected, "{text}");
        }
    }
}
