//! Flows of published ports whose ring changed, on one node before the other.

use std::net::IpAddr;

use mesh_common::{
    Reason,
    abi::{
        Address, BackendIndex, EndpointKey, Family, ForwardingAddress, Local, ServiceKey, Slot, Space,
        local_flags, node_mac, settings_flags, station_flags,
    },
    wire::protocol,
};

use crate::{
    mesh::{
        A, B, BLUE, C, D, End, FAMILIES, GATEWAY_MAC, Journey, Mesh, TCP_C, TCP_RR, Task, UDP_C, client,
        node_address,
    },
    message::{ACK, FIN, Message, SYN, Tunnel},
};

/// The index of a task's backend on a node.
pub(crate) fn index(mesh: &Mesh, node: u32, family: Family, task: Task) -> BackendIndex {
    let address = Address::from(task.address(family));
    let found = mesh.node(node).backends.iter().position(|backend| backend.address == address);
    found.expect("the task is a backend") as BackendIndex
}

/// Gives a published port another ring on some nodes: each slot has this task, and had those before.
pub(crate) fn set_ring(
    mesh: &mut Mesh,
    nodes: &[u32],
    family: Family,
    (port, protocol): (u16, u8),
    now: Task,
    before: [Option<Task>; 2],
) {
    for node in nodes {
        let index = |task| index(mesh, *node, family, task);
        let slot = Slot::new(index(now), before.map(|task| task.map_or(0, index)));
        let key = ServiceKey {
            address: Address::UNSPECIFIED,
            scope: 0,
            port: port.to_be_bytes(),
            protocol,
            family: family as u8,
        };
        let service = mesh.node(*node).services[&key];
        let slots = service.first_slot as usize..(service.first_slot + service.slots) as usize;
        mesh.node_mut(*node).slots[slots].fill(slot);
    }
}

/// A client's first packet to port 80, or to 53 by UDP, at an address that each node has.
fn first(mesh: &mut Mesh, family: Family, by: u8, from: u16) -> Message {
    let anycast = node_address(family, 77);
    for node in mesh.all() {
        node.locals.insert(anycast.into(), Local { ifindex: 1, flags: local_flags::SERVES, alias: 0 });
    }
    match by {
        protocol::TCP => Message::tcp(client(family), from, anycast, TCP_C.0, SYN),
        _ => Message::udp(client(family), from, anycast, UDP_C.0),
    }
}

fn port(by: u8) -> (u16, u8) {
    (if by == protocol::TCP { TCP_C.0 } else { UDP_C.0 }, by)
}

/// How often a journey's packet was passed on after its first tunnel, as its tunnels say.
fn errands(journey: &Journey) -> Vec<u8> {
    journey.tunnels.iter().map(|tunnel| tunnel.errand).collect()
}

/// Every mesh with every family inside and every transport.
fn each() -> impl Iterator<Item = (Mesh, Family, u8)> {
    [protocol::TCP, protocol::UDP]
        .into_iter()
        .flat_map(|by| Mesh::each_with_family().map(move |(mesh, family)| (mesh, family, by)))
}

/// The answer of a task leaves by the node that its client's packet came by.
fn is_answered(mesh: &Mesh, journey: &Journey, task: Task, entry: u32, sent: &Message) {
    let arrived = journey.at_task(task, GATEWAY_MAC);
    assert_eq!(arrived.source, sent.source, "the client's address is kept");
    assert_eq!(mesh.task_sends(task, &arrived.reply()).out_of(entry), sent.reply().with_hops(63));
}

#[test]
fn a_flow_stays_where_it_lives_when_the_ring_changes() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(1, &next);
        assert_eq!(errands(&journey), [0, 1], "by way of the current one's node");
        assert_eq!(journey.tunnels[1].message(), next, "the packet travels untouched");
        is_answered(&mesh, &journey, C, 1, &next);
        // Another node to enter by, the one that the flow lives on, and the one that it is asked for at.
        is_answered(&mesh, &mesh.wire_brings(2, &next), C, 2, &next);
        is_answered(&mesh, &mesh.wire_brings(3, &next), C, 3, &next);
        is_answered(&mesh, &mesh.wire_brings(1, &next), C, 1, &next);
    }
}

