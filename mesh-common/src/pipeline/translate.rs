//! Giving a packet other addresses and ports.

use super::datagram::Datagram;
use crate::{
    Packet, Reason,
    abi::{Address, Family, Flow},
    checksum::Sum,
    wire::protocol,
};

/// The addresses and ports that a packet is given.
#[derive(Clone, Copy)]
pub(super) struct Rewrite {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) source_port: [u8; 2],
    pub(super) destination_port: [u8; 2],
}

impl Rewrite {
    /// None yet.
    pub(super) const NONE: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: [0, 0],
        destination_port: [0, 0],
    };
}

impl From<&Flow> for Rewrite {
    #[inline(always)]
    fn from(flow: &Flow) -> Self {
        let &Flow { source, destination, source_port, destination_port, .. } = flow;
        Self { source, destination, source_port, destination_port }
    }
}

/// Gives a packet without a tunnel other addresses and ports, and mends its checksums.
#[inline(always)]
pub(super) fn translate<P: Packet>(
    packet: &mut P,
    datagram: &mut Datagram,
    flow: &Rewrite,
) -> Result<(), Reason> {
    if datagram.is_error() {
        translate_error(packet, datagram, flow).ok_or(Reason::Malformed)?;
    } else {
        translate_packet(packet, datagram, flow)?;
    }
    let key = &mut datagram.key;
    key.source = flow.source;
    key.destination = flow.destination;
    key.source_port = flow.source_port;
    key.destination_port = flow.destination_port;
    Ok(())
}

/// An ICMP error: its own addresses, unless a router sent it, and those and the ports of the packet that it quotes, whose
/// direction is the other. The quoted transport checksum, of which the rest of the packet is missing, stays.
#[inline(never)]
fn translate_error<P: Packet>(packet: &mut P, datagram: &Datagram, flow: &Rewrite) -> Option<()> {
    let key = &datagram.key;
    let l3 = Datagram::L3;
    let l4 = datagram.l4();
    let quoted_l4 = datagram.quoted_l4();
    let source = Sum::ZERO.plus_address(flow.source).minus(Sum::ZERO.plus_address(key.source));
    let destination = Sum::ZERO.plus_address(flow.destination).minus(Sum::ZERO.plus_address(key.destination));
    let addresses = source.plus(destination);
    match key.protocol {
        protocol::TCP | protocol::UDP => {
            let [a, b] = flow.destination_port;
            let [c, d] = flow.source_port;
            packet.write(quoted_l4, &[a, b, c, d])?;
        }
        _ if key.source_port == [0, 0] => packet.write(quoted_l4 + 4, &flow.destination_port)?,
        _ => packet.write(quoted_l4 + 4, &flow.source_port)?,
    }
    write_addresses(packet, datagram.family, l4 + 8, &flow.destination, &flow.source, addresses)?;
    let own = if datagram.is_from_router {
        write_destination(packet, datagram.family, l3, &flow.destination, destination)?;
        destination
    } else {
        write_addresses(packet, datagram.family, l3, &flow.source, &flow.destination, addresses)?;
        addresses
    };
    // Only now: the stack has no room to keep it until here.
    let ports = Sum::ZERO
        .plus16(flow.source_port)
        .plus16(flow.destination_port)
        .minus(Sum::ZERO.plus16(key.source_port).plus16(key.destination_port));
    match datagram.family {
        // The quoted header's own checksum makes up for its addresses.
        Family::V4 => packet.update_checksum(l4 + 2, None, ports, false),
        Family::V6 => {
            packet.changed(own);
            packet.update_checksum(l4 + 2, Some(own), ports.plus(addresses), false)
        }
    }
}

/// Any other packet.
#[inline(never)]
fn translate_packet<P: Packet>(packet: &mut P, datagram: &Datagram, flow: &Rewrite) -> Result<(), Reason> {
    let l3 = Datagram::L3;
    let l4 = datagram.l4();
    let is_reply = !datagram.is_echo_request();
    let key = &datagram.key;
    let addresses = Sum::ZERO
        .plus_address(flow.source)
        .plus_address(flow.destination)
        .minus(Sum::ZERO.plus_address(key.source).plus_address(key.destination));
    let ports = Sum::ZERO
        .plus16(flow.source_port)
        .plus16(flow.destination_port)
        .minus(Sum::ZERO.plus16(key.source_port).plus16(key.destination_port));

    write_addresses(packet, datagram.family, l3, &flow.source, &flow.destination, addresses)
        .ok_or(Reason::Malformed)?;
    if datagram.family == Family::V6 {
        // No header checksum makes up for them, as IPv4's does.
        packet.changed(addresses);
    }
    if datagram.is_later {
        return Ok(());
    }
    let written = match key.protocol {
        protocol::TCP | protocol::UDP => {
            let [a, b] = flow.source_port;
            let [c, d] = flow.destination_port;
            packet.write(l4, &[a, b, c, d])
        }
        // An echo has one identifier, which stands for the port of whoever asks.
        _ if is_reply => packet.write(l4 + 4, &flow.destination_port),
        _ => packet.write(l4 + 4, &flow.source_port),
    };
    written.ok_or(Reason::Malformed)?;
    match key.protocol {
        protocol::TCP => packet.update_checksum(l4 + 16, Some(addresses), ports, false),
        protocol::UDP => packet.update_checksum(l4 + 6, Some(addresses), ports, true),
        protocol::ICMPV6 => packet.update_checksum(l4 + 2, Some(addresses), ports, false),
        _ => packet.update_checksum(l4 + 2, None, ports, false),
    }
    .ok_or(Reason::Malformed)
}

/// Writes both addresses into the IP header at `l3`, and mends its checksum, if it has one, by their change.
#[inline(always)]
fn write_addresses<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: usize,
    source: &Address,
    destination: &Address,
    change: Sum,
) -> Option<()> {
    match family {
        Family::V4 => packet.write(l3 + 12, &source.v4_octets())?,
        Family::V6 => packet.write(l3 + 8, source)?,
    }
    write_destination(packet, family, l3, destination, change)
}

/// The same for the destination alone.
#[inline(always)]
fn write_destination<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: usize,
    destination: &Address,
    change: Sum,
) -> Option<()> {
    match family {
        Family::V4 => {
            let checksum: [u8; 2] = packet.read(l3 + 10)?;
            packet.write(l3 + 10, &change.update(checksum))?;
            packet.write(l3 + 16, &destination.v4_octets())
        }
        Family::V6 => packet.write(l3 + 24, destination),
    }
}

/// Takes one off the hop limit, as a router does. The packet must be known to have one to spare.
#[inline(always)]
pub(super) fn decrement_hop_limit<P: Packet>(packet: &mut P, family: Family, l3: usize) -> Option<()> {
    match family {
        Family::V4 => {
            let [ttl, protocol]: [u8; 2] = packet.read(l3 + 8)?;
            let new = [ttl.wrapping_sub(1), protocol];
            let change = Sum::ZERO.plus16(new).minus(Sum::ZERO.plus16([ttl, protocol]));
            let checksum: [u8; 2] = packet.read(l3 + 10)?;
            packet.write(l3 + 10, &change.update(checksum))?;
            packet.write(l3 + 8, &new[0])
        }
        Family::V6 => {
            let [next, limit]: [u8; 2] = packet.read(l3 + 6)?;
            let new = [next, limit.wrapping_sub(1)];
            packet.write(l3 + 6, &new)?;
            packet.changed(Sum::ZERO.plus16(new).minus(Sum::ZERO.plus16([next, limit])));
            Some(())
        }
    }
}
