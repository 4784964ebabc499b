//! Answering ping, for virtual IPs and gateways.

use network_types::eth::EthHdr;

use super::{Step, datagram::Datagram};
use crate::{
    Packet, Reason, Verdict,
    abi::Family,
    checksum::Sum,
    wire::{icmp, protocol},
};

/// Turns an echo request into its reply, and sends it back where it came from.
#[inline(never)]
pub(super) fn answer<P: Packet>(packet: &mut P, datagram: &Datagram) -> Step {
    reply(packet, datagram).ok_or(Reason::Malformed)
}

#[inline(always)]
fn reply<P: Packet>(packet: &mut P, datagram: &Datagram) -> Option<Verdict> {
    let ethernet: EthHdr = packet.read(0)?;
    let [kind, code]: [u8; 2] = packet.read(datagram.l4())?;
    let answer =
        if datagram.key.protocol == protocol::ICMPV6 { icmp::V6_ECHO_REPLY } else { icmp::ECHO_REPLY };
    // Swapped addresses leave each checksum as it is; only the type changes.
    let change = Sum::ZERO.plus16([answer, code]).minus(Sum::ZERO.plus16([kind, code]));
    swap_addresses(packet, datagram)?;
    packet.write(datagram.l4(), &[answer, code])?;
    packet.update_checksum(datagram.l4() + 2, None, change, false)?;
    packet.write(
        0,
        &EthHdr { dst_addr: ethernet.src_addr, src_addr: ethernet.dst_addr, ether_type: ethernet.ether_type },
    )?;
    Some(Verdict::REPLY)
}

#[inline(always)]
fn swap_addresses<P: Packet>(packet: &mut P, datagram: &Datagram) -> Option<()> {
    let (source, destination) = (datagram.key.destination, datagram.key.source);
    match datagram.family {
        Family::V4 => {
            packet.write(Datagram::L3 + 12, &source.v4_octets())?;
            packet.write(Datagram::L3 + 16, &destination.v4_octets())
        }
        Family::V6 => {
            packet.write(Datagram::L3 + 8, &source)?;
            packet.write(Datagram::L3 + 24, &destination)
        }
    }
}
