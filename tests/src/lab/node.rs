//! A node: the daemon in its namespace, and the command line that asks it.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    command::{output, run},
    namespace::Namespace,
    process::Process,
    record::Record,
};

/// How long a daemon may take from its start until it says that it is ready.
const READY: Duration = Duration::from_secs(300);

/// Where the programs are, if not beside this one.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Has every lab of this process take its programs from a directory, where the environment names no others. The first to say
/// so is heard.
pub fn take_programs_from(directory: PathBuf) {
    PROGRAMS.get_or_init(|| directory);
}

/// The daemon that the lab runs: what `MESHD` names, else the one built beside this program.
///
/// # Errors
/// If there is none.
pub fn meshd_path() -> Result<PathBuf> {
    built("MESHD", "meshd")
}

/// A daemon whose tables are laid out otherwise, by the name of the feature that it was built with: beside the lab's.
///
/// # Errors
/// If there is none.
pub fn other_meshd_path(feature: &str) -> Result<PathBuf> {
    let path = meshd_path()?.with_file_name(feature).join("meshd");
    ensure!(path.exists(), "there is no {}: `cargo xtask build --layouts` builds it", path.display());
    Ok(path)
}

/// The command line that the lab uses: what `MESHCTL` names, else the one built beside this program.
///
/// # Errors
/// If there is none.
pub fn meshctl_path() -> Result<PathBuf> {
    built("MESHCTL", "meshctl")
}

fn built(variable: &str, name: &str) -> Result<PathBuf> {
    let path = match (env::var_os(variable), PROGRAMS.get()) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(directory)) => directory.join(name),
        (None, None) => {
            let own = env::current_exe().context("cannot find this program's own path")?;
            // Tests are in a directory `deps` below the one where programs are.
            let beside = own.ancestors().skip(1).find(|directory| !directory.ends_with("deps"));
            beside.context("this program is in no directory")?.join(name)
        }
    };
    ensure!(path.exists(), "there is no {}: `cargo xtask build` builds it", path.display());
    Ok(path)
}

/// A node of the mesh.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: Namespace,
    directory: PathBuf,
    record: Arc<Record>,
    daemon: Option<Process>,
    /// The daemon's program, where it is another than the lab's.
    program: Option<PathBuf>,
    /// What the daemon calls itself, where that is not the node's name.
    alias: Option<String>,
    /// Where the daemon says that it is ready, as to systemd.
    readiness: Option<UnixDatagram>,
}

impl Node {
    pub(super) fn new(record: &Arc<Record>, namespace: Namespace, name: &str) -> Self {
        let directory = record.directory().join(name);
        let record = Arc::clone(record);
        Self {
            name: name.to_owned(),
            namespace,
            directory,
            record,
            daemon: None,
            program: None,
            alias: None,
            readiness: None,
        }
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// If it runs already, ends, or is not ready in time.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts another daemon in the place of the lab's, by [`other_meshd_path`], from now on; none for the lab's own.
    pub fn install(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Has the daemon call itself otherwise than the node, from its next start on.
    pub fn call(&mut self, alias: &str) {
        self.alias = Some(alias.to_owned());
    }

    /// Starts the daemon, and leaves it to [`Self::wait_until_ready`] to see whether it became ready.
    ///
    /// # Errors
    /// If it runs already, or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon of {} runs already", self.name);
        let readiness = self.directory.join("notify.sock");
        if readiness.exists() {
            fs::remove_file(&readiness)?;
        }
        self.readiness = Some(UnixDatagram::bind(&readiness).context("cannot bind the readiness socket")?);
        let program = self.program.clone().map_or_else(meshd_path, Ok)?;
        let mut command = self.namespace.command(program)?;
        let name = self.alias.as_ref().unwrap_or(&self.name);
        command.arg("--config").arg(self.directory.join("mesh.yaml")).args(["--node", name]);
        command.env("NOTIFY_SOCKET", &readiness);
        if env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info,mesh_userspace=debug");
        }
        let log = self.directory.join("meshd.log");
        self.daemon = Some(Process::start(&self.record, command, &log)?);
        Ok(())
    }

