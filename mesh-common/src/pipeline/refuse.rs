//! A packet that is refused: its sender is told, by an answer that is made of the packet in its own place.
//!
//! An entry of its own, since a program of its own runs it: what it takes of the verifier's patience and of the stack is not
//! the other entries'. They hand on a [`Refusal`], and the packet as it came.

use network_types::eth::EthHdr;

use super::{
    Step,
    datagram::{Datagram, tcp},
    icmp_error,
    made::Answer,
    reset,
};
use crate::{
    Packet, Reason, Refusal, Tables, Verdict,
    abi::{Address, Family, Service, service_flags},
    wire::protocol,
};

/// Answers a packet that came in by the interface `ifindex`, untouched and in no tunnel: TCP with a reset, UDP with "port
/// unreachable", what is too big with the MTU. What must not be answered is dropped, and so is what is beyond the
/// [`Allowance`](crate::abi::Allowance).
#[inline(always)]
pub fn refuse<P: Packet, T: Tables>(packet: &mut P, tables: &T, refusal: Refusal, ifindex: u32) -> Verdict {
    match answer(packet, tables, refusal, ifindex) {
        Some(()) => refusal.told(),
        None => refusal.dropped(),
    }
}

/// What becomes of a packet, untouched and in no tunnel, that a service has no backend for.
#[inline(always)]
pub(super) fn unserved(service: &Service, reason: Reason) -> Step {
    if !matches!(reason, Reason::NoBackend | Reason::NoFlow) || service.flags & service_flags::SILENT != 0 {
        return Err(reason);
    }
    Ok(Verdict::refuse(Refusal::because(reason)))
}

#[inline(always)]
fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, refusal: Refusal, ifindex: u32) -> Option<()> {
    let ethernet: EthHdr = packet.read(0)?;
    let mut datagram = Datagram::UNREAD;
    datagram.parse(packet, Datagram::L3, ethernet.ether_type).ok()?;
    let is_to_many = ethernet.dst_addr[0] & 1 != 0;
    if is_to_many || !is_from_one(&datagram) || !may_be_answered(&datagram, refusal) {
        return None;
    }
    let mut answer = Answer {
        ethernet,
        family: datagram.family,
        speaker: datagram.key.destination,
        client: datagram.key.source,
    };
    if let Some(attachment) = tables.attachment(ifindex) {
        let own = of_family(datagram.family, attachment.v4, attachment.v6);
        // What was translated is not what the task knows.
        if datagram.key.source != own {
            return None;
        }
        // Where a router's word is called for, the network's gateway speaks.
        if refusal.mtu().is_some() {
            let network = tables.network(attachment.vni)?;
            answer.speaker = of_family(datagram.family, network.gateway_v4, network.gateway_v6);
        }
    }
    if !tables.may_answer() {
        return None;
    }
    match refusal.mtu() {
        Some(mtu) => icmp_error::too_big(packet, &answer, mtu),
        None if datagram.key.protocol == protocol::TCP => reset::answer(packet, &datagram, &answer),
        None => icmp_error::port_unreachable(packet, &answer),
    }
}

#[inline(always)]
fn of_family(family: Family, v4: Address, v6: Address) -> Address {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// Whether the sender is a single host, and so is whom it speaks to (RFC 1122, section 3.2.2; RFC 4443, section 2.4e).
#[inline(always)]
fn is_from_one(datagram: &Datagram) -> bool {
    let source = datagram.key.source;
    let is_unspecified = source.is_unspecified() || source == Address::from_v4([0; 4]);
    !is_unspecified && !source.is_multicast() && !datagram.key.destination.is_multicast()
}

/// Whether the packet is of a kind that is answered. An error never is with an error (the same sections), a reset never with
/// a reset (RFC 9293, section 3.10.7.1), and of a datagram's fragments the first alone is, with the MTU.
#[inline(always)]
fn may_be_answered(datagram: &Datagram, refusal: Refusal) -> bool {
    if datagram.is_later || datagram.is_error() {
        return false;
    }
    if refusal.mtu().is_some() {
        // Of ICMP, echoes alone are known to be no errors.
        return datagram.has_ports || datagram.icmp_type == 0;
    }
    datagram.is_transport() && datagram.has_ports && datagram.tcp_flags & tcp::RST == 0
}
