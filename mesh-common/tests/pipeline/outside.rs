//! Tasks and the world outside: masquerading.

use std::collections::BTreeSet;

use mesh_common::{
    Reason,
    abi::{Address, Family, MASQUERADE_PORTS},
};

use crate::{
    mesh::{A, B, BLUE, C, E, G, GATEWAY_MAC, Mesh, UPLINK, client, ip, node_address},
    message::{ACK, Body, FIN, Message, SYN},
};

fn requests(family: Family) -> [Message; 4] {
    let (from, to) = (A.address(family), client(family));
    [
        Message::tcp(from, 40000, to, 443, SYN),
        Message::udp(from, 40000, to, 53),
        Message::ask(from, to, 77),
        Message::ask(from, to, 0),
    ]
}

#[test]
fn out_and_back() {
    for (mesh, family) in Mesh::each_with_family() {
        for sent in requests(family) {
            let left = mesh.task_sends(A, &sent).out_of(1);
            let port = left.source_port();
            assert!(MASQUERADE_PORTS.contains(&port), "{port}");
            let expected = sent.clone().by(node_address(family, 1)).by_port(port).with_hops(63);
            assert_eq!(left, expected, "as the node, one hop on");
            let back = mesh.wire_brings(1, &left.reply()).at_task(A, GATEWAY_MAC);
            assert_eq!(back, sent.reply().with_hops(63));
            let next = sent.clone().with_payload(900);
            assert_eq!(mesh.task_sends(A, &next).out_of(1).source_port(), port, "a flow keeps its port");
        }
    }
}

#[test]
fn flows_have_ports_of_their_own() {
    let mesh = Mesh::new(Family::V4, false);
    for family in [Family::V4, Family::V6] {
        let [sent, ..] = requests(family);
        let mut ports = BTreeSet::new();
        for from in 0..1000 {
            let sent = sent.clone().by_port(from);
            let left = mesh.task_sends(A, &sent).out_of(1);
            assert!(ports.insert(left.source_port()), "a port given twice to one server");
            assert_eq!(mesh.wire_brings(1, &left.reply()).at_task(A, GATEWAY_MAC).body, sent.reply().body);
        }
        // Two tasks with the same addresses, on two networks.
        let theirs = mesh.task_sends(E, &sent).out_of(1);
        let ours = mesh.task_sends(A, &sent).out_of(1);
        assert_ne!(theirs.source_port(), ours.source_port());
        mesh.wire_brings(1, &theirs.reply()).at_task(E, GATEWAY_MAC);
        mesh.wire_brings(1, &ours.reply()).at_task(A, GATEWAY_MAC);
    }
}

#[test]
fn when_every_port_is_taken() {
    for family in [Family::V4, Family::V6] {
        let mesh = Mesh::new(Family::V4, false);
        let [sent, ..] = requests(family);
        let left = mesh.task_sends(A, &sent).out_of(1);
        let (key, flow) = mesh
            .node(1)
            .flows()
            .into_iter()
            .find(|(key, _)| key.destination == Address::from(node_address(family, 1)))
            .unwrap();
        assert_eq!(key.destination_port, left.source_port().to_be_bytes());
        for port in MASQUERADE_PORTS {
            let key = mesh_common::abi::FlowKey { destination_port: port.to_be_bytes(), ..key };
            mesh.node(1).set_flow(key, flow);
        }
        mesh.task_sends(A, &sent.clone().by_port(1)).is_lost(1, Reason::NoPort);
        // To another server, all of them are free.
        mesh.task_sends(A, &sent.clone().by_port(1).for_port(80)).out_of(1);
    }
}

#[test]
fn a_connection_that_is_over_and_its_port_used_again() {
    for (mesh, family) in Mesh::each_with_family() {
        let [sent, ..] = requests(family);
        let first = mesh.task_sends(A, &sent).out_of(1).source_port();
        assert_eq!(mesh.task_sends(A, &sent.clone().with_flags(FIN | ACK)).out_of(1).source_port(), first);
        let second = mesh.task_sends(A, &sent).out_of(1);
        assert_ne!(second.source_port(), first, "the old connection may still be remembered elsewhere");
        assert_eq!(mesh.wire_brings(1, &second.reply()).at_task(A, GATEWAY_MAC), sent.reply().with_hops(63));
    }
}

