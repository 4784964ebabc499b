//! What a task may not send.

use mesh_common::{Reason, abi::Family};

use crate::{
    mesh::{A, B, C, E, Entry, FAMILIES, GATEWAY_MAC, Mesh, address, client, ip},
    message::{Message, SYN},
};

#[test]
fn forged_sources() {
    for (mesh, family) in Mesh::each_with_family() {
        let good = Message::tcp(A.address(family), 40000, C.address(family), 80, SYN);
        mesh.task_sends(A, &good).at_task(C, A.mac());
        for source in [B.address(family), address(family, 99), address(family, 1), client(family)] {
            mesh.task_sends(A, &good.clone().by(source)).is_lost(1, Reason::SourceForged);
        }
        for mac in [B.mac(), GATEWAY_MAC, [0xff; 6], [0; 6]] {
            mesh.task_sends_frame(A, good.frame(mac, C.mac())).is_lost(1, Reason::SourceForged);
        }
    }
}

#[test]
fn a_family_that_the_task_does_not_have() {
    for family in FAMILIES {
        let mut mesh = Mesh::new(Family::V4, false);
        let attachment = mesh.node_mut(1).attachments.get_mut(&A.ifindex).unwrap();
        match family {
            Family::V4 => attachment.v4 = Default::default(),
            Family::V6 => attachment.v6 = Default::default(),
        }
        let sent = Message::tcp(A.address(family), 40000, C.address(family), 80, SYN);
        mesh.task_sends(A, &sent).is_lost(1, Reason::SourceForged);
    }
    let mut mesh = Mesh::new(Family::V6, false);
    mesh.node_mut(1).attachments.get_mut(&A.ifindex).unwrap().v6 = Default::default();
    mesh.task_sends(A, &Message::udp(ip("::"), 1, C.address(Family::V6), 2)).is_lost(1, Reason::SourceForged);
}

#[test]
fn multicast_and_broadcast() {
    let mesh = Mesh::new(Family::V4, false);
    for group in ["224.0.0.251", "255.255.255.255", "239.1.2.3"] {
        mesh.task_sends(A, &Message::udp(A.address(Family::V4), 5353, ip(group), 5353))
            .is_lost(1, Reason::Multicast);
    }
    for group in ["ff02::fb", "ff05::1"] {
        mesh.task_sends(A, &Message::udp(A.address(Family::V6), 5353, ip(group), 5353))
            .is_lost(1, Reason::Multicast);
    }
    let broadcast = Message::udp(A.address(Family::V4), 68, address(Family::V4, 255), 67);
    mesh.task_sends(A, &broadcast).is_lost(1, Reason::NoSuchEndpoint);
}

#[test]
fn other_protocols_and_interfaces() {
    let mesh = Mesh::new(Family::V4, false);
    let good = Message::udp(A.address(Family::V4), 1, C.address(Family::V4), 2).frame(A.mac(), C.mac());
    for ether_type in [[0x88, 0xcc], [0x81, 0x00], [0x88, 0xa8], [0x88, 0x47], [0x00, 0x26], [0, 0]] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&ether_type);
        mesh.task_sends_frame(A, frame).is_lost(1, Reason::UnknownProtocol);
    }
    // A tag before what would otherwise be a packet like any other.
    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    mesh.task_sends_frame(A, tagged).is_lost(1, Reason::UnknownProtocol);
    mesh.travel(1, Entry::Task(999), good.clone()).is_lost(1, Reason::NotAttached);
    // The interface of a task of another network.
    mesh.travel(1, Entry::Task(E.ifindex), good).is_lost(1, Reason::NoSuchEndpoint);
}

/// They would be equal to IPv4 addresses in every table.
#[test]
fn ipv4_addresses_in_ipv6() {
    let mesh = Mesh::new(Family::V4, false);
    let mut frame = Message::udp(A.address(Family::V6), 1, C.address(Family::V6), 2).frame(A.mac(), C.mac());
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 9, 13];
    let mut to = frame.clone();
    to[14 + 24..14 + 40].copy_from_slice(&mapped);
    mesh.task_sends_frame(A, to).is_lost(1, Reason::Malformed);
    frame[14 + 8..14 + 24].copy_from_slice(&mapped);
    mesh.task_sends_frame(A, frame).is_lost(1, Reason::Malformed);
}
