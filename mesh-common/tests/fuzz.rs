//! No packet makes the pipeline panic, on any hook, whatever its bytes are.

mod support;

use std::time::{Duration, Instant};

use mesh_common::{
    Tables, Verdict,
    abi::{Flow, FlowKey, Hook, Outcome},
    native::{Buffer, enter, finish},
    pipeline,
};
use support::{
    random::{Random, seed},
    traffic::{self, Entry, Frame},
    world::{Interfaces, World},
};

/// For how long each of the tests runs.
const TIME: Duration = Duration::from_secs(3);

/// Packets that one world sees: enough for flows to be met again.
const PACKETS: usize = 300;

/// Runs a frame through its tc hook and, from the wire, through the XDP hook before.
fn run(world: &World, frame: &Frame) -> Verdict {
    let mut packet = frame.buffer();
    let tables = world.node.at_tc();
    let verdict = match frame.entry {
        Entry::Endpoint(ifindex) => enter(&mut packet, &world.node, Hook::Endpoint, ifindex),
        Entry::Host => enter(&mut packet, &world.node, Hook::Host, Interfaces::SOME.gate),
        Entry::Underlay => {
            let mut early = Buffer::new(frame.bytes.clone());
            let verdict = pipeline::from_underlay(&mut early, &world.node.at_xdp());
            let verdict = finish_untouched(&mut early, frame, &world.node.at_xdp(), verdict);
            match verdict.outcome() {
                Outcome::Pass => assert_eq!(early.bytes(), frame.bytes, "what XDP passes on is untouched"),
                Outcome::Deliver | Outcome::Host | Outcome::Hold | Outcome::Release => {
                    panic!("XDP cannot deliver: {verdict:?}")
                }
                Outcome::Drop | Outcome::Learn | Outcome::Reply | Outcome::Refuse | Outcome::Transmit => {}
            }
            let verdict = enter(&mut packet, &world.node, Hook::Underlay, Interfaces::SOME.uplink);
            if matches!(verdict.outcome(), Outcome::Pass | Outcome::Hold | Outcome::Release) {
                assert_eq!(packet.bytes(), frame.bytes, "what passes on is untouched");
            }
            verdict
        }
    };
    finish_untouched(&mut packet, frame, &tables, verdict)
}

/// Takes a verdict to its end: what is refused must still be as it came, unless a task's packet was translated before.
fn finish_untouched(packet: &mut Buffer, frame: &Frame, tables: &impl Tables, verdict: Verdict) -> Verdict {
    let ingress = match frame.entry {
        Entry::Endpoint(ifindex) => ifindex,
        Entry::Host => Interfaces::SOME.gate,
        Entry::Underlay => {
            if verdict.refusal().is_some() {
                assert_eq!(packet.bytes(), frame.bytes, "what is refused is untouched");
            }
            Interfaces::SOME.uplink
        }
    };
    finish(packet, tables, verdict, ingress)
}

fn for_a_while(seed: u64, mut one: impl FnMut(&mut Random, &World)) {
    println!("MESH_FUZZ_SEED={seed}");
    let mut random = Random::new(seed);
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        let world = World::random(&mut random, &Interfaces::SOME);
        for _ in 0..PACKETS {
            one(&mut random, &world);
        }
    }
}

#[test]
fn packets_nearly_right() {
    let mut outcomes = [0usize; Outcome::ALL.len()];
    let mut packets = 0;
    for_a_while(seed("MESH_FUZZ_SEED", 1), |random, world| {
        let frame = traffic::frame(random, world);
        outcomes[run(world, &frame).outcome() as usize] += 1;
        packets += 1;
    });
    println!(
        "{packets} packets: {:?}",
        Outcome::ALL.map(Outcome::label).iter().zip(outcomes).collect::<Vec<_>>()
    );
    // A fuzzer that gets nothing through would find nothing.
    let [common @ .., held, released] = outcomes;
    assert!(common.iter().all(|count| *count * 200 > packets), "{outcomes:?}");
    assert!(held > 0 && released > 0, "{outcomes:?}");
}

#[test]
fn bytes_without_a_meaning() {
    for_a_while(seed("MESH_FUZZ_SEED", 2), |random, world| {
        let length = random.below(200);
        let mut bytes = random.bytes(length);
        // Or else nearly all of them would be of an unknown protocol.
        if bytes.len() >= 15 {
            let start = random.pick(&[
                [0x08, 0x00, 0x45],
                [0x86, 0xdd, 0x60],
                [0x08, 0x06, 0x00],
                [0x08, 0x00, 0x4f],
            ]);
            bytes[12..15].copy_from_slice(&start);
        }
        let members = world.local_members();
        let entry = match (random.below(3), members.is_empty()) {
            (0, false) => {
                let member = random.pick(&members);
                if bytes.len() >= 12 {
                    bytes[6..12].copy_from_slice(&member.mac());
                }
                Entry::Endpoint(member.ifindex)
            }
            (1, _) => Entry::Host,
            _ => Entry::Underlay,
        };
        run(world, &Frame { entry, bytes, is_aggregate: random.one_in(10) });
    });
}

/// The agent's tables are no less to be survived: numbers that name nothing, and flows that fit nothing.
#[test]
fn tables_without_a_meaning() {
    for_a_while(seed("MESH_FUZZ_SEED", 3), |random, world| {
        let mut world = world.clone();
        let word = |random: &mut Random| random.pick(&[0, 1, u32::MAX, 1 << 24, 7]);
        for service in world.node.services.values_mut() {
            service.first_slot = word(random);
            service.slots = word(random);
            service.scheduler = random.byte();
        }
        for node in &mut world.node.nodes {
            node.mtu = word(random);
        }
        for network in world.node.networks.values_mut() {
            network.mtu = word(random);
        }
        for _ in 0..20 {
            let frame = traffic::sound(random, &world);
            run(&world, &frame);
            for (key, flow) in world.node.flows() {
                world.node.set_flow(key, any_flow(random, &key, &flow));
            }
        }
    });
}

fn any_flow(random: &mut Random, key: &FlowKey, flow: &Flow) -> Flow {
    match random.below(4) {
        0 => Flow { flags: word(random), ..*flow },
        1 => Flow { node: word(random), vni: word(random), ..*flow },
        2 => Flow { source: key.destination, destination: key.source, ..*flow },
        _ => Flow { backend: word(random), service: word(random), ..*flow },
    }
}

fn word(random: &mut Random) -> u32 {
    random.word() as u32 >> random.below(32)
}