#[test]
fn to_the_node_itself() {
    for (mesh, family) in Mesh::each_with_family() {
        // A port of the node's own, not published.
        let sent = Message::tcp(A.address(family), 40000, node_address(family, 1), 22, SYN);
        let arrived = mesh.task_sends(A, &sent).at_node(1);
        let port = arrived.source_port();
        let alias = crate::mesh::alias(family);
        assert_eq!(arrived, sent.clone().by(alias).by_port(port).with_hops(63));
        let back = mesh.node_sends(1, &arrived.reply()).at_task(A, GATEWAY_MAC);
        assert_eq!(back, sent.reply().with_hops(63));
    }
}

#[test]
fn what_may_not_leave() {
    for (mesh, family) in Mesh::each_with_family() {
        let [request, ..] = requests(family);
        // Grey is internal, also towards its own node.
        mesh.task_sends(G, &request.clone().by(G.address(family))).is_lost(1, Reason::Internal);
        let to_node = request.clone().by(G.address(family)).to(node_address(family, 1));
        mesh.task_sends(G, &to_node).is_lost(1, Reason::Internal);
        // No port to masquerade by.
        let sctp = Message { body: Body::Other(132), ..request.clone() };
        mesh.task_sends(A, &sctp).is_lost(1, Reason::Portless);
        let error = Message { body: Body::Icmp { kind: 3, code: 3, word: 0 }, ..request.clone() };
        mesh.task_sends(A, &error).is_lost(1, Reason::Portless);
        assert!(mesh.node(1).flows().is_empty());
    }
}

#[test]
fn a_task_cannot_make_tunnels() {
    for (mesh, family) in Mesh::each_with_family() {
        for node in [1, 2, 3] {
            let tunnel = Message::udp(A.address(family), 50000, node_address(family, node), 4789);
            let journey = mesh.task_sends(A, &tunnel);
            // The other nodes' addresses of the other family are no node's: nobody takes a tunnel there.
            if node == 1 || family == mesh.outer {
                journey.is_lost(1, Reason::TunnelForged);
            } else {
                journey.out_of(1);
            }
        }
        let stranger = Message::udp(A.address(family), 50000, client(family), 4789);
        mesh.task_sends(A, &stranger).out_of(1);
        let task = Message::udp(A.address(family), 50000, C.address(family), 4789);
        mesh.task_sends(A, &task).at_task(C, A.mac());
    }
}

#[test]
fn without_a_way_out() {
    for family in [Family::V4, Family::V6] {
        let [request, ..] = requests(family);
        let mut mesh = Mesh::new(family, false);
        mesh.node_mut(1).uplinks.clear();
        mesh.task_sends(A, &request).is_lost(1, Reason::NoRoute);
        let mut mesh = Mesh::new(family, false);
        let uplink = mesh.node_mut(1).uplinks.get_mut(&UPLINK).unwrap();
        (uplink.v4, uplink.v6) = (Address::UNSPECIFIED, Address::UNSPECIFIED);
        mesh.task_sends(A, &request).is_lost(1, Reason::NoRoute);
        let mut mesh = Mesh::new(family, false);
        mesh.node_mut(1).routes = Default::default();
        mesh.task_sends(A, &request).is_lost(1, Reason::NoRoute);
        assert!(mesh.node(1).flows().is_empty());
    }
}

#[test]
fn answers_that_no_task_waits_for() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let [sent, ..] = requests(family);
        let left = mesh.task_sends(A, &sent).out_of(1);
        let answer = left.reply();
        mesh.wire_brings(
            1,
            &answer.clone().by(ip(if family == Family::V4 { "203.0.113.10" } else { "2001:db8:f::10" })),
        )
        .is_left_to_stack(1);
        mesh.wire_brings(1, &answer.clone().by_port(444)).is_left_to_stack(1);
        mesh.wire_brings(1, &answer.clone().for_port(left.source_port() ^ 1)).is_left_to_stack(1);
        // On another node, nothing is known of it.
        mesh.wire_brings(2, &answer.clone().to(node_address(family, 2))).is_left_to_stack(2);
        // The task has gone.
        let key = mesh_common::abi::EndpointKey { address: A.address(family).into(), vni: BLUE, reserved: 0 };
        mesh.node_mut(1).endpoints.remove(&key);
        mesh.wire_brings(1, &answer).is_lost(1, Reason::NoSuchEndpoint);
        let other = Message::udp(B.address(family), 1, client(family), 2);
        mesh.task_sends(B, &other).out_of(1);
    }
}
