//! Ports published at single addresses, on some nodes, and for some clients.

use std::net::IpAddr;

use mesh_common::{
    Reason,
    abi::{Address, Family, Local, ServiceKey, host_alias, local_flags},
    wire::protocol,
};

use crate::{
    mesh::{
        A, B, BLUE, C, GATEWAY_MAC, HOST_MAC, Mesh, TCP_A, TCP_C, UPLINK, alias, client, ip, node_address,
    },
    message::{ACK, Body, Message, SYN, Tunnel},
};

/// The number of the alias of the address that a port is limited to.
const ALIAS: u32 = 9;

/// An address that is routed to several nodes.
fn external(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "198.51.100.7" } else { "2001:db8:a::7" })
}

fn key(family: Family, (port, _): (u16, u16)) -> ServiceKey {
    ServiceKey {
        address: Address::UNSPECIFIED,
        scope: 0,
        port: port.to_be_bytes(),
        protocol: protocol::TCP,
        family: family as u8,
    }
}

/// Publishes the port of C at one address alone, which these nodes answer at; the others know of it.
fn limit(mesh: &mut Mesh, family: Family, address: IpAddr, entries: &[u32]) {
    for index in 1..=3 {
        let node = mesh.node_mut(index);
        let general = key(family, TCP_C);
        let Some(service) = node.services.get(&general).copied() else { panic!("no service") };
        let scope = if entries.contains(&index) { 0 } else { ServiceKey::ELSEWHERE };
        node.limit(&general, address.into(), scope);
        node.services.insert(ServiceKey { address: host_alias(family, ALIAS), scope, ..general }, service);
    }
}

fn syn(from: IpAddr, to: IpAddr) -> Message {
    Message::tcp(from, 50000, to, TCP_C.0, SYN)
}

#[test]
fn a_port_at_one_address_is_at_no_other() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let address = node_address(family, 1);
        limit(&mut mesh, family, address, &[1]);
        // There and back, by the one address.
        let sent = syn(client(family), address);
        let arrived = mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
        assert_eq!(arrived, sent.clone().to(C.address(family)).for_port(TCP_C.1).with_hops(63));
        let back = mesh.task_sends(C, &arrived.reply());
        assert_eq!(back.out_of(1), sent.reply().with_hops(63));
        // Other nodes, and other addresses of this one, are left alone.
        mesh.wire_brings(3, &syn(client(family), node_address(family, 3))).is_left_to_stack(3);
        let second = node_address(family, 88);
        let local = Local { ifindex: UPLINK, flags: local_flags::SERVES, alias: 0 };
        mesh.node_mut(1).locals.insert(second.into(), local);
        mesh.wire_brings(1, &syn(client(family), second)).is_left_to_stack(1);
        // What is on every address is on these too.
        let other = Message::tcp(client(family), 50001, address, TCP_A.0, SYN);
        mesh.wire_brings(1, &other).at_task(A, GATEWAY_MAC);
        let other = Message::tcp(client(family), 50002, second, TCP_A.0, SYN);
        mesh.wire_brings(1, &other).at_task(A, GATEWAY_MAC);
        // And no answer leaves by an address that nobody was served at.
        let return_mac = [0x02, 0x00, 0x4d, 0x45, 0x53, 0x48];
        let forged = Message::tcp(second, TCP_C.0, client(family), 50000, ACK).frame(HOST_MAC, return_mac);
        let tunnel = Tunnel::new(mesh.underlay(2), mesh.underlay(1), BLUE, forged);
        mesh.wire_brings_frame(1, tunnel.frame()).is_lost(1, Reason::ReturnForged);
    }
}

#[test]
fn the_node_itself_reaches_it_by_the_alias_of_the_address() {
    for (mut mesh, family) in Mesh::each_with_family() {
        for is_direct in [false, true] {
            if is_direct {
                mesh.return_direct();
            } else {
                limit(&mut mesh, family, external(family), &[1]);
            }
            let own = node_address(family, 1);
            let by = |number| syn(own, host_alias(family, number).into());
            let arrived = mesh.node_sends(1, &by(ALIAS)).at_task(C, GATEWAY_MAC);
            assert_eq!(arrived, by(ALIAS).to(C.address(family)).for_port(TCP_C.1).with_hops(63));
            let back = mesh.task_sends(C, &arrived.reply()).at_node(1);
            assert_eq!(back, by(ALIAS).reply().with_hops(63));
            // The alias of the whole node stands for no single address.
            mesh.node_sends(1, &by(0)).is_lost(1, Reason::NotPublished);
            mesh.node_sends(1, &by(ALIAS + 1)).is_lost(1, Reason::NotPublished);
        }
    }
}

