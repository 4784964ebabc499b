//! The ports that something is published at, a bit for each: most packets of a node are for none of them.

use crate::wire::protocol;

/// Where the bit of a port stands in the table of published ports: which word it is in, and that word with it alone. `None` for a
/// protocol that no port is published by.
#[inline(always)]
#[must_use]
pub const fn port_bit(protocol: u8, port: u16) -> Option<(u32, u64)> {
    let first = match protocol {
        protocol::TCP => 0,
        protocol::UDP => PORT_WORDS / 2,
        _ => return None,
    };
    Some((first + port as u32 / u64::BITS, 1 << (port % u64::BITS as u16)))
}

/// The words of the table: a bit for each port of TCP, and then for each of UDP.
pub const PORT_WORDS: u32 = 2 * (1 << 16) / u64::BITS;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_port_has_a_bit_of_its_own() {
        let both = [protocol::TCP, protocol::UDP].into_iter();
        let bits: HashSet<_> =
            both.flat_map(|it| (0..=u16::MAX).map(move |port| port_bit(it, port))).collect();
        assert_eq!(bits.len(), 2 << 16);
        assert!(
            bits.iter()
                .all(|bit| bit.is_some_and(|(word, mask)| word < PORT_WORDS && mask.is_power_of_two()))
        );
        assert_eq!(port_bit(protocol::ICMP, 1), None);
    }
}
