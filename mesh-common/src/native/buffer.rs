//! A frame in a byte vector.

use std::ptr;

use crate::{
    Packet,
    abi::{Family, Pod},
    checksum::Sum,
    packet::{REACH, SUMMED},
    pipeline::overhead,
    wire::{ETHERNET, ip_header},
};

/// What undefined bytes are filled with, so that nothing that reads them goes unnoticed.
pub const UNDEFINED: u8 = 0xaa;

/// A frame in a byte vector, which behaves as a packet does at a tc hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    bytes: Vec<u8>,
    is_aggregate: bool,
    card: Option<u16>,
}

impl Buffer {
    /// A frame, from its Ethernet header on.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), is_aggregate: false, card: None }
    }

    /// The same as one that stands for many (GSO).
    #[must_use]
    pub fn aggregate(self) -> Self {
        Self { is_aggregate: true, ..self }
    }

    /// The same as it comes from a network card that sums up all bytes behind the Ethernet header (what Linux calls
    /// `CHECKSUM_COMPLETE`). The sum is then kept as the kernel keeps it: see [`Buffer::card_sum`].
    #[must_use]
    pub fn summed_by_card(self) -> Self {
        Self { card: Some(self.sum()), ..self }
    }

    /// What the kernel holds for the card's sum, which a receiver checks transport checksums with. It is of use only
    /// as long as it is what [`Buffer::sum`] says.
    #[must_use]
    pub const fn card_sum(&self) -> Option<u16> {
        self.card
    }

    /// The one's complement sum of all bytes behind the Ethernet header, with one of its two zeros for both.
    #[must_use]
    pub fn sum(&self) -> u16 {
        canonical(sum_of(self.bytes.get(ETHERNET..).unwrap_or_default()))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, to keep.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where a value of a type lies that is to be read or written at an offset.
    fn place<T: Pod>(&self, offset: usize) -> Option<std::ops::Range<usize>> {
        if offset > REACH {
            return None;
        }
        let end = offset.checked_add(size_of::<T>())?;
        (end <= self.bytes.len()).then_some(offset..end)
    }

    fn undefine(&mut self, length: usize) {
        if let Some(bytes) = self.bytes.get_mut(..length) {
            bytes.fill(UNDEFINED);
        }
    }

    fn account(&mut self, by: Sum) {
        if let Some(card) = self.card {
            self.card = Some(canonical(by.plus16(card.to_ne_bytes())));
        }
    }
}

fn sum_of(bytes: &[u8]) -> Sum {
    bytes.chunks(2).fold(Sum::ZERO, |sum, word| match *word {
        [a, b] => sum.plus16([a, b]),
        [a] => sum.plus16([a, 0]),
        _ => sum,
    })
}

