//! One node's protocol, of its parts: membership, rumours, anti-entropy, confirmation.

use std::{net::SocketAddr, time::Duration};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::{
    confirm::Confirming,
    exchange::Exchange,
    forget::Forgetting,
    join::Joining,
    member::{Identity, Member},
    message::{self, Message},
    outbox::Outbox,
    output::Output,
    peer::Peer,
    roll::Roll,
    rumours::Rumours,
    settings::Settings,
    stamp::{Clock, NodeId, Now, Stamp},
    store::{Entry, EntryFault, Key, Store, Write},
    swim::{Event, Swim},
};

/// A mesh of so many nodes or fewer is small: everybody does at once with everybody what else some do with some.
pub(crate) const SMALL: usize = 16;
/// So few entries at a time are news, and more may be what a node gets that has just joined.
const FEW: usize = 16;

/// One node's protocol. After each call, [`Cluster::output`] is to be asked until there is no more, and [`Cluster::tick`]
/// called when [`Cluster::next`] says.
pub struct Cluster {
    pub(crate) swim: Swim,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) rng: Xoshiro256PlusPlus,
    pub(crate) out: Outbox,
    pub(crate) joining: Joining,
    pub(crate) rumours: Rumours,
    pub(crate) exchange: Exchange,
    pub(crate) confirming: Confirming,
    pub(crate) forgetting: Forgetting,
    pub(crate) roll: Option<(u64, Roll)>,
    pub(crate) version: u64,
    left: bool,
}

