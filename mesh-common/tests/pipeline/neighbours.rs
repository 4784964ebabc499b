//! ARP and neighbour discovery, from tasks and from nodes without meshd.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::{Reason, abi::Family};

use crate::{
    mesh::{A, B, BLUE, C, End, GATEWAY, GATEWAY_MAC, Journey, Mesh, Task, VIP_C, address, ip},
    message::{Body, Mac, Message, Tunnel, macs},
};

const BROADCAST: Mac = [0xff; 6];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arp {
    operation: u8,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
}

impl Arp {
    fn question(sender: Task, target: IpAddr) -> Self {
        Self {
            operation: 1,
            sender_mac: sender.mac(),
            sender: v4(sender.address(Family::V4)),
            target_mac: [0; 6],
            target: v4(target),
        }
    }

    fn frame(self) -> Vec<u8> {
        let header = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, self.operation];
        let mut bytes =
            [&BROADCAST, &self.sender_mac[..], &header, &self.sender_mac, &self.sender.octets()].concat();
        bytes.extend(self.target_mac);
        bytes.extend(self.target.octets());
        bytes
    }

    fn read(frame: &[u8]) -> Self {
        assert_eq!(frame[12..20], [0x08, 0x06, 0, 1, 8, 0, 6, 4]);
        assert_eq!((frame[20], frame.len()), (0, 42));
        let mac_at = |at: usize| [0, 1, 2, 3, 4, 5].map(|byte| frame[at + byte]);
        let quad = |at: usize| Ipv4Addr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        Self {
            operation: frame[21],
            sender_mac: mac_at(22),
            sender: quad(28),
            target_mac: mac_at(32),
            target: quad(38),
        }
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(ip) => ip,
        IpAddr::V4(ip) => panic!("{ip}"),
    }
}

/// A neighbour solicitation for `target`.
fn solicitation(mac: Mac, source: IpAddr, target: IpAddr) -> Message {
    let target = v6(target).octets();
    let mut group: [u8; 16] = v6(ip("ff02::1:ff00:0")).octets();
    group[13..].copy_from_slice(&target[13..]);
    let payload = [&target[..], &[1, 1], &mac].concat();
    Message {
        source,
        destination: Ipv6Addr::from(group).into(),
        body: Body::Icmp { kind: 135, code: 0, word: 0 },
        hops: 255,
        class: 0,
        payload,
    }
}

/// The advertisement that answers it.
fn advertisement(target: IpAddr, mac: Mac, asker: IpAddr) -> Message {
    Message {
        source: target,
        destination: asker,
        // Solicited, and to be believed.
        body: Body::Icmp { kind: 136, code: 0, word: 0x6000_0000 },
        hops: 255,
        class: 0,
        payload: [&v6(target).octets()[..], &[2, 1], &mac].concat(),
    }
}

/// Whoever a task may ask for, and who answers.
fn answered(family: Family) -> [(IpAddr, Mac); 4] {
    [
        (B.address(family), B.mac()),
        (C.address(family), C.mac()),
        (address(family, GATEWAY), GATEWAY_MAC),
        (address(family, VIP_C), GATEWAY_MAC),
    ]
}

#[test]
fn a_task_asks_by_arp() {
    for mesh in Mesh::each() {
        for (target, mac) in answered(Family::V4) {
            for padding in [0, 18] {
                let mut question = Arp::question(A, target).frame();
                question.resize(question.len() + padding, 0);
                let journey = mesh.task_sends_frame(A, question);
                let frame = journey.back_from(1);
                assert_eq!(macs(frame), (mac, A.mac()));
                let answer = Arp {
                    operation: 2,
                    sender_mac: mac,
                    sender: v4(target),
                    target_mac: A.mac(),
                    target: v4(A.address(Family::V4)),
                };
                assert_eq!(Arp::read(&frame[..42]), answer);
            }
        }
    }
}

