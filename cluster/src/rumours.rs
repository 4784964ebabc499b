//! What was just written goes from node to node, a bounded number of times each: everybody has it after about as many
//! rounds as the logarithm of how many there are. Whom it does not reach finds it by comparing stores.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    cluster::Cluster,
    message::{Message, OVERHEAD, length, slices},
    output::MOST_DATAGRAM,
    stamp::Now,
    store::{Entry, Key},
};

/// How many entries are passed on at a time; the comparison of stores is better at more.
const MOST_RUMOURS: usize = 1024;
/// How much is passed on to one node at a time, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// What would fill more datagrams goes by streams.
const MOST_DATAGRAMS: usize = 8;
/// How many others a round of passing on tells.
const TOLD: usize = 3;
/// The first round follows by so much, so that what comes together is passed on together.
const FIRST: Duration = Duration::from_millis(5);
/// The longest slice of entries in one message by a stream, in bytes.
pub(crate) const MOST_SLICE: usize = 512 << 10;

/// What is to be passed on yet: how often.
#[derive(Debug, Default)]
pub(crate) struct Rumours {
    left: BTreeMap<Key, u32>,
    round: Option<Duration>,
}

impl Rumours {
    pub(crate) fn next(&self) -> Duration {
        self.round.unwrap_or(Duration::MAX)
    }
}

impl Cluster {
    /// Tells others at once what was written here, and goes on passing it on.
    pub(crate) fn spread(&mut self, now: Now, mut keys: Vec<Key>) {
        let others = self.swim.choose(&mut self.rng, self.settings.fanout);
        if keys.len() > MOST_RUMOURS {
            for id in &others {
                self.exchange.soon(now.monotonic, *id);
            }
            keys.truncate(MOST_RUMOURS);
        }
        let addresses: Vec<SocketAddr> = others.iter().filter_map(|id| self.swim.address(*id)).collect();
        self.send_entries(&addresses, &keys);
        self.pass_on(now, keys);
    }

    /// Passes on what is new here.
    pub(crate) fn pass_on(&mut self, now: Now, keys: Vec<Key>) {
        let nodes = self.swim.living().len() + 1;
        // In a small mesh, whoever wrote it has told everybody: once more makes up for what was lost.
        let times = if nodes <= self.settings.fanout + 1 { TOLD as u32 } else { nodes.ilog2() + 2 };
        for key in keys {
            if self.rumours.left.len() >= MOST_RUMOURS && !self.rumours.left.contains_key(&key) {
                continue;
            }
            self.rumours.left.insert(key, times);
        }
        if !self.rumours.left.is_empty() && self.rumours.round.is_none() {
            self.rumours.round = Some(now.monotonic + FIRST);
        }
    }

    pub(crate) fn tick_rumours(&mut self, now: Now) {
        if self.rumours.next() > now.monotonic {
            return;
        }
        let others = self.swim.choose(&mut self.rng, TOLD);
        let addresses: Vec<SocketAddr> = others.iter().filter_map(|id| self.swim.address(*id)).collect();
        let keys: Vec<Key> = self.rumours.left.keys().cloned().collect();
        self.send_entries(&addresses, &keys);
        self.rumours.left.retain(|_, left| {
            *left = left.saturating_sub(TOLD as u32);
            *left > 0 && !addresses.is_empty()
        });
        let more = !self.rumours.left.is_empty();
        self.rumours.round = more.then(|| now.monotonic + self.settings.rumour_period);
    }

    /// Sends what is written under these keys now.
    fn send_entries(&mut self, to: &[SocketAddr], keys: &[Key]) {
        let mut room = MOST_BYTES;
        let entries = keys.iter().filter_map(|key| Some((key.clone(), self.store.entry(key)?.clone())));
        let entries: Vec<(Key, Entry)> = entries
            .take_while(|entry| {
                let fits = room > 0;
                room = room.saturating_sub(length(entry));
                fits
            })
            .collect();
        let mut messages = slices(entries.iter().cloned(), MOST_DATAGRAM - OVERHEAD);
        if messages.len() > MOST_DATAGRAMS {
            messages = slices(entries, MOST_SLICE);
        }
        for entries in messages {
            let message = self.entries(entries, false);
            for address in to {
                self.out.send(*address, &message);
            }
        }
    }

    pub(crate) fn entries(&self, entries: Vec<(Key, Entry)>, more: bool) -> Message {
        Message::Entries { horizon: self.store.horizon(), entries, more }
    }
}