#[test]
fn a_new_flow_goes_to_the_current_backend() {
    for (mut mesh, family, by) in each() {
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), Some(A)]);
        let sent = first(&mut mesh, family, by, 50000);
        for entry in [1, 2, 3] {
            let sent = sent.clone().by_port(50000 + entry as u16);
            let journey = mesh.wire_brings(entry, &sent);
            is_answered(&mesh, &journey, D, entry, &sent);
            if by == protocol::UDP {
                // A datagram does not say whether it is a flow's first: those before are asked, once.
                assert_eq!(journey.tunnels.last().map(|tunnel| tunnel.errand), Some(3));
            }
            let next = sent.clone().with_flags(ACK);
            let journey = mesh.wire_brings(entry, &next);
            assert!(journey.tunnels.len() <= 1, "then its node knows it");
            is_answered(&mesh, &journey, D, entry, &next);
        }
    }
}

#[test]
fn two_changes_one_after_the_other() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(A), Some(C)]);
        let next = sent.clone().with_flags(ACK);
        for entry in [1, 2, 3] {
            let journey = mesh.wire_brings(entry, &next);
            is_answered(&mesh, &journey, C, entry, &next);
        }
        assert_eq!(errands(&mesh.wire_brings(2, &next)), [0, 1, 2]);
    }
}

#[test]
fn nodes_that_disagree_about_the_ring() {
    for (mesh, family, by) in each() {
        let rings = [(C, [None, None]), (D, [Some(C), None]), (A, [Some(D), Some(C)])];
        // Each node's ring may be older or newer than the next one's.
        for each in 0..27 {
            let mut mesh = mesh.clone();
            let sent = first(&mut mesh, family, by, 50000);
            is_answered(&mesh, &mesh.wire_brings(3, &sent), C, 3, &sent);
            for (node, ring) in [(1, each % 3), (2, each / 3 % 3), (3, each / 9)] {
                let (now, before) = rings[ring];
                set_ring(&mut mesh, &[node], family, port(by), now, before);
            }
            let next = sent.clone().with_flags(ACK);
            for entry in [1, 2, 3] {
                is_answered(&mesh, &mesh.wire_brings(entry, &next), C, entry, &next);
            }
            // A new flow finds a backend, and stays there.
            let other = sent.clone().by_port(50001);
            for entry in [1, 2, 3] {
                let other = other.clone().by_port(50000 + entry as u16);
                let task = mesh.wire_brings(entry, &other).task_of(&[A, C, D]);
                let next = other.clone().with_flags(ACK);
                assert_eq!(mesh.wire_brings(entry, &next).task_of(&[A, C, D]), task);
            }
        }
    }
}

/// A node without a history of its own, as one that has just joined.
#[test]
fn a_new_node_asks_whom_the_packet_names() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1], family, port(by), D, [Some(C), None]);
        set_ring(&mut mesh, &[3], family, port(by), D, [None, None]);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(1, &next);
        assert_eq!(macs_of(&journey.tunnels[0]), (C.mac(), D.mac()));
        assert_eq!(macs_of(&journey.tunnels[1]), (node_mac(mesh.underlay(1).into()), C.mac()));
        is_answered(&mesh, &journey, C, 1, &next);
    }
}

fn macs_of(tunnel: &Tunnel) -> ([u8; 6], [u8; 6]) {
    crate::message::macs(&tunnel.inner)
}

#[test]
fn a_flow_whose_task_is_gone_moves_to_the_current_backend() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        let key = EndpointKey { address: C.address(family).into(), vni: BLUE, reserved: 0 };
        for node in mesh.all() {
            node.endpoints.remove(&key);
        }
        let next = sent.clone().with_flags(ACK);
        // The task's own kernel resets a connection that it does not know.
        let journey = mesh.wire_brings(1, &next);
        assert_eq!(errands(&journey), [0, 1, 2]);
        is_answered(&mesh, &journey, D, 1, &next);
    }
}

