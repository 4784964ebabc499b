//! ICMP errors, which find their way by the packet that they quote.

use std::net::IpAddr;

use mesh_common::{Reason, abi::Family};

use crate::{
    mesh::{
        A, B, C, D, End, GATEWAY_MAC, Mesh, TCP_A, TCP_C, TCP_RR, UDP_C, VIP_C, address, client, ip,
        node_address,
    },
    message::{ACK, Body, Message, SYN, Tunnel},
};

/// How much of a packet's transport header errors quote at least (RFC 792).
const QUOTED: usize = 8;

/// "Port unreachable", "time exceeded", and "too big" or "fragmentation needed".
fn kinds(family: Family) -> [(u8, u8, u32); 3] {
    match family {
        Family::V4 => [(3, 3, 0), (11, 0, 0), (3, 4, 1400)],
        Family::V6 => [(1, 4, 0), (3, 0, 0), (2, 0, 1400)],
    }
}

fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => ip("198.51.100.1"),
        Family::V6 => ip("2001:db8:e::1"),
    }
}

fn header(message: &Message) -> usize {
    if message.source.is_ipv4() { 20 } else { 40 }
}

/// The beginning of a packet.
fn quote(message: &Message) -> Vec<u8> {
    message.frame([0; 6], [0; 6])[14..14 + header(message) + QUOTED].to_vec()
}

/// The error that somebody gives a packet.
fn error(packet: &Message, source: IpAddr, (kind, code, word): (u8, u8, u32)) -> Message {
    Message {
        source,
        destination: packet.source,
        body: Body::Icmp { kind, code, word },
        hops: 64,
        class: 0,
        payload: quote(packet),
    }
}

/// "Port unreachable" about a packet.
pub(crate) fn unreachable(source: IpAddr, packet: &Message) -> Message {
    let family = if packet.source.is_ipv4() { Family::V4 } else { Family::V6 };
    error(packet, source, kinds(family)[0])
}

/// What the same error should say about the same packet as it was before it was translated: all but the transport
/// checksum, which cannot be computed from a part of the packet, and stays; and the hop limit that it had come to.
fn seen_as(error: &Message, packet: &Message, source: IpAddr) -> Message {
    let hops = error.payload[if packet.source.is_ipv4() { 8 } else { 7 }];
    let mut payload = quote(&packet.clone().with_hops(hops));
    let checksum = match packet.body {
        Body::Tcp { .. } => None,
        Body::Udp { .. } => Some(header(packet) + 6),
        _ => Some(header(packet) + 2),
    };
    if let Some(at) = checksum {
        payload[at..at + 2].copy_from_slice(&error.payload[at..at + 2]);
    }
    Message { source, destination: packet.source, payload, ..error.clone() }
}

#[test]
fn about_a_masqueraded_packet() {
    for (mesh, family) in Mesh::each_with_family() {
        let (from, to) = (A.address(family), client(family));
        for sent in [
            Message::tcp(from, 40000, to, 443, SYN),
            Message::udp(from, 40000, to, 53),
            Message::ask(from, to, 77),
            Message::ask(from, to, 0),
        ] {
            let left = mesh.task_sends(A, &sent).out_of(1);
            for kind in kinds(family) {
                for source in [router(family), to] {
                    let told = error(&left, source, kind);
                    let arrived = mesh.wire_brings(1, &told).at_task(A, GATEWAY_MAC);
                    assert_eq!(arrived, seen_as(&told, &sent, source).with_hops(63));
                }
            }
        }
    }
}

#[test]
fn about_a_packet_to_a_virtual_ip() {
    for (mesh, family) in Mesh::each_with_family() {
        let (from, vip) = (A.address(family), address(family, VIP_C));
        for sent in [Message::udp(from, 40000, vip, 53), Message::tcp(from, 40000, vip, 80, SYN)] {
            let arrived = mesh.task_sends(A, &sent).at_task(C, A.mac());
            let told = error(&arrived, C.address(family), kinds(family)[0]);
            let back = mesh.task_sends(C, &told).at_task(A, C.mac());
            assert_eq!(back, seen_as(&told, &sent, vip), "from whom the client asked, about what it sent");
            // The client's error about an answer.
            let answer = mesh.task_sends(C, &arrived.reply()).at_task(A, C.mac());
            let told = error(&answer, from, kinds(family)[0]);
            let there = mesh.task_sends(A, &told).at_task(C, A.mac());
            assert_eq!(there, seen_as(&told, &arrived.reply(), from));
        }
    }
}

/// Requests to a node's published ports, and who gets them.
fn requests(family: Family) -> [(Message, crate::mesh::Task); 3] {
    let (from, own) = (client(family), node_address(family, 1));
    [
        (Message::udp(from, 50000, own, UDP_C.0), C),
        (Message::tcp(from, 50000, own, TCP_C.0, SYN), C),
        (Message::tcp(from, 50000, own, TCP_A.0, SYN), A),
    ]
}

