//! Published ports: from clients outside, from nodes themselves, from tasks.

use mesh_common::{
    Reason,
    abi::{Family, Local, Space, local_flags},
};

use crate::{
    mesh::{
        A, B, BLUE, C, D, FAMILIES, GATEWAY_MAC, HOST_MAC, MTU, Mesh, TCP_A, TCP_C, TCP_RR, Task, UDP_C,
        UPLINK, alias, client, node_address,
    },
    message::{ACK, Body, CE, ECT_0, FIN, Message, SYN, Tunnel},
};

/// A client's first packets to a node: to the port of C by TCP and by UDP.
fn to_c(family: Family, node: u32) -> [(Message, u16); 2] {
    let (from, to) = (client(family), node_address(family, node));
    let port = 50000 + node as u16;
    [(Message::tcp(from, port, to, TCP_C.0, SYN), TCP_C.1), (Message::udp(from, port, to, UDP_C.0), UDP_C.1)]
}

/// A request at a task, and the way of its answer back out of a node.
fn there_and_back(mesh: &Mesh, entry: u32, sent: &Message, task: Task, target_port: u16) -> Message {
    let family = if sent.source.is_ipv4() { Family::V4 } else { Family::V6 };
    let arrived = mesh.wire_brings(entry, sent).at_task(task, GATEWAY_MAC);
    let expected = sent.clone().to(task.address(family)).for_port(target_port).with_hops(63);
    assert_eq!(arrived, expected, "the client's address is kept");
    let back = mesh.task_sends(task, &arrived.reply());
    let left = back.out_of(entry);
    assert_eq!(left, sent.reply().with_hops(63), "the client hears whom it asked");
    left
}

#[test]
fn by_any_node_to_a_task_of_another() {
    for (mesh, family) in Mesh::each_with_family() {
        for entry in [1, 3] {
            for (sent, port) in to_c(family, entry) {
                there_and_back(&mesh, entry, &sent, C, port);
                let next = sent.clone().with_flags(ACK).with_payload(1000);
                there_and_back(&mesh, entry, &next, C, port);
            }
        }
        assert!(mesh.node(1).flows().is_empty(), "hashing needs no memory where a packet enters");
        assert_eq!(mesh.node(2).flows().len(), 2 * 4);
    }
}

#[test]
fn the_packet_travels_untouched() {
    for (mesh, family) in Mesh::each_with_family() {
        for (sent, _) in to_c(family, 1) {
            let journey = mesh.wire_brings(1, &sent);
            let tunnel = journey.tunnel();
            assert_eq!(tunnel.message(), sent);
            assert_eq!(tunnel.vni, BLUE);
            assert_eq!(crate::message::macs(&tunnel.inner), (HOST_MAC, C.mac()));
            let arrived = journey.at_task(C, GATEWAY_MAC);
            let back = mesh.task_sends(C, &arrived.reply());
            let tunnel = back.tunnel();
            assert_eq!(tunnel.message(), sent.reply().with_hops(63));
            assert_eq!((tunnel.source, tunnel.destination), (mesh.underlay(2), mesh.underlay(1)));
            let return_mac = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];
            assert_eq!(crate::message::macs(&tunnel.inner), (HOST_MAC, return_mac));
        }
    }
}

#[test]
fn by_the_tasks_own_node() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(client(family), 50000, node_address(family, 1), TCP_A.0, SYN);
        let arrived = mesh.wire_brings(1, &sent);
        assert!(arrived.tunnels.is_empty());
        there_and_back(&mesh, 1, &sent, A, TCP_A.1);
    }
}

#[test]
fn in_turn_through_one_node() {
    for (mesh, family) in Mesh::each_with_family() {
        for turn in 0..30 {
            let sent = Message::tcp(client(family), 50000 + turn, node_address(family, 1), TCP_RR.0, SYN);
            let task = [B, C, D][usize::from(turn) % 3];
            there_and_back(&mesh, 1, &sent, task, TCP_RR.1);
            // The same flow keeps its task: by the entry node's memory.
            there_and_back(&mesh, 1, &sent.clone().with_flags(ACK), task, TCP_RR.1);
            there_and_back(&mesh, 1, &sent, task, TCP_RR.1);
        }
        let entries =
            mesh.node(1).flows().iter().filter(|(key, _)| key.scope >> 24 == Space::Entry as u32).count();
        assert_eq!(entries, 30);
        // One that is under way, of which this node knows nothing, goes to the same task each time, and is not remembered.
        let unknown = Message::tcp(client(family), 1, node_address(family, 1), TCP_RR.0, ACK);
        let task = mesh.wire_brings(1, &unknown).task_of(&[B, C, D]);
        assert_eq!(mesh.wire_brings(1, &unknown).task_of(&[B, C, D]), task);
        let entries =
            mesh.node(1).flows().iter().filter(|(key, _)| key.scope >> 24 == Space::Entry as u32).count();
        assert_eq!(entries, 30);
        // A connection that is over frees its port for another task.
        let sent = Message::tcp(client(family), 50000, node_address(family, 1), TCP_RR.0, SYN);
        there_and_back(&mesh, 1, &sent.clone().with_flags(FIN | ACK), B, TCP_RR.1);
        there_and_back(&mesh, 1, &sent, B, TCP_RR.1);
    }
}

