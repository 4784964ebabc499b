//! Lengths, hop limits, fragments and headers of unusual shape.

use mesh_common::{
    Reason, Verdict,
    abi::{Family, Outcome},
    native::Buffer,
    pipeline,
};

use crate::{
    mesh::{A, B, C, GATEWAY, GATEWAY_MAC, MTU, Mesh, TCP_A, TCP_C, VIP_C, address, client, node_address},
    message::{ACK, Body, Message, SYN, finish_v4, macs},
};

const L3: usize = 14;

/// Bytes that an error quotes of a long packet: as many as make one of 576 bytes, with IPv4.
const QUOTE: usize = 548;

fn headers(family: Family) -> usize {
    if family == Family::V4 { 20 + 20 } else { 40 + 20 }
}

#[test]
fn too_long_for_the_network() {
    for (mesh, family) in Mesh::each_with_family() {
        for to in [C.address(family), address(family, VIP_C), client(family)] {
            let good = Message::tcp(A.address(family), 40000, to, 80, ACK)
                .with_payload(MTU as usize - headers(family));
            let journey = mesh.task_sends(A, &good);
            assert!(!matches!(journey.end, crate::mesh::End::Refused { .. } | crate::mesh::End::Lost { .. }));
            let long = good.with_payload(MTU as usize - headers(family) + 1);
            let journey = mesh.task_sends(A, &long);
            let frame = journey.too_big_for(1);
            assert_eq!(macs(frame), (GATEWAY_MAC, A.mac()));
            let answer = Message::read(frame);
            let body = match family {
                Family::V4 => Body::Icmp { kind: 3, code: 4, word: MTU },
                Family::V6 => Body::Icmp { kind: 2, code: 0, word: MTU },
            };
            let expected = Message {
                source: address(family, GATEWAY),
                destination: A.address(family),
                body,
                hops: 64,
                class: 0,
                payload: long.frame(A.mac(), GATEWAY_MAC)[L3..L3 + QUOTE].to_vec(),
            };
            assert_eq!(answer, expected);
        }
    }
}

#[test]
fn an_error_is_not_answered_with_an_error() {
    for (mesh, family) in Mesh::each_with_family() {
        let kind = if family == Family::V4 { 3 } else { 1 };
        let error = Message {
            body: Body::Icmp { kind, code: 0, word: 0 },
            ..Message::ask(A.address(family), C.address(family), 1).with_payload(1500)
        };
        mesh.task_sends(A, &error).is_lost(1, Reason::TooBig);
    }
}

/// What the card or the kernel will cut into pieces that fit.
#[test]
fn an_aggregate_is_never_too_long() {
    for family in [Family::V4, Family::V6] {
        let mesh = Mesh::new(Family::V4, false);
        let long = Message::tcp(A.address(family), 40000, C.address(family), 80, ACK).with_payload(30_000);
        let mut packet = Buffer::new(long.frame(A.mac(), C.mac())).aggregate();
        let verdict: Verdict = pipeline::from_endpoint(&mut packet, &mesh.node(1).at_tc(), A.ifindex);
        assert_eq!(verdict.outcome(), Outcome::Transmit);
    }
}

/// A short packet is quoted as a whole, but for what is behind its last whole word.
#[test]
fn too_long_and_yet_short() {
    let mut mesh = Mesh::new(Family::V4, false);
    let node = mesh.node_mut(1);
    node.networks.get_mut(&A.vni).unwrap().mtu = 60;
    node.attachments.get_mut(&A.ifindex).unwrap().mtu = 60;
    for (length, quoted) in [(61, 60), (63, 60), (64, 64), (200, 200), (548, 548), (551, 548), (700, 548)] {
        let sent = Message::udp(A.address(Family::V4), 1, C.address(Family::V4), 2).with_payload(length - 28);
        let answer = Message::read(mesh.task_sends(A, &sent).too_big_for(1));
        assert_eq!(answer.payload, sent.frame([0; 6], [0; 6])[L3..L3 + quoted], "of {length} bytes");
    }
}

