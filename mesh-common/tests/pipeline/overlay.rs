//! Task to task on one network.

use std::collections::BTreeSet;

use mesh_common::{Reason, abi::Family};

use crate::{
    mesh::{A, B, BLUE, C, D, E, End, F, Mesh, RED, address, node_address},
    message::{ACK, Body, CE, ECT_0, ECT_1, Message, NOT_ECT, SYN, Tunnel},
};

fn messages(family: Family) -> [Message; 4] {
    let (from, to) = (A.address(family), B.address(family));
    [
        Message::tcp(from, 40000, to, 80, SYN),
        Message::udp(from, 40000, to, 53),
        Message::ask(from, to, 77),
        Message { body: Body::Other(132), ..Message::ask(from, to, 0) },
    ]
}

#[test]
fn to_a_task_of_the_same_node() {
    for (mesh, family) in Mesh::each_with_family() {
        for sent in messages(family) {
            let journey = mesh.task_sends(A, &sent);
            assert_eq!(journey.at_task(B, A.mac()), sent, "it arrives as it was sent");
            assert!(journey.tunnels.is_empty());
        }
        assert!(mesh.node(1).flows().is_empty(), "nothing has to be remembered");
    }
}

#[test]
fn to_a_task_of_another_node() {
    for (mesh, family) in Mesh::each_with_family() {
        for sent in messages(family) {
            let sent = sent.to(C.address(family));
            let journey = mesh.task_sends(A, &sent);
            assert_eq!(journey.at_task(C, A.mac()), sent, "it arrives as it was sent");
            let tunnel = journey.tunnel();
            let expected = Tunnel {
                source_port: tunnel.source_port,
                ..Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, sent.frame(A.mac(), C.mac()))
            };
            assert_eq!(*tunnel, expected);
            assert!(tunnel.source_port >= 49152);
            let answer = sent.reply();
            assert_eq!(mesh.task_sends(C, &answer).at_task(A, C.mac()), answer);
        }
    }
}

/// Every byte of what goes on the wire.
#[test]
fn the_tunnel_byte_by_byte() {
    let sent = Message::udp(A.address(Family::V4), 1, C.address(Family::V4), 2).with_payload(0);
    for outer in [Family::V4, Family::V6] {
        let mesh = Mesh::new(outer, false);
        let frame = sent.frame(A.mac(), C.mac());
        let mut packet = mesh_common::native::Buffer::new(frame.clone());
        let verdict = mesh_common::pipeline::from_endpoint(&mut packet, &mesh.node(1).at_tc(), A.ifindex);
        assert_eq!((verdict.outcome(), verdict.detail()), (mesh_common::abi::Outcome::Transmit, 2));
        let bytes = packet.bytes();
        // The kernel writes the Ethernet addresses on the way out.
        let mut expected = vec![0; 12];
        let [port_a, port_b] = [bytes[bytes.len() - 50 - 8], bytes[bytes.len() - 50 - 7]];
        match outer {
            Family::V4 => expected.extend([
                0x08, 0x00, 0x45, 0x00, 0x00, 0x4e, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb6, 0x9b, 192, 0,
                2, 1, 192, 0, 2, 2,
            ]),
            Family::V6 => {
                expected.extend([0x86, 0xdd, 0x60, 0x00, 0x00, 0x00, 0x00, 0x3a, 0x11, 0x40]);
                for last in [1, 2] {
                    expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
                }
            }
        }
        expected.extend([port_a, port_b, 0x12, 0xb5, 0x00, 0x3a, 0x00, 0x00]);
        expected.extend([0x08, 0, 0, 0, 0x00, 0x10, 0x01, 0]);
        expected.extend([0x02, 0x42, 10, 0, 9, 13, 0x02, 0x42, 10, 0, 9, 11, 0x08, 0x00]);
        expected.extend(&frame[14..]);
        assert_eq!(bytes, expected, "{outer:?}");
    }
}

#[test]
fn flows_have_source_ports_of_their_own_and_keep_them() {
    for (mesh, family) in Mesh::each_with_family() {
        let port = |message: &Message| mesh.task_sends(A, message).tunnel().source_port;
        let message = Message::tcp(A.address(family), 40000, C.address(family), 80, SYN);
        assert_eq!(port(&message), port(&message.clone().with_flags(ACK).with_payload(900)));
        let ports: BTreeSet<u16> = (0..200).map(|from| port(&message.clone().by_port(from))).collect();
        assert!(ports.len() > 190, "{} ports for 200 flows", ports.len());
        assert!(ports.iter().all(|port| *port >= 49152));
        // Spread over all of the range.
        assert!(ports.iter().any(|port| *port < 53000) && ports.iter().any(|port| *port > 61500));
    }
}