#[test]
fn a_client_that_comes_by_another_node_is_answered_by_that() {
    for (mesh, family) in Mesh::each_with_family() {
        // An address that is routed to several nodes.
        let anycast = node_address(family, 77);
        let mut mesh = mesh;
        for node in mesh.all() {
            node.locals.insert(anycast.into(), Local { ifindex: 1, flags: local_flags::SERVES, alias: 0 });
        }
        let sent = Message::tcp(client(family), 50000, anycast, TCP_C.0, SYN);
        there_and_back(&mesh, 1, &sent, C, TCP_C.1);
        there_and_back(&mesh, 3, &sent.clone().with_flags(ACK), C, TCP_C.1);
        there_and_back(&mesh, 1, &sent.with_flags(ACK), C, TCP_C.1);
    }
}

/// A client may use one source port for connections to several nodes, which may all go to one task.
#[test]
fn one_source_port_for_several_nodes() {
    for (mesh, family) in Mesh::each_with_family() {
        for protocol in [0, 1] {
            let mut open = vec![];
            for node in [1, 2, 3] {
                let (sent, target_port) = to_c(family, node)[protocol].clone();
                let sent = sent.by_port(40000);
                let arrived = mesh.wire_brings(node, &sent).at_task(C, GATEWAY_MAC);
                let port = arrived.source_port();
                let expected = sent.clone().by_port(port).to(C.address(family)).for_port(target_port);
                assert_eq!(arrived, expected.with_hops(63), "the address is kept");
                assert!(
                    open.iter().all(|(_, _, other): &(u32, Message, Message)| other.source_port() != port)
                );
                open.push((node, sent, arrived));
            }
            assert_eq!(open[0].2.source_port(), 40000, "the port too, while nobody else has it");
            for _ in 0..2 {
                for (node, sent, arrived) in &open {
                    let back = mesh.task_sends(C, &arrived.reply());
                    assert_eq!(
                        back.out_of(*node),
                        sent.reply().with_hops(63),
                        "the client hears whom it asked"
                    );
                    let next = sent.clone().with_flags(ACK);
                    let again = mesh.wire_brings(*node, &next).at_task(C, GATEWAY_MAC);
                    assert_eq!(again, arrived.clone().with_flags(ACK));
                }
            }
        }
    }
}

#[test]
fn answers_that_go_straight() {
    for (mut mesh, family) in Mesh::each_with_family() {
        mesh.return_direct();
        for (sent, port) in to_c(family, 1) {
            let arrived = mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
            assert_eq!(
                arrived.for_port(port),
                sent.clone().to(C.address(family)).for_port(port).with_hops(63)
            );
            let answer = sent.clone().to(C.address(family)).for_port(port).reply();
            let back = mesh.task_sends(C, &answer);
            assert!(back.tunnels.is_empty());
            assert_eq!(back.out_of(2), sent.reply().with_hops(63));
        }
    }
}

/// `curl localhost:PORT`, with the destination that the socket hooks give it.
#[test]
fn from_the_node_itself() {
    for (mut mesh, family) in Mesh::each_with_family() {
        for is_direct in [false, true] {
            if is_direct {
                mesh.return_direct();
            }
            let (own, alias) = (node_address(family, 1), alias(family));
            let requests = [
                (Message::tcp(own, 50000, alias, TCP_C.0, SYN), C, TCP_C.1),
                (Message::udp(own, 50000, alias, UDP_C.0), C, UDP_C.1),
                (Message::tcp(own, 50000, alias, TCP_A.0, SYN), A, TCP_A.1),
            ];
            for (sent, task, port) in requests {
                let arrived = mesh.node_sends(1, &sent).at_task(task, GATEWAY_MAC);
                assert_eq!(arrived, sent.clone().to(task.address(family)).for_port(port).with_hops(63));
                let back = mesh.task_sends(task, &arrived.reply()).at_node(1);
                assert_eq!(back, sent.reply().with_hops(63));
            }
        }
        let unpublished = Message::tcp(node_address(family, 1), 50000, alias(family), 22, SYN);
        mesh.node_sends(1, &unpublished).is_lost(1, Reason::NotPublished);
        let elsewhere = unpublished.to(client(family));
        mesh.node_sends(1, &elsewhere).is_lost(1, Reason::NoRoute);
    }
}

