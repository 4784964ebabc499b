//! One node's protocol, of its parts: membership, rumours, anti-entropy, confirmation.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use crate::{
    member::{Identity, Member, MemberState},
    output::Output,
    settings::Settings,
    stamp::{Clock, Now, Stamp},
    store::{EntryFault, Key, Store, Write},
};

/// One node's protocol. After each call, [`Cluster::output`] is to be asked until there is no more, and [`Cluster::tick`]
/// called when [`Cluster::next`] says.
pub struct Cluster {
    me: Identity,
    store: Store,
    clock: Clock,
    output: VecDeque<Output>,
    version: u64,
    since: Duration,
}

impl Cluster {
    /// A node that is alone yet, with what its disk held. The same `seed` and calls give the same answers.
    #[must_use]
    pub fn new(me: Identity, store: Store, _settings: Settings, _seed: u64, now: Now) -> Self {
        let clock = Clock::new(me.id, store.latest());
        Self { me, store, clock, output: VecDeque::new(), version: 1, since: now.monotonic }
    }

    /// Joins the mesh of whoever answers at one of these addresses, and keeps trying; also when it is alone later on.
    pub fn join(&mut self, _now: Now, _seeds: &[SocketAddr]) {}

    /// Tells the others that this node leaves. From then on it does nothing; what is to be sent has yet to be sent.
    pub fn leave(&mut self, _now: Now) {}

    /// Writes here, and tells the others; returns the stamp of the last.
    ///
    /// # Errors
    /// One of them cannot be written, because its name or value is too long. None is.
    pub fn write(&mut self, now: Now, writes: Vec<Write>) -> Result<Stamp, EntryFault> {
        let mut last = Stamp::default();
        for write in writes {
            last = self.clock.stamp(now);
            self.store.write(write, last)?;
        }
        self.version += 1;
        self.output.push_back(Output::Changed);
        Ok(last)
    }

    /// Asks every living node, this one too, until it has applied what is written here under these keys;
    /// [`Output::Confirmed`] tells of it, with the number that is returned.
    pub fn confirm(&mut self, _now: Now, _keys: Vec<Key>) -> u64 {
        self.output.push_back(Output::Confirmed { id: 0, missing: Vec::new() });
        0
    }

    /// Nobody waits for a confirmation any more.
    pub fn abandon(&mut self, _id: u64) {}

    /// This node's agent has applied the store as it was at a version.
    pub fn applied(&mut self, _now: Now, _version: u64) {}

    /// A message has come. It may be anything.
    pub fn receive(&mut self, _now: Now, _from: SocketAddr, _message: &[u8]) {}

    /// Does what is due.
    pub fn tick(&mut self, _now: Now) {}

    /// When something will be due, in monotonic time.
    #[must_use]
    pub fn next(&self) -> Duration {
        Duration::MAX
    }

    /// What is to be done next.
    pub fn output(&mut self) -> Option<Output> {
        self.output.pop_front()
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
        vec![Member { identity: self.me.clone(), state: MemberState::Alive, since: self.since }]
    }
}
