//! UDP datagrams in fragments, in any order.

use mesh_common::abi::FRAGMENTS_LIFETIME;

use crate::{
    limits::fragments,
    mesh::{A, B, C, End, Journey, Mesh, Task, UDP_C, VIP_C, address, client, node_address},
    message::{Body, Message, finish_v4},
};

const PAYLOAD: usize = 200;

/// The datagram that two packets are the fragments of. Reading it checks its checksums.
fn whole(first: &[u8], later: &[u8]) -> Message {
    let is_v4 = first[12] == 8;
    let mut bytes = first.to_vec();
    bytes.extend(&later[14 + if is_v4 { 20 } else { 48 }..]);
    if is_v4 {
        let length = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        bytes[20..22].fill(0);
        finish_v4(&mut bytes);
    } else {
        bytes[20] = bytes[54];
        bytes.drain(54..62);
        let length = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
    }
    Message::read(&bytes)
}

/// Sends a datagram's two fragments, and gives what they came to, the first's before the other's, and where.
fn send(message: &Message, is_in_order: bool, one: impl Fn(Vec<u8>) -> Journey) -> [End; 2] {
    let [first, later] = fragments(message, 64);
    if is_in_order {
        return [one(first), one(later)].map(|journey| journey.end);
    }
    let held = one(later);
    assert!(matches!(held.end, End::Held { .. }), "{held:?}");
    let mut journey = one(first);
    let released = journey.released.pop().map(|journey| journey.end);
    assert_eq!(journey.released.len(), 0);
    [journey.end, released.unwrap_or_else(|| panic!("nothing was released"))]
}

#[track_caller]
fn at(task: Task, ends: [End; 2]) -> Message {
    let [first, later] = ends.map(|end| match end {
        End::Task { node, ifindex, frame } if (node, ifindex) == (task.node, task.ifindex) => frame,
        other => panic!("not at {task:?}: {other:?}"),
    });
    whole(&first, &later)
}

#[track_caller]
fn out_of(node: u32, ends: [End; 2]) -> Message {
    let [first, later] = ends.map(|end| match end {
        End::Out { node: at, frame } if at == node => frame,
        other => panic!("not out of node {node}: {other:?}"),
    });
    whole(&first, &later)
}

fn from_task(mesh: &Mesh, task: Task) -> impl Fn(Vec<u8>) -> Journey {
    move |mut frame| {
        frame[6..12].copy_from_slice(&task.mac());
        mesh.task_sends_frame(task, frame)
    }
}

#[test]
fn a_client_and_a_task_converse_in_fragments() {
    for is_in_order in [true, false] {
        for (mesh, family) in Mesh::each_with_family() {
            let request =
                Message::udp(client(family), 40000, node_address(family, 1), UDP_C.0).with_payload(PAYLOAD);
            let seen = at(C, send(&request, is_in_order, |frame| mesh.wire_brings_frame(1, frame)));
            assert_eq!((seen.source, seen.destination), (client(family), C.address(family)));
            assert_eq!(seen.body, Body::Udp { from: 40000, to: UDP_C.1 });
            assert_eq!(seen.payload, request.payload);

            let answer = seen.reply().with_payload(PAYLOAD);
            let answered = out_of(1, send(&answer, is_in_order, from_task(&mesh, C)));
            assert_eq!((answered.source, answered.destination), (request.destination, request.source));
            assert_eq!(answered.body, Body::Udp { from: UDP_C.0, to: 40000 });
            assert_eq!(answered.payload, answer.payload);
        }
    }
}

#[test]
fn a_task_speaks_in_fragments_to_a_virtual_ip_and_to_the_world() {
    for is_in_order in [true, false] {
        for (mesh, family) in Mesh::each_with_family() {
            let vip = address(family, VIP_C);
            let request = Message::udp(A.address(family), 40000, vip, 53).with_payload(PAYLOAD);
            let seen = at(C, send(&request, is_in_order, from_task(&mesh, A)));
            assert_eq!((seen.source, seen.destination), (A.address(family), C.address(family)));
            let answered = at(A, send(&seen.reply().with_payload(PAYLOAD), is_in_order, from_task(&mesh, C)));
            assert_eq!((answered.source, answered.destination), (vip, A.address(family)));

            let request = Message::udp(A.address(family), 40000, client(family), 53).with_payload(PAYLOAD);
            let seen = out_of(1, send(&request, is_in_order, from_task(&mesh, A)));
            assert_eq!((seen.source, seen.destination), (node_address(family, 1), client(family)));
            let answer = seen.reply().with_payload(PAYLOAD);
            let answered = at(A, send(&answer, is_in_order, |frame| mesh.wire_brings_frame(1, frame)));
            assert_eq!((answered.source, answered.destination), (client(family), A.address(family)));
            assert_eq!(answered.body, Body::Udp { from: 53, to: 40000 });
        }
    }
}

#[test]
fn fragments_wait_for_a_first_of_their_own() {
    for (mesh, family) in Mesh::each_with_family() {
        let request =
            Message::udp(client(family), 40000, node_address(family, 1), UDP_C.0).with_payload(PAYLOAD);
        let [first, later] = fragments(&request, 64);
        let is_held = |frame: &[u8]| {
            let end = mesh.wire_brings_frame(1, frame.to_vec()).end;
            matches!(end, End::Held { node: 1 })
        };
        assert!(is_held(&later));
        // Of another datagram, by its identification.
        let mut other = first.clone();
        if family == mesh_common::abi::Family::V4 {
            other[19] ^= 1;
            finish_v4(&mut other);
        } else {
            other[61] ^= 1;
        }
        let journey = mesh.wire_brings_frame(1, other);
        assert!(journey.released.is_empty(), "{journey:?}");
        // After so long, it is another that has the number again.
        mesh.node(1).set_clock(mesh.node(1).clock() + FRAGMENTS_LIFETIME + 1);
        let journey = mesh.wire_brings_frame(1, first);
        assert!(journey.released.is_empty(), "{journey:?}");
        mesh.node(1).set_clock(mesh.node(1).clock() + FRAGMENTS_LIFETIME + 1);
        assert!(is_held(&later), "its ports are forgotten");
    }
}

#[test]
fn what_is_the_nodes_own_passes_in_the_end() {
    for (mesh, family) in Mesh::each_with_family() {
        let message =
            Message::udp(client(family), 40000, node_address(family, 1), 7777).with_payload(PAYLOAD);
        for is_in_order in [true, false] {
            let mesh = mesh.clone();
            let ends = send(&message, is_in_order, |frame| mesh.wire_brings_frame(1, frame));
            assert_eq!(ends, [End::Stack { node: 1 }, End::Stack { node: 1 }]);
        }
        let between = Message::udp(A.address(family), 1, B.address(family), 2).with_payload(PAYLOAD);
        at(B, send(&between, false, from_task(&mesh, A)));
    }
}
