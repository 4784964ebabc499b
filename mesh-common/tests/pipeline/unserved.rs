//! What no backend takes is answered, at once and in moderation.

use std::net::IpAddr;

use mesh_common::{
    Reason,
    abi::{Allowance, Family, service_flags},
};

use crate::{
    mesh::{
        A, B, C, D, Entry, FAMILIES, GATE, HOST_MAC, Journey, Mesh, PORT_NOBODY, VIP_A, VIP_NOBODY, VIP_RR,
        address, alias, client, ip, node_address,
    },
    message::{ACK, Body, FIN, Message, RST, SYN, macs},
};

const L3: usize = 14;

/// Every way of asking for a service that nobody serves: who asks, whom, at which port, and by which entry.
fn ways(family: Family) -> [(IpAddr, IpAddr, u16, Entry); 4] {
    [
        (client(family), node_address(family, 1), PORT_NOBODY, Entry::Wire),
        (node_address(family, 1), alias(family), PORT_NOBODY, Entry::Node),
        (A.address(family), address(family, VIP_NOBODY), 80, Entry::Task(A.ifindex)),
        (A.address(family), node_address(family, 1), PORT_NOBODY, Entry::Task(A.ifindex)),
    ]
}

/// The asker's MAC address, and the one that it asks at.
fn link(entry: Entry) -> ([u8; 6], [u8; 6]) {
    match entry {
        Entry::Wire => ([0x02, 0, 0, 0, 1, 254], [0x02, 0, 0, 0, 0, 1]),
        Entry::Node => (HOST_MAC, [0x02, 0, 0, 0, 0, GATE as u8]),
        Entry::Task(_) => (A.mac(), [0x02, 0x42, 10, 0, 9, 1]),
    }
}

fn send(mesh: &Mesh, entry: Entry, message: &Message) -> Journey {
    let (source, destination) = link(entry);
    mesh.travel(1, entry, message.frame(source, destination))
}

/// Where the transport header of a frame without options begins.
fn l4(frame: &[u8]) -> usize {
    L3 + if frame[L3] >> 4 == 4 { 20 } else { 40 }
}

/// A segment's sequence number, acknowledgement and flags.
fn numbers(frame: &[u8]) -> (u32, u32, u8) {
    let tcp = &frame[l4(frame)..];
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    (word(4), word(8), tcp[13])
}

/// RFC 9293, section 3.10.7.1.
#[test]
fn tcp_is_reset() {
    for (mesh, family) in Mesh::each_with_family() {
        for (from, to, port, entry) in ways(family) {
            // What is sent, with 25 bytes of payload and the sequence number 1000, and what the reset says to it.
            for (flags, payload, acknowledged, expected) in [
                (SYN, 0, 0, (0, 1001, RST | ACK)),
                (SYN, 25, 0, (0, 1026, RST | ACK)),
                (FIN, 3, 0, (0, 1004, RST | ACK)),
                (0, 7, 0, (0, 1007, RST | ACK)),
                (ACK, 25, 0x1234_5678, (0x1234_5678, 0, RST)),
                (SYN | ACK, 0, u32::MAX, (u32::MAX, 0, RST)),
                (FIN | ACK, 0, 9, (9, 0, RST)),
            ] {
                let sent = Message::tcp(from, 50000, to, port, flags).with_payload(payload);
                let (source, destination) = link(entry);
                let mut frame = sent.frame(source, destination);
                let at = l4(&frame) + 8;
                frame[at..at + 4].copy_from_slice(&u32::to_be_bytes(acknowledged));
                let journey = mesh.travel(1, entry, frame);
                let answer = journey.refused_by(1, Reason::NoBackend);
                assert_eq!(macs(answer), (destination, source));
                assert_eq!(numbers(answer), expected, "to {flags:#x} with {payload} bytes, by {entry:?}");
                let reset = Message {
                    body: Body::Tcp { from: port, to: 50000, flags: expected.2 },
                    ..Message::tcp(to, port, from, 50000, 0).with_payload(0)
                };
                assert_eq!(Message::read(answer), reset);
            }
        }
    }
}

