//! Whether everybody has applied what was written: each living node is asked until it says so.
//!
//! What is asked for is a key and a stamp, and it counts as applied as well where something newer was. Who does not have it
//! asks for it; who has not applied it remembers the question and answers when it has.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    cluster::Cluster,
    message::{Message, OVERHEAD, slices},
    output::{MOST_DATAGRAM, Output},
    stamp::{NodeId, Now, Stamp},
    store::{Key, Store},
};

/// How many confirmations are waited for at a time; of more, the oldest is given up.
const MOST_CONFIRMS: usize = 1024;
/// How long a confirmation is waited for; whoever wanted it has long given up.
const LONGEST: Duration = Duration::from_mins(10);
/// How long an answer is waited for at first, and at most, until it is asked again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How many questions are remembered, and how long; whoever asks, asks again.
const MOST_ASKED: usize = 4096;
const ASKED: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Confirming {
    last: u64,
    confirms: BTreeMap<u64, Confirm>,
    asked: VecDeque<Asked>,
    /// The version of the store that the agent has applied.
    applied: u64,
    /// Since which version is there what it has not applied.
    unapplied: BTreeMap<Key, u64>,
}

#[derive(Debug)]
struct Confirm {
    /// What is asked for, in parts that each fit a datagram.
    chunks: Vec<Vec<(Key, Stamp)>>,
    /// Which parts who has applied.
    done: BTreeMap<NodeId, BTreeSet<u32>>,
    told: Option<Vec<String>>,
    again: Duration,
    pause: Duration,
    until: Duration,
}

#[derive(Debug)]
struct Asked {
    by: NodeId,
    id: u64,
    chunk: u32,
    wants: Vec<(Key, Stamp)>,
    until: Duration,
}

impl Confirming {
    pub(crate) fn next(&self) -> Duration {
        self.confirms.values().map(|confirm| confirm.again).min().unwrap_or(Duration::MAX)
    }

    pub(crate) fn abandon(&mut self, id: u64) {
        self.confirms.remove(&id);
    }

    pub(crate) fn applied(&mut self, version: u64) {
        self.applied = self.applied.max(version);
        self.unapplied.retain(|_, since| *since > version);
    }

    pub(crate) fn stored(&mut self, version: u64, keys: &[Key]) {
        self.unapplied.extend(keys.iter().map(|key| (key.clone(), version)));
    }

    pub(crate) fn answered(&mut self, by: NodeId, id: u64, chunk: u32) {
        let Some(confirm) = self.confirms.get_mut(&id) else { return };
        if usize::try_from(chunk).is_ok_and(|chunk| chunk < confirm.chunks.len()) {
            confirm.done.entry(by).or_default().insert(chunk);
        }
    }

    fn has_applied(&self, store: &Store, wants: &[(Key, Stamp)]) -> bool {
        self.applied > 0
            && wants.iter().all(|(key, stamp)| has(store, key, *stamp) && !self.unapplied.contains_key(key))
    }
}

/// Whether a store has what was written, or something newer, or has forgotten its deletion.
fn has(store: &Store, key: &Key, stamp: Stamp) -> bool {
    store.entry(key).map_or(stamp <= store.horizon(), |entry| entry.stamp >= stamp)
}

impl Cluster {
    pub(crate) fn begin_confirm(&mut self, now: Now, keys: Vec<Key>) -> u64 {
        self.confirming.last += 1;
        let id = self.confirming.last;
        let wants = keys.into_iter().filter_map(|key| {
            let stamp = self.store.entry(&key)?.stamp;
            Some((key, stamp))
        });
        let confirm = Confirm {
            chunks: slices(wants, MOST_DATAGRAM - OVERHEAD),
            done: BTreeMap::new(),
            told: None,
            again: now.monotonic,
            pause: ASK_AGAIN.0,
            until: now.monotonic + LONGEST,
        };
        if self.confirming.confirms.len() >= MOST_CONFIRMS {
            self.confirming.confirms.pop_first();
        }
        self.confirming.confirms.insert(id, confirm);
        self.tick_confirm(now);
        self.tell_confirmed();
        id
    }

    pub(crate) fn tick_confirm(&mut self, now: Now) {
        let now = now.monotonic;
        self.confirming.asked.retain(|asked| asked.until > now);
        self.confirming.confirms.retain(|_, confirm| confirm.until > now);
        for (id, confirm) in &mut self.confirming.confirms {
            if confirm.again > now {
                continue;
            }
            confirm.again = now + confirm.pause;
            confirm.pause = (confirm.pause * 3 / 2).min(ASK_AGAIN.1);
            for member in self.swim.living() {
                let Some(address) = self.swim.address(*member) else { continue };
                let done = confirm.done.get(member);
                for (chunk, wants) in (0_u32..).zip(&confirm.chunks) {
                    if done.is_none_or(|done| !done.contains(&chunk)) {
                        let ask = Message::Ask { id: *id, chunk, wants: wants.clone() };
                        self.out.send(address, &ask);
                    }
                }
            }
        }
    }

    /// Tells how far confirmations have come, where that has changed.
    pub(crate) fn tell_confirmed(&mut self) {
        let Self { confirming, swim, store, out, .. } = self;
        let mut confirms = std::mem::take(&mut confirming.confirms);
        confirms.retain(|id, confirm| {
            let others = swim
                .living()
                .iter()
                .filter(|member| confirm.done.get(member).map_or(0, BTreeSet::len) < confirm.chunks.len());
            let others = others.filter_map(|member| swim.known(*member)).map(|(peer, _)| peer.name());
            let applied = confirm.chunks.iter().all(|wants| confirming.has_applied(store, wants));
            let me = (!applied).then(|| swim.me().name());
            let mut missing: Vec<String> = others.chain(me).map(str::to_owned).collect();
            missing.sort();
            let done = missing.is_empty();
            if confirm.told.as_ref() != Some(&missing) {
                confirm.told = Some(missing.clone());
                out.tell(Output::Confirmed { id: *id, missing });
            }
            !done
        });
        self.confirming.confirms = confirms;
    }

    /// A member asks whether this node has applied something.
    pub(crate) fn asked(
        &mut self,
        now: Now,
        by: NodeId,
        address: SocketAddr,
        id: u64,
        chunk: u32,
        wants: Vec<(Key, Stamp)>,
    ) {
        if self.confirming.has_applied(&self.store, &wants) {
            self.out.send(address, &Message::Applied { id, chunk });
            return;
        }
        let missing = wants.iter().filter(|(key, stamp)| !has(&self.store, key, *stamp));
        let keys: Vec<Key> = missing.map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            self.out.send(address, &Message::Want { keys });
        }
        // What is asked for fits a datagram, or is not remembered.
        let fits = crate::message::length(&wants) <= MOST_DATAGRAM;
        self.confirming.asked.retain(|asked| (asked.by, asked.id, asked.chunk) != (by, id, chunk));
        if fits && self.confirming.asked.len() < MOST_ASKED {
            let until = now.monotonic + ASKED;
            self.confirming.asked.push_back(Asked { by, id, chunk, wants, until });
        }
    }

    /// Answers who asked for what has been applied now.
    pub(crate) fn answer_asked(&mut self, now: Now) {
        let Self { confirming, swim, store, out, .. } = self;
        let mut asked = std::mem::take(&mut confirming.asked);
        asked.retain(|asked| {
            let applied = confirming.has_applied(store, &asked.wants);
            if applied && let Some(address) = swim.address(asked.by) {
                out.send(address, &Message::Applied { id: asked.id, chunk: asked.chunk });
            }
            !applied && asked.until > now.monotonic
        });
        confirming.asked = asked;
    }
}
