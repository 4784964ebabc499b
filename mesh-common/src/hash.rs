//! The hash by which flows are told apart: the same on every node, in the kernel and in user space.

use crate::abi::Address;

/// The odd constants of the finaliser of MurmurHash3 (Austin Appleby, public domain), which mix 64 bits so that
/// each input bit changes each output bit with a probability near one half.
const MIX: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];

#[inline(always)]
const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(MIX[0]);
    word ^= word >> 33;
    word = word.wrapping_mul(MIX[1]);
    word ^ (word >> 33)
}

/// Mixes the words of a message, one after the other, into 64 bits.
#[inline(always)]
#[must_use]
pub const fn words<const N: usize>(seed: u64, words: [u64; N]) -> u64 {
    let mut state = seed;
    let mut index = 0;
    while index < N {
        state = mix(state ^ words[index]);
        index += 1;
    }
    state
}

/// The hash that names a flow's slot in a ring.
///
/// It covers only what an ICMP error about the flow quotes as well (client address and port, service port,
/// protocol), so an error finds its flow's backend on any node. Ports are in network byte order; the seed is
/// the cluster's. The words are taken in little-endian order, so that all machines agree.
#[inline(always)]
#[must_use]
pub fn flow(seed: u64, client: Address, client_port: [u8; 2], service_port: [u8; 2], protocol: u8) -> u32 {
    flow_by_ports(seed, client, ports(client_port, service_port), protocol)
}

/// Both ports of a packet, in network byte order, as they begin its transport header: four bytes in little-endian order.
#[inline(always)]
#[must_use]
pub const fn ports([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_le_bytes([a, b, c, d])
}

/// The same as [`flow`], given both [`ports`].
#[inline(always)]
#[must_use]
pub fn flow_by_ports(seed: u64, client: Address, ports: u32, protocol: u8) -> u32 {
    let ports = u64::from(protocol) << 32 | u64::from(ports);
    (words(seed, [u64::from_le(client.0[0]), u64::from_le(client.0[1]), ports]) >> 32) as u32
}

/// The slot that a hash names, without a division: the hash is taken as a fraction of the ring.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_in_range_and_even() {
        let mut counts = [0u32; 7];
        for port in 0..u16::MAX {
            let hash = flow(1, Address::from_v4([192, 0, 2, 1]), port.to_be_bytes(), [0, 80], 6);
            counts[slot(hash, 7) as usize] += 1;
        }
        for count in counts {
            assert!((9062..9662).contains(&count), "{counts:?}");
        }
        assert_eq!(slot(u32::MAX, 7), 6);
    }

    /// A cluster of mixed versions must agree: this value may never change.
    #[test]
    fn the_hash_is_what_it_always_was() {
        let hash = flow(0x6d65_7368, Address::from_v4([192, 0, 2, 1]), [0x9c, 0x40], [0x23, 0xf0], 6);
        assert_eq!(hash, GOLDEN);
    }

    const GOLDEN: u32 = 302_919_897;
}
