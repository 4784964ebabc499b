//! The task that owns the protocol, the sockets and the disk, and moves between them what each has for the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use mesh_cluster::{
    Cluster, Identity, Key, Kind, Member, MemberState, NodeId, Now, Output, Stamp, Store, Write,
    seal::{KeyId, MOST_KEYS, Ring, Secret},
    stamp::TooFarAhead,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use super::{
    KeyError, KeyInfo, Problems, Settings, Snapshot, StartError, WriteError, Written, chance,
    disk::{Disk, Job, changes},
    identity, keyring, keys,
    log::{Log, is_new},
    monotonic, state_of,
    transport::Transport,
    wall,
};
use crate::problem::Problem;

/// How often what waits is looked after, and what failed is tried again.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// How often the disk is tried after it refused, and problems are told anew.
const RETRY: Duration = Duration::from_secs(1);
/// How long the last words of a node that leaves have to go out.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// For so long after its start a node does not forget whom it knew before: they may start more slowly.
const SETTLED: Duration = Duration::from_mins(10);

/// After so long without anything that is not taken because of a clock, clocks are right again: whoever has such a thing offers it
/// each time that stores are compared.
const CLOCK_MENDED: Duration = Duration::from_secs(30);

/// How this node calls itself among those that have a key in use.
pub(super) const HERE: &str = "this node";

type Answer<T> = oneshot::Sender<T>;
/// Who has not applied something; none until the protocol has told.
type Missing = watch::Receiver<Option<Vec<String>>>;

/// What the driver is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Write(Vec<Write>, Answer<Result<Written, WriteError>>),
    Confirm(Vec<Key>, Answer<(u64, Missing)>),
    Abandon(u64),
    Applied(u64),
    Leave(Answer<()>),
    Keys(Answer<Vec<KeyInfo>>),
    InstallKey(Secret, Answer<Result<KeyId, KeyError>>),
    UseKey(KeyId, Answer<Result<(), KeyError>>),
    RemoveKey(KeyId, Answer<Result<(), KeyError>>),
}

/// What waits until something is on the disk.
enum Acknowledgement {
    Write(Written, Answer<Result<Written, WriteError>>),
    Key(Written, Answer<Result<(), KeyError>>),
    Installed(Written, KeyId, Answer<Result<KeyId, KeyError>>),
}

impl Acknowledgement {
    const fn version(&self) -> u64 {
        match self {
            Self::Write(written, _) | Self::Key(written, _) | Self::Installed(written, ..) => written.version,
        }
    }

    /// Answers. Who no longer waits does not need to know.
    fn answer(self, refused: Option<&str>) {
        let check = || refused.map_or(Ok(()), |why| Err(WriteError::Disk(why.to_owned())));
        match self {
            Self::Write(written, answer) => _ = answer.send(check().map(|()| written)),
            Self::Key(_, answer) => _ = answer.send(check().map_err(KeyError::from)),
            Self::Installed(_, id, answer) => _ = answer.send(check().map(|()| id).map_err(KeyError::from)),
        }
    }
}

/// The task.
pub(super) struct Driver {
    cluster: Cluster,
    transport: Transport,
    commands: mpsc::Receiver<Command>,
    disk: Disk,
    /// The store as the disk has it, or would have it if it had not refused.
    written: (u64, Store),
    /// What the disk is writing.
    writing: Option<(u64, Store)>,
    waiting: Vec<Acknowledgement>,
    confirmations: HashMap<u64, watch::Sender<Option<Vec<String>>>>,
    ring: Ring,
    /// The store as the ring was made of it.
    settled: Store,
    keyring: PathBuf,
    known_keys: PathBuf,
    known_members: PathBuf,
    /// How the others were, when that was logged last.
    states: BTreeMap<NodeId, MemberState>,
    /// When it started, in monotonic time.
    started: Duration,
    /// The addresses of members, as they were noted last.
    noted: BTreeSet<SocketAddr>,
    /// What notes them.
    noting: Option<JoinHandle<()>>,
    problems: Problems,
    snapshot: watch::Sender<Arc<Snapshot>>,
    me: Identity,
    disk_failed: Option<String>,
    /// When something was last not taken because of a clock.
    not_taken: Option<Duration>,
    /// Whether the keys of an edited keyring are yet to be noted, because the store does not have them on the disk yet.
    keys_due: bool,
}

