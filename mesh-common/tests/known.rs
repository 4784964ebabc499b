//! The short way of known flows does what the longer way does, to the byte, or leaves a packet to it.

mod support;

use mesh_common::{
    Verdict,
    abi::{EndpointKey, Flow, FlowKey, Hook, Outcome, Space, VNI_MAX, flow_flags},
    native::{NodeTables, enter, finish},
};
use support::{
    random::{Random, seed},
    traffic::{self, Entry, Frame},
    world::{Interfaces, World},
};

const WORLDS: usize = 500;
const PACKETS: usize = 400;

/// What becomes of a frame, and what its node then knows of flows, without what the short way goes by.
type Outcomes = (Verdict, Vec<u8>, Vec<(FlowKey, Flow)>);

fn run(node: &NodeTables, frame: &Frame) -> Outcomes {
    let (hook, ifindex) = match frame.entry {
        Entry::Endpoint(ifindex) => (Hook::Endpoint, ifindex),
        Entry::Host => (Hook::Host, 0),
        Entry::Underlay => (Hook::Underlay, 0),
    };
    let mut packet = frame.buffer();
    let verdict = enter(&mut packet, node, hook, ifindex);
    let verdict = finish(&mut packet, &node.at_tc(), verdict, ifindex);
    let mut flows = node.flows();
    for (key, flow) in &mut flows {
        forget_short_way(frame.entry, key, flow);
    }
    (verdict, packet.bytes().to_vec(), flows)
}

fn is_clients(key: &FlowKey) -> bool {
    key.scope >> 24 == Space::Published as u32
}

fn is_answers(flow: &Flow) -> bool {
    flow.flags & flow_flags::REPLY != 0 && flow.node != 0
}

/// Takes from a flow what the short way goes by: from the wire the task's interface, and from a task that an answer has passed, or
/// the backend that was chosen.
fn forget_short_way(entry: Entry, key: &FlowKey, flow: &mut Flow) {
    if is_clients(key) || is_answers(flow) {
        flow.vni = 0;
    }
    if !matches!(entry, Entry::Endpoint(_)) {
        return;
    }
    if is_answers(flow) {
        flow.flags &= !flow_flags::ANSWERED;
    } else if key.scope >> 24 == Space::Network as u32 {
        flow.backend = 0;
    }
}

/// The same tables, by which no packet can go the short way.
fn longer(node: &NodeTables, entry: Entry) -> NodeTables {
    let longer = node.clone();
    for (key, mut flow) in node.flows() {
        forget_short_way(entry, &key, &mut flow);
        longer.set_flow(key, flow);
    }
    longer
}

/// A conversation that goes on: flows that are answered and proved, as they mostly are, some of them some time ago.
fn settle_flows(random: &mut Random, node: &NodeTables) {
    for (key, mut flow) in node.flows() {
        if is_clients(&key) {
            let endpoint = EndpointKey { address: key.destination, vni: key.scope & VNI_MAX, reserved: 0 };
            if node.endpoints.contains_key(&endpoint) {
                // Only in these worlds do clients ask for a port at an address of a network.
                flow.vni = 0;
                node.set_flow(key, flow);
            }
        }
        if random.one_in(2) {
            continue;
        }
        if is_clients(&key) {
            flow.flags &= !flow_flags::NEW;
        }
        if is_answers(&flow) {
            flow.flags |= flow_flags::ANSWERED;
        } else if key.scope >> 24 == Space::Network as u32 {
            flow.flags &= !flow_flags::NEW;
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
    // Delivered to tasks, and sent back to entry nodes; of these, by the short way.
    let (mut delivered, mut answered) = ([0, 0], [0, 0]);
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
            let what = || format!("packet {packet} of world {number}: {:02x?}", frame.bytes);
            let by_longer = longer(&world.node, frame.entry);
            // Of what either way asks for, only the longer one needs these.
            let mut alone = world.node.clone();
            alone.networks.clear();
            alone.services.clear();
            let expected = run(&by_longer, &frame);
            let by_short = run(&alone, &frame);
            let found = run(&world.node, &frame);
            assert_eq!(found.0, expected.0, "{}", what());
            if !matches!(found.0.outcome(), Outcome::Drop | Outcome::Learn | Outcome::Hold) {
                assert_eq!(found.1, expected.1, "{}", what());
            }
            assert_eq!(found.2, expected.2, "{}", what());
            let count = match (frame.entry, found.0.outcome()) {
                (Entry::Underlay, Outcome::Deliver) => &mut delivered,
                (Entry::Endpoint(_), Outcome::Transmit) => &mut answered,
                _ => continue,
            };
            count[0] += 1;
            if by_short.0.outcome() == found.0.outcome() {
                assert_eq!((by_short.0, by_short.1), (found.0, found.1), "{}", what());
                count[1] += 1;
            }
        }
    }
    println!("by the short way: delivered {delivered:?}, answered {answered:?}");
    assert!(delivered[1] > 100 && answered[1] > 100, "delivered {delivered:?}, answered {answered:?}");
}
