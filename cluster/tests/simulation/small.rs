//! A mesh of five.

use std::time::Duration;

use mesh_cluster::{Cluster, MemberState};

use crate::{
    network::{Network, Weather, address},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_killed_node_is_dead_everywhere_in_two_seconds_and_back_at_once() {
    let mut slowest = Duration::ZERO;
    for seed in seeds(40) {
        let mut network = Network::mesh(seed, 5);
        network.run(3 * SECOND);
        network.kill(2);
        let took = network.until(3 * SECOND, |network| {
            network.running().iter().all(|index| network.sees(*index, 2) == Some(MemberState::Dead))
        });
        let took = took.unwrap_or_else(|| panic!("seed {seed}: not dead after three seconds"));
        slowest = slowest.max(took);
        network.start(2, &[address(0)]);
        let back = network.until(SECOND, Network::all_know_all);
        assert!(back.is_some(), "seed {seed}: not back within a second");
    }
    println!("slowest death: {slowest:?}");
    assert!(slowest < 2 * SECOND, "{slowest:?}");
}

#[test]
fn a_node_that_is_restarted_before_anybody_noticed_takes_its_own_place() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 5);
        network.kill(2);
        network.run(Duration::from_millis(100));
        network.start(2, &[address(0)]);
        let back = network.until(SECOND, Network::all_know_all);
        assert!(back.is_some(), "seed {seed}");
        network.run(5 * SECOND);
        assert!(network.all_know_all(), "seed {seed}");
    }
}

#[test]
fn a_node_that_stood_still_declares_nobody_dead_for_its_own_absence() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 5);
        network.run(2 * SECOND);
        // It suspects somebody, who denies it while it stands still.
        network.nodes[4].side = 1;
        let suspects = |network: &Network| network.sees(2, 4) == Some(MemberState::Suspect);
        assert!(network.until(3 * SECOND, suspects).is_some(), "seed {seed}");
        network.nodes[4].side = 0;
        network.nodes[2].paused = network.now + 4 * SECOND;
        network.run(3900 * SECOND / 1000);
        assert_eq!(network.sees(0, 2), Some(MemberState::Dead), "seed {seed}");
        for _ in 0..200 {
            network.run(Duration::from_millis(20));
            for other in [0, 1, 3, 4] {
                assert!(network.sees(2, other).unwrap().lives(), "seed {seed}: {other}");
                assert!([0, 1, 3, 4].iter().all(|index| network.sees(*index, other).unwrap().lives()));
            }
        }
        assert!(network.all_know_all(), "seed {seed}");
    }
}

#[test]
fn who_is_said_to_be_dead_is_asked_before_anybody_believes_it() {
    for seed in seeds(5) {
        let mut network = Network::mesh(seed, 30);
        network.weather = Weather::bad();
        network.run(3 * SECOND);
        let (living, of) = (Vec::<()>::new(), |index: usize| network.nodes[index].identity.clone());
        let (by, dead) = (of(1), of(7));
        let dead = vec![(dead.id, dead.incarnation, 0_u32, false, dead.name, dead.address)];
        // A comparison of members, by its variant.
        let peers = (1_u8, by.id, 10_u8, u64::MAX, living, dead, 30_u32, false);
        let message = postcard::to_allocvec(&peers).unwrap();
        network.call(2, |cluster, now| cluster.receive(now, address(1), &message));
        assert_eq!(network.sees(2, 7), Some(MemberState::Suspect), "seed {seed}");
        for _ in 0..150 {
            network.run(Duration::from_millis(20));
            for index in 0..30 {
                assert!(network.sees(index, 7).unwrap().lives(), "seed {seed}: {index}");
            }
        }
        assert_eq!(network.sees(2, 7), Some(MemberState::Alive), "seed {seed}");
    }
}