/// A segment counts as it is, not as long as the frame that Ethernet has padded, or as its options are.
#[test]
fn padding_and_options_are_no_payload() {
    for (mesh, family) in Mesh::each_with_family() {
        let (from, to, port, entry) = ways(family)[0];
        let (source, destination) = link(entry);
        let mut frame = Message::tcp(from, 50000, to, port, SYN).with_payload(12).frame(source, destination);
        // The payload is read as options.
        let at = l4(&frame) + 12;
        frame[at] = 8 << 4;
        frame.extend([0xee; 9]);
        let journey = mesh.travel(1, entry, frame.clone());
        assert_eq!(numbers(journey.refused_by(1, Reason::NoBackend)), (0, 1001, RST | ACK));
        // More options than there is room for, and less than a header.
        for words in [9, 15, 4, 0] {
            frame[at] = words << 4;
            mesh.travel(1, entry, frame.clone()).is_lost(1, Reason::NoBackend);
        }
    }
}

#[test]
fn udp_is_told_that_the_port_is_unreachable() {
    for (mesh, family) in Mesh::each_with_family() {
        for (from, to, port, entry) in ways(family) {
            for length in [0, 1, 4, 25, 1200] {
                let sent = Message::udp(from, 50000, to, port).with_payload(length);
                let (source, destination) = link(entry);
                let frame = sent.frame(source, destination);
                let journey = mesh.travel(1, entry, frame.clone());
                let answer = journey.refused_by(1, Reason::NoBackend);
                assert_eq!(macs(answer), (destination, source));
                let body = match family {
                    Family::V4 => Body::Icmp { kind: 3, code: 3, word: 0 },
                    Family::V6 => Body::Icmp { kind: 1, code: 4, word: 0 },
                };
                let quoted = (frame.len() - L3).min(548) / 4 * 4;
                let payload = frame[L3..L3 + quoted].to_vec();
                let expected = Message { source: to, destination: from, body, hops: 64, class: 0, payload };
                assert_eq!(Message::read(answer), expected, "to {length} bytes, by {entry:?}");
            }
        }
    }
}

#[test]
fn a_silent_service_says_nothing() {
    for (mut mesh, family) in Mesh::each_with_family() {
        for service in mesh.node_mut(1).services.values_mut() {
            service.flags |= service_flags::SILENT;
        }
        for (from, to, port, entry) in ways(family) {
            for sent in [Message::tcp(from, 50000, to, port, SYN), Message::udp(from, 50000, to, port)] {
                send(&mesh, entry, &sent).is_lost(1, Reason::NoBackend);
            }
        }
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    for (mesh, family) in Mesh::each_with_family() {
        for (from, to, port, entry) in ways(family) {
            // A reset.
            for flags in [RST, RST | ACK] {
                let sent = Message::tcp(from, 50000, to, port, flags);
                send(&mesh, entry, &sent).is_lost(1, Reason::NoBackend);
            }
            // What was sent to many on the link.
            let sent = Message::tcp(from, 50000, to, port, SYN);
            for everybody in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
                mesh.travel(1, entry, sent.frame(link(entry).0, everybody)).is_lost(1, Reason::NoBackend);
            }
        }
        // Senders that are none. A task's are forged, which is found before.
        let many = match family {
            Family::V4 => ["224.0.0.1", "255.255.255.255", "0.0.0.0"],
            Family::V6 => ["ff02::1", "ff0e::5", "::"],
        };
        for source in many.map(ip) {
            for sent in [
                Message::tcp(source, 50000, node_address(family, 1), PORT_NOBODY, SYN),
                Message::udp(source, 50000, node_address(family, 1), PORT_NOBODY),
            ] {
                send(&mesh, Entry::Wire, &sent).is_lost(1, Reason::NoBackend);
            }
        }
        // An error about what was answered.
        let (from, to, port, entry) = ways(family)[0];
        let answered = Message::udp(to, port, from, 50000).frame([0; 6], [0; 6])[L3..].to_vec();
        let kind = if family == Family::V4 { 3 } else { 1 };
        let error = Message {
            body: Body::Icmp { kind, code: 3, word: 0 },
            payload: answered,
            ..Message::ask(from, to, 1)
        };
        send(&mesh, entry, &error).is_lost(1, Reason::NoBackend);
    }
}

