//! No double allocation: random histories of networks, services and endpoints on the real code of the cluster and of its
//! replicas, over a simulated network, held to promises by a checker in the manner of Jepsen.
//!
//! Five nodes run [`mesh_cluster::Cluster`], and on each an agent follows the store, settles it into a table, writes down what
//! settling has moved and says what it has applied, all by the code of `replica` that meshd runs. A tenth of all datagrams is lost,
//! clocks are wrong by minutes, the network falls apart, and nodes are killed and come back with their disks. Half of the commands
//! are confirmed, as with `--wait`.
//!
//! An object is what was created under a key at a time: what is created anew, or elsewhere under the same name at the same
//! moment, is another one. Older is what was created with the lesser stamp. A view is what an agent makes of its store when it
//! takes it over. The promises:
//!
//! 1. In each view no VNI, no allocated subnet and no address in a network (virtual IP, endpoint, gateway) has two owners; views of
//!    equal stores are equal.
//! 2. In each view everything that was not deleted is there, or set aside because something older has what it wants, because what
//!    it cannot be without is not there, or because its network was made anew with other subnets. In the end all views are equal.
//! 3. What an object has, by what is written, on the node that was asked for it when everybody who lives has confirmed it, stays
//!    its own for as long as it lives and can be: unless something older was given the same by a node that did not see it in use, as
//!    on another side of a partition or in the same moment, or the object was changed by a node that had not heard of it. Where each
//!    change is everywhere before the next, nothing that was confirmed ever moves.
//! 4. What an object in use has, by what is written, no view that follows on that node gives to one that was created later, also
//!    after a restart; and nobody writes down as given what it sees in use. Who is told that a network is full is told so rightly.
//!
//! A run that failed is played again by its seed: `MESH_CLUSTER_SEED=N cargo test -p mesh-userspace --test allocation`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod check;
mod faulty;
mod history;
#[path = "../../../cluster/tests/simulation/network.rs"]
#[expect(dead_code, reason = "it is shared with the tests of the cluster, which use all of it")]
mod network;
mod run;

use check::examine;
use run::{How, Run};

/// The seeds of a test's runs: so many, or the one that is asked for.
fn seeds(many: u64) -> Vec<u64> {
    match std::env::var("MESH_CLUSTER_SEED") {
        Ok(seed) => vec![seed.parse().expect("MESH_CLUSTER_SEED is a number")],
        Err(_) => (1..=many).collect(),
    }
}

/// Whether one seed is asked for, of which nobody knows what happens in it.
fn is_one() -> bool {
    std::env::var("MESH_CLUSTER_SEED").is_ok()
}

/// What histories came to.
#[derive(Debug, Default)]
struct Counts {
    views: usize,
    writes: usize,
    amended: usize,
    confirmed: usize,
    moved: usize,
    exhausted: usize,
    aside: usize,
}

fn promises_are_kept(many: u64, how: How) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds(many) {
        let history = Run::new(seed).rounds(150, how).finish();
        let (broken, found) = examine(&history);
        assert!(broken.is_empty(), "seed {seed}, {how:?}: {broken:#?}");
        counts.views += history.views.len();
        counts.writes += history.written.len();
        counts.amended += history.amended;
        counts.confirmed += found.confirmed;
        counts.moved += found.moved;
        counts.exhausted += history.exhausted.len();
        counts.aside += history.views.iter().filter(|view| !view.aside.is_empty()).count();
    }
    println!("{how:?}: {counts:?}");
    assert!(
        is_one() || counts.confirmed * 4 > counts.writes,
        "too few were confirmed to say anything: {counts:?}"
    );
    counts
}

#[test]
fn promises_are_kept_when_the_network_falls_apart() {
    let counts = promises_are_kept(30, How::Parted);
    let is_telling = counts.amended > 0 && counts.moved > 0 && counts.exhausted > 0 && counts.aside > 0;
    assert!(is_one() || is_telling, "nothing clashed: {counts:?}");
}

#[test]
fn promises_are_kept_when_several_ask_at_once() {
    promises_are_kept(12, How::Crowded);
}

#[test]
fn what_is_confirmed_never_moves_where_each_change_is_everywhere_before_the_next() {
    let counts = promises_are_kept(12, How::Orderly);
    assert_eq!((counts.moved, counts.amended), (0, 0));
}

#[test]
fn a_history_is_played_again_by_its_seed() {
    let played = || {
        let history = Run::new(5).rounds(60, How::Parted).finish();
        format!("{:?} {:?}", history.written, history.confirmed)
    };
    assert_eq!(played(), played());
}