#[test]
fn a_copied_state_is_refused_and_a_node_that_moved_is_not() {
    let mut network = Network::mesh(1, 3);
    let copy = network.add();
    network.nodes[copy].identity.id = network.nodes[1].identity.id;
    network.nodes[copy].identity.incarnation = 9;
    network.start(copy, &[address(0)]);
    network.run(2 * SECOND);
    let refused = network.nodes[copy].refused.clone();
    assert!(refused[0].contains("the state of one was copied to the other"), "{refused:?}");
    network.kill(copy);
    // The same node, at another address.
    network.kill(1);
    let moved = network.add();
    network.nodes[moved].identity.id = network.nodes[1].identity.id;
    network.nodes[moved].identity.name = "n1".to_owned();
    network.nodes[moved].identity.incarnation = 9;
    network.start(moved, &[address(0)]);
    assert!(network.until(2 * SECOND, Network::all_know_all).is_some());
    assert_eq!(network.cluster(2).members().len(), 3);
}

#[test]
fn what_a_clock_wrong_by_days_stamps_is_not_taken() {
    let mut network = Network::new(1);
    for index in 0..3 {
        network.add();
        if index == 2 {
            network.nodes[index].wrong = 3 * 86_400_000;
        }
        network.start(index, &[address(0)]);
    }
    network.run(2 * SECOND);
    network.write(2, "later", Some("1"));
    network.write(0, "now", Some("1"));
    network.run(3 * SECOND);
    assert_eq!(network.value(0, "later"), None);
    assert_eq!(network.value(2, "now").as_deref(), Some("1"));
    let not_taken: Vec<_> = network.nodes.iter().map(|node| node.not_taken.map(|stamp| stamp.node)).collect();
    let later = Some(network.nodes[2].identity.id);
    assert_eq!(not_taken, [later, later, None], "who does not take it says so");
    network.nodes[0].not_taken = None;
    network.run(20 * SECOND);
    assert_eq!(
        network.nodes[0].not_taken.map(|stamp| stamp.node),
        later,
        "and again, since it is offered again"
    );
    assert!(network.write(1, "now", Some("2")).time < 1_770_001_000_000);
}

#[test]
fn two_sides_of_a_partition_are_equal_within_five_seconds_after_it() {
    let mut slowest = Duration::ZERO;
    for seed in seeds(40) {
        let mut network = Network::mesh(seed, 5);
        network.write(0, "there", Some("before"));
        network.run(2 * SECOND);
        for index in [0, 3] {
            network.nodes[index].side = 1;
        }
        network.run(10 * SECOND);
        network.write(0, "left", Some("1"));
        network.write(1, "right", Some("2"));
        network.write(3, "both", Some("left"));
        network.write(4, "both", Some("right"));
        network.write(4, "there", None);
        network.run(3 * SECOND);
        for node in &mut network.nodes {
            node.side = 0;
        }
        let took = network.until(10 * SECOND, |network| network.all_equal() && network.all_know_all());
        let took = took.unwrap_or_else(|| panic!("seed {seed}: not equal after ten seconds"));
        slowest = slowest.max(took);
        assert_eq!(network.value(4, "left").as_deref(), Some("1"));
        assert_eq!(network.value(0, "right").as_deref(), Some("2"));
        assert_eq!(network.value(0, "there"), None);
    }
    println!("slowest to be equal: {slowest:?}");
    assert!(slowest < 5 * SECOND, "{slowest:?}");
}

#[test]
fn nobody_of_a_side_seems_dead_to_his_own_side_when_a_partition_heals() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 5);
        for index in [0, 3] {
            network.nodes[index].side = 1;
        }
        // Also when the news of the deaths is fresh.
        let after = Duration::from_millis(900 + 150 * (seed % 20));
        network.run(after);
        for node in &mut network.nodes {
            node.side = 0;
        }
        let sides = [vec![0, 3], vec![1, 2, 4]];
        for _ in 0..250 {
            network.run(Duration::from_millis(20));
            for side in &sides {
                for (a, b) in side.iter().flat_map(|a| side.iter().map(move |b| (*a, *b))) {
                    let state = network.sees(a, b).unwrap();
                    assert!(state.lives(), "seed {seed}: {a} sees {b} {state:?}");
                }
            }
        }
        assert!(network.all_know_all(), "seed {seed}");
    }
}