#[test]
fn about_a_clients_packet() {
    for (mesh, family) in Mesh::each_with_family() {
        for (sent, task) in requests(family) {
            let arrived = mesh.wire_brings(1, &sent).at_task(task, GATEWAY_MAC);
            let told = error(&arrived, task.address(family), kinds(family)[0]);
            let left = mesh.task_sends(task, &told).out_of(1);
            assert_eq!(left, seen_as(&told, &sent, sent.destination).with_hops(63));
        }
    }
}

#[test]
fn about_an_answer_to_a_client() {
    for (mesh, family) in Mesh::each_with_family() {
        for (sent, task) in requests(family) {
            let arrived = mesh.wire_brings(1, &sent).at_task(task, GATEWAY_MAC);
            let left = mesh.task_sends(task, &arrived.reply()).out_of(1);
            for kind in kinds(family) {
                for source in [router(family), client(family)] {
                    let told = error(&left, source, kind);
                    let there = mesh.wire_brings(1, &told).at_task(task, GATEWAY_MAC);
                    assert_eq!(there, seen_as(&told, &arrived.reply(), source).with_hops(63));
                }
            }
        }
    }
}

#[test]
fn between_tasks() {
    for (mesh, family) in Mesh::each_with_family() {
        for (from, to) in [(A, B), (A, C)] {
            let sent = Message::udp(from.address(family), 40000, to.address(family), 9);
            let arrived = mesh.task_sends(from, &sent).at_task(to, from.mac());
            let told = error(&arrived, to.address(family), kinds(family)[0]);
            assert_eq!(mesh.task_sends(to, &told).at_task(from, to.mac()), told, "as it was sent");
        }
    }
}

#[test]
fn errors_about_nothing_that_is_known() {
    for (mesh, family) in Mesh::each_with_family() {
        let (own, kind) = (node_address(family, 1), kinds(family)[0]);
        // About packets that nobody here sent.
        for packet in [
            Message::tcp(own, 61234, client(family), 443, ACK),
            Message::tcp(own, 40000, client(family), 443, ACK),
            Message::ask(own, client(family), 61234),
        ] {
            mesh.wire_brings(1, &error(&packet, router(family), kind)).is_left_to_stack(1);
        }
        // Of a service that takes turns it is looked for at one of its tasks.
        let of_rr = Message::tcp(own, TCP_RR.0, client(family), 50000, ACK);
        let journey = mesh.wire_brings(1, &error(&of_rr, router(family), kind));
        assert!(matches!(journey.end, End::Lost { reason: Reason::NoFlow, .. }), "{journey:?}");
        // It quotes a packet of somebody else's than whom it goes to.
        let answer = Message::udp(own, UDP_C.0, client(family), 50000);
        let stray = error(&answer, router(family), kind).to(node_address(family, 77));
        mesh.wire_brings(1, &stray).is_left_to_stack(1);
        // An error opens no flow: not from a client, not from a task.
        mesh.wire_brings(1, &error(&answer, client(family), kind)).is_lost(2, Reason::NoFlow);
        let of_task = Message::udp(client(family), 53, A.address(family), 40000);
        mesh.task_sends(A, &error(&of_task, A.address(family), kind)).is_lost(1, Reason::NoFlow);
        assert!(mesh.node(1).flows().is_empty() && mesh.node(2).flows().is_empty());
    }
}

#[test]
fn a_task_that_speaks_as_a_router() {
    for (mesh, family) in Mesh::each_with_family() {
        // B, and D on another node, tell A of a packet to C.
        let packet = Message::udp(A.address(family), 40000, C.address(family), 9);
        let told = error(&packet, B.address(family), kinds(family)[0]);
        mesh.task_sends(B, &told).is_lost(1, Reason::SourceForged);
        let told = error(&packet, D.address(family), kinds(family)[0]);
        let inner = told.frame(D.mac(), A.mac());
        let tunnel = Tunnel::new(mesh.underlay(3), mesh.underlay(1), D.vni, inner);
        mesh.wire_brings_frame(1, tunnel.frame()).is_lost(1, Reason::PeerForged);
    }
}

#[test]
fn quotes_cut_short() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::udp(A.address(family), 40000, client(family), 53);
        let left = mesh.task_sends(A, &sent).out_of(1);
        let whole = error(&left, router(family), kinds(family)[0]);
        mesh.wire_brings(1, &whole).at_task(A, GATEWAY_MAC);
        for length in 0..whole.payload.len() {
            let mut short = whole.clone();
            short.payload.truncate(length);
            mesh.wire_brings(1, &short).is_left_to_stack(1);
        }
        let payload = left.frame([0; 6], [0; 6])[14..].to_vec();
        mesh.wire_brings(1, &Message { payload, ..whole }).at_task(A, GATEWAY_MAC);
    }
}
