//! Telling a sender that its packet is too long: ICMP "fragmentation needed" (RFC 1191), ICMPv6 "packet too big"
//! (RFC 4443, section 3.2).

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{Step, datagram::Datagram};
use crate::{
    Packet, Reason, Verdict,
    abi::{Address, Family},
    checksum::Sum,
    wire::{ETHERNET, HOP_LIMIT, icmp, ip_header, ipv4_checksum, protocol},
};

/// Bytes of the packet that are quoted: the longest IPv4 header and the eight bytes that RFC 792 asks for.
const QUOTE: usize = 68;

/// Whether the frame's packet is longer than `mtu` bytes.
#[inline(always)]
pub(super) fn is_too_big<P: Packet>(packet: &P, mtu: u32) -> bool {
    !packet.is_aggregate() && packet.length() - ETHERNET > mtu as usize
}

/// Answers with the error, from `speaker`.
#[inline(never)]
pub(super) fn answer<P: Packet>(packet: &mut P, datagram: &Datagram, speaker: &Address, mtu: u32) -> Step {
    // An error is never answered with an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4e).
    if datagram.is_fragment || datagram.is_error() || (!datagram.has_ports && datagram.icmp_type != 0) {
        return Err(Reason::TooBig);
    }
    reply(packet, datagram, *speaker, mtu).ok_or(Reason::TooBig)
}

#[inline(always)]
fn reply<P: Packet>(packet: &mut P, datagram: &Datagram, speaker: Address, mtu: u32) -> Option<Verdict> {
    let ethernet: EthHdr = packet.read(0)?;
    let header = ip_header(datagram.family);
    // A frame that is shorter than what is quoted of it would be quoted with bytes that nobody sent.
    let _: [u8; 4] = packet.read(ETHERNET + QUOTE - 4)?;
    packet.resize(ETHERNET + header + 8 + QUOTE)?;
    packet.write(
        0,
        &EthHdr { dst_addr: ethernet.src_addr, src_addr: ethernet.dst_addr, ether_type: ethernet.ether_type },
    )?;
    let client = datagram.key.source;
    let mut sum = move_quote(packet, ETHERNET + header + 8)?.plus32(mtu.to_be_bytes());
    let length = (8 + QUOTE) as u16;
    let kind = match datagram.family {
        Family::V4 => {
            write_v4(packet, speaker, client, length)?;
            [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]
        }
        Family::V6 => {
            packet.write(
                ETHERNET,
                &Ipv6Hdr {
                    vcf: [0x60, 0, 0, 0],
                    payload_len: length.to_be_bytes(),
                    next_hdr: protocol::ICMPV6,
                    hop_limit: HOP_LIMIT,
                    src_addr: speaker.octets(),
                    dst_addr: client.octets(),
                },
            )?;
            sum = sum
                .plus_address(speaker)
                .plus_address(client)
                .plus16(length.to_be_bytes())
                .plus16([0, protocol::ICMPV6]);
            [icmp::V6_TOO_BIG, 0]
        }
    };
    let [a, b] = sum.plus16(kind).checksum();
    let l4 = ETHERNET + header;
    packet.write(l4, &[kind[0], kind[1], a, b])?;
    packet.write(l4 + 4, &mtu.to_be_bytes())?;
    Some(Verdict::refuse(Reason::TooBig))
}

/// Moves the packet's first bytes back to where they are quoted, the last first because the places overlap, and sums
/// them up.
#[inline(always)]
fn move_quote<P: Packet>(packet: &mut P, to: usize) -> Option<Sum> {
    let mut sum = Sum::ZERO;
    let mut offset = QUOTE;
    while offset != 0 {
        offset -= 4;
        // A loop, not seventeen copies of its body: those would keep all words on the stack at once.
        offset = core::hint::black_box(offset);
        let word: [u8; 4] = packet.read(ETHERNET + offset)?;
        packet.write(to + offset, &word)?;
        sum = sum.plus32(word);
    }
    Some(sum)
}

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, source: Address, destination: Address, payload: u16) -> Option<()> {
    let mut header = Ipv4Hdr {
        vihl: 0x45,
        tos: 0,
        tot_len: (payload + ip_header(Family::V4) as u16).to_be_bytes(),
        id: [0, 0],
        frags: [0, 0],
        ttl: HOP_LIMIT,
        proto: protocol::ICMP,
        check: [0, 0],
        src_addr: source.v4_octets(),
        dst_addr: destination.v4_octets(),
    };
    header.check = ipv4_checksum(&header);
    packet.write(ETHERNET, &header)
}
