//! The aliases by which a node's own processes reach what is published at single addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_common::abi::{Address, Family, HOST_ALIASES, host_alias};

use super::services::family;
use crate::table::Table;

/// The numbers of the aliases by the addresses that they stand for: the same on every node, as the node that a packet is
/// delivered on must know the entry node's, and found by the address's hash, so that other addresses seldom move them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases(BTreeMap<IpAddr, u32>);

impl Aliases {
    pub(super) fn of(table: &Table) -> Self {
        let addresses: BTreeSet<IpAddr> = table
            .services
            .values()
            .flat_map(|service| service.ports.iter().flat_map(|port| service.addresses_of(port)))
            .collect();
        let mut numbers = BTreeMap::new();
        let mut taken: BTreeSet<(Family, u32)> = BTreeSet::new();
        for address in addresses {
            let family = family(address);
            let first = hash(address) % HOST_ALIASES;
            let free = (0..HOST_ALIASES)
                .map(|step| (first + step) % HOST_ALIASES + 1)
                .find(|number| !taken.contains(&(family, *number)));
            if let Some(number) = free {
                taken.insert((family, number));
                numbers.insert(address, number);
            }
        }
        Self(numbers)
    }

    /// The number of an address's alias; none where there were too many addresses.
    pub(super) fn number(&self, address: IpAddr) -> Option<u32> {
        self.0.get(&address).copied()
    }

    /// The alias of an address.
    pub(super) fn alias(&self, address: IpAddr) -> Option<Address> {
        Some(host_alias(family(address), self.number(address)?))
    }
}

/// FNV-1a, folded.
fn hash(address: IpAddr) -> u32 {
    let hash = Address::from(address).octets().into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ (hash & 0xffff_ffff) as u32
}
