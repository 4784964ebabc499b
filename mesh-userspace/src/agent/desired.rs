//! The desired state: what the file asks for, what commands have added to it, and the table that both make. In a cluster, what its
//! store has.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{AgentError, replicated::Replicated, restarts::Life};
use crate::{
    config::{self, LocalConfig},
    gossip,
    health::{self, Commands},
    problem::Problem,
    replace::replace,
    spec::{Fault, Faults, Origin, Override, Spec, resolve},
    table::Table,
};

/// The desired state.
#[derive(Debug)]
pub(crate) struct Desired {
    file: PathBuf,
    state_file: PathBuf,
    local: LocalConfig,
    node: String,
    /// What is asked for; in a cluster, `replicated` has it.
    spec: Spec,
    /// The commands of health checks that stand in the file.
    commands: Arc<Commands>,
    table: Arc<Table>,
    /// The table without what is on nodes that are not there.
    living: Arc<Table>,
    /// What the cluster's store says; none without a cluster.
    replicated: Option<Replicated>,
    revision: u64,
    /// What is wrong with the file as it is now, if the table is of an earlier one.
    faults: Vec<Problem>,
    /// What is wrong with what commands had added, since the start.
    lost: Vec<Problem>,
}

impl Desired {
    /// Reads the file, and what commands have added when the agent last ran. If the latter does not fit with the
    /// file any more, the file alone counts.
    ///
    /// # Errors
    /// Every fault of the file.
    pub(crate) fn open(file: &Path, told_node: Option<&str>, hostname: &str) -> Result<Self, Faults> {
        let (loaded, table) = config::check(file)?;
        let node = config::pick_node(&table, told_node, hostname)?;
        let state_file = loaded.local.state_dir.join(format!("{node}.json"));
        let mut desired = Self {
            file: file.to_owned(),
            state_file,
            local: loaded.local,
            node,
            commands: Arc::new(health::commands(&loaded.spec)),
            spec: loaded.spec,
            table: Arc::new(table),
            living: Arc::default(),
            replicated: None,
            revision: 1,
            faults: Vec::new(),
            lost: Vec::new(),
        };
        if desired.local.cluster.is_some() {
            desired.begin_alone()?;
        } else {
            desired.restore();
        }
        desired.living = Arc::clone(&desired.table);
        Ok(desired)
    }

    /// Before the store has been read, this node is the whole mesh, with nothing on it.
    fn begin_alone(&mut self) -> Result<(), Faults> {
        let file = std::mem::take(&mut self.spec);
        let mut alone = Spec { options: file.options.clone(), ..Spec::default() };
        alone.nodes.extend(file.nodes.get(&self.node).map(|own| (self.node.clone(), own.clone())));
        self.table = Arc::new(resolve(&alone)?);
        self.replicated = Some(Replicated::new(&self.node, file, &self.local.state_dir));
        Ok(())
    }

    /// What the cluster's store says; none without a cluster.
    pub(super) const fn replicated(&self) -> Option<&Replicated> {
        self.replicated.as_ref()
    }

    /// As [`Self::replicated`].
    pub(super) const fn replicated_mut(&mut self) -> Option<&mut Replicated> {
        self.replicated.as_mut()
    }