#[test]
fn a_connection_opens_where_the_packet_says() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let sent = first(&mut mesh, family, protocol::TCP, 50000);
        // Node 2's ring is newer than node 1's.
        set_ring(&mut mesh, &[2, 3], family, port(protocol::TCP), D, [Some(C), None]);
        let journey = mesh.wire_brings(1, &sent);
        assert_eq!(errands(&journey), [0]);
        is_answered(&mesh, &journey, C, 1, &sent);
        is_answered(&mesh, &mesh.wire_brings(3, &sent.clone().with_flags(ACK)), C, 3, &sent.with_flags(ACK));
    }
}

/// The node that a packet is sent to has no such backend yet.
#[test]
fn a_connection_to_a_backend_that_is_not_there_goes_to_one_that_is() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let sent = first(&mut mesh, family, protocol::TCP, 50000);
        set_ring(&mut mesh, &[1], family, port(protocol::TCP), D, [None, None]);
        let mac = mesh_common::abi::MacKey { vni: BLUE, mac: D.mac(), reserved: [0; 2] };
        mesh.node_mut(3).stations.remove(&mac);
        let journey = mesh.wire_brings(1, &sent);
        assert_eq!(errands(&journey), [0, TAKE]);
        is_answered(&mesh, &journey, C, 1, &sent);
    }
}

/// What a node says of a flow that lives with one of its backends.
fn told(sent: &Message, by: u8, backend: IpAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| Address::from(ip).octets();
    let mut frame = [[0x02, 0, 0, 0, 0, 9], [0x02, 0, 0, 0, 0, 8]].concat();
    frame.extend(ForwardingAddress::ETHER_TYPE.to_be_bytes());
    frame.extend([octets(sent.source), octets(sent.destination), octets(backend)].concat());
    frame.extend(sent.source_port().to_be_bytes());
    frame.extend(port(by).0.to_be_bytes());
    frame.extend([by, 0, 0, 0]);
    frame
}

#[test]
fn a_forwarding_address() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        // Nobody remembers that the slot was C's.
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [None, None]);
        let word = told(&sent, by, C.address(family));
        let says = |mesh: &Mesh, node, word: &[u8]| {
            let tunnel = Tunnel::new(mesh.underlay(node), mesh.underlay(3), BLUE, word.to_vec());
            mesh.wire_brings_frame(3, tunnel.frame())
        };
        // Only the node that a flow lives on may say so, and of endpoints that there are.
        says(&mesh, 1, &word).is_lost(3, Reason::PeerForged);
        says(&mesh, 2, &told(&sent, by, address_of_nobody(family))).is_lost(3, Reason::NoSuchEndpoint);
        says(&mesh, 2, &told(&sent, 47, C.address(family))).is_lost(3, Reason::Malformed);
        says(&mesh, 2, &word[..60]).is_lost(3, Reason::Malformed);
        assert!(mesh.node(3).flows().is_empty());
        assert_eq!(says(&mesh, 2, &word).end, End::Learned { node: 3 });
        let moved = mesh.node(3).flows();
        assert!(moved.iter().all(|(key, _)| key.scope >> 24 == Space::Moved as u32));
        assert_eq!(moved.len(), 1);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(1, &next);
        assert_eq!(errands(&journey), [0, 1]);
        is_answered(&mesh, &journey, C, 1, &next);
        is_answered(&mesh, &mesh.wire_brings(3, &next), C, 3, &next);
    }
}

/// At its entry node the ring was another.
#[test]
fn a_forwarding_address_is_found_by_a_packet_that_was_passed_on() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[2], family, port(by), A, [None, None]);
        set_ring(&mut mesh, &[1, 3], family, port(by), A, [Some(D), None]);
        let word = told(&sent, by, C.address(family));
        let tunnel = Tunnel::new(mesh.underlay(2), mesh.underlay(3), BLUE, word);
        assert_eq!(mesh.wire_brings_frame(3, tunnel.frame()).end, End::Learned { node: 3 });
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(2, &next);
        assert_eq!(errands(&journey), [0, 1, 2]);
        is_answered(&mesh, &journey, C, 2, &next);
    }
}

/// The ring went from C to A to D; the node of A never saw that it had the slot.
#[test]
fn a_node_that_skipped_a_change_goes_by_what_it_remembers() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(2, &sent), C, 2, &sent);
        set_ring(&mut mesh, &[2, 3], family, port(by), D, [Some(A), Some(C)]);
        set_ring(&mut mesh, &[1], family, port(by), D, [Some(C), None]);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(2, &next);
        assert_eq!(errands(&journey), [0, 1, 2]);
        is_answered(&mesh, &journey, C, 2, &next);
        for entry in [1, 3] {
            is_answered(&mesh, &mesh.wire_brings(entry, &next), C, entry, &next);
        }
    }
}