fn canonical(sum: Sum) -> u16 {
    match !u16::from_ne_bytes(sum.checksum()) {
        u16::MAX => 0,
        other => other,
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl Packet for Buffer {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn forget(&self, byte: u8) -> u8 {
        byte
    }

    fn is_aggregate(&self) -> bool {
        self.is_aggregate
    }

    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(self.place::<T>(offset)?)?;
        // SAFETY: there are as many bytes as the value has, and any bytes are a valid `Pod`.
        Some(unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    fn write<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        let place = self.place::<T>(offset)?;
        let bytes = self.bytes.get_mut(place)?;
        // SAFETY: there are as many bytes as the value has, and a `Pod` has no padding that would be no value of them.
        unsafe { ptr::write_unaligned(bytes.as_mut_ptr().cast(), *value) };
        Some(())
    }

    fn sum_of(&self, offset: usize, length: usize) -> Option<Sum> {
        let bytes = self.bytes().get(offset..)?.get(..length)?;
        (length <= SUMMED && length.is_multiple_of(4)).then(|| {
            let words = bytes.chunks_exact(2).filter_map(|word| word.try_into().ok());
            words.fold(Sum::ZERO, Sum::plus16)
        })
    }

    fn open(&mut self, outer: Family) -> Option<()> {
        if self.bytes.len() < ETHERNET {
            return None;
        }
        let gap = overhead(outer);
        self.bytes.splice(..0, std::iter::repeat_n(UNDEFINED, gap));
        self.undefine(gap + ETHERNET);
        // On its way out, nobody asks for it any more.
        self.card = None;
        Some(())
    }

    fn close(&mut self, bytes: usize, inner: Family) -> Option<()> {
        let left = self.bytes.len().checked_sub(ETHERNET)?.checked_sub(bytes)?;
        if left < ip_header(inner) {
            return None;
        }
        let gone = sum_of(self.bytes.get(ETHERNET..ETHERNET + bytes)?);
        self.bytes.drain(..bytes);
        self.undefine(ETHERNET);
        self.account(Sum::ZERO.minus(gone));
        Some(())
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        if length < ETHERNET {
            return None;
        }
        self.bytes.resize(length, UNDEFINED);
        // What is written now is not accounted for: it is an answer, which leaves.
        self.card = None;
        Some(())
    }

    fn quote(&mut self, room: usize, kept: usize) -> Option<()> {
        self.resize(ETHERNET + kept)?;
        self.bytes.splice(..0, std::iter::repeat_n(UNDEFINED, room));
        self.undefine(room + ETHERNET);
        Some(())
    }

    fn update_checksum(&mut self, offset: usize, pseudo: Option<Sum>, body: Sum, udp: bool) -> Option<()> {
        let mut checksum: [u8; 2] = self.read(offset)?;
        let changes = [pseudo, Some(body)];
        for change in changes.into_iter().flatten().filter(|change| !change.is_zero()) {
            if udp && checksum == [0, 0] {
                return Some(());
            }
            checksum = change.update(checksum);
            // A UDP checksum that comes out as zero is sent as its other zero (RFC 768).
            if udp && checksum == [0, 0] {
                checksum = [0xff, 0xff];
            }
        }
        self.write(offset, &checksum)?;
        if let Some(pseudo) = pseudo {
            // The kernel believes that addresses have a header checksum of their own that makes up for them, as IPv4's
            // do: what is left is the change of this one.
            self.account(Sum::ZERO.minus(pseudo));
        }
        Some(())
    }

    fn changed(&mut self, by: Sum) {
        self.account(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_end_is_read_or_written() {
        let mut buffer = Buffer::new([1, 2, 3, 4]);
        assert_eq!(buffer.read::<u32>(0), Some(u32::from_ne_bytes([1, 2, 3, 4])));
        assert_eq!(buffer.read::<[u8; 2]>(2), Some([3, 4]));
        assert_eq!(buffer.read::<u32>(1), None);
        assert_eq!(buffer.read::<u8>(usize::MAX), None);
        assert_eq!(buffer.write(3, &[9u8, 9]), None);
        assert_eq!(buffer.bytes(), [1, 2, 3, 4]);
        assert_eq!(buffer.write(2, &[9u8, 8]), Some(()));
        assert_eq!(buffer.bytes(), [1, 2, 9, 8]);
    }

    #[test]
    fn headers_end_where_a_program_can_no_longer_reach() {
        let buffer = Buffer::new(vec![7; REACH + 8]);
        assert_eq!(buffer.read::<u8>(REACH), Some(7));
        assert_eq!(buffer.read::<u8>(REACH + 1), None);
    }

    #[test]
    fn the_room_of_a_tunnel_comes_and_goes_and_is_undefined() {
        let frame: Vec<u8> = (0..60).collect();
        for (outer, gap) in [(Family::V4, 50), (Family::V6, 70)] {
            let mut buffer = Buffer::new(frame.clone());
            assert_eq!(buffer.open(outer), Some(()));
            assert_eq!(buffer.length(), 60 + gap);
            assert!(buffer.bytes()[..gap + ETHERNET].iter().all(|byte| *byte == UNDEFINED));
            assert_eq!(buffer.bytes()[gap + ETHERNET..], frame[ETHERNET..]);
            assert_eq!(buffer.close(gap, Family::V4), Some(()));
            assert_eq!(buffer.bytes()[..ETHERNET], [UNDEFINED; ETHERNET]);
            assert_eq!(buffer.bytes()[ETHERNET..], frame[ETHERNET..]);
        }
        assert_eq!(Buffer::new([0; 13]).open(Family::V4), None);
        assert_eq!(Buffer::new([0; 84]).close(50, Family::V4), Some(()));
        assert_eq!(Buffer::new([0; 83]).close(50, Family::V4), None);
        assert_eq!(Buffer::new([0; 84]).close(50, Family::V6), None);
        assert_eq!(Buffer::new([0; 4]).close(50, Family::V4), None);
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent_and_none_becomes_absent() {
        let mut buffer = Buffer::new([0, 0]);
        buffer.update_checksum(0, Some(Sum::ZERO.plus16([1, 2])), Sum::ZERO.plus16([3, 4]), true).unwrap();
        assert_eq!(buffer.bytes(), [0, 0]);
        let mut buffer = Buffer::new([0x12, 0x34]);
        buffer.update_checksum(0, None, Sum::ZERO.plus16([0x12, 0x34]), true).unwrap();
        assert_eq!(buffer.bytes(), [0xff, 0xff]);
    }
}
