//! What an agent does with its cluster's store, without sockets and kernel: the real replica code, called as the agent calls it.

use std::time::Duration;

use mesh_cluster::{Cluster, Identity, Member, Store, Write};
use mesh_userspace::{
    replica::{NodeEntry, Objects, Settled, amendments, node, settle},
    spec::Options,
    table::Table,
};

/// As in the agent.
const LISTEN: Duration = Duration::from_secs(1);
const SEARCH: Duration = Duration::from_secs(3);

/// An agent, since its start.
pub(crate) struct Agent {
    me: Identity,
    own: NodeEntry,
    started: Duration,
    company_since: Option<Duration>,
    members: Vec<Member>,
    digest: Option<u128>,
    may_amend: bool,
    pub(crate) version: u64,
    pub(crate) objects: Objects,
    pub(crate) settled: Settled,
    /// The last table that has this node.
    pub(crate) table: Table,
    /// When it looks at what has changed.
    pub(crate) looks: Option<Duration>,
    /// When it will have applied which version.
    pub(crate) applies: Option<(Duration, u64)>,
    /// When it looks again at what it would write down.
    pub(crate) recalls: Duration,
}

impl Agent {
    pub(crate) fn new(me: Identity, now: Duration) -> Self {
        let own = NodeEntry { address: me.address.ip(), interface: None, member: true, restarts: None };
        Self {
            me,
            own,
            started: now,
            company_since: None,
            members: Vec::new(),
            digest: None,
            may_amend: false,
            version: 0,
            objects: Objects::default(),
            settled: Settled::default(),
            table: Table::default(),
            looks: None,
            applies: None,
            recalls: now,
        }
    }

    /// Takes over what the store is now; returns whether it is another. A faulty agent sees it as something else.
    pub(crate) fn follow(&mut self, cluster: &Cluster, seen_as: Option<fn(&Store) -> Store>) -> bool {
        self.version = cluster.version();
        let members = cluster.members();
        if self.members != members {
            self.members = members;
            self.may_amend = true;
        }
        let digest = cluster.store().digest().root();
        if self.digest.replace(digest) == Some(digest) {
            return false;
        }
        self.objects.follow(cluster.store());
        let seen = seen_as.map(|seen_as| Objects::of(&seen_as(cluster.store())));
        self.settled = settle(seen.as_ref().unwrap_or(&self.objects), &Options::default()).unwrap();
        self.may_amend = true;
        if self.settled.table.nodes.contains_key(&self.me.name) {
            self.table = self.settled.table.clone();
        }
        true
    }

    /// What this node has to say of itself, and what it had to move. Twice the same is nothing the second time.
    pub(crate) fn pending(&mut self, now: Duration) -> Vec<Write> {
        let mut writes = Vec::new();
        let own = node(&self.me.name, &self.own).unwrap();
        let there = self.objects.get(&own.key).and_then(|read| read.object.as_ref().ok());
        if there.map(|there| there.value().unwrap()).as_deref() != own.value.as_deref() {
            writes.push(own);
        }
        if self.may_speak(now)
            && self.table.nodes.contains_key(&self.me.name)
            && std::mem::take(&mut self.may_amend)
        {
            let me = (self.me.name.as_str(), self.me.id);
            writes.extend(amendments(&self.settled, &self.objects, me, |name| self.is_living(name)).unwrap());
        }
        writes
    }

    /// It looks again whether there is something to write down.
    pub(crate) const fn recall(&mut self) {
        self.may_amend = true;
    }

    fn may_speak(&mut self, now: Duration) -> bool {
        if self.members.iter().any(|member| member.identity.name != self.me.name && member.state.lives()) {
            self.company_since.get_or_insert(now);
        }
        let begin = self.company_since.map_or(self.started + SEARCH, |since| since + LISTEN);
        now >= begin
    }

    fn is_living(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.identity.name == name && member.state.lives())
    }

    pub(crate) const fn digest(&self) -> u128 {
        match self.digest {
            Some(digest) => digest,
            None => 0,
        }
    }
}
