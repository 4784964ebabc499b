//! The desired state of a node in a cluster: the store's, with what this node has to say to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_cluster::{Key, Kind, Member, MemberState, NodeId, Store, Write, store::LONGEST_VALUE};

use super::restarts::Life;
use crate::{
    problem::Problem,
    replace::replace,
    replica::{
        NodeEntry, Object, Objects, Published, RESTART, Reports, Settled, amendments, changes, gone, node,
        restarts, settle, writes,
    },
    spec::{Fault, Faults, Spec, quoted},
    table::{Healths, Table},
};

/// What a node knows of its cluster's store, and has said to it.
#[derive(Debug)]
pub(super) struct Replicated {
    me: String,
    /// What this node writes of itself.
    own: NodeEntry,
    /// What the file asks for.
    file: Spec,
    /// Whether the file may say something that was not published yet.
    is_unheard: bool,
    published: Published,
    published_file: PathBuf,
    /// Whether there may be something to write down that settling has moved.
    may_amend: bool,
    /// The snapshot that was followed last.
    version: u64,
    objects: Objects,
    settled: Settled,
    /// How tasks are, as their nodes say.
    reports: Reports,
    /// Counts what is new of them.
    reported: u64,
    /// How this node's own tasks are.
    own_healths: Healths,
    digest: u128,
    members: Vec<Member>,
    gone: BTreeSet<String>,
    restarting: BTreeMap<String, Duration>,
    /// What is wrong with the store, as gossip says.
    told: Vec<Problem>,
    /// What the file says otherwise than the cluster.
    differences: Vec<Problem>,
    /// What cannot be written.
    unwritten: Vec<Problem>,
    /// Why the last snapshot is not followed.
    stuck: Vec<Problem>,
}

/// What is to be written to the store.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) writes: Vec<Write>,
    published: Option<Published>,
}

impl Replicated {
    /// A node that has seen no snapshot yet.
    pub(super) fn new(me: &str, file: Spec, state_dir: &Path) -> Self {
        let published_file = state_dir.join(format!("{me}.published.json"));
        let (published, stuck) = match read(&published_file) {
            Ok(published) => (published, Vec::new()),
            Err(error) => {
                let message = format!(
                    "What this node has published before is not known ({error}), so it takes what the cluster has for the \
                     newer word. Change the file where that is wrong."
                );
                (Published::default(), vec![Problem::new(published_file.display().to_string(), message)])
            }
        };
        Self {
            me: me.to_owned(),
            own: own(&file, me),
            file,
            is_unheard: true,
            published,
            published_file,
            may_amend: false,
            version: 0,
            objects: Objects::default(),
            settled: Settled::default(),
            reports: Reports::default(),
            reported: 0,
            own_healths: Healths::default(),
            digest: 0,
            members: Vec::new(),
            gone: BTreeSet::new(),
            restarting: BTreeMap::new(),
            told: Vec::new(),
            differences: Vec::new(),
            unwritten: stuck,
            stuck: Vec::new(),
        }
    }

    /// The file has been read again.
    pub(super) fn hear(&mut self, file: Spec) {
        self.own = own(&file, &self.me);
        self.file = file;
        self.is_unheard = true;
    }

    /// Takes over a snapshot. What it comes to is in [`Self::spec`] and what is returned; none if that is what it was, or no table
    /// for this node.
    pub(super) fn follow(
        &mut self,
        version: u64,
        store: &Store,
        members: &[Member],
        problems: &[Problem],
    ) -> Option<Table> {
        let is_first = self.version == 0;
        self.version = version;
        if self.members != members {
            self.members = members.to_vec();
            self.may_amend = true;
        }
        self.told = problems.to_vec();
        let digest = store.digest().root();
        if !is_first && digest == self.digest {
            return None;
        }
        self.digest = digest;
        self.reported += u64::from(self.reports.follow(store));
        // Health and keys are no part of the table.
        let is_other = self.objects.follow(store);
        if is_first || is_other { self.settle() } else { None }
    }

    /// Settles what is known anew, as when the options have changed.
    pub(super) fn settle(&mut self) -> Option<Table> {
        let stays = "The mesh stays as it was on this node.";
        let settled = match settle(&self.objects, &self.file.options) {
            Ok(settled) => settled,
            Err(faults) => {
                let told = |fault: &Fault| Problem::new("options", format!("{} {stays}", fault.sentence));
                self.stuck = faults.iter().map(told).collect();
                return None;
            }
        };
        self.settled = settled;
        self.may_amend = true;
        if !self.settled.table.nodes.contains_key(&self.me) {
            let message = format!("This node is not among the cluster's nodes. {stays}");
            self.stuck = vec![Problem::new(format!("node {}", self.me), message)];
            return None;
        }
        self.stuck.clear();
        Some(self.settled.table.clone())
    }