    /// Starts gossip, if the file asks for it.
    ///
    /// # Errors
    /// The keyring cannot be used, or gossip does not start.
    pub(super) async fn start_gossip(&self) -> Result<Option<gossip::Handle>, AgentError> {
        let Some(cluster) = &self.local.cluster else { return Ok(None) };
        let keyring = &cluster.keyring;
        let ring = gossip::read_keyring(&keyring.value, &keyring.origin).map_err(AgentError::Config)?;
        // The table has this node.
        let own = self.table.nodes.get(&self.node).map(|node| node.address);
        let listen = cluster.listen.or_else(|| own.map(|own| SocketAddr::new(own, gossip::PORT)));
        let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, gossip::PORT)));
        // Who listens everywhere is reached at its own address.
        let own = own.filter(|_| listen.ip().is_unspecified());
        let settings = gossip::Settings {
            listen,
            address: own.map_or(listen, |own| SocketAddr::new(own, listen.port())),
            join: cluster.join.clone(),
            keyring: keyring.value.clone(),
            ring,
            state_dir: self.local.state_dir.clone(),
            name: self.node.clone(),
            protocol: mesh_cluster::Settings::default(),
        };
        Ok(Some(gossip::start(settings).await?))
    }

    /// Takes over a snapshot of the cluster.
    pub(super) fn follow(&mut self, snapshot: &gossip::Snapshot) {
        let Some(replicated) = &mut self.replicated else { return };
        let gossip::Snapshot { version, store, members, problems } = snapshot;
        let table = replicated.follow(*version, store, members, problems);
        self.take_table(table);
    }

    /// Looks which nodes of the cluster are there: see [`Replicated::look`].
    pub(super) fn look(&mut self, since_start: Duration, is_awaited: impl Fn(Life) -> bool) {
        let Some(replicated) = &mut self.replicated else { return };
        if replicated.look(since_start, is_awaited) {
            self.living = Arc::new(replicated.living(&self.table).sharing(&self.living));
            self.revision += 1;
        }
    }

    /// Takes over what the store has come to, if it has come to something else.
    fn take_table(&mut self, table: Option<Table>) {
        let Some(table) = table.map(|table| table.sharing(&self.table)) else { return };
        if *self.table != table {
            self.table = Arc::new(table);
            self.living = match &self.replicated {
                Some(replicated) if !replicated.gone().is_empty() => {
                    Arc::new(replicated.living(&self.table).sharing(&self.living))
                }
                _ => Arc::clone(&self.table),
            };
            self.revision += 1;
        }
    }

    /// This node's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Where this agent keeps its things.
    pub(crate) const fn local(&self) -> &LocalConfig {
        &self.local
    }

    /// What is asked for.
    pub(crate) fn spec(&self) -> &Spec {
        self.replicated.as_ref().map_or(&self.spec, Replicated::spec)
    }

    /// The table without what is on nodes that are not there: what is planned.
    pub(crate) const fn living(&self) -> &Arc<Table> {
        &self.living
    }

    /// The commands that this node may run to check its tasks.
    pub(crate) const fn commands(&self) -> &Arc<Commands> {
        &self.commands
    }

    /// The table.
    pub(crate) const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Counts the tables since the start, from 1.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// What is wrong with what was asked for.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let of_cluster = self.replicated.as_ref().map(Replicated::problems).unwrap_or_default();
        self.faults.iter().chain(&self.lost).cloned().chain(of_cluster)
    }

    /// Reads the file again. If it is faulty, nothing changes but what [`Self::problems`] says.
    ///
    /// # Errors
    /// Every fault of the file, and every clash with what commands have added.
    pub(crate) fn reload(&mut self) -> Result<(), Faults> {
        let result = self.read_again();
        self.faults = match &result {
            Ok(()) => Vec::new(),
            Err(faults) => faults.iter().map(|fault| self.problem(fault)).collect(),
        };
        result
    }

    fn read_again(&mut self) -> Result<(), Faults> {
        let loaded = config::load(&self.file)?;
        if loaded.local != self.local {
            return Err(Fault::new(
                self.origin(),
                "`run_dir`, `state_dir`, `resolv_conf` and `cluster` cannot change while meshd runs; restart it, or put them \
                 back.",
            )
            .into());
        }
        let mut spec = loaded.spec;
        let commands = health::commands(&spec);
        if self.replicated.is_some() {
            self.check_node(&resolve(&spec)?)?;
        }
        if let Some(replicated) = &mut self.replicated {
            replicated.hear(spec);
            let table = replicated.settle();
            self.take_table(table);
            self.take_commands(commands);
            return Ok(());
        }
        spec.adopt(&self.spec)?;
        let before = self.spec.overrides.clone();
        self.take_over(spec)?;
        self.take_commands(commands);
        self.keep_without_stale(&before);
        Ok(())
    }

    fn take_commands(&mut self, commands: Commands) {
        if *self.commands != commands {
            self.commands = Arc::new(commands);
        }
    }

    /// Forgets for good what commands had changed about endpoints of which the file says something else now.
    fn keep_without_stale(&self, before: &BTreeMap<String, Override>) {
        if self.spec.overrides != *before
            && let Err(error) = self.keep()
        {
            // What is stale comes back only if the file says again what it said, and the agent starts anew.
            tracing::warn!(%error, file = %self.state_file.display(), "changes of backends that the file overtook were not forgotten");
        }
    }

    /// Takes over another specification if it breaks no rule and still has this node.
    pub(crate) fn take_over(&mut self, mut spec: Spec) -> Result<(), Faults> {
        let table = resolve(&spec)?.sharing(&self.table);
        self.check_node(&table)?;
        spec.remember(&table);
        self.spec = spec;
        self.take_table(Some(table));
        Ok(())
    }

    fn check_node(&self, table: &Table) -> Result<(), Faults> {
        if table.nodes.contains_key(&self.node) {
            return Ok(());
        }
        let sentence = format!(
            "This node, {:?}, is no longer among the nodes; put it back, or restart meshd with another --node.",
            self.node
        );
        Err(Fault::new(self.origin(), sentence).into())
    }

    /// Keeps what commands have added for the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.spec.by_command()).map_err(io::Error::other)?;
        fs::create_dir_all(&self.local.state_dir)?;
        replace(&self.state_file, &text)
    }

    fn restore(&mut self) {
        let earlier: Spec = match fs::read(&self.state_file) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(spec) => spec,
                Err(error) => return self.lose(&format!("it is not as meshd writes it ({error})")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.lose(&error.to_string()),
        };
        let mut spec = self.spec.clone();
        let adopted = spec.adopt(&earlier).and_then(|()| self.take_over(spec));
        if let Err(faults) = adopted {
            for fault in faults {
                self.lose(&fault.sentence);
            }
        } else {
            self.keep_without_stale(&earlier.overrides);
        }
        // Nobody has seen another table yet.
        self.revision = 1;
    }

    /// Notes that what commands had added does not count, and saves it from being overwritten.
    fn lose(&mut self, why: &str) {
        let aside = self.state_file.with_extension("json.unused");
        let kept = match fs::copy(&self.state_file, &aside) {
            Ok(_) => format!("It was copied to {}.", aside.display()),
            Err(error) => format!("It could not be copied to {}: {error}.", aside.display()),
        };
        let message =
            format!("What commands had added here cannot be used: {why} {kept} Add what is missing again.");
        self.lost.push(Problem::new(self.state_file.display().to_string(), message));
    }

    fn problem(&self, fault: &Fault) -> Problem {
        let subject = match &fault.origin {
            place @ Origin::File { .. } => place.to_string(),
            Origin::Cluster(_) | Origin::Command(_) => self.file.display().to_string(),
        };
        Problem::new(subject, format!("{} The mesh stays as it was before this change.", fault.sentence))
    }

    fn origin(&self) -> Origin {
        Origin::File { file: self.file.display().to_string().into(), line: 1, column: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::testing::Directory, spec};

    struct Case {
        directory: Directory,
    }

    impl Case {
        fn new() -> Self {
            let case = Self { directory: Directory::new() };
            case.write("  blue: {vni: 4097, subnets: [10.0.9.0/24]}");
            case
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("mesh.yaml")
        }

        fn write(&self, networks: &str) {
            self.write_whole(&format!("nodes:\n  n1: {{address: 192.0.2.1}}\nnetworks:\n{networks}\n"));
        }

        fn write_whole(&self, rest: &str) {
            let directory = self.directory.path().display();
            let text = format!("node: {{run_dir: {directory}/run, state_dir: {directory}/state}}\n{rest}");
            fs::write(self.file(), text).unwrap();
        }

        fn open(&self) -> Desired {
            Desired::open(&self.file(), None, "n1").unwrap()
        }
    }

    fn messages(desired: &Desired) -> Vec<String> {
        desired.problems().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_faulty_file_changes_nothing_and_is_remembered_until_it_is_mended() {
        let case = Case::new();
        let mut desired = case.open();
        let before = Arc::clone(desired.table());
        case.write("  blue: {vni: 99999999, subnets: [10.0.9.0/24]}");
        desired.reload().unwrap_err();
        assert!(Arc::ptr_eq(desired.table(), &before));
        assert_eq!(desired.revision(), 1);
        let told = messages(&desired);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("{}:5:", case.file().display())), "{told:?}");
        assert!(told[0].ends_with("The mesh stays as it was before this change."), "{told:?}");

        case.write("  blue: {vni: 5, subnets: [10.0.9.0/24]}");
        desired.reload().unwrap();
        assert_eq!((desired.revision(), desired.table().networks["blue"].vni), (2, 5));
        assert_eq!(messages(&desired), [""; 0]);
    }

    #[test]
    fn a_file_that_says_the_same_is_no_new_revision() {
        let case = Case::new();
        let mut desired = case.open();
        case.write("  # A comment.\n  blue: {subnets: [10.0.9.0/24], vni: 4097}");
        desired.reload().unwrap();
        assert_eq!(desired.revision(), 1);
    }

    #[test]
    fn a_node_stays_who_it_is_and_where() {
        let case = Case::new();
        let mut desired = case.open();
        case.write_whole("nodes:\n  n2: {address: 192.0.2.2}\n");
        let error = desired.reload().unwrap_err().to_string();
        assert!(error.contains("This node, \"n1\", is no longer among the nodes"), "{error}");
        fs::write(case.file(), "nodes:\n  n1: {address: 192.0.2.1}\n").unwrap();
        let error = desired.reload().unwrap_err().to_string();
        assert!(
            error.contains("`run_dir`, `state_dir`, `resolv_conf` and `cluster` cannot change"),
            "{error}"
        );
        assert!(desired.table().networks.contains_key("blue"));
    }

    #[tokio::test]
    async fn a_cluster_needs_a_keyring_and_stays_what_it_was() {
        let case = Case::new();
        let keyring = case.directory.path().join("keyring");
        let write = |join: &str| {
            let keyring = keyring.display();
            case.write_whole(&format!(
                "nodes:\n  n1: {{address: 192.0.2.1}}\ncluster:\n  listen: 127.0.0.1:7946\n  join: [{join}]\n  keyring: {keyring}\n"
            ));
        };
        write("");
        let mut desired = case.open();
        let Err(AgentError::Config(faults)) = desired.start_gossip().await else { panic!("it started") };
        let told = faults.to_string();
        assert!(told.starts_with(&format!("{}:7:12: There is no keyring", case.file().display())), "{told}");
        write("192.0.2.2");
        let error = desired.reload().unwrap_err().to_string();
        assert!(error.contains("`cluster` cannot change while meshd runs"), "{error}");
        write("");
        desired.reload().unwrap();
    }

    #[test]
    fn what_a_command_added_outlives_reloads_and_restarts() {
        let case = Case::new();
        let mut desired = case.open();
        let mut spec = desired.spec().clone();
        spec.add_network("red", spec::Network::default()).unwrap();
        desired.take_over(spec).unwrap();
        desired.keep().unwrap();
        let red = desired.table().networks["red"].clone();

        case.write("  amber: {vni: 5, subnets: [10.5.0.0/24]}\n  blue: {vni: 4097, subnets: [10.0.9.0/24]}");
        desired.reload().unwrap();
        assert_eq!(desired.table().networks.len(), 3);
        let again = case.open();
        assert_eq!(again.table(), desired.table());
        assert_eq!(again.table().networks["red"], red, "it keeps what it was given");
        assert_eq!(again.revision(), 1);
    }

    #[test]
    fn a_drained_backend_stays_drained_until_the_file_has_spoken() {
        let case = Case::new();
        let file = |weight: &str| {
            case.write(&format!(
                "  blue: {{vni: 4097, subnets: [10.0.9.0/24]}}\nservices:\n  web: {{networks: [blue]}}\nendpoints:\n  \
                 - {{name: web.1, node: n1, service: web, network: blue{weight}}}"
            ));
        };
        file("");
        let weight = |desired: &Desired| desired.table().endpoints["web.1"].weight;
        let mut desired = case.open();
        let mut spec = desired.spec().clone();
        let drained = spec::Membership { service: Some("web".to_owned()), weight: Some(0) };
        spec.set_membership("web.1", drained, &Origin::default()).unwrap();
        desired.take_over(spec).unwrap();
        desired.keep().unwrap();
        desired.reload().unwrap();
        assert_eq!((weight(&desired), weight(&case.open())), (0, 0));

        file(", weight: 3");
        desired.reload().unwrap();
        assert_eq!((weight(&desired), weight(&case.open())), (3, 3));
        // It was overtaken for good.
        file("");
        desired.reload().unwrap();
        assert_eq!((weight(&desired), weight(&case.open())), (1, 1));
    }

    #[test]
    fn a_clash_with_a_command_is_a_fault_of_a_reload_and_gives_way_at_a_start() {
        let case = Case::new();
        let mut desired = case.open();
        let mut spec = desired.spec().clone();
        spec.add_network("red", spec::Network::default()).unwrap();
        desired.take_over(spec).unwrap();
        desired.keep().unwrap();
        case.write("  red: {vni: 7, subnets: [10.7.0.0/24]}");
        assert!(desired.reload().is_err());
        assert!(desired.table().networks.contains_key("blue"));

        let again = case.open();
        assert_eq!(again.table().networks["red"].vni, 7);
        let told = messages(&again);
        assert!(told[0].contains("cannot be used") && told[0].contains("n1.json.unused"), "{told:?}");
    }

    #[test]
    fn a_broken_state_file_is_kept_aside_and_told() {
        let case = Case::new();
        fs::create_dir_all(case.directory.path().join("state")).unwrap();
        fs::write(case.directory.path().join("state/n1.json"), "{").unwrap();
        let desired = case.open();
        let told = messages(&desired);
        assert!(told[0].contains("it is not as meshd writes it"), "{told:?}");
        assert_eq!(fs::read(case.directory.path().join("state/n1.json.unused")).unwrap(), b"{");
    }
}