impl Driver {
    /// A driver that listens and has read what it kept; its first snapshot; and the address that it is reached at.
    pub(super) async fn new(
        settings: Settings,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>, SocketAddr), StartError> {
        let directory = state_of(&settings.state_dir, &settings.name);
        let state = |source: io::Error| StartError::State { path: directory.clone(), source };
        let system = |action| move |source: io::Error| StartError::System { action, source };
        fs::create_dir_all(&settings.state_dir).map_err(state)?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(state(error)),
            _ => {}
        }

        let mut problems = Problems::new();
        let mut note = |about: &'static str, problem: Option<String>| {
            problem.map(|problem| problems.insert(about, Problem::new("cluster", problem)));
        };
        let number = u64::from_be_bytes(chance().map_err(system("give a random number"))?);
        let (kept, problem) =
            identity::begin(&directory.join("node.json"), NodeId(number), wall()).map_err(state)?;
        note("node", problem);
        let (log, loaded) = Log::open(&directory.join("store.log"));
        note("log", loaded.problem);
        let known_keys = directory.join("keys.json");
        let (last_keys, problem) = identity::known_keys(&known_keys);
        note("keys", problem);
        let disk = Disk::start(log).map_err(system("start a thread"))?;

        let transport = Transport::bind(settings.listen, settings.address, settings.ring.clone())
            .await
            .map_err(|source| StartError::Listen { address: settings.listen, source })?;
        let me = Identity {
            name: settings.name,
            id: kept.id,
            address: transport.address(),
            incarnation: kept.incarnation,
        };
        let seed = u64::from_be_bytes(chance().map_err(system("give a random number"))?);
        let loaded = loaded.store;
        let mut cluster = Cluster::new(me.clone(), loaded.clone(), settings.protocol, seed, now());
        let version = cluster.version();
        let edits = last_keys.map(|last| keys::edited(&settings.ring, &last)).unwrap_or_default();
        let has_edits = !edits.is_empty();
        if has_edits {
            tracing::info!(
                changes = edits.len(),
                "the keyring was changed while meshd was down; the cluster is told"
            );
            cluster.write(now(), edits).map_err(|fault| state(io::Error::other(fault)))?;
        }
        let known_members = directory.join("members.json");
        let (earlier, problem) = identity::known_members(&known_members);
        problem.map(|problem| problems.insert("members", Problem::new("cluster", problem)));
        let mut seeds = settings.join;
        seeds.extend(earlier.iter().copied());
        cluster.join(now(), &seeds);

        let first = Snapshot {
            version,
            store: loaded.clone(),
            members: cluster.members(),
            problems: problems.values().cloned().collect(),
        };
        let (snapshot, receiver) = watch::channel(Arc::new(first));
        let address = me.address;
        let mut driver = Self {
            written: (version, loaded),
            cluster,
            transport,
            commands,
            disk,
            writing: None,
            waiting: Vec::new(),
            confirmations: HashMap::new(),
            ring: settings.ring,
            settled: Store::default(),
            keyring: settings.keyring,
            known_keys,
            known_members,
            noted: earlier,
            states: BTreeMap::new(),
            started: monotonic(),
            noting: None,
            problems,
            snapshot,
            me,
            disk_failed: None,
            not_taken: None,
            keys_due: has_edits,
        };
        if !has_edits {
            driver.keep_keys();
        }
        driver.settle_keys();
        Ok((driver, receiver, address))
    }

    /// Until it leaves, or nobody is there to ask it for anything.
    pub(super) async fn run(mut self) {
        let mut often = every(LOOK_AFTER);
        let mut retry = every(RETRY);
        self.follow();
        loop {
            let due = self.cluster.next().saturating_sub(monotonic());
            tokio::select! {
                (from, message) = self.transport.receive() => self.cluster.receive(now(), from, &message),
                command = self.commands.recv() => match command {
                    Some(Command::Leave(answer)) => {
                        self.leave().await;
                        let _ = answer.send(());
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => return,
                },
                done = self.disk.done(), if self.disk.is_busy() => self.done(done),
                () = sleep(due) => self.cluster.tick(now()),
                _ = often.tick() => {
                    self.transport.look_after();
                    self.note_members();
                }
                _ = retry.tick() => self.retry(),
            }
            self.follow();
        }
    }

    /// Does what the protocol wants done.
    fn follow(&mut self) {
        let mut has_changed = false;
        while let Some(output) = self.cluster.output() {
            match output {
                Output::Send { to, message, reliable: true } => self.transport.send_reliably(to, message),
                Output::Send { to, message, reliable: false } => self.transport.send(to, message),
                Output::Changed => has_changed = true,
                Output::Confirmed { id, missing } => self.confirmed(id, missing),
                Output::NotTaken(fault) => has_changed |= self.not_taken(fault),
                Output::Refused { by, why } => {
                    let problem = Problem::new("cluster", format!("{by} refuses this node: {why}"));
                    if self.problems.get("refused") != Some(&problem) {
                        tracing::error!("{problem}");
                        self.problems.insert("refused", problem);
                        has_changed = true;
                    }
                }
            }
        }
        if has_changed {
            self.tell_members();
            self.settle_keys();
            self.keep();
            self.publish();
        } else if !self.waiting.is_empty() {
            // Nothing was written that was not there.
            self.keep();
        }
    }

    /// Says whose clock, or that this node's, is wrong by days; returns whether that is new.
    fn not_taken(&mut self, TooFarAhead { stamp }: TooFarAhead) -> bool {
        self.not_taken = Some(monotonic());
        let members = self.cluster.members();
        let writer = members.iter().find(|member| member.identity.id == stamp.node);
        let writer = writer.map_or("a node that is not known here", |member| &member.identity.name);
        let message = format!(
            "What {writer} has written is not taken: its clock was more than a day ahead of this node's. Set the clock that is \
             wrong, and where that is {writer}'s, change there anew what it wrote."
        );
        let problem = Problem::new("clock", message);
        if self.problems.get("clock") == Some(&problem) {
            return false;
        }
        tracing::error!("{problem}");
        self.problems.insert("clock", problem);
        true
    }

    /// Logs what has become of others.
    fn tell_members(&mut self) {
        let members = self.cluster.members();
        let others = members.into_iter().filter(|member| member.identity.id != self.me.id);
        let states: BTreeMap<NodeId, MemberState> = others
            .map(|Member { identity, state, .. }| {
                if self.states.get(&identity.id) != Some(&state) {
                    tracing::info!(node = identity.name, address = %identity.address, ?state, "a member");
                }
                (identity.id, state)
            })
            .collect();
        if states.values().any(|state| state.lives()) {
            // Who was let in is no longer refused.
            self.problems.remove("refused");
        }
        self.states = states;
    }

    /// Has the disk write what it has not yet.
    fn keep(&mut self) {
        if self.disk.is_busy() || self.disk_failed.is_some() {
            return;
        }
        let store = self.cluster.store();
        let entries = changes(&self.written.1, store);
        let version = self.cluster.version();
        if !is_new(&entries, &self.written.1, store) {
            // The members have changed. What is written of the store stays what it was.
            self.written.0 = version;
            self.acknowledge(None);
            return;
        }
        self.writing = Some((version, store.clone()));
        self.disk.write(Job { entries, store: store.clone() });
    }

    /// The disk has written, or refused. Where it refused, the cluster goes on all the same: the others have what this node
    /// may lose.
    fn done(&mut self, done: io::Result<()>) {
        if let Some(writing) = self.writing.take() {
            self.written = writing;
        }
        let refused = done.err().map(|error| error.to_string());
        if let Some(why) = &refused {
            let message = format!(
                "The disk refuses to keep the cluster's table ({why}): what changes may not outlive this daemon. Free or mend the disk of state_dir; meshd tries again every second."
            );
            tracing::error!("{message}");
            self.problems.insert("disk", Problem::new("cluster", message));
        } else {
            self.problems.remove("disk");
            if std::mem::take(&mut self.keys_due) {
                self.keep_keys();
            }
        }
        self.acknowledge(refused.as_deref());
        self.disk_failed = refused;
        self.keep();
        self.publish();
    }

    /// Answers whoever waits for what is on the disk now, or was refused by it.
    fn acknowledge(&mut self, refused: Option<&str>) {
        let version = self.written.0;
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.version() <= version);
        self.waiting = waiting;
        // A snapshot has it before who wrote it knows.
        if !done.is_empty() {
            self.publish();
        }
        for waiting in done {
            waiting.answer(refused);
        }
    }

    fn retry(&mut self) {
        if self.disk_failed.take().is_some() && !self.disk.is_busy() {
            // All of it is written, because the last time is in doubt.
            self.writing = Some((self.cluster.version(), self.cluster.store().clone()));
            self.disk.write(Job { entries: Vec::new(), store: self.cluster.store().clone() });
        }
        // Who asked has gone away without a word.
        let gone: Vec<u64> =
            self.confirmations.iter().filter(|(_, sender)| sender.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.confirmations.remove(&id);
            self.cluster.abandon(id);
        }
        // When the store was last equal to another's changes without a word.
        self.keep();
        if self.problems.contains_key("keyring file") {
            self.keep_ring();
        }
        if self.not_taken.is_some_and(|last| monotonic().saturating_sub(last) > CLOCK_MENDED) {
            self.not_taken = None;
            self.problems.remove("clock");
        }
        match self.transport.refused() {
            Some(told) => self.problems.insert("refusals", Problem::new("cluster", told)),
            None => self.problems.remove("refusals"),
        };
        // That somebody is suspected, or no longer is, comes about without a word as well.
        self.tell_members();
        self.publish();
    }

    /// Notes where the members are, so that this node finds them again after a restart.
    fn note_members(&mut self) {
        if self.noting.as_ref().is_some_and(|noting| !noting.is_finished()) {
            return;
        }
        let has_left =
            |member: &Member| member.state == MemberState::Left || member.identity.id == self.me.id;
        let members = self.cluster.members().into_iter().filter(|member| !has_left(member));
        let mut addresses: BTreeSet<SocketAddr> = members.map(|member| member.identity.address).collect();
        if monotonic().saturating_sub(self.started) < SETTLED {
            addresses.extend(&self.noted);
        }
        if addresses == self.noted {
            return;
        }
        self.noted.clone_from(&addresses);
        let path = self.known_members.clone();
        // Nobody was promised it, and a disk may be slow.
        self.noting = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = identity::keep_members(&path, &addresses) {
                tracing::warn!(%error, path = %path.display(), "the members were not noted");
            }
        }));
    }

    /// Tells what has changed: the store as it is on the disk, and the members as they are.
    fn publish(&self) {
        let (version, store) = &self.written;
        let members = self.cluster.members();
        let problems: Vec<Problem> = self.problems.values().cloned().collect();
        self.snapshot.send_if_modified(|there| {
            let is_same = there.version == *version && there.members == members && there.problems == problems;
            if !is_same {
                *there = Arc::new(Snapshot { version: *version, store: store.clone(), members, problems });
            }
            !is_same
        });
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Write(writes, answer) => match self.write(writes) {
                Ok(written) => self.waiting.push(Acknowledgement::Write(written, answer)),
                Err(error) => _ = answer.send(Err(error)),
            },
            Command::Confirm(keys, answer) => {
                let id = self.cluster.confirm(now(), keys);
                let (sender, receiver) = watch::channel(None);
                self.confirmations.insert(id, sender);
                let _ = answer.send((id, receiver));
            }
            Command::Abandon(id) => {
                self.confirmations.remove(&id);
                self.cluster.abandon(id);
            }
            Command::Applied(version) => self.cluster.applied(now(), version),
            Command::Keys(answer) => _ = answer.send(self.key_infos()),
            Command::InstallKey(key, answer) => {
                let id = key.id();
                match self.install(&key) {
                    Ok(written) => self.waiting.push(Acknowledgement::Installed(written, id, answer)),
                    Err(error) => _ = answer.send(Err(error)),
                }
            }
            Command::UseKey(id, answer) => self.change_key(answer, |driver| driver.use_key(id)),
            Command::RemoveKey(id, answer) => self.change_key(answer, |driver| driver.remove_key(id)),
            // It has ended the loop before.
            Command::Leave(answer) => _ = answer.send(()),
        }
    }

    fn write(&mut self, writes: Vec<Write>) -> Result<Written, WriteError> {
        let stamp: Stamp = self.cluster.write(now(), writes)?;
        Ok(Written { stamp, version: self.cluster.version() })
    }

    fn confirmed(&mut self, id: u64, missing: Vec<String>) {
        let is_done = missing.is_empty();
        let is_wanted = self.confirmations.get(&id).is_some_and(|sender| sender.send(Some(missing)).is_ok());
        if is_done || !is_wanted {
            self.confirmations.remove(&id);
        }
        if !is_wanted {
            self.cluster.abandon(id);
        }
    }

    /// Says that it leaves, and gives that the time to go out.
    async fn leave(&mut self) {
        self.cluster.leave(now());
        let deadline = monotonic() + LAST_WORDS;
        self.follow();
        loop {
            let rest = deadline.saturating_sub(monotonic());
            if rest.is_zero() {
                break;
            }
            tokio::select! {
                (from, message) = self.transport.receive() => self.cluster.receive(now(), from, &message),
                done = self.disk.done(), if self.disk.is_busy() => self.done(done),
                () = sleep(rest) => {}
            }
            self.follow();
        }
    }

    fn key_infos(&self) -> Vec<KeyInfo> {
        let in_use = self.ring.in_use();
        self.ring.ids().map(|id| KeyInfo { id, in_use: id == in_use, known: None }).collect()
    }

    fn change_key(
        &mut self,
        answer: Answer<Result<(), KeyError>>,
        change: impl FnOnce(&mut Self) -> Result<Written, KeyError>,
    ) {
        match change(self) {
            Ok(written) => self.waiting.push(Acknowledgement::Key(written, answer)),
            Err(error) => _ = answer.send(Err(error)),
        }
    }

    fn install(&mut self, key: &Secret) -> Result<Written, KeyError> {
        let is_there = self.ring.get(key.id()).is_some();
        if !is_there && self.ring.keys().len() >= MOST_KEYS {
            return Err(KeyError::Full(MOST_KEYS));
        }
        // One that is there already is spread all the same: it may be in this node's keyring alone.
        let is_in_use = is_there && self.ring.in_use() == key.id();
        Ok(self.write(vec![keys::keep(key, is_in_use)])?)
    }

    fn use_key(&mut self, id: KeyId) -> Result<Written, KeyError> {
        let key = self.ring.get(id).ok_or(KeyError::Missing(id))?;
        let write = keys::keep(key, true);
        Ok(self.write(vec![write])?)
    }

    fn remove_key(&mut self, id: KeyId) -> Result<Written, KeyError> {
        if self.ring.get(id).is_none() && self.cluster.store().value(&keys::entry_key(id)).is_none() {
            return Err(KeyError::Missing(id));
        }
        let in_use = |nodes| KeyError::InUse { id, nodes };
        if self.ring.in_use() == id {
            return Err(in_use(vec![HERE.to_owned()]));
        }
        let is_other = |member: &Member| member.state.lives() && member.identity.id != self.me.id;
        let mut nodes = Vec::new();
        for member in self.cluster.members().into_iter().filter(is_other) {
            let told = self.transport.in_use_of(member.identity.address);
            if told.is_none_or(|told| told == id) {
                self.transport.hello(member.identity.address);
                nodes.push(member.identity.name);
            }
        }
        if !nodes.is_empty() {
            return Err(in_use(nodes));
        }
        Ok(self.write(vec![keys::drop(id)])?)
    }

    /// Makes the ring as the store wants it.
    fn settle_keys(&mut self) {
        let changed = changes(&self.settled, self.cluster.store());
        self.settled = self.cluster.store().clone();
        if !changed.iter().any(|(key, _)| key.kind == Kind::Secret) {
            return;
        }
        let (ring, problems) = keys::settle(&self.ring, self.cluster.store());
        match problems.into_iter().next() {
            Some(problem) => self.problems.insert("key", problem),
            None => self.problems.remove("key"),
        };
        if ring == self.ring {
            return;
        }
        let ids: Vec<String> = ring.ids().map(|id| id.to_string()).collect();
        tracing::info!(in_use = %ring.in_use(), keys = ids.join(", "), "the cluster's keys have changed");
        self.transport.set_ring(ring.clone());
        self.ring = ring;
        self.keep_ring();
    }

    /// Writes the keyring, and what it is. In this order: a keyring that was not written must not look as if it had been
    /// edited.
    fn keep_ring(&mut self) {
        match keyring::write(&self.keyring, &self.ring) {
            Ok(()) => {
                self.problems.remove("keyring file");
                if !self.keys_due {
                    self.keep_keys();
                }
            }
            Err(error) => {
                let message = format!(
                    "The keyring {} cannot be written ({error}), so a restart would bring its old keys back. Make its directory writable for meshd; it tries again every second.",
                    self.keyring.display()
                );
                tracing::error!("{message}");
                self.problems.insert("keyring file", Problem::new("keyring", message));
            }
        }
    }

    fn keep_keys(&mut self) {
        if let Err(error) = identity::keep_keys(&self.known_keys, self.ring.ids()) {
            let message =
                format!("{} cannot be written ({error}); free or mend its disk.", self.known_keys.display());
            self.problems.insert("keys", Problem::new("cluster", message));
        }
    }
}

fn now() -> Now {
    Now { monotonic: monotonic(), wall: wall() }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
