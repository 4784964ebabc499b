//! Answers that return to their clients leave by the short way as they do by the longer one, to the byte, or are left to that.

mod support;

use mesh_common::{
    Verdict,
    abi::{Hook, Outcome},
    native::{NodeTables, enter},
};
use support::{
    random::{Random, seed},
    traffic::{self, Entry, Frame},
    world::{Interfaces, World},
};

const WORLDS: usize = 500;
const PACKETS: usize = 400;

fn run(node: &NodeTables, hook: Hook, frame: &Frame) -> (Verdict, Vec<u8>) {
    let mut packet = frame.buffer();
    let verdict = enter(&mut packet, node, hook, 0);
    (verdict, packet.bytes().to_vec())
}

#[test]
fn both_ways_come_to_the_same() {
    let mut random = Random::new(seed("MESH_FUZZ_SEED", 13));
    // At XDP, and at tc: answers that left, and those of them that did so by the short way alone.
    let mut left = [[0, 0]; 2];
    for number in 0..WORLDS {
        let world = World::random(&mut random, &Interfaces::SOME);
        let mut before: Option<Frame> = None;
        for packet in 0..PACKETS {
            let mut frame = traffic::frame(&mut random, &world);
            // Another of the last one's kind, which may have been spoilt since.
            if let Some(last) = before.take()
                && !random.one_in(4)
            {
                frame = last;
                if random.one_in(4) {
                    traffic::spoil(&mut random, &mut frame.bytes);
                }
            }
            let Entry::Underlay = frame.entry else { continue };
            for (hook, left) in [Hook::Xdp, Hook::Underlay].into_iter().zip(&mut left) {
                let what = || format!("packet {packet} of world {number} at {hook:?}: {:02x?}", frame.bytes);
                // By then, no way is good any more.
                let later = world.node.clone();
                later.set_clock(world.node.clock() + 10);
                let mut alone = world.node.clone();
                (alone.services, alone.peers, alone.networks) = Default::default();
                let expected = run(&later, hook, &frame);
                let by_short = run(&alone, hook, &frame);
                let found = run(&world.node, hook, &frame);
                assert_eq!(found.0, expected.0, "{}", what());
                if !matches!(found.0.outcome(), Outcome::Drop | Outcome::Learn | Outcome::Hold) {
                    assert_eq!(found.1, expected.1, "{}", what());
                }
                let has_left = found.0.outcome() == Outcome::Transmit && found.1.len() < frame.bytes.len();
                if has_left {
                    before = Some(frame.clone());
                    left[0] += 1;
                    if by_short.0.outcome() == Outcome::Transmit {
                        assert_eq!(by_short, found, "{}", what());
                        left[1] += 1;
                    }
                }
            }
        }
    }
    println!("answers that left, and by the short way: {left:?}");
    assert!(left.iter().all(|[_, by_short]| *by_short > 100), "{left:?}");
}