/// The ring went from C to A to D; only the entry node has heard so, and the others' rings had another before.
#[test]
fn a_node_that_is_asked_as_one_it_never_heard_of_asks_its_own_current_one() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(2, &sent), C, 2, &sent);
        set_ring(&mut mesh, &[2], family, port(by), D, [Some(A), Some(C)]);
        set_ring(&mut mesh, &[1], family, port(by), C, [Some(D), None]);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(2, &next);
        assert_eq!(macs_of(&journey.tunnels[1]).1, A.mac());
        assert_eq!(macs_of(&journey.tunnels[2]).1, C.mac());
        assert_eq!(errands(&journey), [0, 1, 2]);
        is_answered(&mesh, &journey, C, 2, &next);
    }
}

/// The ring went from A to C to A to D; the node of A did not see that C had the slot, and the node of D did.
#[test]
fn the_current_ones_node_goes_on_by_its_own_history() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(2, &sent), C, 2, &sent);
        set_ring(&mut mesh, &[2, 3], family, port(by), D, [Some(A), Some(C)]);
        set_ring(&mut mesh, &[1], family, port(by), D, [Some(A), None]);
        let next = sent.clone().with_flags(ACK);
        let journey = mesh.wire_brings(2, &next);
        assert_eq!(errands(&journey), [0, 1, 2, 3]);
        is_answered(&mesh, &journey, C, 2, &next);
    }
}

/// Who passed a packet on did not know it either.
#[test]
fn nobody_asks_back() {
    for (mut mesh, family, by) in each() {
        set_ring(&mut mesh, &[1, 3], family, port(by), D, [Some(C), None]);
        let next = first(&mut mesh, family, by, 50000).with_flags(ACK);
        let inner = next.frame(node_mac(mesh.underlay(1).into()), D.mac());
        let tunnel = Tunnel { errand: 1, ..Tunnel::new(mesh.underlay(2), mesh.underlay(3), BLUE, inner) };
        let journey = mesh.wire_brings_frame(3, tunnel.frame());
        assert_eq!(errands(&journey), []);
        is_answered(&mesh, &journey, D, 1, &next);
    }
}

/// Nobody else is asked, and the backend that is there takes the packet.
const TAKE: u8 = 0xfe;
const LAST: u8 = 0xff;

/// Whoever comes behind it in a history: the last errands are the slot's current backend's.
#[test]
fn the_last_errands_end_at_the_current_backend() {
    for (mut mesh, family, by) in each() {
        let next = first(&mut mesh, family, by, 50000).with_flags(ACK);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(A), Some(C)]);
        let sent_to_a = |mesh: &Mesh, errand, inner: &[u8]| {
            let tunnel =
                Tunnel { errand, ..Tunnel::new(mesh.underlay(2), mesh.underlay(1), BLUE, inner.to_vec()) };
            mesh.wire_brings_frame(1, tunnel.frame())
        };
        let inner = next.frame(node_mac(mesh.underlay(2).into()), A.mac());
        for (errand, expected, task) in [
            (1, vec![2, 3, TAKE], D),
            (3, vec![TAKE], D),
            // Bytes that no node sends.
            (4, vec![], A),
            (0xfd, vec![], A),
            (TAKE, vec![], A),
            (LAST, vec![], A),
        ] {
            let mesh = mesh.clone();
            let journey = sent_to_a(&mesh, errand, &inner);
            assert_eq!(errands(&journey), expected, "after {errand}");
            is_answered(&mesh, &journey, task, 2, &next);
        }
    }
}

