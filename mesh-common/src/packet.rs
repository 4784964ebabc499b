//! What the pipeline needs of a packet.

use crate::{
    abi::{Family, Pod},
    checksum::Sum,
};

/// How far into a frame a value may begin that is read or written: far beyond the deepest header, and small enough for
/// the verifier to see that an offset cannot overflow.
pub const REACH: usize = 0x3ff;

/// How many bytes are summed up at most.
pub const SUMMED: usize = 1024;

/// A frame, from its Ethernet header on, that may be read, written, and given or robbed of room behind that header.
///
/// Every access is checked against the frame's true length; no length field of the frame is ever trusted.
pub trait Packet {
    /// Bytes in the frame, the Ethernet header included.
    fn length(&self) -> usize;

    /// Whether the frame stands for many that the network card will cut it into (GSO): then its length says
    /// nothing of the packets on the wire, which fit the sender's MTU.
    fn is_aggregate(&self) -> bool;

    /// The same byte. In the kernel the verifier forgets what it knows of it: what is equally true of many packets need not be
    /// followed for each of them apart.
    fn forget(&self, byte: u8) -> u8;

    /// The value at an offset, or `None` beyond the frame's end or [`REACH`].
    fn read<T: Pod>(&self, offset: usize) -> Option<T>;

    /// Puts a value at an offset; `None`, and nothing written, beyond the frame's end or [`REACH`].
    fn write<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()>;

    /// The sum of so many bytes from an offset on: a multiple of four, and at most [`SUMMED`]; `None` beyond the frame's end.
    fn sum_of(&self, offset: usize, length: usize) -> Option<Sum>;

    /// Makes room for a tunnel's headers: the network header moves back by the [length](crate::pipeline::overhead) of
    /// those of the outer family. Every byte before it becomes undefined.
    fn open(&mut self, outer: Family) -> Option<()>;

    /// Takes a tunnel's headers away: the network header, of the inner family, moves forward by `bytes`. The
    /// fourteen bytes before it become undefined.
    fn close(&mut self, bytes: usize, inner: Family) -> Option<()>;

    /// Makes the frame this long; what is added at its end is undefined.
    fn resize(&mut self, length: usize) -> Option<()>;

    /// Makes the packet's first `kept` bytes, no more than it has, those of another: its network header moves back by `room`
    /// bytes, and what is behind `kept` goes. Every byte before it becomes undefined.
    fn quote(&mut self, room: usize, kept: usize) -> Option<()>;

    /// Changes the transport checksum at an offset: by the change of the addresses where it covers them (`pseudo`),
    /// and by the change of what it covers besides. A UDP checksum of zero means none, and stays.
    ///
    /// A network card's own sum over the frame is taken to stay the same but for the change of this checksum by `pseudo`:
    /// the addresses themselves are made up for by a header checksum (IPv4), or [told of](Self::changed) (IPv6).
    fn update_checksum(&mut self, offset: usize, pseudo: Option<Sum>, body: Sum, udp: bool) -> Option<()>;

    /// The same, with fewer calls of the kernel, for programs that have stack to spare.
    #[inline(always)]
    fn update_checksum_at_once(
        &mut self,
        offset: usize,
        pseudo: Option<Sum>,
        body: Sum,
        udp: bool,
    ) -> Option<()> {
        self.update_checksum(offset, pseudo, body, udp)
    }

    /// Takes note that bytes which no checksum of the packet covers were changed by so much, for a network card's
    /// own sum over the frame.
    fn changed(&mut self, by: Sum);
}