#[test]
fn arp_that_wants_no_answer_or_lies() {
    let mesh = Mesh::new(Family::V4, false);
    let good = Arp::question(A, B.address(Family::V4));
    let run = |arp: Arp| mesh.task_sends_frame(A, arp.frame());
    // A probe for, and an announcement of, its own address: nobody else has it.
    let own = v4(A.address(Family::V4));
    run(Arp { sender: Ipv4Addr::UNSPECIFIED, target: own, ..good }).is_lost(1, Reason::Multicast);
    run(Arp { target: own, ..good }).is_lost(1, Reason::Multicast);
    run(Arp { operation: 2, ..good }).is_lost(1, Reason::Multicast);
    run(Arp { target: v4(address(Family::V4, 99)), ..good }).is_lost(1, Reason::NoSuchEndpoint);
    run(Arp { target: v4(ip("203.0.113.9")), ..good }).is_lost(1, Reason::NoSuchEndpoint);
    run(Arp { sender: v4(B.address(Family::V4)), ..good }).is_lost(1, Reason::SourceForged);
    let mut forged = good.frame();
    forged[22..28].copy_from_slice(&B.mac());
    mesh.task_sends_frame(A, forged).is_lost(1, Reason::SourceForged);
    for length in 14..42 {
        mesh.task_sends_frame(A, good.frame()[..length].to_vec()).is_lost(1, Reason::Malformed);
    }
}

#[test]
fn a_task_asks_by_neighbour_solicitation() {
    for mesh in Mesh::each() {
        for (target, mac) in answered(Family::V6) {
            for source in [A.address(Family::V6), ip("fe80::42:aff:fe00:90b")] {
                let question = solicitation(A.mac(), source, target);
                let unicast = question.clone().to(target);
                let mut longer = question.clone();
                longer.payload.extend([14, 1, 0, 0, 0, 0, 0, 0]);
                let mut bare = question.clone();
                bare.payload.truncate(16);
                for question in [question, unicast, longer, bare] {
                    let journey =
                        mesh.task_sends_frame(A, question.frame(A.mac(), [0x33, 0x33, 0xff, 0, 0, 1]));
                    let frame = journey.back_from(1);
                    assert_eq!(macs(frame), (mac, A.mac()));
                    assert_eq!(Message::read(frame), advertisement(target, mac, source));
                }
            }
        }
    }
}

#[test]
fn solicitations_that_want_no_answer_or_lie() {
    let mesh = Mesh::new(Family::V6, false);
    let own = A.address(Family::V6);
    let run = |message: Message| mesh.task_sends(A, &message);
    // Duplicate address detection, of its own address and of another's.
    run(solicitation(A.mac(), ip("::"), own)).is_lost(1, Reason::Multicast);
    run(solicitation(A.mac(), ip("::"), B.address(Family::V6))).is_lost(1, Reason::Multicast);
    run(solicitation(A.mac(), own, own)).is_lost(1, Reason::Multicast);
    run(solicitation(A.mac(), own, address(Family::V6, 99))).is_lost(1, Reason::NoSuchEndpoint);
    run(solicitation(A.mac(), B.address(Family::V6), C.address(Family::V6))).is_lost(1, Reason::SourceForged);
    // From beyond the link.
    run(solicitation(A.mac(), own, B.address(Family::V6)).with_hops(254)).is_lost(1, Reason::Multicast);
    // Too short for a target.
    let mut short = solicitation(A.mac(), own, B.address(Family::V6));
    short.payload.truncate(8);
    run(short).is_lost(1, Reason::Malformed);
    // What hosts say at their start, from addresses of the link.
    for kind in [133, 143] {
        let mut other = solicitation(A.mac(), ip("fe80::1"), ip("ff02::2")).to(ip("ff02::2"));
        other.body = Body::Icmp { kind, code: 0, word: 0 };
        run(other).is_lost(1, Reason::Multicast);
    }
}

fn through_tunnel(mesh: &Mesh, inner: Vec<u8>) -> Journey {
    let outer = Tunnel::new(mesh.underlay(1), mesh.underlay(2), BLUE, inner);
    mesh.wire_brings_frame(2, outer.frame())
}