/// The ring went from C to D to C: node 1 has not heard of the second change, and node 2 of neither.
#[test]
fn where_the_backend_is_gone_the_slots_current_one_takes_the_packet() {
    for (mut mesh, family, by) in each() {
        let sent = first(&mut mesh, family, by, 50000).with_flags(if by == protocol::TCP { SYN } else { 0 });
        set_ring(&mut mesh, &[1], family, port(by), D, [Some(C), None]);
        set_ring(&mut mesh, &[2], family, port(by), D, [Some(C), None]);
        set_ring(&mut mesh, &[3], family, port(by), C, [Some(D), None]);
        let gone = mesh_common::abi::MacKey { vni: BLUE, mac: D.mac(), reserved: [0; 2] };
        mesh.node_mut(3).stations.remove(&gone);
        let journey = mesh.wire_brings(1, &sent);
        let expected: &[u8] = if by == protocol::TCP { &[0, TAKE] } else { &[0, 1, 2, 3, TAKE, LAST] };
        assert_eq!(errands(&journey), expected);
        is_answered(&mesh, &journey, C, 1, &sent);
        // The last one takes it, or nobody.
        let inner = sent.frame(node_mac(mesh.underlay(1).into()), D.mac());
        let last = Tunnel { errand: LAST, ..Tunnel::new(mesh.underlay(1), mesh.underlay(3), BLUE, inner) };
        let mesh = mesh.clone();
        mesh.wire_brings_frame(3, last.frame()).is_lost(3, Reason::NoSuchEndpoint);
    }
}

/// A backend that drains takes no flow that its node does not know, whoever sends it there.
#[test]
fn what_drains_is_passed_by() {
    for (mut mesh, family, by) in each() {
        let old = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &old), C, 1, &old);
        let mac = mesh_common::abi::MacKey { vni: BLUE, mac: C.mac(), reserved: [0; 2] };
        mesh.node_mut(2).stations.get_mut(&mac).unwrap().flags = station_flags::DRAINING;
        // Node 1 has not heard of it, and sends it what is new.
        set_ring(&mut mesh, &[2, 3], family, port(by), D, [Some(C), None]);
        let new = old.clone().by_port(50001);
        let journey = mesh.wire_brings(1, &new);
        let expected: &[u8] = if by == protocol::TCP { &[0, TAKE] } else { &[0, 1] };
        assert_eq!(errands(&journey), expected);
        is_answered(&mesh, &journey, D, 1, &new);
        let next = old.with_flags(ACK);
        let journey = mesh.wire_brings(1, &next);
        assert_eq!(errands(&journey), [0]);
        is_answered(&mesh, &journey, C, 1, &next);
    }
}

/// What its entry node remembers of round robin may be a backend that never had the flow.
#[test]
fn a_counted_flow_does_not_begin_at_a_backend_that_drains() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let anycast = first(&mut mesh, family, protocol::TCP, 1).destination;
        let syn = |from| Message::tcp(client(family), from, anycast, TCP_RR.0, SYN);
        assert_eq!(mesh.wire_brings(2, &syn(50000)).task_of(&[B, C, D]), B);
        let mac = mesh_common::abi::MacKey { vni: BLUE, mac: B.mac(), reserved: [0; 2] };
        mesh.node_mut(1).stations.get_mut(&mac).unwrap().flags = station_flags::DRAINING;
        set_ring(&mut mesh, &[1, 2, 3], family, TCP_RR_PORT, D, [None, None]);
        let next = syn(50000).with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(2, &next), B, 2, &next);
        mesh.node_mut(1).keep_flows(|_, _| false);
        // Sent again: its entry node still goes by what it remembers.
        let journey = mesh.wire_brings(2, &syn(50000));
        assert_eq!(errands(&journey), [0, TAKE]);
        is_answered(&mesh, &journey, D, 2, &syn(50000));
    }
}

/// What an entry node remembers of round robin does not bind a flow to a backend whose node has left.
#[test]
fn a_counted_flow_does_not_stay_with_a_node_that_left() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let anycast = first(&mut mesh, family, protocol::TCP, 1).destination;
        let syn = |from| Message::tcp(client(family), from, anycast, TCP_RR.0, SYN);
        assert_eq!(mesh.wire_brings(1, &syn(50000)).task_of(&[B, C, D]), B);
        assert_eq!(mesh.wire_brings(1, &syn(50001)).task_of(&[B, C, D]), C);
        let next = syn(50001).with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &next), C, 1, &next);
        let left = &mut mesh.node_mut(1).nodes[2];
        (left.ifindex, left.mtu) = (0, 0);
        // The ring names it still: it is no packet's fault that there is no way.
        set_ring(&mut mesh, &[1], family, TCP_RR_PORT, C, [None, None]);
        mesh.wire_brings(1, &next).is_lost(1, Reason::NoRoute);
        set_ring(&mut mesh, &[1, 3], family, TCP_RR_PORT, D, [None, None]);
        is_answered(&mesh, &mesh.wire_brings(1, &next), D, 1, &next);
    }
}

