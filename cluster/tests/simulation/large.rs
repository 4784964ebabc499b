//! Many nodes, a fifth of all datagrams lost, nodes that come and go, and partitions.

use std::time::{Duration, Instant};

use mesh_cluster::Cluster;
use rand::{RngExt, seq::IndexedRandom};

use crate::{
    network::{Network, Weather, address},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);

/// How much happens in a run.
struct Plan {
    nodes: usize,
    /// Seconds in which nothing happens.
    calm: u32,
    /// Which share of the nodes the partition splits off.
    share: f64,
    /// How many rounds of a quarter of a second nodes come and go.
    rounds: usize,
}

/// What a run came to.
#[derive(Debug)]
struct Findings {
    /// Until everybody knew everybody.
    found: Duration,
    /// Until everybody had what was written somewhere: the median of some writes, and the slowest.
    written: (Duration, Duration),
    /// Bytes that each node sent in a second, headers included: while nothing happened, and while nodes wrote.
    calm: u64,
    writing: u64,
    /// Until all were equal, and knew one another, after churn and a partition.
    healed: Duration,
}

fn sent(network: &Network) -> u64 {
    network.nodes.iter().map(|node| node.sent).sum()
}

/// Writes or deletes something, somewhere.
fn write_somewhere(network: &mut Network, round: usize) {
    let Some(index) = network.running().choose(&mut network.rng).copied() else { return };
    let name = format!("service.{}", network.rng.random_range(0..200));
    let value = format!("{{\"round\":{round},\"filler\":\"{}\"}}", "x".repeat(150));
    let deletes = network.rng.random_bool(0.2);
    network.write(index, &name, (!deletes).then_some(&value));
}

fn run(seed: u64, plan: &Plan) -> Findings {
    let Plan { nodes, calm: calm_seconds, share, rounds } = *plan;
    let mut network = Network::new(seed);
    network.weather = Weather::bad();
    let seeds = [address(0), address(1), address(2)];
    for _ in 0..nodes {
        let index = network.add();
        network.start(index, &seeds);
    }
    let begin = network.now;
    network.until(30 * SECOND, Network::all_know_all).unwrap_or_else(|| panic!("seed {seed}: not all found"));
    let found = network.now - begin;

    // Nothing happens: nobody may seem dead to anybody.
    network.run(3 * SECOND);
    let (calm_begin, calm_sent) = (network.now, sent(&network));
    network.run(calm_seconds * SECOND);
    let calm = (sent(&network) - calm_sent) / u64::from(calm_seconds) / nodes as u64;
    for index in 0..nodes {
        let origin = Duration::from_secs(index as u64);
        for member in network.cluster(index).members() {
            let since = member.since.saturating_sub(origin);
            assert!(
                member.state.lives() && since <= calm_begin,
                "seed {seed}: n{index} took {} for dead",
                member.identity.name
            );
        }
    }

    let writing_sent = sent(&network);
    let writing_begin = network.now;
    let mut written = Vec::new();
    for round in 0..10 {
        write_somewhere(&mut network, round);
        let took = network.until(10 * SECOND, Network::all_equal);
        written
            .push(took.unwrap_or_else(|| panic!("seed {seed}: a write is not everywhere after ten seconds")));
        network.run(SECOND / 5);
    }
    written.sort();
    let took = u64::try_from((network.now - writing_begin).as_millis()).unwrap();
    let writing = (sent(&network) - writing_sent) * 1000 / took / nodes as u64;

    // Nodes come and go, with and without their disks, in a mesh that is split and whole in turns.
    for round in 0..rounds {
        for _ in 0..1 + nodes / 500 {
            write_somewhere(&mut network, round);
        }
        if round % 2 == 0 {
            let index = network.rng.random_range(3..nodes);
            if network.nodes[index].cluster.is_none() {
                if network.rng.random_bool(0.3) {
                    network.nodes[index].disk = mesh_cluster::Store::default();
                }
                network.start(index, &seeds);
            } else if network.rng.random_bool(0.3) {
                network.call(index, Cluster::leave);
                network.kill(index);
            } else {
                network.kill(index);
            }
        }
        if round == rounds / 4 {
            for index in 0..nodes {
                network.nodes[index].side = u32::from(network.rng.random_bool(share));
            }
        } else if round == rounds * 3 / 4 {
            for node in &mut network.nodes {
                node.side = 0;
            }
        }
        network.run(SECOND / 4);
    }
    for index in 0..nodes {
        if network.nodes[index].cluster.is_none() {
            network.start(index, &seeds);
        }
    }
    let healed = network.until(60 * SECOND, |network| network.all_equal() && network.all_know_all());
    let healed = healed.unwrap_or_else(|| panic!("seed {seed}: not equal a minute after the partition"));
    assert!(network.cluster(0).store().len() > 20);
    Findings {
        found,
        written: (written[written.len() / 2], written[written.len() - 1]),
        calm,
        writing,
        healed,
    }
}

fn run_and_tell(seed: u64, plan: &Plan) -> Findings {
    let begin = Instant::now();
    let findings = run(seed, plan);
    let Findings { found, written, calm, writing, healed } = &findings;
    println!(
        "seed {seed}: {} nodes found one another in {found:.1?}; a write was everywhere in {:.2?} (slowest {:.2?}); each \
         node sent {calm} B/s in calm, {writing} B/s with writes; all equal {healed:.1?} after churn and a partition \
         ({:.1?} of real time)",
        plan.nodes,
        written.0,
        written.1,
        begin.elapsed()
    );
    findings
}

#[test]
fn sixty_nodes() {
    for seed in seeds(10) {
        let findings = run_and_tell(seed, &Plan { nodes: 60, calm: 15, share: 0.4, rounds: 40 });
        assert!(findings.healed < 5 * SECOND, "seed {seed}: {findings:?}");
    }
}

#[test]
fn five_hundred_nodes() {
    for seed in seeds(1) {
        let findings = run_and_tell(seed, &Plan { nodes: 500, calm: 5, share: 0.4, rounds: 24 });
        assert!(findings.healed < 5 * SECOND, "seed {seed}: {findings:?}");
    }
}

#[test]
#[ignore = "takes minutes of processor time; what it found is in docs/decisions/0020-gossip.md"]
fn two_thousand_nodes() {
    for seed in seeds(1) {
        let findings = run_and_tell(seed, &Plan { nodes: 2000, calm: 4, share: 0.03, rounds: 16 });
        assert!(findings.healed < 10 * SECOND, "seed {seed}: {findings:?}");
    }
}

#[test]
#[ignore = "takes many minutes of processor time"]
fn two_thousand_nodes_split_in_two() {
    for seed in seeds(1) {
        let findings = run_and_tell(seed, &Plan { nodes: 2000, calm: 30, share: 0.4, rounds: 40 });
        assert!(findings.healed < 10 * SECOND, "seed {seed}: {findings:?}");
    }
}