#[test]
fn answers_are_rationed() {
    for (mesh, family) in Mesh::each_with_family() {
        let (from, to, port, entry) = ways(family)[0];
        let node = mesh.node(1);
        let sent = [Message::tcp(from, 50000, to, port, SYN), Message::udp(from, 50000, to, port)];
        node.set_allowance(Allowance::default());
        for index in 0..Allowance::BURST {
            send(&mesh, entry, &sent[index as usize % 2]).refused_by(1, Reason::NoBackend);
        }
        let long = Message::tcp(A.address(family), 1, C.address(family), 2, ACK).with_payload(1500);
        for message in &sent {
            send(&mesh, entry, message).is_lost(1, Reason::NoBackend);
        }
        mesh.task_sends(A, &long).is_lost(1, Reason::TooBig);
        // What is answered by nobody's rule costs nothing.
        node.set_clock(node.clock() + 1);
        for _ in 0..2 * Allowance::BURST {
            send(&mesh, entry, &Message::tcp(from, 50000, to, port, RST)).is_lost(1, Reason::NoBackend);
        }
        mesh.task_sends(A, &long).too_big_for(1);
        node.set_allowance(Allowance::NONE);
        mesh.task_sends(A, &long).is_lost(1, Reason::TooBig);
        for message in &sent {
            send(&mesh, entry, message).is_lost(1, Reason::NoBackend);
        }
        node.set_allowance(Allowance::default());
    }
}

/// The client's node would know it.
#[test]
fn a_connection_to_a_virtual_ip_that_nobody_knows_is_reset() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(A.address(family), 50000, address(family, VIP_RR), 80, ACK);
        assert_eq!(numbers(mesh.task_sends(A, &sent).refused_by(1, Reason::NoFlow)).2, RST);
        mesh.task_sends(A, &sent.clone().with_flags(RST)).is_lost(1, Reason::NoFlow);
        // A new one is taken.
        mesh.task_sends(A, &sent.with_flags(SYN)).task_of(&[B, C, D]);
    }
}

/// Takes a task out of all tables but those of flows, as an agent does.
fn remove(mesh: &mut Mesh, last: u8) {
    for node in mesh.all() {
        node.endpoints
            .retain(|key, _| FAMILIES.iter().all(|family| key.address != address(*family, last).into()));
        node.stations.retain(|_, station| station.v4 != address(Family::V4, last).into());
    }
}

#[test]
fn a_connection_whose_backend_is_gone_is_reset() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let vip = address(family, VIP_RR);
        let open = Message::tcp(A.address(family), 40000, vip, 80, SYN);
        let query = Message::udp(A.address(family), 40000, vip, 53);
        let first = mesh.task_sends(A, &open).task_of(&[B, C, D]);
        let asked = mesh.task_sends(A, &query).task_of(&[B, C, D]);
        for task in [first, asked] {
            remove(&mut mesh, task.last);
        }
        // Nothing of theirs is left in the ring either.
        let left = [B, C, D].into_iter().find(|task| ![first, asked].contains(task)).unwrap();
        let node = mesh.node_mut(1);
        for index in 0..node.slots.len() {
            let backend = node.backends[node.slots[index].current() as usize];
            if [first, asked].iter().any(|task| backend.address == task.address(family).into()) {
                let other =
                    node.backends.iter().position(|other| other.address == left.address(family).into());
                node.slots[index] = mesh_common::abi::Slot::new(other.unwrap() as u32, [0, 0]);
            }
        }

        let sent = open.clone().with_flags(ACK);
        let journey = mesh.task_sends(A, &sent);
        let answer = journey.refused_by(1, Reason::BackendGone);
        assert_eq!(numbers(answer).2, RST);
        let answer = Message::read(answer);
        assert_eq!((answer.source, answer.destination), (vip, A.address(family)));
        // A new connection between the same ports, and the next datagram, go to the one that is left.
        assert_eq!(mesh.task_sends(A, &open).task_of(&[B, C, D]), left);
        assert_eq!(mesh.task_sends(A, &sent).task_of(&[B, C, D]), left);
        assert_eq!(mesh.task_sends(A, &query).task_of(&[B, C, D]), left);
    }
}

/// The backend learns as well that its client is gone.
#[test]
fn an_answer_to_a_client_that_is_gone_is_refused() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let vip = address(family, VIP_A);
        let answers = [
            Message::tcp(B.address(family), 40000, vip, 80, SYN),
            Message::udp(B.address(family), 40000, vip, 53),
        ]
        .map(|sent| mesh.task_sends(B, &sent).at_task(A, B.mac()).reply());
        remove(&mut mesh, B.last);
        let reset = mesh.task_sends(A, &answers[0]);
        assert_eq!(numbers(reset.refused_by(1, Reason::BackendGone)).2, RST);
        // There is no other that a datagram could go to.
        mesh.task_sends(A, &answers[1]).is_lost(1, Reason::NoSuchEndpoint);
    }
}
