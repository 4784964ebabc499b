//! The table of published ports, by which programs tell what is none of the mesh's.

use imbl::OrdMap;
use mesh_common::abi::{Local, PORT_WORDS, ServiceKey, port_bit};

/// The table's words that are not zero, of the services and of this node's addresses.
pub(super) fn published<'a>(
    services: impl Iterator<Item = &'a ServiceKey>,
    mut locals: impl Iterator<Item = &'a Local>,
) -> OrdMap<u32, u64> {
    // At an address that no interface has, each packet is the mesh's, if only to be dropped.
    if locals.any(|local| local.ifindex == 0) {
        return (0..PORT_WORDS).map(|word| (word, u64::MAX)).collect();
    }
    let mut words = OrdMap::new();
    for key in services.filter(|key| key.scope == 0) {
        if let Some((word, bit)) = port_bit(key.protocol, u16::from_be_bytes(key.port)) {
            *words.entry(word).or_default() |= bit;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::Address;

    use super::*;

    fn key(scope: u32, protocol: u8, port: u16) -> ServiceKey {
        ServiceKey { address: Address::UNSPECIFIED, scope, port: port.to_be_bytes(), protocol, family: 4 }
    }

    #[test]
    fn what_is_published_has_its_bit_and_what_is_asked_for_inside_networks_has_none() {
        let here = Local { ifindex: 3, flags: 0, alias: 0 };
        let keys = [key(0, 6, 80), key(0, 6, 443), key(0, 17, 53), key(4097, 6, 22), key(4097, 0, 0)];
        let words = published(keys.iter(), [here].iter());
        let bits = |protocol, port| port_bit(protocol, port).unwrap();
        let expected: OrdMap<u32, u64> = [bits(6, 80), bits(6, 443), bits(17, 53)].into_iter().collect();
        assert_eq!(words, expected, "none of these share a word");
    }

    #[test]
    fn at_an_address_of_no_interface_every_port_is_the_meshs() {
        let external = Local { ifindex: 0, flags: 0, alias: 0 };
        let words = published([].iter(), [external].iter());
        assert!(words.len() == PORT_WORDS as usize && words.values().all(|word| *word == u64::MAX));
    }
}
