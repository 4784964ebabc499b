//! Prefixes of addresses, and the subnets of networks.

use core::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};
use std::collections::HashSet;

use crate::abi::{Address, Family, SubnetKey};

/// An address and how many bits of it count, as in `10.0.9.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// An address in it.
    pub address: Address,
    /// The bits that count, of the address's 32 or 128.
    pub bits: u8,
}

/// What was taken for a subnet is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotASubnet(String);

impl fmt::Display for NotASubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no subnet: write an address and its prefix's length, as in 10.0.9.1/24", self.0)
    }
}

impl std::error::Error for NotASubnet {}

impl FromStr for Subnet {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= most)?;
            Some(Self { address: address.into(), bits })
        };
        parse().ok_or_else(|| NotASubnet(text.to_owned()))
    }
}

impl Subnet {
    /// How many bits count of the 128 that an [`Address`] has.
    #[must_use]
    pub const fn mapped_bits(self) -> u8 {
        match self.address.family() {
            Family::V4 => self.bits.saturating_add(96),
            Family::V6 => self.bits,
        }
    }

    /// How many of an address's last bits tell its hosts apart.
    #[must_use]
    pub fn host_bits(self) -> u32 {
        128u32.saturating_sub(self.mapped_bits().into())
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: Address) -> bool {
        address.family() == self.address.family()
            && masked(address, self.mapped_bits()) == masked(self.address, self.mapped_bits())
    }
}

fn masked(address: Address, bits: u8) -> u128 {
    let zeros = 128u32.saturating_sub(bits.into());
    u128::from(Ipv6Addr::from(address.octets())) & u128::MAX.checked_shl(zeros).unwrap_or(0)
}

/// The subnets of all networks.
#[derive(Clone, Debug, Default)]
pub struct Subnets(HashSet<(u32, Subnet)>);

impl Subnets {
    /// Takes note of a subnet of the network with this VNI.
    pub fn insert(&mut self, vni: u32, subnet: Subnet) {
        self.0.insert((vni, subnet));
    }

    /// How many of an address's last bits tell the hosts of its subnet apart, if it lies in one of a network's.
    #[must_use]
    pub fn host_bits(&self, key: &SubnetKey) -> Option<u32> {
        let vni = u32::from_be_bytes(key.vni);
        let address = Address::from_v6(key.address);
        let around = self.0.iter().filter(|(of, subnet)| *of == vni && subnet.contains(address));
        around.map(|(_, subnet)| subnet.host_bits()).min()
    }

    /// Each, as the kernel's longest-prefix table holds it: the key, how many of its bits count, and the value.
    pub fn entries(&self) -> impl Iterator<Item = (SubnetKey, u32, u32)> {
        self.0.iter().map(|(vni, subnet)| {
            let key = SubnetKey { vni: vni.to_be_bytes(), address: subnet.address.octets() };
            (key, 32 + u32::from(subnet.mapped_bits()), subnet.host_bits())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_the_subnets_of_its_family_and_network_alone() {
        let mut subnets = Subnets::default();
        subnets.insert(7, "10.0.9.1/24".parse().unwrap());
        subnets.insert(7, "fd00:9::1/64".parse().unwrap());
        subnets.insert(8, "::/0".parse().unwrap());
        subnets.insert(8, "fd00:9::/112".parse().unwrap());
        for (vni, address, expected) in [
            (7u32, "10.0.9.0", Some(8)),
            (7, "10.0.9.255", Some(8)),
            (7, "10.0.10.0", None),
            (7, "fd00:9::ffff", Some(64)),
            (7, "fd00:9:0:1::", None),
            (8, "10.0.9.1", None),
            (8, "fd00:9::1", Some(16)),
            (8, "fd00:9:1::1", Some(128)),
            (9, "10.0.9.1", None),
        ] {
            let address = Address::from(address.parse::<IpAddr>().unwrap());
            let key = SubnetKey { vni: vni.to_be_bytes(), address: address.octets() };
            assert_eq!(subnets.host_bits(&key), expected, "{vni} {address:?}");
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in ["10.0.9.1", "10.0.9.1/33", "fd00::/129", "10.0.9.1/-1", "10.0.9/24", "/"] {
            assert_eq!(text.parse::<Subnet>(), Err(NotASubnet(text.into())));
        }
    }
}