#[test]
fn all_killed_and_restarted_they_are_as_before() {
    let mut network = Network::mesh(1, 5);
    network.write(3, "web", Some("1"));
    network.run(2 * SECOND);
    for index in 0..5 {
        network.kill(index);
    }
    network.run(5 * SECOND);
    for index in 0..5 {
        network.start(index, &[address(0), address(1)]);
    }
    assert!(network.until(3 * SECOND, Network::all_know_all).is_some());
    assert!(network.all_equal());
    assert_eq!(network.value(4, "web").as_deref(), Some("1"));
}

#[test]
fn who_leaves_has_left_everywhere_at_once_and_may_come_back() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 5);
        network.weather = Weather::bad();
        network.run(3 * SECOND);
        network.call(1, Cluster::leave);
        network.run(Duration::from_millis(50));
        network.kill(1);
        network.run(Duration::from_millis(450));
        for index in network.running() {
            assert_eq!(network.sees(index, 1), Some(MemberState::Left), "seed {seed}: {index}");
        }
        network.start(1, &[address(0)]);
        assert!(network.until(3 * SECOND, Network::all_know_all).is_some(), "seed {seed}");
    }
}

#[test]
fn a_name_or_an_address_in_use_is_refused_with_a_sentence() {
    let mut network = Network::mesh(1, 3);
    let clash = network.add();
    network.nodes[clash].identity.name = "n1".to_owned();
    network.start(clash, &[address(0)]);
    network.run(3 * SECOND);
    let refused = &network.nodes[clash].refused;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].starts_with("n0: the name \"n1\" is in use by a living node at 10.0.0.2:7946"),
        "{refused:?}"
    );
    assert_eq!(network.cluster(clash).members().len(), 1);
    assert_eq!(network.cluster(0).members().len(), 3);
    // The other one restarts, and keeps its name.
    network.kill(1);
    network.run(15 * SECOND);
    assert_eq!(network.cluster(clash).members().len(), 1);
    network.start(1, &[address(0)]);
    network.run(2 * SECOND);
    assert_eq!(network.sees(0, 1), Some(MemberState::Alive));
    assert_eq!(network.cluster(clash).members().len(), 1);
    // The clash ends.
    network.kill(1);
    assert!(network.until(26 * SECOND, Network::all_know_all).is_some());
    let names = |network: &Network| -> Vec<String> {
        network.cluster(0).members().into_iter().map(|member| member.identity.name).collect()
    };
    assert_eq!(names(&network), ["n0", "n1", "n2"]);
}

#[test]
fn who_is_refused_does_not_come_in_at_a_place_that_others_say_hello_to() {
    for seed in seeds(20) {
        let mut network = Network::mesh(seed, 3);
        let own = network.nodes[1].identity.id;
        network.kill(2);
        if seed % 2 == 0 {
            network.run(3 * SECOND);
        }
        // It comes up where a dead node was, which the others look for, or will in a moment.
        let other = network.add();
        let other = network.nodes[other].identity.id;
        network.nodes[2].identity.id = other;
        network.nodes[2].identity.name = "n1".to_owned();
        network.call(0, |cluster, now| cluster.join(now, &[address(1), address(2)]));
        network.start(2, &[address(0)]);
        for _ in 0..500 {
            network.run(Duration::from_millis(20));
            for index in [0, 1] {
                let members = network.cluster(index).members();
                let lives = |id| members.iter().any(|of| of.identity.id == id && of.state.lives());
                assert!(lives(own) && !lives(other), "seed {seed}: {members:?}");
            }
            assert_eq!(network.cluster(2).members().len(), 1, "seed {seed}");
        }
        // Each reason is told once, however many give it and however often. The address is in use too, until its node is dead.
        let refused = &network.nodes[2].refused;
        assert!(refused.len() <= if seed % 2 == 0 { 1 } else { 2 }, "seed {seed}: {refused:?}");
        assert!(refused[refused.len() - 1].contains("the name \"n1\" is in use"), "seed {seed}: {refused:?}");
        // The one of that name restarts, and leaves another alone who looks for both of them.
        network.kill(1);
        for round in 0..300 {
            network.run(Duration::from_millis(50));
            if round == 200 {
                network.start(1, &[address(0)]);
            }
            let members = network.cluster(0).members();
            assert!(members.iter().all(|of| of.identity.id != other), "seed {seed}: {members:?}");
            assert_eq!(network.cluster(2).members().len(), 1, "seed {seed}");
        }
        assert_eq!(network.sees(0, 1), Some(MemberState::Alive), "seed {seed}");
    }
}

