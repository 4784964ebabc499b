//! Clients that come back to the backend that they had, and services whose backends all drain.

use mesh_common::{
    Reason,
    abi::{Family, Local, Service, ServiceKey, Slot, Space, local_flags, service_flags},
    wire::protocol,
};

use crate::{
    mesh::{A, BLUE, C, D, GATEWAY_MAC, Mesh, TCP_C, UDP_C, VIP_C, address, client, node_address},
    message::{ACK, Message, SYN},
    second_chance::{index, set_ring},
};

const SECONDS: u32 = 300;

/// A client's first packet from a port, to port 80 or by UDP to 53, at an address that each node has.
fn first(family: Family, by: u8, from: u16) -> Message {
    let anycast = node_address(family, 77);
    match by {
        protocol::TCP => Message::tcp(client(family), from, anycast, TCP_C.0, SYN),
        _ => Message::udp(client(family), from, anycast, UDP_C.0),
    }
}

fn port(by: u8) -> (u16, u8) {
    (if by == protocol::TCP { TCP_C.0 } else { UDP_C.0 }, by)
}

fn each() -> impl Iterator<Item = (Mesh, Family, u8)> {
    [protocol::TCP, protocol::UDP].into_iter().flat_map(|by| {
        Mesh::each_with_family().map(move |(mut mesh, family)| {
            for node in mesh.all() {
                let local = Local { ifindex: 1, flags: local_flags::SERVES, alias: 0 };
                node.locals.insert(node_address(family, 77).into(), local);
            }
            (mesh, family, by)
        })
    })
}

/// Changes a published port's entry on every node.
fn change(mesh: &mut Mesh, family: Family, (port, protocol): (u16, u8), change: impl Fn(&mut Service)) {
    for node in mesh.all() {
        let key =
            ServiceKey { port: port.to_be_bytes(), protocol, family: family as u8, ..Default::default() };
        change(node.services.get_mut(&key).expect("the port is published"));
    }
}

#[test]
fn a_client_comes_back_though_the_ring_has_changed() {
    for (mut mesh, family, by) in each() {
        change(&mut mesh, family, port(by), |service| service.persistent = SECONDS);
        mesh.wire_brings(1, &first(family, by, 50000)).at_task(C, GATEWAY_MAC);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        // From other ports, by other nodes: each is a flow of its own.
        for (entry, from) in [(1, 50001), (2, 50002), (3, 50003)] {
            let sent = first(family, by, from);
            let arrived = mesh.wire_brings(entry, &sent).at_task(C, GATEWAY_MAC);
            assert_eq!(arrived.source, sent.source);
            assert_eq!(mesh.task_sends(C, &arrived.reply()).out_of(entry), sent.reply().with_hops(63));
        }
        // Another client has no session.
        let other = first(family, by, 50000).by(node_address(family, 99));
        mesh.wire_brings(1, &other).at_task(D, GATEWAY_MAC);
        // Each flow keeps the session alive; and then it is over.
        mesh.all().for_each(|node| node.set_clock(100 + u64::from(SECONDS)));
        mesh.wire_brings(1, &first(family, by, 50004)).at_task(C, GATEWAY_MAC);
        mesh.all().for_each(|node| node.set_clock(100 + 2 * u64::from(SECONDS) + 1));
        mesh.wire_brings(1, &first(family, by, 50005)).at_task(D, GATEWAY_MAC);
        mesh.wire_brings(2, &first(family, by, 50006)).at_task(D, GATEWAY_MAC);
    }
}

#[test]
fn a_session_lasts_as_long_as_its_flows() {
    for (mut mesh, family, by) in each() {
        change(&mut mesh, family, port(by), |service| service.persistent = SECONDS);
        let sent = first(family, by, 50000);
        mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        for time in (100..1000).step_by(60) {
            mesh.all().for_each(|node| node.set_clock(time));
            mesh.wire_brings(1, &sent.clone().with_flags(ACK)).at_task(C, GATEWAY_MAC);
        }
        mesh.wire_brings(3, &first(family, by, 50001)).at_task(C, GATEWAY_MAC);
    }
}

#[test]
fn the_clients_address_alone_names_the_slot() {
    for (mut mesh, family, by) in each() {
        change(&mut mesh, family, port(by), |service| service.persistent = SECONDS);
        let tasks = [A, C, D];
        for node in 1..=3 {
            let backends = tasks.map(|task| index(&mesh, node, family, task));
            let key = ServiceKey {
                port: port(by).0.to_be_bytes(),
                protocol: by,
                family: family as u8,
                ..Default::default()
            };
            let service = mesh.node(node).services[&key];
            for slot in 0..service.slots {
                mesh.node_mut(node).slots[(service.first_slot + slot) as usize] =
                    Slot::new(backends[slot as usize % 3], [0; 2]);
            }
        }
        let task = mesh.wire_brings(1, &first(family, by, 50000)).task_of(&tasks);
        for n in 1..60 {
            let journey = mesh.wire_brings(1 + u32::from(n) % 3, &first(family, by, 50000 + n));
            assert_eq!(journey.task_of(&tasks), task);
        }
        let sessions = (1..=3)
            .flat_map(|node| mesh.node(node).flows())
            .filter(|(key, _)| key.scope >> 24 == Space::Session as u32);
        assert_eq!(sessions.count(), 1, "on the backend's node alone");
    }
}

#[test]
fn a_session_whose_task_is_gone_ends() {
    for (mut mesh, family, by) in each() {
        change(&mut mesh, family, port(by), |service| service.persistent = SECONDS);
        mesh.wire_brings(1, &first(family, by, 50000)).at_task(C, GATEWAY_MAC);
        set_ring(&mut mesh, &[1, 2, 3], family, port(by), D, [Some(C), None]);
        let key = mesh_common::abi::EndpointKey { address: C.address(family).into(), vni: BLUE, reserved: 0 };
        for node in mesh.all() {
            node.endpoints.remove(&key);
        }
        mesh.wire_brings(1, &first(family, by, 50001)).at_task(D, GATEWAY_MAC);
    }
}

#[test]
fn a_service_that_drains_takes_no_new_flow_and_keeps_the_others() {
    for (mut mesh, family, by) in each() {
        let sent = first(family, by, 50000);
        mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
        let here = Message::tcp(A.address(family), 40000, address(family, VIP_C), 80, SYN);
        mesh.task_sends(A, &here).at_task(C, A.mac());
        for node in mesh.all() {
            node.services.values_mut().for_each(|service| service.flags |= service_flags::DRAINING);
        }
        for entry in [1, 2, 3] {
            mesh.wire_brings(entry, &sent.clone().with_flags(ACK)).at_task(C, GATEWAY_MAC);
            let new = mesh.wire_brings(entry, &first(family, by, 50001));
            match by {
                protocol::TCP => assert!(!new.refused_by(entry, Reason::NoBackend).is_empty()),
                // Whether a datagram begins a flow is known where the flow would be.
                _ => new.is_lost(2, Reason::NoBackend),
            }
        }
        mesh.task_sends(A, &here.clone().with_flags(ACK)).at_task(C, A.mac());
        let refused = mesh.task_sends(A, &here.by_port(40001));
        assert!(!refused.refused_by(1, Reason::NoBackend).is_empty());
    }
}