impl Cluster {
    /// A node that is alone yet, with what its disk held. The same `seed` and calls give the same answers.
    #[must_use]
    pub fn new(me: Identity, store: Store, settings: Settings, seed: u64, now: Now) -> Self {
        let id = me.id;
        Self {
            swim: Swim::new(Peer::new(me), &settings, seed, now.monotonic),
            clock: Clock::new(id, store.latest()),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(1)),
            out: Outbox::new(id),
            joining: Joining::default(),
            rumours: Rumours::default(),
            exchange: Exchange::new(now.monotonic),
            confirming: Confirming::default(),
            forgetting: Forgetting::new(now.monotonic, &settings),
            roll: None,
            version: 1,
            left: false,
            store,
            settings,
        }
    }

    /// Joins the mesh of whoever answers at one of these addresses, and keeps trying; also when it is alone later on.
    /// Addresses of members known before a restart belong here too.
    pub fn join(&mut self, now: Now, seeds: &[SocketAddr]) {
        self.joining.begin(now.monotonic, seeds);
        self.tick(now);
    }

    /// Tells the others that this node leaves. From then on it does nothing; what is to be sent has yet to be sent.
    pub fn leave(&mut self, now: Now) {
        if !self.left {
            self.left = true;
            self.withdraw(now);
        }
    }

    /// Writes here, and tells the others; returns the stamp of the last.
    ///
    /// # Errors
    /// One of them cannot be written, because its name or value is too long. None is.
    pub fn write(&mut self, now: Now, writes: Vec<Write>) -> Result<Stamp, EntryFault> {
        let mut store = self.store.clone();
        let mut clock = self.clock.clone();
        let mut last = Stamp::default();
        let mut keys = Vec::with_capacity(writes.len());
        for write in writes {
            last = clock.stamp(now);
            keys.push(write.key.clone());
            store.write(write, last)?;
        }
        self.clock = clock;
        if !keys.is_empty() {
            self.store = store;
            self.stored(&keys);
            self.spread(now, keys);
        }
        Ok(last)
    }

    /// Asks every living node, this one too, until it has applied what is written here under these keys;
    /// [`Output::Confirmed`] tells of it, with the number that is returned.
    pub fn confirm(&mut self, now: Now, keys: Vec<Key>) -> u64 {
        self.begin_confirm(now, keys)
    }

    /// Nobody waits for a confirmation any more.
    pub fn abandon(&mut self, id: u64) {
        self.confirming.abandon(id);
    }

    /// This node's agent has applied the store as it was at a version. It says so after its start too: until then nobody's
    /// writes count as applied here.
    pub fn applied(&mut self, now: Now, version: u64) {
        self.confirming.applied(version);
        self.answer_asked(now);
        self.tell_confirmed();
    }

    /// A message has come, unsealed, `from` somebody's gossip address. It may be anything.
    pub fn receive(&mut self, now: Now, from: SocketAddr, message: &[u8]) {
        if self.left || from == self.swim.me().address() {
            return;
        }
        let Some((sender, message)) = message::decode(message) else { return };
        self.swim.heard(now.monotonic, sender);
        match message {
            Message::Swim(data) => self.probed(now, &data),
            Message::Hello { peer, held, living } if peer.id == sender => {
                self.hello(now, peer, held.as_ref(), living);
            }
            Message::Welcome { peer, others, living } if peer.id == sender => {
                self.welcomed(now, peer, others, living);
            }
            Message::Stale { held, by } => self.stale(now, &held, by),
            Message::Refused { by, why } => self.refused(by, why),
            Message::Suspected { peer, number, by } => {
                self.swim.suspected(now.monotonic, by, &peer, number, &mut self.out);
            }
            Message::Farewell { peer } if peer.id == sender => {
                self.swim.farewell(now.monotonic, peer, &mut self.out);
            }
            message => match self.swim.address(sender) {
                Some(address) => self.said(now, sender, address, message),
                // It has come back, and is to be somebody greater first.
                None => self.joining.knock(now.monotonic, sender),
            },
        }
        self.settle(now);
    }

    /// A living member has said something about the store.
    fn said(&mut self, now: Now, sender: NodeId, address: SocketAddr, message: Message) {
        match message {
            Message::Entries { horizon, entries, more } => {
                self.take(now, horizon, entries);
                if more {
                    self.exchange.soon(now.monotonic, sender);
                }
            }
            Message::Root { horizon, root, members } => {
                self.compare_members(address, members);
                self.compare_roots(now, address, horizon, root);
            }
            Message::Members { sums } => self.compare_rolls(address, &sums),
            Message::Peers { parts, living, dead, count, answer } => {
                if answer {
                    self.tell_peers(address, parts, false);
                }
                self.compare_peers(now, &living, dead, count);
            }
            Message::Same => self.exchanged(now),
            Message::Parts { horizon, parts } => self.compare_parts(now, address, horizon, parts),
            Message::Keys { horizon, parts } => self.compare_keys(now, address, horizon, &parts),
            Message::Want { keys } => self.give(address, &keys),
            Message::Ask { id, chunk, wants } => self.asked(now, sender, address, id, chunk, wants),
            Message::Applied { id, chunk } => {
                self.confirming.answered(sender, id, chunk);
                self.tell_confirmed();
            }
            _ => {}
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        if self.left {
            return;
        }
        self.swim.tick(now.monotonic, &mut self.out);
        self.settle(now);
        self.tick_join(now);
        self.tick_rumours(now);
        self.tick_exchange(now);
        self.tick_confirm(now);
        self.tick_forget(now);
        self.settle(now);
    }

    /// When something will be due, in monotonic time.
    #[must_use]
    pub fn next(&self) -> Duration {
        if self.left {
            return Duration::MAX;
        }
        let parts = [
            self.swim.next(),
            self.joining.next(),
            self.rumours.next(),
            self.exchange.next(),
            self.confirming.next(),
            self.forgetting.next(),
        ];
        parts.into_iter().min().unwrap_or(Duration::MAX)
    }

    /// What is to be done next.
    pub fn output(&mut self) -> Option<Output> {
        self.out.next()
    }

    /// Counts changes of the store or of members.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Everybody who is or was in the mesh, this node among them, in the order of names.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.swim.members()
    }

    /// How many nodes live, this one among them.
    #[must_use]
    pub fn living(&self) -> usize {
        self.swim.living().len() + 1
    }

    /// Follows what has come about in membership.
    fn settle(&mut self, now: Now) {
        let events = self.swim.take_events();
        if events.is_empty() {
            return;
        }
        for event in events {
            if let Event::Up(id) = event {
                if self.swim.living().len() < SMALL {
                    self.exchange.soon(now.monotonic, id);
                }
                self.risen(now, id);
            }
        }
        self.tell_changed();
        self.tell_confirmed();
    }

    /// The store has changed under these keys.
    pub(crate) fn stored(&mut self, keys: &[Key]) {
        self.tell_changed();
        self.confirming.stored(self.version, keys);
    }

    pub(crate) fn tell_changed(&mut self) {
        self.version += 1;
        self.out.changed();
    }

    /// Takes entries from elsewhere, and passes on what was new.
    pub(crate) fn take(&mut self, now: Now, horizon: Stamp, entries: Vec<(Key, Entry)>) {
        let mut fresh = Vec::new();
        let mut not_taken = None;
        for (key, entry) in entries {
            let forgotten = entry.stamp <= self.store.horizon();
            if forgotten && (entry.value.is_none() || horizon < self.store.horizon()) {
                continue;
            }
            if let Err(fault) = self.clock.follow(now, entry.stamp) {
                not_taken = Some(fault);
                continue;
            }
            if self.store.merge(key.clone(), entry) == Ok(true) {
                fresh.push(key);
            }
        }
        if let Some(fault) = not_taken {
            self.out.tell(Output::NotTaken(fault));
        }
        if !fresh.is_empty() {
            self.stored(&fresh);
            if self.exchange.current || fresh.len() <= FEW {
                self.pass_on(now, fresh);
            }
        }
    }
}
