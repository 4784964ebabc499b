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
#[inline(never)]
pub(super) fn translate<P: Packet>(
    packet: &mut P,
    datagram: &mut Datagram,
    flow: &Rewrite,
) -> Result<(), Reason> {
    let l3 = Datagram::L3;
    let l4 = datagram.l4();
    let is_reply = !datagram.is_echo_request();
    let key = &mut datagram.key;
    let addresses = Sum::ZERO
        .plus_address(flow.source)
        .plus_address(flow.destination)
        .minus(Sum::ZERO.plus_address(key.source).plus_address(key.destination));
    let ports = Sum::ZERO
        .plus16(flow.source_port)
        .plus16(flow.destination_port)
        .minus(Sum::ZERO.plus16(key.source_port).plus16(key.destination_port));

    write_addresses(packet, datagram.family, l3, flow.source, flow.destination, addresses)
        .ok_or(Reason::Malformed)?;
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
    .ok_or(Reason::Malformed)?;

    key.source = flow.source;
    key.destination = flow.destination;
    key.source_port = flow.source_port;
    key.destination_port = flow.destination_port;
    Ok(())
}

#[inline(always)]
fn write_addresses<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: usize,
    source: Address,
    destination: Address,
    change: Sum,
) -> Option<()> {
    match family {
        Family::V4 => {
            let checksum: [u8; 2] = packet.read(l3 + 10)?;
            packet.write(l3 + 10, &change.update(checksum))?;
            packet.write(l3 + 12, &source.v4_octets())?;
            packet.write(l3 + 16, &destination.v4_octets())
        }
        Family::V6 => {
            packet.write(l3 + 8, &source)?;
            packet.write(l3 + 24, &destination)?;
            // No header checksum makes up for them, as IPv4's does.
            packet.changed(change);
            Some(())
        }
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