    /// The lives of other daemons that end for others to follow, with their gossip addresses, at a time of the kernel's monotonic
    /// clock.
    pub(super) fn ending(&self, now: Duration) -> BTreeMap<Life, SocketAddr> {
        let members = self.members();
        let ending = self.objects.nodes().filter_map(|(name, daemon)| {
            let member = *members.get(name)?;
            let is_awaited = name != self.me
                && restarts(member, daemon)
                && (member.state.lives() || now.saturating_sub(member.since) < RESTART);
            is_awaited.then_some((life(member), member.identity.address))
        });
        ending.collect()
    }

    /// Looks who is there, so long after the agent's start; who is dead is, if another life of it `is_awaited`. Returns whether that
    /// is another set than before.
    pub(super) fn look(&mut self, since_start: Duration, is_awaited: impl Fn(Life) -> bool) -> bool {
        self.restarting = self
            .members
            .iter()
            .filter(|member| member.state == MemberState::Dead && is_awaited(life(member)))
            .map(|member| (member.identity.name.clone(), member.since + RESTART))
            .collect();
        let members = self.members();
        let is_there = |name: &str| {
            let member = members.get(name)?;
            Some(member.state.lives() || self.restarting.contains_key(name))
        };
        let gone: BTreeSet<String> =
            gone(&self.objects, &self.me, is_there, since_start).into_iter().map(str::to_owned).collect();
        let is_other = gone != self.gone;
        self.gone = gone;
        is_other
    }

    /// The nodes whose daemons are not there and will be, with the times, of the kernel's monotonic clock, until which that is
    /// believed.
    pub(super) const fn restarting(&self) -> &BTreeMap<String, Duration> {
        &self.restarting
    }

    /// What this node has to write before its daemon ends for another to follow; none if it is in no table.
    ///
    /// # Errors
    /// Never: such an entry is text.
    pub(super) fn restart(&self) -> Result<Option<Write>, serde_json::Error> {
        let members = self.members();
        let Some(me) = members.get(self.me.as_str()) else { return Ok(None) };
        let own = NodeEntry { restarts: Some(me.identity.incarnation), ..self.own.clone() };
        node(&self.me, &own).map(Some)
    }

    /// A table without the nodes that are not there, and their endpoints: what is planned.
    pub(super) fn living(&self, table: &Table) -> Table {
        let mut living = table.clone();
        living.nodes.retain(|name, _| !self.gone.contains(name));
        for (name, endpoint) in &table.endpoints {
            if self.gone.contains(&endpoint.node) {
                living.endpoints.remove(name);
            }
        }
        living
    }

    /// What this node has to say to the store now: of itself at once, and what its file asks for and what it had to move once it
    /// `may_speak`, which it may when it has heard the others.
    pub(super) fn pending(&mut self, may_speak: bool) -> Pending {
        match self.all_pending(may_speak) {
            Ok(pending) => pending,
            Err(error) => {
                self.unwritten =
                    vec![Problem::new("store", format!("Something cannot be written: {error}."))];
                Pending::default()
            }
        }
    }

    fn all_pending(&mut self, may_speak: bool) -> Result<Pending, serde_json::Error> {
        let mut pending = Pending::default();
        let own_key = Key::new(Kind::Node, &self.me);
        let there = self.objects.get(&own_key).and_then(|read| read.object.as_ref().ok());
        let own = node(&self.me, &self.own)?;
        if there.map(Object::value).transpose()?.as_deref() != own.value.as_deref() {
            pending.writes.push(own);
        }
        if !may_speak {
            return Ok(pending);
        }
        if self.is_unheard {
            let publication = self.published.follow(&self.file, &self.me, &self.objects)?;
            self.is_unheard = false;
            self.differences = publication.problems;
            pending.writes.extend(publication.writes);
            pending.published = Some(publication.published);
        }
        if let Some(id) = self.id()
            && self.stuck.is_empty()
            && std::mem::take(&mut self.may_amend)
        {
            let amended =
                amendments(&self.settled, &self.objects, (&self.me, id), |name| self.is_living_member(name))?;
            let published: BTreeSet<Key> = pending.writes.iter().map(|write| write.key.clone()).collect();
            pending.writes.extend(amended.into_iter().filter(|write| !published.contains(&write.key)));
        }
        if let Some(id) = self.id()
            && self.stuck.is_empty()
        {
            pending.writes.extend(self.reports.writes(
                &self.own_healths,
                &self.settled.table,
                (&self.me, id),
            )?);
        }
        self.unwritten.clear();
        let mut too_long = Vec::new();
        pending.writes.retain(|write| {
            let fits = write.value.as_ref().is_none_or(|value| value.len() <= LONGEST_VALUE);
            if !fits {
                too_long.push(write.key.clone());
            }
            fits
        });
        self.unwritten.extend(too_long.into_iter().map(|key| {
            let message =
                format!("It is longer than the {LONGEST_VALUE} bytes that the store takes. Divide it.");
            Problem::new(key.name, message)
        }));
        Ok(pending)
    }

