//! Flows that have not proved themselves: what proves them, and what a flood of them drives out.

use mesh_common::{
    Reason,
    abi::{Family, Shortage, capacity, flow_flags},
    native::NodeTables,
};

use crate::{
    mesh::{
        A, C, FAMILIES, GATEWAY_MAC, Mesh, TCP_A, TCP_RR, UDP_C, VIP_C, address, client, ip, node_address,
    },
    message::{ACK, FIN, Message, RST, SYN},
};

/// How many flows a node takes for new.
fn new_flows(node: &NodeTables) -> usize {
    node.flows().iter().filter(|(_, flow)| flow.flags & flow_flags::NEW != 0).count()
}

/// Has so many SYNs of other clients come to a node for A.
fn flood(mesh: &Mesh, family: Family, count: u32) {
    let to = node_address(family, 1);
    for number in 0..count {
        let from = match family {
            Family::V4 => std::net::Ipv4Addr::from(0xc612_0000 + number / 60_000).into(),
            Family::V6 => {
                std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(number / 60_000)).into()
            }
        };
        let syn = Message::tcp(from, 1000 + (number % 60_000) as u16, to, TCP_A.0, SYN);
        mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
    }
}

#[test]
fn a_handshake_proves_a_flow() {
    for (mesh, family) in Mesh::each_with_family() {
        let syn = Message::tcp(client(family), 50000, node_address(family, 1), TCP_A.0, SYN);
        let ack = syn.clone().with_flags(ACK);
        let arrived = mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 1);
        mesh.wire_brings(1, &ack).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 1, "nobody has answered");
        mesh.task_sends(A, &arrived.reply().with_flags(SYN | ACK)).out_of(1);
        assert_eq!(new_flows(mesh.node(1)), 1, "the client may not be the one who asked");
        mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 1, "the SYN again: the client has heard nothing");
        mesh.wire_brings(1, &ack).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 0);
    }
}

#[test]
fn whoever_knows_of_no_connection_proves_none() {
    for (mesh, family) in Mesh::each_with_family() {
        let syn = Message::tcp(client(family), 50000, node_address(family, 1), TCP_A.0, SYN);
        let arrived = mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
        mesh.task_sends(A, &arrived.reply().with_flags(SYN | ACK)).out_of(1);
        // The host whose address was forged.
        mesh.wire_brings(1, &syn.clone().with_flags(RST)).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 1);
    }
    for (mesh, family) in Mesh::each_with_family() {
        let syn = Message::tcp(client(family), 50000, node_address(family, 1), TCP_A.0, SYN);
        let arrived = mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
        // A port that is closed.
        mesh.task_sends(A, &arrived.reply().with_flags(RST | ACK)).out_of(1);
        mesh.wire_brings(1, &syn.clone().with_flags(ACK)).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 1);
    }
}

#[test]
fn a_datagram_behind_an_answer_proves_a_flow() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::udp(client(family), 50000, node_address(family, 2), UDP_C.0);
        let arrived = mesh.wire_brings(2, &sent).at_task(C, GATEWAY_MAC);
        mesh.wire_brings(2, &sent).at_task(C, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(2)), 1);
        mesh.task_sends(C, &arrived.reply()).out_of(2);
        assert_eq!(new_flows(mesh.node(2)), 1, "servers answer datagrams from forged addresses");
        mesh.wire_brings(2, &sent).at_task(C, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(2)), 0);
    }
}

#[test]
fn flows_of_tasks_are_proved_likewise() {
    for (mesh, family) in Mesh::each_with_family() {
        for to in [address(family, VIP_C), client(family)] {
            let syn = Message::tcp(A.address(family), 40000, to, 443, SYN);
            let sent = mesh.task_sends(A, &syn);
            assert_eq!(new_flows(mesh.node(1)), 1, "{to}");
            if to == client(family) {
                let answer = sent.out_of(1).reply().with_flags(SYN | ACK);
                mesh.wire_brings(1, &answer).at_task(A, GATEWAY_MAC);
            } else {
                let answer = sent.at_task(C, A.mac()).reply().with_flags(SYN | ACK);
                mesh.task_sends(C, &answer).at_task(A, C.mac());
            }
            mesh.task_sends(A, &syn.clone().with_flags(ACK));
            assert_eq!(new_flows(mesh.node(1)), 0, "{to}");
        }
    }
}

