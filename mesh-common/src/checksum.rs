//! Internet checksums (RFC 1071), and their incremental update (RFC 1624).

/// A change to a checksummed message, or the sum of one: a one's complement sum of 16-bit words in the machine's
/// byte order. Sums of words are independent of byte order (RFC 1071, section 2B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum that was [`folded32`](Self::folded32).
    #[inline(always)]
    pub const fn from_folded(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// With 16 bits of message more.
    #[inline(always)]
    pub const fn plus16(self, word: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(word) as u64)
    }

    /// With 32 bits of message more.
    #[inline(always)]
    pub const fn plus32(self, word: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(word) as u64)
    }

    /// With an IPv6 address more, or with an IPv4 one mapped into IPv6: the constant `ffff` of the mapping is zero in
    /// one's complement arithmetic.
    #[inline(always)]
    pub const fn plus_address(self, address: crate::abi::Address) -> Self {
        let [high, low] = address.0;
        Self(self.0 + (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff))
    }

    /// With the words of another sum more.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With a message's words taken away.
    #[inline(always)]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 + !other.folded32() as u64)
    }

    /// The sum in 32 bits: what the kernel calls `__wsum`.
    #[inline(always)]
    #[must_use]
    pub const fn folded32(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// Whether it changes nothing: one's complement arithmetic has two zeros.
    #[inline(always)]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.folded16(), 0 | 0xffff)
    }

    #[inline(always)]
    const fn folded16(self) -> u16 {
        let sum = self.folded32();
        let once = (sum & 0xffff) + (sum >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    }

    /// The checksum of a message that sums up to this: bytes as they stand in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.folded16()).to_ne_bytes()
    }

    /// What a checksum becomes by this change (RFC 1624, equation 3).
    #[inline(always)]
    #[must_use]
    pub const fn update(self, checksum: [u8; 2]) -> [u8; 2] {
        Self(self.0 + (!u16::from_ne_bytes(checksum)) as u64).checksum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Address;

    fn checksum_of(bytes: &[u8]) -> [u8; 2] {
        bytes
            .chunks(2)
            .fold(Sum::ZERO, |sum, word| sum.plus16([word[0], *word.get(1).unwrap_or(&0)]))
            .checksum()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let message = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum_of(&message), [!0xdd, !0xf2]);
    }

    #[test]
    fn an_update_equals_a_new_computation() {
        let mut message: Vec<u8> = (0..64u8).map(|byte| byte.wrapping_mul(37)).collect();
        for round in 0..=255u8 {
            let before = checksum_of(&message);
            let old = [message[8], message[9], message[10], message[11]];
            let new = [round, old[0] ^ round, 0xff, old[2].wrapping_add(round)];
            message[8..12].copy_from_slice(&new);
            let change = Sum::ZERO.plus32(new).minus(Sum::ZERO.plus32(old));
            assert_eq!(change.update(before), checksum_of(&message));
        }
    }

    #[test]
    fn a_mapped_address_sums_like_its_four_bytes() {
        let bytes = [192, 0, 2, 1];
        let mapped = Sum::ZERO.plus16([1, 2]).plus_address(Address::from_v4(bytes));
        assert_eq!(mapped.checksum(), Sum::ZERO.plus16([1, 2]).plus32(bytes).checksum());
    }
}