#[test]
fn of_two_of_a_name_that_came_in_on_two_sides_one_goes() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 4);
        for index in [2, 3] {
            network.nodes[index].side = 1;
        }
        let (a, b) = (network.add(), network.add());
        network.nodes[b].side = 1;
        for index in [a, b] {
            network.nodes[index].identity.name = "twin".to_owned();
        }
        network.start(a, &[address(0)]);
        network.start(b, &[address(2)]);
        network.run(4 * SECOND);
        for node in &mut network.nodes {
            node.side = 0;
        }
        network.run(6 * SECOND);
        let refused = [a, b].iter().filter(|index| !network.nodes[**index].refused.is_empty()).count();
        assert_eq!(refused, 1, "seed {seed}");
        let twins = |index: usize| {
            let members = network.cluster(index).members();
            members.iter().filter(|member| member.identity.name == "twin" && member.state.lives()).count()
        };
        assert!((0..4).all(|index| twins(index) == 1), "seed {seed}: {:?}", network.cluster(0).members());
    }
}

#[test]
fn what_is_confirmed_is_applied_everywhere_and_who_has_not_is_named() {
    for seed in seeds(10) {
        let mut network = Network::mesh(seed, 5);
        network.weather = Weather::bad();
        network.write(0, "web", Some("1"));
        let keys = vec![mesh_cluster::Key::new(mesh_cluster::Kind::Service, "web")];
        let id = network.call(0, |cluster, now| cluster.confirm(now, keys.clone()));
        assert_eq!(network.nodes[0].confirmed[&id].len(), 5, "seed {seed}");
        let took = network.until(2 * SECOND, |network| network.nodes[0].confirmed[&id].is_empty());
        assert!(took.is_some(), "seed {seed}: {:?}", network.nodes[0].confirmed);
        assert!((0..5).all(|index| network.value(index, "web").as_deref() == Some("1")), "seed {seed}");
        // One does not hear of it, and is then dead.
        network.nodes[4].side = 1;
        network.write(0, "web", Some("2"));
        let id = network.call(0, |cluster, now| cluster.confirm(now, keys));
        let took = network.until(SECOND, |network| network.nodes[0].confirmed[&id] == ["n4"]);
        assert!(took.is_some(), "seed {seed}: {:?}", network.nodes[0].confirmed);
        network.run(4 * SECOND);
        assert!(network.nodes[0].confirmed[&id].is_empty(), "seed {seed}");
    }
}

#[test]
fn a_write_is_everywhere_in_a_moment() {
    let mut network = Network::mesh(1, 5);
    network.run(SECOND);
    network.write(0, "web", Some("1"));
    let took = network.until(SECOND, Network::all_equal).unwrap();
    assert!(took <= Duration::from_millis(20), "{took:?}");
}

#[test]
fn what_fits_no_datagram_and_what_is_much_arrives_too() {
    let mut network = Network::mesh(1, 5);
    network.weather = Weather::bad();
    let long = "x".repeat(60_000);
    network.write(0, "long", Some(&long));
    let took = network.until(3 * SECOND, Network::all_equal).unwrap();
    let writes = (0..20_000).map(|number| mesh_cluster::Write {
        key: mesh_cluster::Key::new(mesh_cluster::Kind::Endpoint, format!("endpoint.{number}")),
        value: Some("y".repeat(300).into()),
    });
    let writes: Vec<_> = writes.collect();
    network.call(3, |cluster, now| cluster.write(now, writes).unwrap());
    let many = network.until(10 * SECOND, Network::all_equal).unwrap();
    println!("60 kB: {took:?}; 20,000 entries: {many:?}");
    assert_eq!(network.cluster(1).store().len(), 20_001);
}
