//! Task to a service's virtual IP.

use std::collections::BTreeMap;

use mesh_common::{
    Reason,
    abi::{Address, Family, Outcome, Slot},
};

use crate::{
    mesh::{A, B, C, D, FAMILIES, GATEWAY, GATEWAY_MAC, Mesh, VIP_A, VIP_C, VIP_NOBODY, VIP_RR, address},
    message::{ACK, FIN, Message, RST, SYN, macs},
};

/// A first packet by each protocol, and answers.
fn requests(family: Family, vip: u8) -> [Message; 2] {
    let (from, to) = (A.address(family), address(family, vip));
    [Message::tcp(from, 40000, to, 80, SYN), Message::udp(from, 40000, to, 53)]
}

#[test]
fn there_and_back() {
    for (mesh, family) in Mesh::each_with_family() {
        for sent in requests(family, VIP_C) {
            let arrived = mesh.task_sends(A, &sent).at_task(C, A.mac());
            assert_eq!(
                arrived,
                sent.clone().to(C.address(family)),
                "the client's address and any port are kept"
            );
            let back = mesh.task_sends(C, &arrived.reply()).at_task(A, C.mac());
            assert_eq!(back, sent.reply(), "the client hears whom it asked");
            let next = sent.clone().with_flags(ACK).with_payload(1000);
            assert_eq!(mesh.task_sends(A, &next).at_task(C, A.mac()), next.to(C.address(family)));
        }
        assert_eq!(mesh.node(1).flows().len(), 4, "both directions of both flows, on the client's node");
        assert!(mesh.node(2).flows().is_empty());
    }
}

#[test]
fn in_turn() {
    for (mesh, family) in Mesh::each_with_family() {
        let [first, _] = requests(family, VIP_RR);
        for turn in 0..30 {
            let sent = first.clone().by_port(40000 + turn);
            let task = [B, C, D][usize::from(turn) % 3];
            // The first packet sent again goes the same way.
            for _ in 0..2 {
                let arrived = mesh.task_sends(A, &sent).at_task(task, A.mac());
                assert_eq!(arrived, sent.clone().to(task.address(family)));
                let back = mesh.task_sends(task, &arrived.reply()).at_task(A, task.mac());
                assert_eq!(back, sent.reply());
            }
        }
        let unknown = first.by_port(1).with_flags(ACK);
        mesh.task_sends(A, &unknown).refused_by(1, Reason::NoFlow);
        let [_, datagram] = requests(family, VIP_RR);
        mesh.task_sends(A, &datagram).at_task(B, A.mac());
    }
}

#[test]
fn by_hash() {
    let mut mesh = Mesh::new(Family::V4, true);
    for node in mesh.all() {
        // The rings of C become rings of all, in unequal parts.
        for family in FAMILIES {
            let key = mesh_common::abi::ServiceKey {
                address: Address::from(address(family, VIP_C)),
                scope: A.vni,
                port: [0; 2],
                protocol: 0,
                family: family as u8,
            };
            let first = node.services[&key].first_slot as usize;
            let c = node.slots[first].current();
            for (slot, current) in
                node.slots[first..first + 7].iter_mut().zip([c - 1, c - 1, c, c, c, c, c + 1])
            {
                *slot = Slot::new(current, [0; 2]);
            }
        }
    }
    for family in FAMILIES {
        let mut chosen: BTreeMap<u8, usize> = BTreeMap::new();
        for port in 0..7000 {
            let [sent, _] = requests(family, VIP_C);
            let sent = sent.by_port(port);
            let task = mesh.task_sends(A, &sent).task_of(&[B, C, D]);
            *chosen.entry(task.last).or_default() += 1;
        }
        for (task, slots) in [(B, 2), (C, 4), (D, 1)] {
            let count = chosen[&task.last];
            assert!(count.abs_diff(slots * 1000) < 150, "{chosen:?}");
        }
    }
}

#[test]
fn a_task_reaches_itself() {
    for (mesh, family) in Mesh::each_with_family() {
        for sent in requests(family, VIP_A) {
            let vip = address(family, VIP_A);
            let arrived = mesh.task_sends(A, &sent).at_task(A, A.mac());
            assert_eq!(
                arrived,
                sent.clone().to(A.address(family)).by(vip),
                "its own address would be refused"
            );
            let back = mesh.task_sends(A, &arrived.reply()).at_task(A, A.mac());
            assert_eq!(back, sent.reply());
        }
    }
}

#[test]
fn virtual_ips_and_gateways_answer_ping() {
    for (mesh, family) in Mesh::each_with_family() {
        for last in [VIP_C, VIP_RR, VIP_NOBODY, GATEWAY] {
            for id in [0, 77] {
                let sent = Message::ask(A.address(family), address(family, last), id).with_payload(56);
                let journey = mesh.task_sends(A, &sent);
                let frame = journey.back_from(1);
                assert_eq!(macs(frame), (GATEWAY_MAC, A.mac()));
                assert_eq!(Message::read(frame), sent.reply());
            }
        }
        assert!(mesh.node(1).flows().is_empty());
        let [request, _] = requests(family, GATEWAY);
        mesh.task_sends(A, &request).is_lost(1, Reason::Gateway);
    }
}

