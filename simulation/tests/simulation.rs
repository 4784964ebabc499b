//! A thousand nodes, ten thousand services, millions of packets and random events: no flow is misdelivered.
//!
//! The seed is printed. `MESH_SIMULATION_SEED` runs another, `MESH_SIMULATION_PACKETS` more or fewer packets.

use std::time::Instant;

use mesh_simulation::{Scale, run};

/// The first; others were run as well.
const SEED: u64 = 1;
const PACKETS: u64 = 2_200_000;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text} is no number: {error}")),
        Err(_) => default,
    }
}

#[test]
fn no_flow_is_misdelivered() {
    let seed = variable("MESH_SIMULATION_SEED", SEED);
    let packets = variable("MESH_SIMULATION_PACKETS", PACKETS);
    println!("MESH_SIMULATION_SEED={seed} MESH_SIMULATION_PACKETS={packets}");
    let begin = Instant::now();
    let report = run(seed, Scale { nodes: 1_000, services: 10_000, flows: 20_000, packets });
    println!("{report}in {:.1?}", begin.elapsed());
    assert_eq!(report.faulty, 0, "see above; the seed is {seed}");
}
