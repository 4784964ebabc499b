//! The last step to a task of this node, or to the node itself.

use network_types::eth::EthHdr;

use super::{Step, datagram::Datagram, lookup, translate};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{Flow, Settings},
    wire::ether_type,
};

/// Takes a tunnel of `tunnel` bytes (0 for none) away from around a packet.
#[inline(always)]
pub(super) fn unwrap<P: Packet>(
    packet: &mut P,
    datagram: &mut Datagram,
    tunnel: usize,
) -> Result<(), Reason> {
    if tunnel != 0 {
        packet.close(tunnel, datagram.family).ok_or(Reason::NoRoom)?;
        datagram.move_forward(tunnel);
    }
    Ok(())
}

/// Writes the Ethernet header of a packet without a tunnel.
#[inline(always)]
pub(super) fn address<P: Packet>(
    packet: &mut P,
    datagram: &Datagram,
    source: [u8; 6],
    destination: [u8; 6],
) -> Result<(), Reason> {
    let ethernet =
        EthHdr { dst_addr: destination, src_addr: source, ether_type: ether_type::of(datagram.family) };
    packet.write(0, &ethernet).ok_or(Reason::Malformed)
}

/// Hands a packet without a tunnel to the endpoint behind `ifindex`.
#[inline(always)]
pub(super) fn hand_over<P: Packet>(
    packet: &mut P,
    datagram: &Datagram,
    source: [u8; 6],
    destination: [u8; 6],
    ifindex: u32,
) -> Step {
    address(packet, datagram, source, destination)?;
    Ok(Verdict::deliver(ifindex))
}

/// Hands a packet without a tunnel to the node itself.
#[inline(always)]
pub(super) fn hand_to_host<P: Packet>(packet: &mut P, settings: &Settings, datagram: &Datagram) -> Step {
    address(packet, datagram, settings.host_mac, settings.host_mac)?;
    Ok(Verdict::host(settings.host_ifindex))
}

/// Takes one off the hop limit of a packet that this node routes, or refuses it where there is none to spare.
#[inline(always)]
pub(super) fn route_on<P: Packet>(packet: &mut P, datagram: &Datagram) -> Result<(), Reason> {
    if datagram.hop_limit <= 1 {
        return Err(Reason::HopLimit);
    }
    translate::decrement_hop_limit(packet, datagram.family, Datagram::L3).ok_or(Reason::Malformed)
}

/// Delivers the outside world's answer to the masqueraded task that it is for.
#[inline(always)]
pub(super) fn answer_from_outside<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &mut Datagram,
    flow: &Flow,
) -> Step {
    let network = tables.network(flow.vni).ok_or(Reason::UnknownNetwork)?;
    let endpoint = lookup::endpoint(tables, flow.vni, &flow.destination)
        .filter(|endpoint| endpoint.ifindex != 0)
        .ok_or(Reason::NoSuchEndpoint)?;
    translate::translate(packet, datagram, &translate::Rewrite::from(flow))?;
    route_on(packet, datagram)?;
    hand_over(packet, datagram, network.gateway_mac, endpoint.mac, endpoint.ifindex)
}