#[test]
fn what_a_virtual_ip_cannot_take() {
    for (mesh, family) in Mesh::each_with_family() {
        let [request, datagram] = requests(family, VIP_NOBODY);
        mesh.task_sends(A, &request).refused_by(1, Reason::NoBackend);
        mesh.task_sends(A, &datagram).refused_by(1, Reason::NoBackend);
        let answer = Message::ask(address(family, VIP_C), A.address(family), 5).reply();
        mesh.task_sends(A, &answer).is_lost(1, Reason::Portless);
        let sctp = Message { body: crate::message::Body::Other(132), ..request.to(address(family, VIP_C)) };
        mesh.task_sends(A, &sctp).is_lost(1, Reason::Portless);
        assert!(mesh.node(1).flows().is_empty());
    }
}

/// A port that is used again goes by the ring again; a connection that is open does not.
#[test]
fn a_connection_that_is_over_and_its_port_used_again() {
    for (mesh, family) in Mesh::each_with_family() {
        for end in [FIN | ACK, RST] {
            let [sent, _] = requests(family, VIP_RR);
            let sent = sent.by_port(50000 + u16::from(end));
            let task_of = |message: &Message| mesh.task_sends(A, message).task_of(&[B, C, D]);
            let first = task_of(&sent);
            assert_eq!(task_of(&sent.clone().with_flags(ACK)), first);
            assert_eq!(task_of(&sent.clone().with_flags(end)), first);
            assert_eq!(task_of(&sent.clone().with_flags(ACK)), first, "what is still under way");
            let second = task_of(&sent);
            assert_ne!(second, first);
            assert_eq!(task_of(&sent.clone().with_flags(ACK)), second);
            assert_eq!(task_of(&sent), second, "the first packet sent again");
            let answer = sent.clone().to(second.address(family)).reply();
            assert_eq!(mesh.task_sends(second, &answer).at_task(A, second.mac()), sent.reply());
        }
    }
}

/// The port of a connection through the virtual IP is used again for one to the backend itself.
#[test]
fn a_connection_that_is_over_and_its_port_used_for_the_backend_itself() {
    for (mesh, family) in Mesh::each_with_family() {
        for (end, by_client) in [(FIN | ACK, true), (RST, true), (FIN | ACK, false), (RST, false)] {
            let [sent, _] = requests(family, VIP_C);
            let sent = sent.by_port(50000 + u16::from(end) + u16::from(by_client));
            let arrived = mesh.task_sends(A, &sent).at_task(C, A.mac());
            let direct = sent.clone().to(C.address(family));
            mesh.task_sends(A, &direct).at_task(C, A.mac());
            let answer = mesh.task_sends(C, &direct.reply()).at_task(A, C.mac());
            assert_eq!(answer, sent.reply(), "the one through the virtual IP is not over");
            if by_client {
                mesh.task_sends(A, &sent.clone().with_flags(end)).at_task(C, A.mac());
            } else {
                mesh.task_sends(C, &arrived.reply().with_flags(end)).at_task(A, C.mac());
            }
            mesh.task_sends(A, &direct).at_task(C, A.mac());
            assert_eq!(mesh.task_sends(C, &direct.reply()).at_task(A, C.mac()), direct.reply());
        }
        assert!(mesh.node(1).flows().is_empty());
    }
}

#[test]
fn flows_tell_when_they_were_seen() {
    let mesh = Mesh::new(Family::V4, false);
    let [sent, _] = requests(Family::V4, VIP_C);
    let seen = || mesh.node(1).flows().iter().map(|(_, flow)| flow.seen).collect::<Vec<_>>();
    let arrived = mesh.task_sends(A, &sent).at_task(C, A.mac());
    assert_eq!(seen(), [100, 100]);
    mesh.node(1).set_clock(105);
    mesh.task_sends(A, &sent);
    let mut after = seen();
    after.sort_unstable();
    assert_eq!(after, [100, 105]);
    mesh.node(1).set_clock(110);
    mesh.task_sends(C, &arrived.reply());
    let mut after = seen();
    after.sort_unstable();
    assert_eq!(after, [105, 110]);
}

/// What the table of flows forgets under a flood, the ring finds again.
#[test]
fn hashing_needs_no_memory() {
    let mesh = Mesh::new(Family::V4, false);
    let [sent, _] = requests(Family::V4, VIP_C);
    let sent = sent.with_flags(ACK);
    let arrived = mesh.task_sends(A, &sent).at_task(C, A.mac());
    mesh.node(1).keep_flows(|_, _| false);
    assert_eq!(mesh.task_sends(A, &sent).at_task(C, A.mac()), arrived);
    let tables = mesh.node(1);
    let mut packet = mesh_common::native::Buffer::new(sent.frame(A.mac(), GATEWAY_MAC));
    let verdict = mesh_common::pipeline::from_endpoint(&mut packet, &tables.at_tc(), A.ifindex);
    assert_eq!(verdict.outcome(), Outcome::Transmit);
}