#[test]
fn congestion_marks_go_in_and_come_out() {
    for (mesh, family) in Mesh::each_with_family() {
        // On the way in, the outer header takes the inner one's mark and nothing else of its class.
        for class in [0x00, 0x01, 0x02, 0x03, 0xb8, 0xba, 0xff] {
            let sent = Message::udp(A.address(family), 1, C.address(family), 2).with_class(class);
            let journey = mesh.task_sends(A, &sent);
            assert_eq!(journey.tunnel().class, class & 3);
            assert_eq!(journey.at_task(C, A.mac()), sent);
        }
        // On the way out, RFC 6040, figure 4: outer, inner, what becomes of them.
        let table = [
            (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
            (NOT_ECT, ECT_0, Some(ECT_0)),
            (NOT_ECT, ECT_1, Some(ECT_1)),
            (NOT_ECT, CE, Some(CE)),
            (ECT_0, NOT_ECT, Some(NOT_ECT)),
            (ECT_0, ECT_0, Some(ECT_0)),
            (ECT_0, ECT_1, Some(ECT_1)),
            (ECT_0, CE, Some(CE)),
            (ECT_1, NOT_ECT, Some(NOT_ECT)),
            (ECT_1, ECT_0, Some(ECT_1)),
            (ECT_1, ECT_1, Some(ECT_1)),
            (ECT_1, CE, Some(CE)),
            (CE, NOT_ECT, None),
            (CE, ECT_0, Some(CE)),
            (CE, ECT_1, Some(CE)),
            (CE, CE, Some(CE)),
        ];
        for (outer, inner, expected) in table {
            let sent = Message::tcp(A.address(family), 1, C.address(family), 2, ACK).with_class(0xb8 | inner);
            let tunnel = Tunnel {
                class: outer,
                ..Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, sent.frame(A.mac(), C.mac()))
            };
            let journey = mesh.wire_brings_frame(2, tunnel.frame());
            match expected {
                Some(mark) => assert_eq!(journey.at_task(C, A.mac()), sent.with_class(0xb8 | mark)),
                None => journey.is_lost(2, Reason::Congestion),
            }
        }
    }
}

#[test]
fn a_tunnel_must_come_from_where_its_sender_lives() {
    for (mesh, family) in Mesh::each_with_family() {
        let good = |from: u32, vni, message: &Message| {
            let inner = message.frame(A.mac(), C.mac());
            mesh.wire_brings_frame(2, Tunnel::new(mesh.underlay(from), mesh.underlay(2), vni, inner).frame())
        };
        let sent = Message::udp(A.address(family), 1, C.address(family), 2);
        assert_eq!(good(1, BLUE, &sent).at_task(C, A.mac()), sent);
        // A lives on node 1, nobody has .99, and 9 is no node.
        good(3, BLUE, &sent).is_lost(2, Reason::PeerForged);
        good(1, BLUE, &sent.clone().by(address(family, 99))).is_lost(2, Reason::PeerForged);
        good(1, BLUE, &sent.clone().by(C.address(family))).is_lost(2, Reason::PeerForged);
        good(9, BLUE, &sent).is_lost(2, Reason::NotAPeer);
        // C is not on red, and nothing is on 4098.
        good(1, RED, &sent).is_lost(2, Reason::NotPublished);
        good(1, 4098, &sent).is_lost(2, Reason::UnknownNetwork);
        // D lives on node 3: this is not its node.
        good(1, BLUE, &sent.clone().to(D.address(family))).is_lost(2, Reason::NoSuchEndpoint);
        good(1, BLUE, &sent.to(address(family, 99))).is_lost(2, Reason::NotPublished);
    }
}

#[test]
fn a_tunnel_must_be_one() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::udp(A.address(family), 1, C.address(family), 2);
        let good = Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, sent.frame(A.mac(), C.mac()));
        let run = |tunnel: Tunnel| mesh.wire_brings_frame(2, tunnel.frame());
        assert_eq!(
            run(Tunnel { flags: 0xff, ..good.clone() }).at_task(C, A.mac()),
            sent,
            "other flags do not matter"
        );
        run(Tunnel { flags: 0xf7, ..good.clone() }).is_lost(2, Reason::Malformed);
        // Not ours: another port, another of the node's addresses.
        run(Tunnel { port: 4790, ..good.clone() }).is_left_to_stack(2);
        let second = Tunnel { destination: node_address(mesh.outer, 200), ..good.clone() };
        run(second).is_left_to_stack(2);
        // Something that the mesh does not carry.
        let mut lldp = good.clone();
        lldp.inner[12..14].copy_from_slice(&[0x88, 0xcc]);
        run(lldp).is_lost(2, Reason::UnknownProtocol);
        for length in 0..good.inner.len() {
            let mut short = good.clone();
            short.inner.truncate(length);
            let End::Lost { node: 2, reason: Reason::Malformed } = run(short).end else {
                panic!("cut off after {length} bytes, it was taken")
            };
        }
    }
}

#[test]
fn networks_are_apart() {
    for (mesh, family) in Mesh::each_with_family() {
        // E has A's addresses on another network; F is there, C is not.
        let sent = Message::udp(E.address(family), 1, F.address(family), 2);
        let journey = mesh.task_sends(E, &sent);
        assert_eq!(journey.tunnel().vni, RED);
        assert_eq!(journey.at_task(F, E.mac()), sent);
        mesh.task_sends(E, &sent.to(C.address(family))).is_lost(1, Reason::NoSuchEndpoint);
        let sent = Message::udp(A.address(family), 1, F.address(family), 2);
        mesh.task_sends(A, &sent).is_lost(1, Reason::NoSuchEndpoint);
    }
}

#[test]
fn a_node_that_cannot_be_reached() {
    for family in [Family::V4, Family::V6] {
        let mut mesh = Mesh::new(Family::V4, false);
        let sent = Message::udp(A.address(family), 1, C.address(family), 2);
        mesh.node_mut(1).nodes[2].ifindex = 0;
        mesh.task_sends(A, &sent).is_lost(1, Reason::NoRoute);
    }
}
