//! What was promised, against what came of it: random histories of writes, deletions and confirmations on nodes that are
//! split, killed and restarted, and a checker in the manner of Jepsen.
//!
//! The promises:
//!
//! 1. In the end all stores are equal: not only their sums, but what they say.
//! 2. What was confirmed is there in the end, or something that was written later (with a greater stamp) under its key.
//! 3. What is there in the end was written by somebody, with that stamp and that value. So nothing that was
//!    deleted comes back: it would be older than its deletion, or say what nobody wrote.
//! 4. Who writes after having seen something writes something greater.
//! 5. No node goes back, while it runs or over a restart with its disk.

use std::{collections::BTreeMap, time::Duration};

use mesh_cluster::{Cluster, Entry, Key, Kind, Stamp, Store, Write};
use rand::{RngExt, seq::IndexedRandom};

use crate::{
    network::{Network, Weather, address},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);
const KEYS: usize = 8;

/// Something that was written.
#[derive(Clone, Debug)]
struct Written {
    key: Key,
    stamp: Stamp,
    value: Option<String>,
    /// What its writer had under the key before.
    seen: Option<Stamp>,
    /// Whether it was confirmed by everybody who lived.
    confirmed: bool,
}

#[derive(Clone, Debug, Default)]
struct History {
    written: Vec<Written>,
    /// Where nodes went back, if anywhere.
    back: Vec<String>,
    /// What each node has in the end.
    ends: Vec<BTreeMap<Key, Entry>>,
}

/// Which promises were broken.
fn check(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(end) = history.ends.first() else { return vec!["no node is left".to_owned()] };
    for (node, other) in history.ends.iter().enumerate().filter(|(_, other)| *other != end) {
        let keys = end.keys().chain(other.keys()).filter(|key| end.get(key) != other.get(key));
        let keys: Vec<&str> = keys.map(|key| key.name.as_str()).collect();
        broken.push(format!("node {node} is not equal to node 0 in {keys:?}"));
    }
    for written in history.written.iter().filter(|written| written.confirmed) {
        let there = end.get(&written.key).map(|entry| entry.stamp);
        if there.is_none_or(|there| there < written.stamp) {
            broken.push(format!("{written:?} was confirmed, and is lost: there is {there:?}"));
        }
    }
    for (key, entry) in end {
        let by = history.written.iter().find(|written| written.key == *key && written.stamp == entry.stamp);
        let value = entry.value.as_ref().map(ToString::to_string);
        if by.is_none_or(|by| by.value != value) {
            broken.push(format!("nobody wrote what is there under {:?}: {entry:?}", key.name));
        }
    }
    for written in
        history.written.iter().filter(|written| written.seen.is_some_and(|seen| seen >= written.stamp))
    {
        broken.push(format!("{written:?} is not greater than what was seen"));
    }
    broken.extend(history.back.iter().cloned());
    broken
}

fn contents(store: &Store) -> BTreeMap<Key, Entry> {
    store.entries().map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

/// A random history.
struct Run {
    network: Network,
    history: History,
    /// Confirmations that are waited for: of whom, by number, what.
    waiting: Vec<(usize, u64, u64, Vec<usize>)>,
    /// What each node had when it was last looked at.
    had: Vec<BTreeMap<Key, Entry>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut network = Network::mesh(seed, 5);
        network.weather = Weather { loss: 0.1, ..Weather::bad() };
        let had = vec![BTreeMap::new(); 5];
        Self { network, history: History::default(), waiting: Vec::new(), had }
    }

    fn write(&mut self) {
        let Some(node) = self.network.running().choose(&mut self.network.rng).copied() else { return };
        let number = self.history.written.len();
        let key = Key::new(Kind::Service, format!("k{}", self.network.rng.random_range(0..KEYS)));
        let value = (!self.network.rng.random_bool(0.3)).then(|| format!("v{number}"));
        let seen = self.network.cluster(node).store().entry(&key).map(|entry| entry.stamp);
        let write = Write { key: key.clone(), value: value.as_deref().map(Into::into) };
        let stamp = self.network.call(node, |cluster, now| cluster.write(now, vec![write]).unwrap());
        self.history.written.push(Written { key: key.clone(), stamp, value, seen, confirmed: false });
        if self.network.rng.random_bool(0.5) {
            let start = self.network.nodes[node].identity.incarnation;
            let id = self.network.call(node, |cluster, now| cluster.confirm(now, vec![key]));
            self.waiting.push((node, start, id, vec![number]));
        }
    }

    /// Notes which confirmations have come, and whether anybody went back.
    fn look(&mut self) {
        let Self { network, history, waiting, had } = self;
        waiting.retain(|(node, start, id, written)| {
            let same = network.nodes[*node].identity.incarnation == *start;
            let confirmed = network.nodes[*node].confirmed.get(id).is_some_and(Vec::is_empty);
            if same && confirmed {
                for number in written {
                    history.written[*number].confirmed = true;
                }
            }
            same && !confirmed
        });
        for node in network.running() {
            let now = contents(network.cluster(node).store());
            for (key, before) in &had[node] {
                let after = now.get(key).map_or(Stamp::default(), |entry| entry.stamp);
                if after < before.stamp {
                    history.back.push(format!("node {node} went back from {} to {after}", before.stamp));
                }
            }
            had[node] = now;
        }
    }

    fn disturb(&mut self) {
        let whole = self.network.nodes.iter().all(|node| node.side == 0);
        match self.network.rng.random_range(0..10) {
            0..=2 => {
                for node in 0..5 {
                    self.network.nodes[node].side = self.network.rng.random_range(0..2);
                }
            }
            3..=5 => {
                for node in &mut self.network.nodes {
                    node.side = 0;
                }
            }
            6..=7 => {
                let node = self.network.rng.random_range(0..5);
                if self.network.nodes[node].cluster.is_some() {
                    // The only one that has something may not lose it: then nobody could keep the promise.
                    let spare = whole && self.network.running().len() > 2 && self.network.all_equal();
                    self.network.kill(node);
                    if spare && self.network.rng.random_bool(0.3) {
                        self.network.nodes[node].disk = Store::default();
                        self.had[node].clear();
                    }
                } else {
                    self.network.start(node, &[address(0), address(1), address(2)]);
                }
            }
            8 if whole && self.network.running().len() > 2 => {
                let running = self.network.running();
                let node = running[running.len() - 1];
                self.network.call(node, Cluster::leave);
                self.network.run(SECOND / 10);
                self.network.kill(node);
            }
            _ => {}
        }
    }

    fn finish(mut self) -> History {
        for node in &mut self.network.nodes {
            node.side = 0;
        }
        for node in 0..5 {
            if self.network.nodes[node].cluster.is_none() {
                self.network.start(node, &[address(0), address(1), address(2)]);
            }
        }
        self.network.until(20 * SECOND, |network| network.all_equal() && network.all_know_all());
        self.look();
        self.history.ends = self
            .network
            .running()
            .into_iter()
            .map(|node| contents(self.network.cluster(node).store()))
            .collect();
        self.history
    }
}