#[test]
fn hop_limits() {
    for (mesh, family) in Mesh::each_with_family() {
        for (hops, is_routed) in [(0, false), (1, false), (2, true)] {
            // On the network, nobody is a router.
            let local = Message::udp(A.address(family), 1, C.address(family), 2).with_hops(hops);
            assert_eq!(mesh.task_sends(A, &local).at_task(C, A.mac()), local);
            let out = Message::udp(A.address(family), 1, client(family), 2).with_hops(hops);
            let journey = mesh.task_sends(A, &out);
            if is_routed {
                assert_eq!(journey.out_of(1).hops, hops - 1);
            } else {
                journey.is_lost(1, Reason::HopLimit);
            }
            for (port, node, task) in [(TCP_C.0, 2, C), (TCP_A.0, 1, A)] {
                let request =
                    Message::tcp(client(family), 1, node_address(family, 1), port, SYN).with_hops(hops);
                let journey = mesh.wire_brings(1, &request);
                if is_routed {
                    assert_eq!(journey.at_task(task, GATEWAY_MAC).hops, hops - 1);
                } else {
                    journey.is_lost(node, Reason::HopLimit);
                }
            }
        }
    }
}

/// A frame cut into two fragments behind `at` bytes of payload.
pub(crate) fn fragments(message: &Message, at: usize) -> [Vec<u8>; 2] {
    let frame = message.frame(A.mac(), C.mac());
    let (is_v4, header) = if message.source.is_ipv4() { (true, 20) } else { (false, 40) };
    let (head, payload) = frame.split_at(L3 + header);
    [(&payload[..at], 0u16, true), (&payload[at..], at as u16, false)].map(|(part, offset, more)| {
        let mut bytes = head.to_vec();
        if is_v4 {
            let field = (offset / 8) | if more { 0x2000 } else { 0 };
            bytes[L3 + 2..L3 + 4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            bytes[L3 + 6..L3 + 8].copy_from_slice(&field.to_be_bytes());
            finish_v4(&mut bytes);
        } else {
            let [a, b] = (offset | u16::from(more)).to_be_bytes();
            let next = bytes[L3 + 6];
            bytes[L3 + 4..L3 + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            bytes[L3 + 6] = 44;
            bytes.extend([next, 0, a, b, 0, 0, 0, 9]);
        }
        bytes.extend(part);
        bytes
    })
}

#[test]
fn fragments_of_tasks_travel_as_they_are() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::udp(A.address(family), 40000, C.address(family), 53).with_payload(200);
        let mut ports = vec![];
        for fragment in fragments(&sent, 64) {
            let journey = mesh.task_sends_frame(A, fragment.clone());
            ports.push(journey.tunnel().source_port);
            assert_eq!(journey.frame_at_task(C, A.mac()), fragment);
        }
        assert_eq!(ports[0], ports[1], "all fragments of a packet take the same path");
        // What no port can be told by is the stack's.
        let request =
            Message::tcp(client(family), 50000, node_address(family, 1), TCP_C.0, SYN).with_payload(200);
        for fragment in fragments(&request, 64) {
            mesh.wire_brings_frame(1, fragment).is_left_to_stack(1);
        }
        assert!(mesh.node(1).flows().is_empty());
    }
}

#[test]
fn a_tunnel_in_fragments_is_not_ours() {
    for mesh in Mesh::each() {
        let sent = Message::udp(A.address(Family::V4), 1, C.address(Family::V4), 2).with_payload(200);
        let outer = Message::udp(mesh.underlay(1), 50000, mesh.underlay(2), 4789).with_payload(0);
        let payload = [&[8, 0, 0, 0, 0, 0x10, 1, 0], &sent.frame(A.mac(), C.mac())[..]].concat();
        for fragment in fragments(&Message { payload, ..outer }, 64) {
            mesh.wire_brings_frame(2, fragment).is_left_to_stack(2);
        }
    }
}