/// As at the addresses of an interface, of which the other nodes do not know: they know the port alone.
#[test]
fn a_port_at_addresses_that_only_the_entry_node_knows() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let general = key(family, TCP_C);
        for node in mesh.all() {
            let Some(service) = node.services.get(&general).copied() else { panic!("no service") };
            node.limit(&general, Address::UNSPECIFIED, ServiceKey::ELSEWHERE);
            if node.settings.node == 1 {
                let address = node_address(family, 1).into();
                node.services.insert(ServiceKey { address, ..general }, service);
                node.locals.entry(address).or_default().flags |= local_flags::OWN;
            }
        }
        let sent = syn(client(family), node_address(family, 1));
        let arrived = mesh.wire_brings(1, &sent).at_task(C, GATEWAY_MAC);
        assert_eq!(mesh.task_sends(C, &arrived.reply()).out_of(1), sent.reply().with_hops(63));
        for node in [2, 3] {
            mesh.wire_brings(node, &syn(client(family), node_address(family, node))).is_left_to_stack(node);
        }
        // The node's own processes are sent to the alias of the whole node.
        let own = syn(node_address(family, 1), alias(family)).by_port(50001);
        let arrived = mesh.node_sends(1, &own).at_task(C, GATEWAY_MAC);
        assert_eq!(mesh.task_sends(C, &arrived.reply()).at_node(1), own.reply().with_hops(63));
    }
}

#[test]
fn an_external_address_answers_on_each_node_and_for_its_service_alone() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let address = external(family);
        limit(&mut mesh, family, address, &[1, 3]);
        let sent = syn(client(family), address);
        for entry in [1, 3] {
            let sent = sent.clone().by_port(50000 + entry as u16);
            let arrived = mesh.wire_brings(entry, &sent).at_task(C, GATEWAY_MAC);
            assert_eq!(arrived, sent.clone().to(C.address(family)).for_port(TCP_C.1).with_hops(63));
            assert_eq!(mesh.task_sends(C, &arrived.reply()).out_of(entry), sent.reply().with_hops(63));
            // What is published on every address of the nodes is not there, nor is anything of the node's own.
            for port in [TCP_A.0, 22] {
                mesh.wire_brings(entry, &Message::tcp(client(family), 50000, address, port, SYN))
                    .is_lost(entry, Reason::NotPublished);
            }
            let ping = Message::ask(client(family), address, 7);
            let pong = Message::read(mesh.wire_brings(entry, &ping).back_from(entry));
            assert_eq!((pong.source, pong.destination), (address, client(family)));
            assert_eq!(pong.body, Body::Answer(7));
        }
        // Node 2 has not been told of it: no business of its.
        mesh.wire_brings(2, &sent).is_left_to_stack(2);
        // A task of node 1 asks, in the name of its node.
        let asked = syn(B.address(family), address);
        let arrived = mesh.task_sends(B, &asked).at_task(C, GATEWAY_MAC);
        assert_eq!(arrived.source, alias(family));
        assert_eq!(mesh.task_sends(C, &arrived.reply()).at_task(B, GATEWAY_MAC), asked.reply().with_hops(62));
        mesh.task_sends(B, &asked.for_port(22)).is_lost(1, Reason::NotPublished);
    }
}

#[test]
fn only_clients_of_the_ranges_may_ask() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let range = if family == Family::V4 { "203.0.113.8/30" } else { "2001:db8:f::8/125" };
        let tasks = if family == Family::V4 { "10.0.9.12/32" } else { "fd00:9::c/128" };
        for node in mesh.all() {
            let ranges = [range, tasks].map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
            node.restrict(&key(family, TCP_C), &ranges);
        }
        let to = node_address(family, 1);
        mesh.wire_brings(1, &syn(client(family), to)).at_task(C, GATEWAY_MAC);
        let stranger = ip(if family == Family::V4 { "203.0.113.12" } else { "2001:db8:f::10" });
        mesh.wire_brings(1, &syn(stranger, to)).is_lost(1, Reason::NotAllowed);
        // Other ports are everybody's.
        mesh.wire_brings(1, &syn(stranger, to).for_port(TCP_A.0)).at_task(A, GATEWAY_MAC);
        // The node's own processes always may; its tasks as what they are.
        mesh.node_sends(1, &syn(to, alias(family))).at_task(C, GATEWAY_MAC);
        mesh.task_sends(B, &syn(B.address(family), to)).at_task(C, GATEWAY_MAC);
        mesh.task_sends(A, &syn(A.address(family), to)).is_lost(1, Reason::NotAllowed);
    }
}