/// One node asks another.
#[test]
fn from_another_node() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(node_address(family, 3), 50000, node_address(family, 1), TCP_C.0, SYN);
        let arrived = mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
        let back = mesh.task_sends(C, &arrived.reply());
        // Node 1 lets the answer go, without a tunnel any more, and node 3's stack knows whose it is.
        assert_eq!(back.tunnel().message(), sent.reply().with_hops(63));
        if family == mesh.outer { back.is_left_to_stack(3) } else { drop(back.out_of(1)) }
    }
}

#[test]
fn from_a_task_by_its_own_nodes_address() {
    for (mut mesh, family) in Mesh::each_with_family() {
        for is_direct in [false, true] {
            if is_direct {
                mesh.return_direct();
            }
            for (task, ports) in [(C, TCP_C), (A, TCP_A)] {
                let sent =
                    Message::tcp(B.address(family), 40000 + ports.0, node_address(family, 1), ports.0, SYN);
                let arrived = mesh.task_sends(B, &sent).at_task(task, GATEWAY_MAC);
                let port = arrived.source_port();
                assert!((61001..65535).contains(&port), "masqueraded to {port}");
                let expected = sent.clone().by(alias(family)).by_port(port).to(task.address(family));
                assert_eq!(arrived, expected.for_port(ports.1).with_hops(62), "routed twice");
                let back = mesh.task_sends(task, &arrived.reply()).at_task(B, GATEWAY_MAC);
                assert_eq!(back, sent.reply().with_hops(62));
            }
        }
    }
}

#[test]
fn answers_that_nobody_asked_for() {
    for (mesh, family) in Mesh::each_with_family() {
        let return_mac = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];
        let run = |message: &Message| {
            let inner = message.frame(HOST_MAC, return_mac);
            mesh.wire_brings_frame(1, Tunnel::new(mesh.underlay(2), mesh.underlay(1), BLUE, inner).frame())
        };
        let good = Message::tcp(node_address(family, 1), TCP_C.0, client(family), 50000, ACK);
        assert_eq!(run(&good).out_of(1), good);
        run(&good.clone().by(node_address(family, 2))).is_lost(1, Reason::ReturnForged);
        run(&good.clone().by(C.address(family))).is_lost(1, Reason::ReturnForged);
        run(&good.clone().by_port(22)).is_lost(1, Reason::ReturnForged);
        let ping = Message::ask(node_address(family, 1), client(family), 1);
        run(&ping).is_lost(1, Reason::ReturnForged);
        let everybody = if family == Family::V4 { "224.0.0.1" } else { "ff02::1" };
        run(&good.to(crate::mesh::ip(everybody))).is_lost(1, Reason::Multicast);
    }
}

#[test]
fn congestion_on_the_way_of_an_answer() {
    for (mesh, family) in Mesh::each_with_family() {
        let return_mac = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];
        let answer = Message::tcp(node_address(family, 1), TCP_C.0, client(family), 50000, ACK);
        let run = |class| {
            let inner = answer.clone().with_class(class).frame(HOST_MAC, return_mac);
            let tunnel = Tunnel { class: CE, ..Tunnel::new(mesh.underlay(2), mesh.underlay(1), BLUE, inner) };
            mesh.wire_brings_frame(1, tunnel.frame())
        };
        assert_eq!(run(ECT_0).out_of(1), answer.clone().with_class(CE));
        run(0).is_lost(1, Reason::Congestion);
        // And on the way of a request.
        let request = answer.reply().with_class(ECT_0);
        let inner = request.to(node_address(family, 1)).frame(GATEWAY_MAC, C.mac());
        let tunnel = Tunnel { class: CE, ..Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, inner) };
        let arrived = mesh.wire_brings_frame(2, tunnel.frame()).at_task(C, GATEWAY_MAC);
        assert_eq!(arrived.class, CE);
    }
}

