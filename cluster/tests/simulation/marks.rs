//! The marks of deletions, and when they are forgotten.

use std::time::Duration;

use mesh_cluster::{Key, Kind, Write};

use crate::{
    network::{Network, address},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);

/// A mesh of five in which marks are kept for 70 seconds, and clocks are wrong in proportion.
fn mesh(seed: u64) -> Network {
    let mut network = Network::new(seed);
    network.settings.marks_kept = 70 * SECOND;
    for index in 0..5 {
        network.add();
        network.nodes[index].wrong /= 10_000;
        network.start(index, &[address(0)]);
    }
    assert!(network.until(5 * SECOND, Network::all_know_all).is_some());
    for index in 0..5 {
        let name = network.nodes[index].identity.name.clone();
        let write = Write { key: Key::new(Kind::Node, name), value: Some("{}".into()) };
        network.call(index, |cluster, now| cluster.write(now, vec![write]).unwrap());
    }
    network.write(0, "kept", Some("1"));
    network.write(0, "gone", Some("1"));
    network.run(2 * SECOND);
    network
}

fn marks(network: &Network) -> usize {
    let stores = network.running().into_iter().map(|index| network.cluster(index).store());
    stores.map(|store| store.entries().filter(|(_, entry)| entry.value.is_none()).count()).sum()
}

#[test]
fn a_mark_is_forgotten_everywhere_when_it_is_old_and_all_are_there() {
    for seed in seeds(5) {
        let mut network = mesh(seed);
        network.write(1, "gone", None);
        network.run(65 * SECOND);
        assert_eq!(marks(&network), 5, "seed {seed}");
        network.run(10 * SECOND);
        assert_eq!(marks(&network), 0, "seed {seed}");
        assert!(network.all_equal());
        assert_eq!(network.value(3, "kept").as_deref(), Some("1"));
    }
}

#[test]
fn a_mark_is_kept_while_a_node_is_missing_and_deletes_what_that_has() {
    for seed in seeds(5) {
        let mut network = mesh(seed);
        network.kill(4);
        network.write(1, "gone", None);
        network.run(200 * SECOND);
        assert_eq!(marks(&network), 4, "seed {seed}");
        // All others start again meanwhile, and know of it by the store alone.
        for index in 0..4 {
            network.kill(index);
        }
        for index in 0..4 {
            network.start(index, &[address(0), address(1)]);
        }
        network.run(100 * SECOND);
        assert_eq!(marks(&network), 4, "seed {seed}");
        network.start(4, &[address(0)]);
        let equal = network.until(5 * SECOND, |network| network.all_equal() && network.all_know_all());
        assert!(equal.is_some());
        assert_eq!(network.entry(4, "gone").unwrap().value, None);
        network.run(10 * SECOND);
        assert_eq!(marks(&network), 0, "seed {seed}");
    }
}

#[test]
fn a_node_that_was_removed_and_comes_back_much_later_brings_nothing_back() {
    for seed in seeds(5) {
        let mut network = mesh(seed);
        network.settings.dead_kept = 20 * SECOND;
        for index in 0..4 {
            // With the shorter memory for the dead.
            network.kill(index);
            network.start(index, &[address(4)]);
        }
        network.run(3 * SECOND);
        network.kill(4);
        network.run(5 * SECOND);
        // Somebody removes it.
        let write = Write { key: Key::new(Kind::Node, "n4"), value: None };
        network.call(0, |cluster, now| cluster.write(now, vec![write]).unwrap());
        network.write(1, "gone", None);
        network.run(120 * SECOND);
        assert_eq!(marks(&network), 0, "seed {seed}");
        assert!(network.nodes[4].disk.value(&Key::new(Kind::Service, "gone")).is_some());
        network.start(4, &[address(0)]);
        let equal = network.until(10 * SECOND, |network| network.all_equal() && network.all_know_all());
        assert!(equal.is_some(), "seed {seed}");
        for index in 0..5 {
            assert_eq!(network.entry(index, "gone"), None, "seed {seed}");
            assert_eq!(network.value(index, "kept").as_deref(), Some("1"), "seed {seed}");
        }
        network.run(5 * SECOND);
        assert!(network.all_equal());
    }
}

#[test]
fn a_new_node_gets_what_is_older_than_what_is_forgotten() {
    let mut network = mesh(1);
    network.write(1, "gone", None);
    network.run(80 * SECOND);
    assert_eq!(marks(&network), 0);
    let new = network.add();
    network.nodes[new].wrong = 0;
    network.start(new, &[address(2)]);
    assert!(network.until(3 * SECOND, |network| network.all_equal() && network.all_know_all()).is_some());
    assert_eq!(network.value(new, "kept").as_deref(), Some("1"));
}

#[test]
fn after_a_long_partition_with_changes_on_both_sides_nothing_is_lost() {
    for seed in seeds(5) {
        let mut network = mesh(seed);
        for index in [0, 3] {
            network.nodes[index].side = 1;
        }
        network.run(5 * SECOND);
        network.write(0, "left", Some("1"));
        network.write(1, "right", Some("1"));
        network.write(2, "gone", None);
        // Longer than marks are kept.
        network.run(300 * SECOND);
        for node in &mut network.nodes {
            node.side = 0;
        }
        let equal = network.until(5 * SECOND, |network| network.all_equal() && network.all_know_all());
        assert!(equal.is_some(), "seed {seed}");
        assert_eq!(network.value(1, "left").as_deref(), Some("1"), "seed {seed}");
        assert_eq!(network.value(0, "right").as_deref(), Some("1"), "seed {seed}");
        assert_eq!(network.value(0, "gone"), None, "seed {seed}");
    }
}
