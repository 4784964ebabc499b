//! Anti-entropy: whatever two nodes missed of one another, they find by comparing what they have.
//!
//! A node sends the sum of its store. Where it is not the other's, that one answers with the sums of its parts, gets the
//! keys and stamps of those that differ, gives what is newer with it and asks for what is not. Each message can be
//! understood by itself, so nobody remembers anything of anybody, and any of them may be lost.

use std::{cmp::Ordering, iter::Peekable, net::SocketAddr, time::Duration};

use rand::RngExt;

use crate::{
    cluster::Cluster,
    message::{Message, OVERHEAD, Part, length, slices},
    output::MOST_DATAGRAM,
    rumours::MOST_SLICE,
    stamp::{NodeId, Now, Stamp},
    store::{BUCKETS, Digest, Entry, Key},
};

/// How many slices of entries one message is answered with.
const MOST_SLICES: usize = 8;
/// How many nodes wait to be compared with out of turn.
const MOST_SOON: usize = 16;
/// How soon after one another they are.
const SOON: Duration = Duration::from_millis(30);

#[derive(Debug)]
pub(crate) struct Exchange {
    /// With somebody, by chance.
    round: Duration,
    /// With these, out of turn.
    soon: Vec<NodeId>,
    soon_at: Duration,
    /// This store was equal to another's since the node started: what is new to it is news to others too.
    pub(crate) current: bool,
}

impl Exchange {
    pub(crate) const fn new(now: Duration) -> Self {
        Self { round: now, soon: Vec::new(), soon_at: Duration::ZERO, current: false }
    }

    pub(crate) fn next(&self) -> Duration {
        if self.soon.is_empty() { self.round } else { self.round.min(self.soon_at) }
    }

    /// Compares with a node out of turn.
    pub(crate) fn soon(&mut self, now: Duration, id: NodeId) {
        if self.soon.len() < MOST_SOON && !self.soon.contains(&id) {
            self.soon_at = self.soon_at.max(now);
            self.soon.push(id);
        }
    }
}

impl Cluster {
    pub(crate) fn tick_exchange(&mut self, now: Now) {
        if self.exchange.round <= now.monotonic {
            // Not all at the same time.
            let period = self.settings.sync_period;
            self.exchange.round = now.monotonic + period.mul_f64(self.rng.random_range(0.75..1.25));
            if let Some(id) = self.swim.choose(&mut self.rng, 1).first().and_then(|id| self.swim.address(*id))
            {
                self.send_root(id);
            }
        }
        if !self.exchange.soon.is_empty() && self.exchange.soon_at <= now.monotonic {
            self.exchange.soon_at = now.monotonic + SOON;
            let id = self.exchange.soon.remove(0);
            if let Some(address) = self.swim.address(id) {
                self.send_root(address);
            }
        }
    }

    fn send_root(&mut self, to: SocketAddr) {
        let root = self.store.digest().root();
        let members = self.roll_sum();
        self.out.send(to, &Message::Root { horizon: self.store.horizon(), root, members });
    }

    pub(crate) fn compare_roots(&mut self, now: Now, from: SocketAddr, horizon: Stamp, root: u128) {
        match self.meet_horizon(now, horizon) {
            // It has yet to forget what is forgotten here, and then to compare.
            Ordering::Greater => self.send_root(from),
            Ordering::Equal if root == self.store.digest().root() => {
                self.out.send(from, &Message::Same);
                self.exchanged(now);
            }
            Ordering::Equal => {
                let parts = self.store.digest().0.clone();
                self.out.stream(from, &Message::Parts { horizon, parts });
            }
            Ordering::Less => {}
        }
    }

    /// This store is equal to another's.
    pub(crate) fn exchanged(&mut self, now: Now) {
        self.exchange.current = true;
        self.store.set_current(now.wall);
    }

