//! Connections begin with a maximum segment size that fits the tunnel.

use std::net::IpAddr;

use etherparse::TcpSlice;
use mesh_common::abi::Family;

use crate::{
    mesh::{
        A, B, C, GATEWAY_MAC, HOST_MAC, MTU, Mesh, TCP_A, TCP_C, Task, VIP_C, address, client, node_address,
    },
    message::{ACK, Message, SYN},
    random::{Random, seed},
};

const L3: usize = 14;

/// Where TCP's header begins: these packets have neither options nor extensions.
fn l4(message: &Message) -> usize {
    L3 + if message.source.is_ipv4() { 20 } else { 40 }
}

fn largest(family: Family) -> u16 {
    MTU as u16 - if family == Family::V4 { 40 } else { 60 }
}

/// A frame whose TCP header has these options behind it, as many bytes as a header may have and a multiple of four.
fn with_options(message: &Message, options: &[u8]) -> Vec<u8> {
    let whole = Message { payload: [options, &message.payload].concat(), ..message.clone() };
    let mut frame = whole.frame(HOST_MAC, GATEWAY_MAC);
    let l4 = l4(message);
    frame[l4 + 12] = ((5 + options.len() / 4) as u8) << 4 | frame[l4 + 12] & 0xf;
    let tcp = TcpSlice::from_slice(&frame[l4..]).expect("a test's own header");
    let sum = match (message.source, message.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4(a.octets(), b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6(a.octets(), b.octets()),
        _ => panic!("two families"),
    };
    let sum = sum.expect("it is short enough");
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The options of a frame, of which all else is sound.
fn options_of(frame: &[u8]) -> Vec<u8> {
    let l4 = l4(&Message::read(frame));
    frame[l4 + 20..l4 + usize::from(frame[l4 + 12] >> 4) * 4].to_vec()
}

/// The options of a common SYN: this segment size, selective acknowledgements, a window scale.
fn common(size: u16) -> Vec<u8> {
    let [a, b] = size.to_be_bytes();
    vec![2, 4, a, b, 4, 2, 1, 3, 3, 7, 0, 0]
}

fn task_sends(mesh: &Mesh, task: Task, message: &Message, options: &[u8]) -> crate::mesh::Journey {
    let mut frame = with_options(message, options);
    frame[6..12].copy_from_slice(&task.mac());
    mesh.task_sends_frame(task, frame)
}

/// What becomes of the options of a SYN to a published port and of its answer's.
fn to_and_fro(mesh: &Mesh, entry: u32, sent: &Message, task: Task, options: &[u8]) -> [Vec<u8>; 2] {
    let journey = mesh.wire_brings_frame(entry, with_options(sent, options));
    let arrived = journey.frame_at_task(task, GATEWAY_MAC);
    let reply = Message::read(arrived).reply();
    let back = task_sends(mesh, task, &reply, options);
    let left = match &back.end {
        crate::mesh::End::Out { frame, .. } => options_of(frame),
        other => panic!("{other:?}"),
    };
    [options_of(arrived), left]
}

#[test]
fn of_a_published_port_in_both_directions() {
    for (mesh, family) in Mesh::each_with_family() {
        let mut direct = mesh.clone();
        direct.return_direct();
        for mesh in [mesh, direct] {
            for (entry, port, task) in [(1, TCP_C.0, C), (3, TCP_C.0, C), (1, TCP_A.0, A)] {
                for (size, expected) in [
                    (u16::MAX, largest(family)),
                    (1460, largest(family)),
                    (largest(family) + 1, largest(family)),
                    (largest(family), largest(family)),
                    (536, 536),
                    (0, 0),
                ] {
                    let sent = Message::tcp(client(family), 50000, node_address(family, entry), port, SYN);
                    let seen = to_and_fro(&mesh, entry, &sent, task, &common(size));
                    assert_eq!(seen, [common(expected), common(expected)], "of {size}");
                }
            }
        }
    }
}

#[test]
fn between_tasks_and_to_the_world() {
    for (mesh, family) in Mesh::each_with_family() {
        let (long, short) = (common(8960), common(largest(family)));
        for (to, task) in [(B.address(family), B), (C.address(family), C), (address(family, VIP_C), C)] {
            let sent = Message::tcp(A.address(family), 40000, to, 80, SYN);
            let journey = task_sends(&mesh, A, &sent, &long);
            let arrived = journey.frame_at_task(task, A.mac());
            assert_eq!(options_of(arrived), short);
            let reply = Message::read(arrived).reply();
            let back = task_sends(&mesh, task, &reply, &long);
            assert_eq!(options_of(back.frame_at_task(A, task.mac())), short);
        }
        let sent = Message::tcp(A.address(family), 40000, client(family), 80, SYN);
        match &task_sends(&mesh, A, &sent, &long).end {
            crate::mesh::End::Out { frame, .. } => assert_eq!(options_of(frame), short),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn segments_of_an_open_connection_stay_as_they_are() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(A.address(family), 40000, C.address(family), 80, ACK);
        let journey = task_sends(&mesh, A, &sent, &common(8960));
        assert_eq!(options_of(journey.frame_at_task(C, A.mac())), common(8960));
    }
}

#[test]
fn options_of_unusual_shape() {
    for (mesh, family) in Mesh::each_with_family() {
        let [a, b] = largest(family).to_be_bytes();
        let cases: &[(&[u8], &[u8])] = &[
            // None at all: none is added.
            (&[], &[]),
            (&[1, 1, 1, 0], &[1, 1, 1, 0]),
            // At an odd place, its bytes belong to two words of the checksum.
            (&[1, 2, 4, 9, 9, 0, 0, 0], &[1, 2, 4, a, b, 0, 0, 0]),
            (&[1, 1, 1, 2, 4, 9, 9, 0], &[1, 1, 1, 2, 4, a, b, 0]),
            // Behind an option that nobody knows, and at the very end.
            (&[99, 4, 9, 9, 2, 4, 9, 9], &[99, 4, 9, 9, 2, 4, a, b]),
            // Twice: the first, as the kernel's TCPMSS.
            (&[2, 4, 9, 9, 2, 4, 8, 8], &[2, 4, a, b, 2, 4, 8, 8]),
            // Behind as many others as are looked through, and behind one more.
            (&[1, 1, 1, 1, 1, 2, 4, 9, 9, 0, 0, 0], &[1, 1, 1, 1, 1, 2, 4, a, b, 0, 0, 0]),
            (&[1, 1, 1, 1, 1, 1, 2, 4, 9, 9, 0, 0], &[1, 1, 1, 1, 1, 1, 2, 4, 9, 9, 0, 0]),
            // Behind the end of all options nobody looks.
            (&[0, 1, 1, 1, 2, 4, 9, 9], &[0, 1, 1, 1, 2, 4, 9, 9]),
            // Lengths that are none.
            (&[99, 0, 1, 1, 2, 4, 9, 9], &[99, 0, 1, 1, 2, 4, 9, 9]),
            (&[99, 1, 1, 1, 2, 4, 9, 9], &[99, 1, 1, 1, 2, 4, 9, 9]),
            (&[99, 255, 1, 1, 2, 4, 9, 9], &[99, 255, 1, 1, 2, 4, 9, 9]),
            (&[99, 9, 1, 1, 2, 4, 9, 9], &[99, 9, 1, 1, 2, 4, 9, 9]),
            // A length that is not this option's.
            (&[2, 3, 9, 2, 4, 9, 9, 0], &[2, 3, 9, 2, 4, a, b, 0]),
            (&[2, 8, 9, 9, 9, 9, 9, 9], &[2, 8, 9, 9, 9, 9, 9, 9]),
            (&[2, 0, 9, 9], &[2, 0, 9, 9]),
            // Cut off by the end of the header.
            (&[1, 2, 4, 9], &[1, 2, 4, 9]),
            (&[1, 1, 2, 4], &[1, 1, 2, 4]),
            (&[1, 1, 1, 2], &[1, 1, 1, 2]),
        ];
        for (options, expected) in cases {
            let sent = Message::tcp(A.address(family), 40000, B.address(family), 80, SYN).with_payload(7);
            let journey = task_sends(&mesh, A, &sent, options);
            let arrived = journey.frame_at_task(B, A.mac());
            assert_eq!(options_of(arrived), *expected, "of {options:?}");
            assert_eq!(Message::read(arrived), sent);
        }
    }
}

/// The header says that it is longer than the packet.
#[test]
fn a_header_that_does_not_end() {
    for (mesh, family) in Mesh::each_with_family() {
        let sent = Message::tcp(A.address(family), 40000, B.address(family), 80, SYN).with_payload(0);
        for rest in [&[][..], &[2], &[2, 4], &[2, 4, 9], &[2, 4, 9, 9], &[1, 1, 1, 1]] {
            let mut frame = [&sent.frame(A.mac(), B.mac())[..], rest].concat();
            frame[l4(&sent) + 12] = 0xf0;
            let journey = mesh.task_sends_frame(A, frame.clone());
            let arrived = journey.frame_at_task(B, A.mac());
            // What a receiver drops may be changed or not; nothing but the option and the checksum is.
            assert_eq!(arrived[..l4(&sent) + 16], frame[..l4(&sent) + 16]);
            assert_eq!(arrived.len(), frame.len());
        }
    }
}

/// Where the first size stands among the first six options, as Linux reads them (`tcp_parse_options`).
fn first_size(options: &[u8]) -> Option<usize> {
    let mut rest = options;
    for _ in 0..6 {
        match rest {
            [1, behind @ ..] => rest = behind,
            [2, 4, _, _, ..] => return Some(options.len() - rest.len() + 2),
            [kind, length, ..] if *kind != 0 && *length >= 2 => rest = rest.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
    None
}

#[test]
fn options_at_random() {
    let seed = seed("MESH_MSS_SEED", 1);
    println!("MESH_MSS_SEED={seed}");
    let mut random = Random::new(seed);
    let mesh = Mesh::new(Family::V4, false);
    let mut found = 0;
    for round in 0..20_000 {
        let family = random.pick(&[Family::V4, Family::V6]);
        let mut options = vec![];
        while options.len() < 40 && !random.one_in(12) {
            let size = random.word() as u16;
            match random.below(6) {
                0..3 => options.extend([2, 4, size.to_be_bytes()[0], size.to_be_bytes()[1]]),
                3 => options.push(1),
                4 => options.extend([random.byte(), random.below(8) as u8, random.byte()]),
                _ => options.push(random.byte()),
            }
        }
        options.truncate(options.len().min(40) / 4 * 4);
        let sent = Message::tcp(A.address(family), 40000, B.address(family), 80, SYN);
        let journey = task_sends(&mesh, A, &sent, &options);
        let arrived = journey.frame_at_task(B, A.mac());
        // Its checksum is right, and everything else is as it was.
        assert_eq!(Message::read(arrived), sent, "round {round}: {options:?}");
        let mut expected = options.clone();
        if let Some(at) = first_size(&options) {
            let size = u16::from_be_bytes([options[at], options[at + 1]]);
            expected[at..at + 2].copy_from_slice(&size.min(largest(family)).to_be_bytes());
            found += 1;
        }
        assert_eq!(options_of(arrived), expected, "round {round}: {options:?}");
    }
    assert!(found > 10_000, "{found} options were met");
}
