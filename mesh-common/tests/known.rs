//! The short way of known flows does what the longer way does, to the byte, or leaves a packet to it.

mod support;

use mesh_common::{
    Verdict,
    abi::{EndpointKey, Flow, FlowKey, Outcome, Space, VNI_MAX, flow_flags},
    native::{Buffer, NodeTables, finish},
    pipeline,
};
use support::{
    random::{Random, seed},
    traffic::{self, Entry, Frame},
    world::{Interfaces, World},
};

const WORLDS: usize = 300;
const PACKETS: usize = 400;

/// What became of a frame, and what its node then knows of flows.
type Outcomes = (Verdict, Vec<u8>, Vec<(FlowKey, Flow)>);

fn by_the_short_way(node: &NodeTables, frame: &Frame) -> Option<Outcomes> {
    let mut packet = frame.buffer();
    let verdict = match frame.entry {
        Entry::Endpoint(ifindex) => pipeline::known_from_endpoint(&mut packet, &node.at_tc(), ifindex),
        Entry::Host => None,
        Entry::Underlay => pipeline::known_from_underlay(&mut packet, &node.at_tc()),
    };
    if verdict.is_none() {
        assert_eq!(packet.bytes(), frame.bytes, "what goes the longer way is untouched");
    }
    verdict.map(|verdict| (verdict, packet.bytes().to_vec(), node.flows()))
}

/// And the verdict before what is refused was answered, and unknown flows were asked for.
fn by_the_longer_way(node: &NodeTables, frame: &Frame) -> (Verdict, Outcomes) {
    let mut packet: Buffer = frame.buffer();
    let (first, ifindex) = match frame.entry {
        Entry::Endpoint(ifindex) => (pipeline::from_endpoint(&mut packet, &node.at_tc(), ifindex), ifindex),
        Entry::Host => (pipeline::from_host(&mut packet, &node.at_tc()), 0),
        Entry::Underlay => (pipeline::from_underlay(&mut packet, &node.at_tc()), 0),
    };
    let verdict = finish(&mut packet, &node.at_tc(), first, ifindex);
    (first, (verdict, packet.bytes().to_vec(), node.flows()))
}

/// A conversation that goes on: flows that are answered and proved, as they mostly are, some of them some time ago.
fn settle_flows(random: &mut Random, node: &NodeTables) {
    for (key, mut flow) in node.flows() {
        let is_clients = key.scope >> 24 == Space::Published as u32;
        let published = EndpointKey { address: key.destination, vni: key.scope & VNI_MAX, reserved: 0 };
        if is_clients && node.endpoints.contains_key(&published) {
            // Only in these worlds do clients ask for a port at an address of a network.
            flow.vni = 0;
        }
        if random.one_in(2) {
            if flow.flags & flow_flags::REPLY != 0 {
                flow.flags |= flow_flags::ANSWERED;
            } else {
                flow.flags &= !flow_flags::NEW;
            }
        }
        if random.one_in(3) {
            flow.seen = node.clock() - random.pick(&[0, 1, 119, 120, 121]);
        }
        node.set_flow(key, flow);
    }
}

#[test]
fn both_ways_come_to_the_same() {
    let mut random = Random::new(seed("MESH_FUZZ_SEED", 12));
    // By the short way: from clients to tasks, answers to them, and between tasks from the wire and to it; and what is foreign.
    let [mut delivered, mut answered, mut arrived, mut sent, mut foreign] = [0; 5];
    for number in 0..WORLDS {
        let mut world = World::random(&mut random, &Interfaces::SOME);
        if random.one_in(2) {
            // By chance, few flows would be of a service that they can go the short way to.
            for service in world.node.services.values_mut() {
                (service.persistent, service.flags) = (0, 0);
            }
            world.node.settings.flags = 0;
        }
        for packet in 0..PACKETS {
            settle_flows(&mut random, &world.node);
            let frame = traffic::frame(&mut random, &world);
            let short = by_the_short_way(&world.node.clone(), &frame);
            let ports = std::mem::take(&mut world.node.published_ports);
            let (first, longer) = by_the_longer_way(&world.node, &frame);
            world.node.published_ports = ports;
            let Some(short) = short else { continue };
            let what = || format!("packet {packet} of world {number}: {:02x?}", frame.bytes);
            assert_eq!((short.0, &short.2), (longer.0, &longer.2), "{}", what());
            assert!(!first.is_for_fragments() && !first.is_unknown(), "{}", what());
            assert_eq!(short.1, longer.1, "{}", what());
            let grew = short.1.len().cmp(&frame.bytes.len());
            let is_answer = short
                .1
                .get(30..)
                .is_some_and(|bytes| bytes.windows(6).take(40).any(|bytes| bytes == traffic::RETURN_MAC));
            match (frame.entry, short.0.outcome()) {
                (Entry::Underlay, Outcome::Deliver) if is_routed(&frame, &short.1) => delivered += 1,
                (Entry::Underlay, Outcome::Deliver) => arrived += 1,
                (Entry::Endpoint(_), Outcome::Transmit) if is_answer => answered += 1,
                (Entry::Endpoint(_), _) => sent += 1,
                (Entry::Underlay, Outcome::Pass) => foreign += 1,
                // An answer that leaves: see the tests of those.
                _ => assert!(grew.is_lt(), "{}", what()),
            }
        }
    }
    let counts = format!(
        "delivered {delivered}, answered {answered}, arrived {arrived}, sent {sent}, foreign {foreign}"
    );
    println!("{counts}");
    assert!(delivered > 50 && answered > 30 && arrived > 30 && sent > 1000 && foreign > 1000, "{counts}");
}

/// Whether a packet out of a tunnel comes from its network's gateway, as clients' do.
fn is_routed(frame: &Frame, bytes: &[u8]) -> bool {
    let tunnel = frame.bytes.len() - bytes.len();
    let hops = |bytes: &[u8]| match bytes.get(14).map(|version| version >> 4) {
        Some(4) => bytes.get(22).copied(),
        _ => bytes.get(21).copied(),
    };
    let inner = frame.bytes.get(tunnel..).unwrap_or_default();
    hops(inner) != hops(bytes)
}