/// At the node that a client enters by, where answers need not pass.
#[test]
fn the_second_segment_proves_a_flow_that_was_given_its_turn() {
    for (mesh, family) in Mesh::each_with_family() {
        let syn = Message::tcp(client(family), 50000, node_address(family, 3), TCP_RR.0, SYN);
        mesh.wire_brings(3, &syn);
        let entry = |mesh: &Mesh| {
            let flows = mesh.node(3).flows();
            let of_entry =
                flows.into_iter().find(|(key, _)| key.scope >> 24 == 2).map(|(_, flow)| flow.flags);
            of_entry.is_some_and(|flags| flags & flow_flags::NEW == 0)
        };
        assert!(!entry(&mesh));
        mesh.wire_brings(3, &syn);
        assert!(!entry(&mesh));
        mesh.wire_brings(3, &syn.clone().with_flags(ACK));
        assert!(entry(&mesh));
    }
}

#[test]
fn a_flood_drives_out_none_but_new_flows() {
    for family in FAMILIES {
        let mesh = Mesh::new(Family::V4, false);
        let syn = Message::tcp(client(family), 50000, node_address(family, 1), TCP_A.0, SYN);
        let ack = syn.clone().with_flags(ACK);
        let arrived = mesh.wire_brings(1, &syn).at_task(A, GATEWAY_MAC);
        mesh.task_sends(A, &arrived.reply().with_flags(SYN | ACK)).out_of(1);
        mesh.wire_brings(1, &ack).at_task(A, GATEWAY_MAC);
        let never = Message::tcp(client(family), 50001, node_address(family, 1), TCP_A.0, SYN);
        let unheard = mesh.wire_brings(1, &never).at_task(A, GATEWAY_MAC);

        flood(&mesh, family, capacity::NEW_FLOWS + 1000);
        assert_eq!(new_flows(mesh.node(1)), capacity::NEW_FLOWS as usize);
        assert_eq!(mesh.node(1).flows().len(), 2 * capacity::NEW_FLOWS as usize + 2);
        // The first place was the live flow's, which nothing drives out.
        assert_eq!(mesh.node(1).shortages(Shortage::NewFlows), 1001);
        assert_eq!(mesh.task_sends(A, &arrived.reply()).out_of(1), syn.reply().with_hops(63));
        mesh.wire_brings(1, &ack).at_task(A, GATEWAY_MAC);
        // The answer to a client that was forgotten does not leave under another name.
        mesh.task_sends(A, &unheard.reply().with_flags(SYN | ACK)).is_lost(1, Reason::NoFlow);
        mesh.task_sends(A, &unheard.reply().with_flags(ACK)).is_lost(1, Reason::NoFlow);
        mesh.wire_brings(1, &never).at_task(A, GATEWAY_MAC);
        mesh.task_sends(A, &unheard.reply().with_flags(SYN | ACK)).out_of(1);
    }
}

/// A task's own connection, whose flow was lost, goes on under the port that it had.
#[test]
fn a_lost_connection_to_the_outside_is_found_again() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let syn = Message::tcp(A.address(family), 40000, client(family), 443, SYN);
        let left = mesh.task_sends(A, &syn).out_of(1);
        mesh.node_mut(1).keep_flows(|_, _| false);
        let next = mesh.task_sends(A, &syn.clone().with_flags(ACK)).out_of(1);
        assert_eq!(next.source_port(), left.source_port());
    }
}

/// A client that comes by another node all at once has proved itself before.
#[test]
fn what_is_proved_stays_so_by_another_node() {
    for (mut mesh, family) in Mesh::each_with_family() {
        // An address that is routed to several nodes.
        let shared = if family == Family::V4 { ip("198.51.100.80") } else { ip("2001:db8:a::80") };
        for node in mesh.all() {
            let local = mesh_common::abi::local_flags::SERVES;
            node.locals.insert(shared.into(), mesh_common::abi::Local { ifindex: 1, flags: local, alias: 0 });
        }
        let syn = Message::tcp(client(family), 50000, shared, TCP_A.0, SYN);
        let arrived = mesh.wire_brings(2, &syn).at_task(A, GATEWAY_MAC);
        mesh.task_sends(A, &arrived.reply().with_flags(SYN | ACK)).out_of(2);
        let ack = syn.clone().with_flags(ACK);
        mesh.wire_brings(2, &ack).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 0);
        mesh.wire_brings(3, &ack).at_task(A, GATEWAY_MAC);
        assert_eq!(new_flows(mesh.node(1)), 0);
        mesh.task_sends(A, &arrived.reply().with_flags(FIN | ACK)).out_of(3);
    }
}