#[test]
fn a_node_without_meshd_asks() {
    for mesh in Mesh::each() {
        let question = Arp::question(A, C.address(Family::V4));
        let journey = through_tunnel(&mesh, question.frame());
        let frame = journey.back_from(2);
        assert_eq!(macs(frame), ([0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 1, 1]), "back to where it came from");
        let tunnel = Tunnel::read(frame);
        let answer = Arp {
            operation: 2,
            sender_mac: C.mac(),
            sender: v4(C.address(Family::V4)),
            target_mac: A.mac(),
            target: v4(A.address(Family::V4)),
        };
        assert_eq!(macs(&tunnel.inner), (C.mac(), A.mac()));
        assert_eq!(Arp::read(&tunnel.inner), answer);
        let expected = Tunnel {
            source_port: tunnel.source_port,
            ..Tunnel::new(mesh.underlay(2), mesh.underlay(1), BLUE, tunnel.inner.clone())
        };
        assert_eq!(tunnel, expected);

        let source = A.address(Family::V6);
        let question = solicitation(A.mac(), source, C.address(Family::V6));
        let journey = through_tunnel(&mesh, question.frame(A.mac(), BROADCAST));
        let tunnel = Tunnel::read(journey.back_from(2));
        assert_eq!(macs(&tunnel.inner), (C.mac(), A.mac()));
        assert_eq!(tunnel.message(), advertisement(C.address(Family::V6), C.mac(), source));
        assert_eq!((tunnel.source, tunnel.destination), (mesh.underlay(2), mesh.underlay(1)));
    }
}

#[test]
fn a_node_answers_for_its_own_tasks_alone() {
    for mesh in Mesh::each() {
        for last in [B.last, 99, GATEWAY, VIP_C] {
            let question = Arp::question(A, address(Family::V4, last));
            through_tunnel(&mesh, question.frame()).is_lost(2, Reason::NoSuchEndpoint);
            let question = solicitation(A.mac(), A.address(Family::V6), address(Family::V6, last));
            through_tunnel(&mesh, question.frame(A.mac(), BROADCAST)).is_lost(2, Reason::NoSuchEndpoint);
        }
        let detection = solicitation(A.mac(), ip("::"), C.address(Family::V6));
        through_tunnel(&mesh, detection.frame(A.mac(), BROADCAST)).is_lost(2, Reason::Multicast);
        let announcement = Arp { operation: 2, ..Arp::question(A, C.address(Family::V4)) };
        through_tunnel(&mesh, announcement.frame()).is_lost(2, Reason::Multicast);
    }
}

/// A node has addresses of both families, and asks by the one that nobody sends tunnels to.
#[test]
fn an_answer_of_another_family_than_the_question() {
    for outer in [Family::V4, Family::V6] {
        let mut mesh = Mesh::new(outer, false);
        let (peer, other) = (mesh.underlay(1), crate::mesh::node_address(other(outer), 1));
        mesh.node_mut(2).nodes[1].address = other.into();
        let inner = Arp::question(A, C.address(Family::V4)).frame();
        let journey = mesh.wire_brings_frame(2, Tunnel::new(peer, mesh.underlay(2), BLUE, inner).frame());
        assert_eq!(journey.end, End::Lost { node: 2, reason: Reason::NotAPeer });
    }
}

fn other(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

#[test]
fn each_subnet_has_a_gateway() {
    for (mut mesh, family) in Mesh::each_with_family() {
        let (subnet, gateway, other, beyond) = match family {
            Family::V4 => ("10.0.10.129/25", "10.0.10.129", "10.0.10.130", "10.0.10.1"),
            Family::V6 => ("fd00:a::1/80", "fd00:a::1", "fd00:a::1:0:1", "fd00:a:0:0:1::1"),
        };
        let [gateway, other, beyond] = [gateway, other, beyond].map(ip);
        let subnet = subnet.parse().unwrap();
        mesh.node_mut(1).subnets.insert(BLUE, subnet);
        let ask = |target| match family {
            Family::V4 => mesh.task_sends_frame(A, Arp::question(A, target).frame()),
            Family::V6 => mesh.task_sends(A, &solicitation(A.mac(), A.address(family), target)),
        };
        assert_eq!(macs(ask(gateway).back_from(1)), (GATEWAY_MAC, A.mac()));
        ask(other).is_lost(1, Reason::NoSuchEndpoint);
        ask(beyond).is_lost(1, Reason::NoSuchEndpoint);

        let ping = |target| {
            let body = Body::Ask(7);
            let message = Message::udp(A.address(family), 1, target, 2);
            mesh.task_sends(A, &Message { body, ..message })
        };
        let answer = Message::read(ping(gateway).back_from(1));
        assert_eq!((answer.source, answer.body), (gateway, Body::Answer(7)));
        ping(other).is_lost(1, Reason::NoSuchEndpoint);
        mesh.task_sends(A, &Message::udp(A.address(family), 1, gateway, 53)).is_lost(1, Reason::Gateway);
    }
}