/// A history of so many rounds, before its end.
fn rounds(seed: u64, many: usize) -> Run {
    let mut run = Run::new(seed);
    for round in 0..many {
        run.write();
        let pause = run.network.rng.random_range(1..400);
        for _ in 0..pause / 20 {
            run.network.run(Duration::from_millis(20));
            run.look();
        }
        if round % 5 == 4 {
            run.disturb();
        }
    }
    run
}

#[test]
fn promises_are_kept_in_random_histories() {
    let (mut writes, mut confirmed, mut deletions) = (0, 0, 0);
    for seed in seeds(60) {
        let history = rounds(seed, 150).finish();
        let broken = check(&history);
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
        writes += history.written.len();
        confirmed += history.written.iter().filter(|written| written.confirmed).count();
        deletions += history.written.iter().filter(|written| written.value.is_none()).count();
    }
    println!(
        "{writes} writes, {deletions} of them deletions; {confirmed} were confirmed, and none of those was lost"
    );
    assert!(confirmed * 4 > writes, "too few were confirmed to say anything");
}

#[test]
fn a_history_is_played_again_by_its_seed() {
    let played = || {
        let run = rounds(5, 60);
        let sent: Vec<u64> = run.network.nodes.iter().map(|node| node.sent).collect();
        let history = run.finish();
        (sent, format!("{:?} {:?}", history.written, history.ends))
    };
    assert_eq!(played(), played());
}

/// What a store would have that takes whatever comes, also what is older: the writes in the order in which they were made,
/// but with those of one key turned about, as when a partition heals.
fn takes_older(history: &History) -> History {
    let mut end = BTreeMap::new();
    for written in history.written.iter().rev() {
        let value = written.value.as_deref().map(Into::into);
        end.insert(written.key.clone(), Entry { stamp: written.stamp, created: written.stamp, value });
    }
    History { ends: vec![end; history.ends.len()], ..history.clone() }
}

#[test]
fn the_checker_finds_a_store_that_takes_older_writes() {
    let history = rounds(1, 150).finish();
    assert_eq!(check(&history), Vec::<String>::new());
    let broken = check(&takes_older(&history));
    assert!(broken.iter().any(|broken| broken.contains("was confirmed, and is lost")), "{broken:#?}");
}

#[test]
fn the_checker_finds_what_disks_have_lost() {
    let mut run = rounds(2, 60);
    // Everybody has the last writes, and nobody's disk has what came after this.
    let disks: Vec<Store> = run.network.nodes.iter().map(|node| node.disk.clone()).collect();
    for node in 0..5 {
        run.network.nodes[node].side = 0;
        if run.network.nodes[node].cluster.is_none() {
            run.network.start(node, &[address(0), address(1), address(2)]);
        }
    }
    run.network.run(3 * SECOND);
    for _ in 0..20 {
        run.write();
        run.network.run(SECOND / 2);
        run.look();
    }
    assert!(run.history.written.iter().rev().take(20).any(|written| written.confirmed));
    for (node, disk) in disks.into_iter().enumerate() {
        run.network.kill(node);
        run.network.nodes[node].disk = disk;
    }
    let broken = check(&run.finish());
    assert!(broken.iter().any(|broken| broken.contains("was confirmed, and is lost")), "{broken:#?}");
    assert!(broken.iter().any(|broken| broken.contains("went back")), "{broken:#?}");
}

#[test]
fn the_checker_finds_a_deletion_that_was_undone_and_stores_that_differ() {
    let mut histories = (1..20).map(|seed| rounds(seed, 50).finish());
    let deleted = histories.find_map(|history| {
        let deleted = history.ends[0].iter().find(|(_, entry)| entry.value.is_none())?.0.clone();
        Some((history, deleted))
    });
    let (history, deleted) = deleted.unwrap();
    let mut undone = history.clone();
    for end in &mut undone.ends {
        end.get_mut(&deleted).unwrap().value = Some("back".into());
    }
    assert!(check(&undone).iter().any(|broken| broken.contains("nobody wrote")));
    let mut differing = history;
    differing.ends[2].remove(&deleted);
    assert_eq!(check(&differing), [format!("node 2 is not equal to node 0 in [{:?}]", deleted.name)]);
}
