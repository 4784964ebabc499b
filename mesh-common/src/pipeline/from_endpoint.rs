//! A packet from a task of this node.

use network_types::eth::EthHdr;

use super::{
    Step, Way, balance,
    datagram::Datagram,
    deliver, echo, fragment, go,
    lookup::{self, Place},
    mss, neighbour, newcomer, outside,
    published::Answer,
    refuse,
    remember::remember,
    second_chance::Errand,
    settle, too_big,
    translate::{Rewrite, translate},
    tunnel::{self, Tunnel},
};
use crate::{
    Packet, Reason, Refusal, Tables, Verdict,
    abi::{
        Address, Attachment, BackendIndex, Endpoint, Family, Flow, FlowKey, Service, Settings, Space,
        flow_flags,
    },
    wire::{ether_type, protocol},
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
        return neighbour::arp_from_endpoint(packet, tables, attachment);
    }
    let mut datagram = Datagram::UNREAD;
    datagram.parse(packet, Datagram::L3, ethernet.ether_type)?;
    if neighbour::is_solicitation(&datagram) {
        return neighbour::solicitation_from_endpoint(packet, tables, attachment, &datagram);
    }
    // Before the source is looked at: listener reports and router solicitations come from link-local addresses.
    if datagram.key.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    let own = address_of(attachment.v4, attachment.v6, datagram.family);
    if own.is_unspecified() || datagram.key.source != own || datagram.is_from_router {
        return Err(Reason::SourceForged);
    }
    if too_big::is_too_big(packet, network.mtu) {
        return Ok(Verdict::refuse(Refusal::too_big(network.mtu)));
    }
    let scope = FlowKey::scope(Space::Network, attachment.vni);
    if fragment::goes_on(tables, &mut datagram, Datagram::L3, scope) {
        return Ok(Verdict::FRAGMENT);
    }
    mss::clamp(packet, &datagram, network.mtu)?;
    let from = Sender { settings, attachment };
    let known = if datagram.has_ports {
        tables
            .flow(datagram.key_in(Space::Network, attachment.vni))
            .filter(|flow| flow.flags & flow_flags::REPLY != 0 || !balance::is_over(flow, &datagram))
    } else {
        None
    };
    let mut change = Rewrite::NONE;
    let mut way = Way::NOWHERE;
    let mut is_settled = false;
    let mut is_routed = false;
    if let Some(flow) = known {
        balance::mark(tables, &flow, &datagram);
        if newcomer::may_prove(&flow, &datagram) {
            newcomer::prove(tables, &datagram.key);
        }
        is_routed = flow.flags & flow_flags::ROUTE != 0;
        if is_routed {
            change = Rewrite::from(&*flow);
        } else {
            match follow(packet, tables, &from, &mut datagram, &flow, &mut way) {
                // A connection breaks, and its client learns it at once; a new one, and datagrams, go to another backend.
                Err(Reason::BackendGone) if datagram.is_syn() || datagram.key.protocol == protocol::UDP => {}
                Err(Reason::BackendGone) => {
                    return Ok(Verdict::refuse(Refusal::because(Reason::BackendGone)));
                }
                followed => {
                    followed?;
                    is_settled = true;
                }
            }
        }
    }
    if !is_settled && !is_routed {
        if let Some(endpoint) = lookup::endpoint(tables, attachment.vni, &datagram.key.destination) {
            if datagram.is_syn() {
                forget_ended(tables, &datagram.key);
            }
            return forward(packet, tables, &from, &datagram, endpoint);
        }
        if let Some(service) = lookup::vip(tables, attachment.vni, &datagram.key.destination) {
            return ask(packet, tables, &from, &mut datagram, service);
        }
        match lookup::place(tables, attachment.vni, &datagram.key.destination) {
            Place::Gateway if datagram.is_echo_request() => return echo::answer(packet, &datagram),
            Place::Gateway => return Err(Reason::Gateway),
            Place::Inside => return Err(Reason::NoSuchEndpoint),
            Place::Outside => {}
        }
        outside::masquerade(tables, &mut datagram, attachment, &mut change)?;
    }
    if !is_settled {
        outside::go(packet, tables, &mut datagram, &change, &mut way)?;
    }
    go(packet, tables, &mut datagram, &way)
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

