//! Lowering the maximum segment size that a TCP connection begins with (RFC 9293, section 3.7.1) to what fits.
//!
//! A sender that learns by its peer's option how long its segments may be needs no ICMP error to learn it by.

use super::datagram::{Datagram, tcp};
use crate::{
    Packet, Reason,
    checksum::Sum,
    wire::{TCP_HEADER, ip_header},
};

/// The kinds of options that are told apart (RFC 9293, section 3.1).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MAXIMUM_SEGMENT_SIZE: u8 = 2;
}

/// Bytes of the option that says a maximum segment size.
const LENGTH: u8 = 4;

/// How many options are looked through, those without a meaning too. The size comes first in what the usual systems send; a
/// header has room for forty, but each costs the verifier the same, and who hides a size behind so many others only keeps
/// itself from being helped.
const OPTIONS: u8 = 6;

/// Lowers the maximum segment size that a packet without a tunnel announces, if it opens a connection or accepts one, so
/// that each segment fits into `mtu` bytes with the headers that every packet has (RFC 6691): options of a header
/// are the sender's to subtract. As the kernel's TCPMSS does, it raises nothing; unlike that, it adds no option.
#[inline(always)]
pub(super) fn clamp<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u32) -> Result<(), Reason> {
    if datagram.tcp_flags & tcp::SYN == 0 || !datagram.has_ports {
        return Ok(());
    }
    lower(packet, datagram, mtu).ok_or(Reason::Malformed)
}

#[inline(never)]
fn lower<P: Packet>(packet: &mut P, datagram: &Datagram, mtu: u32) -> Option<()> {
    let headers = ip_header(datagram.family) as u32 + u32::from(TCP_HEADER);
    let largest = mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16;
    let at = find(packet, datagram);
    if at == 0 {
        return Some(());
    }
    let l4 = datagram.l4();
    let place = l4 + usize::from(at);
    let Some(old) = packet.read::<[u8; 2]>(place) else { return Some(()) };
    if u16::from_be_bytes(old) <= largest {
        return Some(());
    }
    let new = largest.to_be_bytes();
    packet.write(place, &new)?;
    // At an odd place its bytes belong to two words, as the other half of each.
    let word = |[a, b]: [u8; 2]| if at & 1 == 0 { [a, b] } else { [b, a] };
    let change = Sum::ZERO.plus16(word(new)).minus(Sum::ZERO.plus16(word(old)));
    packet.update_checksum(l4 + 16, None, change, false)
}

/// How many bytes into the TCP header the first size stands, or 0 for nowhere. Like Linux's, the search ends at an option
/// whose length is none.
#[inline(never)]
fn find<P: Packet>(packet: &P, datagram: &Datagram) -> u16 {
    // From here on the one copy, whose range the verifier then knows wherever it is used.
    let l4 = usize::from(core::hint::black_box(datagram.l4() as u16));
    let Some(offset) = packet.read::<u8>(l4 + 12) else { return 0 };
    let end = u16::from(offset >> 4) * 4;
    let mut at = u16::from(TCP_HEADER);
    for _ in 0..OPTIONS {
        // What the verifier knows of it would only make each turn another one to it.
        at = core::hint::black_box(at);
        if at + u16::from(LENGTH) > end {
            break;
        }
        let Some([kind, length]) = packet.read::<[u8; 2]>(l4 + usize::from(at)) else { break };
        if kind == option::NO_OPERATION {
            at += 1;
            continue;
        }
        if kind == option::END || length < 2 {
            break;
        }
        if kind == option::MAXIMUM_SEGMENT_SIZE && length == LENGTH {
            return at + 2;
        }
        at += u16::from(length);
    }
    0
}