const TCP_RR_PORT: (u16, u8) = (TCP_RR.0, protocol::TCP);

fn address_of_nobody(family: Family) -> IpAddr {
    crate::mesh::address(family, 99)
}

#[test]
fn an_error_finds_a_flow_that_moved() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let sent = first(&mut mesh, family, protocol::TCP, 50000);
        let answer = mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC).reply();
        let answer = mesh.task_sends(C, &answer).out_of(1);
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), D, [Some(C), None]);
        let router = if family == Family::V4 { "203.0.113.1" } else { "2001:db8:f::1" };
        let error = crate::errors::unreachable(crate::mesh::ip(router), &answer);
        let journey = mesh.wire_brings(3, &error);
        assert_eq!(journey.at_task(C, GATEWAY_MAC).destination, C.address(family));
    }
}

/// What the other ways to balance do, by which this one is measured.
#[test]
fn without_a_second_chance_the_current_backend_takes_all() {
    for (mut mesh, family, by) in each() {
        mesh.all().for_each(|node| node.settings.flags |= settings_flags::NO_SECOND_CHANCE);
        let sent = first(&mut mesh, family, by, 50000);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        let next = sent.with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &next), D, 1, &next);
        mesh.all().for_each(|node| node.settings.flags |= settings_flags::ENTRY_CACHE);
        is_answered(&mesh, &mesh.wire_brings(1, &next), D, 1, &next);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), C, [Some(D), None]);
        is_answered(&mesh, &mesh.wire_brings(1, &next), D, 1, &next);
    }
}

#[test]
fn a_node_may_be_made_to_forget() {
    for family in FAMILIES {
        let mut mesh = Mesh::new(family, false);
        let flags = settings_flags::NO_SECOND_CHANCE | settings_flags::FORGETFUL;
        mesh.all().for_each(|node| node.settings.flags |= flags);
        let sent = first(&mut mesh, family, protocol::TCP, 50000);
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), A, [None, None]);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), A, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), B, [Some(A), None]);
        let next = sent.with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &next), B, 1, &next);
    }
}

/// Round robin is kept where a flow enters; at another node it is found by chance, or refused by a task.
#[test]
fn a_counted_flow_that_comes_by_another_node() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let anycast = first(&mut mesh, family, protocol::TCP, 1).destination;
        let sent = Message::tcp(client(family), 50000, anycast, TCP_RR.0, SYN);
        assert_eq!(mesh.wire_brings(1, &sent).task_of(&[B, C, D]), B);
        let next = sent.with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &next), B, 1, &next);
        let elsewhere = mesh.wire_brings(3, &next).task_of(&[B, C, D]);
        let again = mesh.wire_brings(3, &next).task_of(&[B, C, D]);
        assert_eq!(elsewhere, again);
    }
}

/// A flow that ended long ago does not stand in the way of one between the same ports that lives elsewhere.
#[test]
fn an_old_end_is_forgotten() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let sent = first(&mut mesh, family, protocol::TCP, 50000);
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), D, [None, None]);
        is_answered(&mesh, &mesh.wire_brings(1, &sent), D, 1, &sent);
        let end = sent.clone().with_flags(FIN | ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &end), D, 1, &end);
        // The ring gives the ports to C, where they are used again, and back to D.
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), C, [Some(D), None]);
        mesh.all().for_each(|node| node.set_clock(200));
        is_answered(&mesh, &mesh.wire_brings(1, &sent), C, 1, &sent);
        set_ring(&mut mesh, &[1, 2, 3], family, port(protocol::TCP), D, [Some(C), None]);
        let next = sent.with_flags(ACK);
        is_answered(&mesh, &mesh.wire_brings(1, &next), C, 1, &next);
    }
}
