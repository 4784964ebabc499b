//! A packet from a task of this node.

use network_types::eth::EthHdr;

use super::{
    Step, balance,
    datagram::Datagram,
    deliver, echo, neighbour, outside, published, settle, too_big,
    translate::translate,
    tunnel::{self, Tunnel},
};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{
        Address, Attachment, Endpoint, EndpointKey, Family, Flow, FlowKey, Service, ServiceKey,
        Settings, Space, SubnetKey, flow_flags,
    },
    wire::ether_type,
};

/// The way of a packet that came from the endpoint behind `ifindex`.
#[inline(always)]
pub fn from_endpoint<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Verdict {
    settle(endpoint(packet, tables, ifindex))
}

#[inline(always)]
fn endpoint<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Step {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let attachment = tables.attachment(ifindex).ok_or(Reason::NotAttached)?;
    let network = tables.network(attachment.vni).ok_or(Reason::UnknownNetwork)?;
    let ethernet: EthHdr = packet.read(0).ok_or(Reason::Malformed)?;
    if ethernet.src_addr != attachment.mac {
        return Err(Reason::SourceForged);
    }
    if ethernet.ether_type == ether_type::ARP {
        return neighbour::arp_from_endpoint(packet, tables, attachment, network);
    }
    let mut datagram = Datagram::parse(packet, Datagram::L3, ethernet.ether_type)?;
    if neighbour::is_solicitation(&datagram) {
        return neighbour::solicitation_from_endpoint(packet, tables, attachment, network, &datagram);
    }
    // Before the source is looked at: listener reports and router solicitations come from link-local addresses.
    if datagram.key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    let own = address_of(attachment.v4, attachment.v6, datagram.family);
    if own.is_unspecified() || datagram.key.source != own {
        return Err(Reason::SourceForged);
    }
    if too_big::is_too_big(packet, network.mtu) {
        let speaker = address_of(network.gateway_v4, network.gateway_v6, datagram.family);
        return too_big::answer(packet, &datagram, speaker, network.mtu);
    }
    let from = Sender { settings, attachment };
    if datagram.has_ports {
        let key = datagram.key_in(Space::Network, attachment.vni);
        if let Some(flow) = tables.flow(&key)
            && (flow.flags & flow_flags::REPLY != 0 || !balance::is_over(&flow, &datagram))
        {
            balance::mark(tables, &key, &flow, &datagram);
            return follow(packet, tables, &from, &mut datagram, &flow);
        }
    }
    let key = EndpointKey { address: datagram.key.destination, vni: attachment.vni, reserved: 0 };
    if let Some(endpoint) = tables.endpoint(&key) {
        return forward(packet, tables, &from, &datagram, endpoint);
    }
    if datagram.key.destination == address_of(network.gateway_v4, network.gateway_v6, datagram.family) {
        return if datagram.is_echo_request() {
            echo::answer(packet, &datagram)
        } else {
            Err(Reason::Gateway)
        };
    }
    let vip = ServiceKey {
        address: datagram.key.destination,
        scope: attachment.vni,
        port: [0, 0],
        protocol: 0,
        family: datagram.family as u8,
    };
    if let Some(service) = tables.service(&vip) {
        return ask(packet, tables, &from, &mut datagram, service);
    }
    let subnet = SubnetKey { vni: attachment.vni.to_be_bytes(), address: datagram.key.destination.octets() };
    if tables.in_subnet(&subnet) {
        return Err(Reason::NoSuchEndpoint);
    }
    outside::masquerade(packet, tables, settings, &mut datagram, attachment, network)
}

/// The task that sends, and where it is.
#[derive(Clone, Copy)]
struct Sender<'a> {
    settings: &'a Settings,
    attachment: &'a Attachment,
}

#[inline(always)]
fn address_of(v4: Address, v6: Address, family: Family) -> Address {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// A packet of a flow that is known.
#[inline(always)]
fn follow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    from: &Sender<'_>,
    datagram: &mut Datagram,
    flow: &Flow,
) -> Step {
    if flow.flags & flow_flags::ROUTE != 0 {
        return outside::go(packet, tables, from.settings, datagram, flow);
    }
    if flow.node != 0 {
        translate(packet, datagram, Datagram::L3, flow)?;
        return published::answer(packet, tables, from.settings, datagram, from.attachment.vni, flow.node);
    }
    let key = EndpointKey { address: flow.destination, vni: from.attachment.vni, reserved: 0 };
    let endpoint = tables.endpoint(&key).ok_or(Reason::NoSuchEndpoint)?;
    translate(packet, datagram, Datagram::L3, flow)?;
    forward(packet, tables, from, datagram, endpoint)
}

/// A packet to an endpoint of the network, here or elsewhere.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    from: &Sender<'_>,
    datagram: &Datagram,
    endpoint: &Endpoint,
) -> Step {
    if endpoint.ifindex != 0 {
        return deliver::hand_over(packet, datagram, from.attachment.mac, endpoint.mac, endpoint.ifindex);
    }
    let node = tables.node(endpoint.node).ok_or(Reason::NoRoute)?;
    let tunnel = Tunnel { vni: from.attachment.vni, destination: endpoint.mac, source: from.attachment.mac };
    tunnel::encapsulate(packet, tables, from.settings, datagram, node, tunnel)
}

/// A packet to a virtual IP: the choice is kept here, where both directions pass.
#[inline(always)]
fn ask<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    from: &Sender<'_>,
    datagram: &mut Datagram,
    service: &Service,
) -> Step {
    if datagram.is_echo_request() {
        return echo::answer(packet, datagram);
    }
    if !datagram.has_ports || !datagram.is_transport() {
        return Err(Reason::Portless);
    }
    let (index, backend) = balance::choose(tables, from.settings, service, datagram)?;
    let endpoint_key = EndpointKey { address: backend.address, vni: backend.vni, reserved: 0 };
    let endpoint = tables.endpoint(&endpoint_key).ok_or(Reason::NoSuchEndpoint)?;
    let key = datagram.key_in(Space::Network, from.attachment.vni);
    // A task that reaches itself must not see its own address as the client's: its kernel would drop the packet, so
    // the virtual IP stands for it in both directions.
    let source = if backend.address == key.source { key.destination } else { key.source };
    let there = Flow {
        source,
        destination: backend.address,
        source_port: key.source_port,
        destination_port: key.destination_port,
        backend: index,
        seen: tables.now(),
        service: service.id,
        ..Flow::default()
    };
    let back_key = FlowKey {
        source: backend.address,
        destination: source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ..key
    };
    let back = Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: flow_flags::REPLY,
        ..there
    };
    tables.put_flow(&key, &there);
    tables.put_flow(&back_key, &back);
    translate(packet, datagram, Datagram::L3, &there)?;
    forward(packet, tables, from, datagram, endpoint)
}