/// What no port is published for is not the mesh's.
#[test]
fn everything_else_passes() {
    for (mesh, family) in Mesh::each_with_family() {
        let (client, own) = (client(family), node_address(family, 1));
        for message in [
            Message::tcp(client, 50000, own, 22, SYN),
            Message::udp(client, 50000, own, TCP_C.0),
            Message::tcp(client, 50000, own, UDP_C.0, SYN),
            Message::ask(client, own, 1),
            Message::tcp(client, 50000, C.address(family), TCP_C.0, SYN),
            Message::tcp(client, 50000, node_address(family, 99), TCP_C.0, SYN),
            // A masquerading port that nobody has.
            Message::tcp(client, 50000, own, 61002, SYN),
            Message { body: Body::Other(47), ..Message::ask(client, own, 1) },
        ] {
            mesh.wire_brings(1, &message).is_left_to_stack(1);
        }
    }
}

#[test]
fn a_request_for_a_port_or_task_that_is_not_there() {
    for (mesh, family) in Mesh::each_with_family() {
        let run = |message: &Message, mac| {
            let inner = message.frame(GATEWAY_MAC, mac);
            mesh.wire_brings_frame(2, Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, inner).frame())
        };
        let good = Message::tcp(client(family), 50000, node_address(family, 1), TCP_C.0, SYN);
        run(&good, C.mac()).at_task(C, GATEWAY_MAC);
        // Of another node: the ring of this one knows better.
        run(&good, A.mac()).at_task(C, GATEWAY_MAC);
        run(&good.for_port(22), C.mac()).is_lost(2, Reason::NotPublished);
    }
}

/// A client's packet that would not fit through the tunnel is answered by the node that it came to.
#[test]
fn a_request_too_long_for_the_tunnel() {
    for (mesh, family) in Mesh::each_with_family() {
        let room = 1500 - if mesh.outer == Family::V4 { 50 } else { 70 };
        let headers = if family == Family::V4 { 40 } else { 60 };
        let request = Message::tcp(client(family), 50000, node_address(family, 1), TCP_C.0, ACK);
        mesh.wire_brings(1, &request.clone().with_payload(room - headers)).at_task(C, GATEWAY_MAC);
        let long = request.with_payload(room - headers + 1);
        let journey = mesh.wire_brings(1, &long);
        let answer = Message::read(journey.too_big_for(1));
        assert_eq!((answer.source, answer.destination), (long.destination, long.source));
        let word = room as u32;
        let body = match family {
            Family::V4 => Body::Icmp { kind: 3, code: 4, word },
            Family::V6 => Body::Icmp { kind: 2, code: 0, word },
        };
        assert_eq!(answer.body, body);
        let sent = long.frame([0; 6], [0; 6]);
        assert_eq!(answer.payload, sent[14..14 + 548], "it quotes what was sent");
        assert!(MTU as usize <= room);
    }
}

/// Both directions of what is masqueraded, delivered and answered at once, over many clients.
#[test]
fn many_clients_at_once() {
    for outer in FAMILIES {
        let mesh = Mesh::new(outer, true);
        for port in 0..500 {
            for family in FAMILIES {
                let sent = Message::udp(client(family), 10000 + port, node_address(family, 3), UDP_C.0);
                there_and_back(&mesh, 3, &sent, C, UDP_C.1);
            }
        }
    }
}

#[test]
fn at_an_address_that_is_not_served_they_are_left_to_the_node() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let [(before, _), _] = to_c(family, 1);
        let answer = mesh.wire_brings(1, &before).at_task(C, GATEWAY_MAC).reply();
        mesh.node_mut(1)
            .locals
            .insert(node_address(family, 1).into(), Local { ifindex: UPLINK, flags: 0, alias: 0 });
        mesh.task_sends(C, &answer).is_lost(1, Reason::ReturnForged);
        for (sent, _) in to_c(family, 1) {
            mesh.wire_brings(1, &sent).is_left_to_stack(1);
            // A task reaches the node itself, not what it publishes elsewhere.
            let asked = sent.by(A.address(family));
            let arrived = mesh.task_sends(A, &asked).at_node(1);
            assert_eq!((arrived.source, arrived.destination), (alias(family), asked.destination));
        }
        // The node's tunnels go on, and so do the ways to its tasks through other nodes.
        let sent = Message::tcp(client(family), 50000, node_address(family, 3), TCP_A.0, SYN);
        there_and_back(&mesh, 3, &sent, A, TCP_A.1);
    }
}
