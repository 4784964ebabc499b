//! ICMP errors: "port unreachable" (RFC 1122, section 3.2.2.1; RFC 4443, section 3.1), "fragmentation needed" (RFC 1191) and
//! "packet too big" (RFC 4443, section 3.2).

use super::made::{self, Answer};
use crate::{
    Packet,
    abi::Family,
    wire::{ETHERNET, icmp, protocol},
};

/// Bytes of an ICMP error before the packet that it quotes.
const HEADER: usize = 8;

/// Bytes that are quoted at most, a multiple of four: all that is asked for with IPv4, where the error is not to be longer than 576
/// bytes (RFC 1812, section 4.3.2.3), and with IPv6 enough for any chain of headers that the mesh reads.
const QUOTED: usize = 576 - 20 - HEADER;

/// Says that nobody takes what comes to this port.
#[inline(always)]
pub(super) fn port_unreachable<P: Packet>(packet: &mut P, answer: &Answer) -> Option<()> {
    let kind = match answer.family {
        Family::V4 => [icmp::UNREACHABLE, icmp::PORT_UNREACHABLE],
        Family::V6 => [icmp::V6_UNREACHABLE, icmp::V6_PORT_UNREACHABLE],
    };
    make(packet, answer, kind, 0)
}

/// Says that packets longer than `mtu` bytes do not fit.
#[inline(always)]
pub(super) fn too_big<P: Packet>(packet: &mut P, answer: &Answer, mtu: u32) -> Option<()> {
    let kind = match answer.family {
        Family::V4 => [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED],
        Family::V6 => [icmp::V6_TOO_BIG, 0],
    };
    make(packet, answer, kind, mtu)
}

/// Makes an error of this type and code, with this word behind them.
#[inline(never)]
fn make<P: Packet>(packet: &mut P, answer: &Answer, kind: [u8; 2], word: u32) -> Option<()> {
    let quoted = (made::end(packet, answer.family)? - ETHERNET).min(QUOTED) & !3;
    let l4 = answer.l4();
    packet.quote(l4 + HEADER - ETHERNET, quoted)?;
    let quote = packet.sum_of(l4 + HEADER, quoted)?;
    let protocol = match answer.family {
        Family::V4 => protocol::ICMP,
        Family::V6 => protocol::ICMPV6,
    };
    let length = (HEADER + quoted) as u16;
    answer.write_headers(packet, protocol, length)?;
    let word = word.to_be_bytes();
    let [a, b] = answer.pseudo_header(protocol, length).plus16(kind).plus32(word).plus(quote).checksum();
    packet.write(l4, &[[kind[0], kind[1], a, b], word])
}
