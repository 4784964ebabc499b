//! The fast path does what the longer way does, to the byte, or leaves a packet to it.

mod support;

use mesh_common::{
    Verdict,
    abi::{Outcome, Scheduler, Service},
    native::{Buffer, NodeTables},
    pipeline,
};
use support::{
    random::{Random, seed},
    traffic::{self, Entry},
    world::{Interfaces, World},
};

const WORLDS: usize = 200;
const PACKETS: usize = 400;

fn at_xdp(node: &NodeTables, bytes: &[u8]) -> (Verdict, Vec<u8>) {
    let mut packet = Buffer::new(bytes.to_vec());
    let verdict = pipeline::from_underlay(&mut packet, &node.at_xdp());
    (verdict, packet.bytes().to_vec())
}

#[test]
fn both_ways_come_to_the_same() {
    let mut random = Random::new(seed("MESH_FUZZ_SEED", 11));
    let mut fast = 0;
    let mut sent = 0;
    for number in 0..WORLDS {
        let mut world = World::random(&mut random, &Interfaces::SOME);
        if random.one_in(2) {
            // By chance few packets would ask for one that the fast path serves.
            for service in world.node.services.values_mut() {
                *service = Service { scheduler: Scheduler::Mh as u8, persistent: 0, flags: 0, ..*service };
            }
        }
        world.node.hasten();
        let mut longer = world.node.clone();
        longer.fast_services.clear();
        longer.published_ports.clear();
        for packet in 0..PACKETS {
            let frame = traffic::frame(&mut random, &world);
            let Entry::Underlay = frame.entry else { continue };
            let expected = at_xdp(&longer, &frame.bytes);
            let found = at_xdp(&world.node, &frame.bytes);
            assert_eq!(found, expected, "packet {packet} of world {number}: {:02x?}", frame.bytes);
            let is_tunnelled =
                expected.0.outcome() == Outcome::Transmit && expected.1.len() > frame.bytes.len();
            if is_tunnelled {
                // Now the longer way has been to the node. Without any service, only the fast path knows where it is.
                let mut alone = world.node.clone();
                alone.services.clear();
                let found = at_xdp(&alone, &frame.bytes);
                sent += 1;
                if found.0.outcome() == Outcome::Transmit {
                    assert_eq!(found, expected, "packet {packet} of world {number}: {:02x?}", frame.bytes);
                    fast += 1;
                }
            }
        }
    }
    println!("{fast} of {sent} packets went the fast path");
    assert!(fast * 4 > sent && fast > 100, "{fast} packets went the fast path");
}