/// A packet of a flow that is known: from a client to a virtual IP, or from a backend to a client outside.
#[inline(never)]
fn follow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    from: &Sender<'_>,
    datagram: &mut Datagram,
    flow: &Flow,
    way: &mut Way,
) -> Result<(), Reason> {
    if flow.node != 0 {
        *way = Way::Answer(Answer { vni: from.attachment.vni, entry: flow.node });
        return translate(packet, datagram, &Rewrite::from(flow));
    }
    let endpoint =
        lookup::endpoint(tables, from.attachment.vni, &flow.destination).ok_or(Reason::BackendGone)?;
    translate(packet, datagram, &Rewrite::from(flow))?;
    *way = Way::Settled(forward(packet, tables, from, datagram, endpoint)?);
    Ok(())
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
    let tunnel = Tunnel {
        node,
        vni: from.attachment.vni,
        destination: endpoint.mac,
        source: from.attachment.mac,
        errand: Errand::FIRST,
    };
    tunnel::encapsulate(packet, tables, datagram, &tunnel)
}

/// A packet to a virtual IP: the choice is kept here, where both directions pass.
#[inline(never)]
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
    if !datagram.may_open() {
        return Err(Reason::NoFlow);
    }
    let (index, backend) = match balance::choose_for_task(tables, from.settings, service, datagram) {
        Ok(chosen) => chosen,
        Err(reason) => return refuse::unserved(service, reason),
    };
    let endpoint = lookup::endpoint(tables, backend.vni, &backend.address).ok_or(Reason::NoSuchEndpoint)?;
    let key = datagram.key_in(Space::Network, from.attachment.vni);
    // A task that reaches itself must not see its own address as the client's: its kernel would drop the packet, so the
    // virtual IP stands for it in both directions.
    let source = if backend.address == key.source { key.destination } else { key.source };
    let change = Rewrite {
        source,
        destination: backend.address,
        source_port: key.source_port,
        destination_port: key.destination_port,
    };
    open(tables, service, &mut datagram.key, &change, index);
    newcomer::queue(tables, &datagram.key);
    translate(packet, datagram, &change)?;
    forward(packet, tables, from, datagram, endpoint)
}

/// Forgets a connection that is over between the same ports of a task and a backend, through a virtual IP: answers to the one that
/// a SYN opens now, to the backend itself, would be taken for that one's.
#[inline(never)]
fn forget_ended<T: Tables>(tables: &T, key: &FlowKey) {
    const OVER: u32 = flow_flags::FIN | flow_flags::RST;
    let answers = FlowKey {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ..*key
    };
    let Some(answered) = tables.flow(&answers) else { return };
    if answered.flags & flow_flags::REPLY == 0 || answered.node != 0 {
        return;
    }
    let asked = answered.back_key_in(key.scope, key.protocol);
    let seen = answered.flags | tables.flow(&asked).map_or(0, |flow| flow.flags);
    if seen & OVER != 0 {
        tables.remove_flow(&asked);
        tables.remove_flow(&answers);
    }
}

/// Remembers a flow from a task through a virtual IP to a backend, in both directions.
#[inline(never)]
fn open<T: Tables>(
    tables: &T,
    service: &Service,
    key: &mut FlowKey,
    change: &Rewrite,
    backend: BackendIndex,
) {
    let mut flow = Flow {
        source: change.source,
        destination: change.destination,
        source_port: change.source_port,
        destination_port: change.destination_port,
        backend,
        flags: flow_flags::NEW,
        seen: tables.now(),
        service: service.id,
        ..Flow::default()
    };
    let scope = key.scope;
    remember(tables, key, &mut flow, scope);
}