    /// What was pending is written.
    ///
    /// # Errors
    /// It could not be noted that it is.
    pub(super) fn done(&mut self, pending: Pending) -> io::Result<()> {
        let Some(published) = pending.published else { return Ok(()) };
        if published == self.published {
            return Ok(());
        }
        self.published = published;
        let text = serde_json::to_vec_pretty(&self.published).map_err(io::Error::other)?;
        replace(&self.published_file, &text)
    }

    /// What the file asks for is to be looked at again: something of the store that it depends on may have changed.
    pub(super) fn recall(&mut self) {
        self.is_unheard = true;
        self.may_amend = true;
    }

    /// What a change comes to as writes, with what it leaves open allocated.
    ///
    /// # Errors
    /// Every rule that it breaks.
    pub(super) fn writes(&self, after: Spec) -> Result<Vec<Write>, Faults> {
        changes(&self.settled, after)
    }

    /// Why an object is set aside, if it is.
    pub(super) fn aside(&self, kind: Kind, name: &str) -> Option<&str> {
        self.settled.aside.get(&Key::new(kind, name)).map(String::as_str)
    }

    /// What is to be written for a node to be gone for good, with its endpoints; of these, all that the store has.
    pub(super) fn removal_of(&self, node: &str) -> Vec<Write> {
        let is_its = |key: &Key, object: &Object| match object {
            Object::Node(..) => key.name == node,
            Object::Endpoint(endpoint) => endpoint.node.value == node,
            Object::Network(_) | Object::Service(_) => false,
        };
        let found = self.objects.iter().filter_map(|(key, read)| {
            let object = read.object.as_ref().ok()?;
            is_its(key, object).then(|| Write { key: key.clone(), value: None })
        });
        found.collect()
    }

    /// What is to be written so that a node's tasks take no new flow.
    pub(super) fn draining(&self) -> Result<Vec<Write>, serde_json::Error> {
        let mut drained = self.settled.spec.clone();
        let own = drained.endpoints.iter_mut().filter(|endpoint| endpoint.node.value == self.me);
        for endpoint in own.filter(|endpoint| endpoint.service.is_some()) {
            endpoint.weight = Some(0.into());
        }
        writes(&self.settled.spec, &drained)
    }

    /// Forgets what was published: when the node joins again, its file counts as new.
    pub(super) fn forget_published(&self) -> io::Result<()> {
        match fs::remove_file(&self.published_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is asked for.
    pub(super) const fn spec(&self) -> &Spec {
        &self.settled.spec
    }

    /// The version of the snapshot that was followed last.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The digest of its store.
    pub(super) const fn digest(&self) -> u128 {
        self.digest
    }

    /// Everybody who is or was in the cluster, by name.
    pub(super) fn members(&self) -> BTreeMap<&str, &Member> {
        self.members.iter().map(|member| (member.identity.name.as_str(), member)).collect()
    }

    /// Takes note how this node's own tasks are.
    pub(super) fn hear_healths(&mut self, own: Healths) {
        self.own_healths = own;
    }

    /// How the tasks of the other nodes are.
    pub(super) fn healths_of_others(&self, table: &Table) -> Healths {
        let members = self.objects.nodes().filter(|(_, daemon)| daemon.member);
        self.reports.of_others(table, &self.me, &members.map(|(name, _)| name).collect())
    }

    /// Counts what other nodes have newly said of their tasks.
    pub(super) const fn reported(&self) -> u64 {
        self.reported
    }

    /// The nodes that are not there.
    pub(super) const fn gone(&self) -> &BTreeSet<String> {
        &self.gone
    }

    /// Whether another member lives.
    pub(super) fn has_company(&self) -> bool {
        self.members.iter().any(|member| member.identity.name != self.me && member.state.lives())
    }

    /// Whether a node of this name is a member that lives, this one included.
    pub(super) fn is_living_member(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.identity.name == name && member.state.lives())
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.settled.problems(&self.objects);
        for more in [&self.told, &self.differences, &self.unwritten, &self.stuck] {
            problems.extend(more.iter().cloned());
        }
        problems
    }

    /// This node's number.
    fn id(&self) -> Option<NodeId> {
        self.members.iter().find(|member| member.identity.name == self.me).map(|member| member.identity.id)
    }
}

/// What a node's file says of itself.
fn own(file: &Spec, me: &str) -> NodeEntry {
    let node = file.nodes.get(me);
    NodeEntry {
        address: node.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |node| node.address.value),
        interface: node.and_then(|node| node.interface.as_ref()).map(|interface| interface.value.clone()),
        member: true,
        restarts: None,
    }
}

const fn life(member: &Member) -> Life {
    (member.identity.id, member.identity.incarnation)
}

fn read(path: &Path) -> Result<Published, String> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| format!("{}: {error}", quoted(&path.to_string_lossy()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Published::default()),
        Err(error) => Err(error.to_string()),
    }
}