/// A frame with extension headers before its transport header: their kinds, and their bytes.
fn extended(message: &Message, extensions: &[(u8, usize)]) -> Vec<u8> {
    let frame = message.frame(A.mac(), C.mac());
    let (head, transport) = frame.split_at(L3 + 40);
    let mut bytes = head.to_vec();
    let last = bytes[L3 + 6];
    bytes[L3 + 6] = extensions.first().map_or(last, |(kind, _)| *kind);
    for (index, (_, length)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(last, |(kind, _)| *kind);
        let mut extension = vec![0; *length];
        extension[0] = next;
        extension[1] = (length / 8 - 1) as u8;
        // One option that pads.
        extension[2..4].copy_from_slice(&[1, (length - 4) as u8]);
        bytes.extend(extension);
    }
    bytes.extend(transport);
    let length = (bytes.len() - L3 - 40) as u16;
    bytes[L3 + 4..L3 + 6].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn ipv6_extension_headers() {
    let family = Family::V6;
    for mesh in Mesh::each() {
        let sent = Message::udp(A.address(family), 40000, address(family, VIP_C), 53);
        for chain in
            [&[(60u8, 8usize)][..], &[(0, 16)], &[(0, 8), (60, 24)], &[(0, 8), (43, 8), (60, 8), (60, 64)]]
        {
            let journey = mesh.task_sends_frame(A, extended(&sent, chain));
            let expected = extended(&sent.clone().to(C.address(family)), chain);
            assert_eq!(
                journey.frame_at_task(C, A.mac())[L3..],
                expected[L3..],
                "translated behind {chain:?}"
            );
        }
        // More than are looked through: no ports are known.
        let long = [(60, 8); 5];
        mesh.task_sends_frame(A, extended(&sent, &long)).is_lost(1, Reason::Portless);
        // Longer than the packet is, or than a program can reach.
        let mut lying = extended(&sent, &[(60, 8)]);
        lying[L3 + 41] = 200;
        mesh.task_sends_frame(A, lying).is_lost(1, Reason::Malformed);
        mesh.task_sends_frame(A, extended(&sent.clone().with_payload(9), &[(60, 1024)]))
            .is_lost(1, Reason::Malformed);
        // Between tasks, what is behind them does not matter.
        let direct = sent.to(C.address(family));
        let frame = extended(&direct, &long);
        assert_eq!(mesh.task_sends_frame(A, frame.clone()).frame_at_task(C, A.mac())[L3..], frame[L3..]);
    }
}

#[test]
fn ipv4_options() {
    let family = Family::V4;
    for mesh in Mesh::each() {
        for options in [4, 40] {
            let with_options = |message: &Message| {
                let mut frame = message.frame(A.mac(), C.mac());
                let length = u16::from_be_bytes([frame[L3 + 2], frame[L3 + 3]]) + options as u16;
                frame.splice(L3 + 20..L3 + 20, vec![1; options]);
                frame[L3] = 0x45 + (options / 4) as u8;
                frame[L3 + 2..L3 + 4].copy_from_slice(&length.to_be_bytes());
                finish_v4(&mut frame);
                frame
            };
            let sent = Message::tcp(A.address(family), 40000, address(family, VIP_C), 80, SYN);
            let journey = mesh.task_sends_frame(A, with_options(&sent));
            let expected = with_options(&sent.to(C.address(family)));
            assert_eq!(journey.frame_at_task(C, A.mac())[L3..], expected[L3..]);
        }
    }
}

#[test]
fn lengths_that_lie() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(A.address(family), 40000, C.address(family), 80, SYN);
        let good = sent.frame(A.mac(), C.mac());
        let at = if family == Family::V4 { L3 + 2 } else { L3 + 4 };
        let true_length = u16::from_be_bytes([good[at], good[at + 1]]);
        let run = |length: u16| {
            let mut frame = good.clone();
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            mesh.task_sends_frame(A, frame)
        };
        let header = if family == Family::V4 { 20 } else { 0 };
        run(true_length + 1).is_lost(1, Reason::Malformed);
        run(u16::MAX).is_lost(1, Reason::Malformed);
        run(header + 19).is_lost(1, Reason::Malformed);
        run(0).is_lost(1, Reason::Malformed);
        // Ethernet pads: a frame may be longer than its packet.
        let padded = [&good[..], &[0; 9]].concat();
        let local = Message::tcp(A.address(family), 40000, B.address(family), 80, SYN);
        let padded_local = [&local.frame(A.mac(), B.mac())[..], &[0; 9]].concat();
        let journey = mesh.task_sends_frame(A, padded_local.clone());
        assert_eq!(journey.frame_at_task(B, A.mac()), padded_local);
        let journey = mesh.task_sends_frame(A, padded.clone());
        assert_eq!(journey.frame_at_task(C, A.mac()), padded);
    }
}

#[test]
fn packets_cut_short() {
    for (mesh, family) in Mesh::each_with_family() {
        for to in [C.address(family), address(family, VIP_C), client(family)] {
            let frame = Message::tcp(A.address(family), 40000, to, 80, SYN).frame(A.mac(), C.mac());
            for length in 0..frame.len() {
                mesh.task_sends_frame(A, frame[..length].to_vec()).is_lost(1, Reason::Malformed);
            }
            let frame =
                Message::tcp(client(family), 40000, node_address(family, 1), 80, SYN).frame(A.mac(), C.mac());
            for length in 0..frame.len() {
                mesh.wire_brings_frame(1, frame[..length].to_vec()).is_left_to_stack(1);
            }
        }
    }
}