    /// Waits until a daemon that was launched is ready.
    ///
    /// # Errors
    /// If it was not launched, ends, or is not ready in time.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let readiness = self.readiness.take().context("the daemon was not started")?;
        readiness.set_read_timeout(Some(Duration::from_millis(50)))?;
        let start = Instant::now();
        let mut message = [0; 4096];
        loop {
            let length = readiness.recv(&mut message).unwrap_or(0);
            let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
            if text.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
            self.daemon()?.check()?;
            ensure!(start.elapsed() < READY, "meshd of {} was not ready within {READY:?}", self.name);
        }
    }

    /// Whether a daemon was started and not stopped.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// The running daemon.
    ///
    /// # Errors
    /// If it was stopped.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().with_context(|| format!("no daemon runs on {}", self.name))
    }

    /// Halts the daemon where it stands, until it is to [`Self::go_on`] or the lab ends.
    ///
    /// # Errors
    /// If it is not running.
    pub fn halt(&self) -> Result<()> {
        let daemon = self.daemon.as_ref().with_context(|| format!("no daemon runs on {}", self.name))?;
        daemon.signal(Signal::SIGSTOP)
    }

    /// Lets a daemon that was halted go on.
    ///
    /// # Errors
    /// If it is not running.
    pub fn go_on(&self) -> Result<()> {
        let daemon = self.daemon.as_ref().with_context(|| format!("no daemon runs on {}", self.name))?;
        daemon.signal(Signal::SIGCONT)
    }

    /// Ends the daemon as systemd would.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.take()?.stop()
    }

    /// Ends the daemon as a crash would.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.take()?.kill()
    }

    /// Has the daemon read its file anew.
    ///
    /// # Errors
    /// If it is not running.
    pub fn reload(&mut self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGHUP)
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// # Errors
    /// If it goes on, or did not end well.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let mut daemon = self.take()?;
        ensure!(daemon.wait(Duration::from_secs(5))?, "meshd of {} failed", self.name);
        Ok(())
    }

    fn take(&mut self) -> Result<Process> {
        self.daemon.take().with_context(|| format!("no daemon runs on {}", self.name))
    }

    /// Its directory of run-time files.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("meshd.sock")
    }

    /// Where its daemon's log is.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("meshd.log")
    }

    /// The daemon's log so far.
    ///
    /// # Errors
    /// If there is none.
    pub fn log_text(&self) -> Result<String> {
        fs::read_to_string(self.log()).with_context(|| format!("cannot read {}", self.log().display()))
    }

    fn meshctl_command(&self) -> Result<Command> {
        let mut command = Command::new(meshctl_path()?);
        command.env("MESH_SOCKET", self.socket());
        Ok(command)
    }

    /// `meshctl` on this node, its words separated by spaces, as a person sees it.
    ///
    /// # Errors
    /// If it fails.
    pub fn meshctl_text(&self, words: &str) -> Result<String> {
        run(self.meshctl_command()?.args(words.split_whitespace()))
    }

    /// `meshctl` on this node, its words separated by spaces, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn meshctl_output(&self, words: &str) -> Result<Output> {
        output(self.meshctl_command()?.args(words.split_whitespace()))
    }

    /// `meshctl --output json` on this node, its words separated by spaces.
    ///
    /// # Errors
    /// If it fails, or its answer is no JSON.
    pub fn meshctl(&self, words: &str) -> Result<Value> {
        let text = run(self.meshctl_command()?.args(["--output", "json"]).args(words.split_whitespace()))?;
        serde_json::from_str(&text).with_context(|| format!("meshctl {words} answered no JSON: {text}"))
    }

    /// The packets dropped so far, by the reason's label.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.meshctl("drops")?;
        let list = answer.as_array().with_context(|| format!("meshctl drops gave no list: {answer}"))?;
        let counters = list.iter().map(|entry| match (entry["reason"].as_str(), entry["packets"].as_u64()) {
            (Some(reason), Some(packets)) => Ok((reason.to_owned(), packets)),
            _ => bail!("meshctl drops gave an entry of another shape: {entry}"),
        });
        counters.collect()
    }

    /// The packets dropped so far for a reason.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.drops()?.get(reason).copied().unwrap_or(0))
    }

    /// The pins of the data plane: each file in the daemon's own bpffs.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let root = self.run_directory().join("bpf");
        let mut files = Vec::new();
        collect(&root, &mut files)?;
        // The kernel itself puts its iterators into each new bpffs; the daemon's pins are in a directory.
        files.retain(|file| file.parent() != Some(&root));
        Ok(files)
    }

    /// The pin of a map.
    ///
    /// # Errors
    /// If it is not pinned.
    pub fn map_pin(&self, map: &str) -> Result<PathBuf> {
        // Its layout follows its name.
        let is_its = |pin: &PathBuf| {
            pin.file_name().and_then(|name| name.to_str()?.split('-').next()).is_some_and(|name| name == map)
        };
        let found = self.pins()?.into_iter().find(is_its);
        found.with_context(|| format!("{} has no pinned map {map}", self.name))
    }

    /// Lets the daemon run on when this value goes.
    pub(super) fn keep(self) {
        if let Some(daemon) = self.daemon {
            daemon.keep();
        }
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