    pub(crate) fn compare_parts(&mut self, now: Now, from: SocketAddr, horizon: Stamp, parts: Vec<u128>) {
        if parts.len() != BUCKETS || self.meet_horizon(now, horizon) != Ordering::Equal {
            return;
        }
        let theirs = Digest(parts);
        let differing: Vec<usize> = self.store.digest().differing(&theirs).collect();
        let parts: Vec<Part> = differing.into_iter().flat_map(|index| self.part(index)).collect();
        for parts in slices(parts, MOST_SLICE) {
            let message = Message::Keys { horizon, parts };
            self.out.stream(from, &message);
        }
    }

    /// The keys of a part, in ranges that each fit a message.
    fn part(&self, index: usize) -> Vec<Part> {
        let keys = self.store.bucket(index).map(|(key, entry)| (key.clone(), entry.stamp));
        let mut slices = slices(keys, MOST_SLICE - OVERHEAD);
        if slices.is_empty() {
            slices.push(Vec::new());
        }
        let last = slices.len() - 1;
        let mut after = None;
        let ranges = slices.into_iter().enumerate().filter_map(|(at, keys)| {
            let until = keys.last().map(|(key, _)| key.clone()).filter(|_| at < last);
            let part =
                Part { index: u8::try_from(index).ok()?, after: after.take(), until: until.clone(), keys };
            after = until;
            Some(part)
        });
        ranges.collect()
    }

    pub(crate) fn compare_keys(&mut self, now: Now, from: SocketAddr, horizon: Stamp, parts: &[Part]) {
        if self.meet_horizon(now, horizon) != Ordering::Equal {
            return;
        }
        let mut give: Vec<Key> = Vec::new();
        let mut want: Vec<Key> = Vec::new();
        for part in parts.iter().filter(|part| part.keys.is_sorted_by(|a, b| a.0 < b.0)) {
            let within = |key: &Key| {
                part.after.as_ref().is_none_or(|after| key > after)
                    && part.until.as_ref().is_none_or(|until| key <= until)
            };
            let mine = self.store.bucket(usize::from(part.index)).filter(|(key, _)| within(key));
            let theirs = part.keys.iter().filter(|(key, _)| within(key));
            for (key, newer) in differences(mine.peekable(), theirs.peekable()) {
                if newer { give.push(key.clone()) } else { want.push(key.clone()) }
            }
        }
        self.give(from, &give);
        for keys in slices(want, MOST_SLICE) {
            self.out.send(from, &Message::Want { keys });
        }
    }

    /// Sends what is written under these keys.
    pub(crate) fn give(&mut self, to: SocketAddr, keys: &[Key]) {
        let mut entries: Vec<(Key, Entry)> = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for key in keys {
            let Some(entry) = self.store.entry(key) else { continue };
            if bytes >= MOST_SLICES * MOST_SLICE {
                more = true;
                break;
            }
            let one = (key.clone(), entry.clone());
            bytes += length(&one);
            entries.push(one);
        }
        let most = if bytes <= MOST_DATAGRAM - OVERHEAD { MOST_DATAGRAM - OVERHEAD } else { MOST_SLICE };
        let mut slices = slices(entries, most).into_iter().peekable();
        while let Some(slice) = slices.next() {
            let message = self.entries(slice, more && slices.peek().is_none());
            self.out.stream(to, &message);
        }
    }
}

/// The keys in which two differ, both in order, and whether mine is the newer.
fn differences<'a>(
    mut mine: Peekable<impl Iterator<Item = (&'a Key, &'a Entry)>>,
    mut theirs: Peekable<impl Iterator<Item = &'a (Key, Stamp)>>,
) -> Vec<(&'a Key, bool)> {
    let mut differences = Vec::new();
    loop {
        let order = match (mine.peek(), theirs.peek()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((other, _))) => (*key).cmp(other),
        };
        let my = if order.is_le() { mine.next() } else { None };
        let their = if order.is_ge() { theirs.next() } else { None };
        match (my, their) {
            (Some((key, entry)), other) => {
                let other = other.map(|(_, stamp)| *stamp);
                if other != Some(entry.stamp) {
                    differences.push((key, other.is_none_or(|other| entry.stamp > other)));
                }
            }
            (None, Some((key, _))) => differences.push((key, false)),
            (None, None) => {}
        }
    }
}
