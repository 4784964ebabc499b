//! Telling a TCP sender that there is no connection: a reset (RFC 9293, section 3.10.7.1).

use super::{
    datagram::{Datagram, tcp},
    made::{self, Answer},
};
use crate::{Packet, packet::REACH, wire::protocol};

/// Bytes of a TCP header without options.
const HEADER: usize = 20;

/// Makes a reset of a segment that is none itself.
///
/// On a packet whose checksum its sender has left to a network card, the card's order stands. It is one for packets between
/// interfaces of one machine, whose receiver then asks for no checksum.
#[inline(never)]
pub(super) fn answer<P: Packet>(packet: &mut P, datagram: &Datagram, answer: &Answer) -> Option<()> {
    // It is no further, or it could not have been read; the verifier is to see so.
    let l4 = datagram.l4() & REACH;
    let [[a, b, c, d], sequence, acknowledged, [offset, flags, ..]]: [[u8; 4]; 4] = packet.read(l4)?;
    let header = usize::from(offset >> 4) * 4;
    let payload = made::end(packet, answer.family)?.checked_sub(l4 + header)?;
    if header < HEADER {
        return None;
    }
    // What the sender expects next is the only sequence number that it takes; one that expects nothing yet goes by the
    // acknowledgement.
    let (sequence, acknowledgement, flags) = if flags & tcp::ACK != 0 {
        (acknowledged, [0; 4], tcp::RST)
    } else {
        let controls = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        let next = u32::from_be_bytes(sequence).wrapping_add(payload as u32 + controls);
        ([0; 4], next.to_be_bytes(), tcp::RST | tcp::ACK)
    };
    packet.resize(answer.l4() + HEADER)?;
    answer.write_headers(packet, protocol::TCP, HEADER as u16)?;
    let ports = [c, d, a, b];
    let control = [(HEADER as u8 / 4) << 4, flags, 0, 0];
    let [e, f] = answer
        .pseudo_header(protocol::TCP, HEADER as u16)
        .plus32(ports)
        .plus32(sequence)
        .plus32(acknowledgement)
        .plus32(control)
        .checksum();
    packet.write(answer.l4(), &[ports, sequence, acknowledgement, control, [e, f, 0, 0]])
}
