//! What a lab has made, written down as it is made, so that whoever comes later can take it away.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{command::run, eventually, mesh::Mesh, namespace::Namespace};

/// The book of one lab: a directory that holds all its files, the processes it started and the namespaces it
/// made. Dropping it removes them, unless it is to be kept.
#[derive(Debug)]
pub struct Record {
    prefix: String,
    directory: PathBuf,
}

/// Where the labs of this machine keep their directories. Short, because Unix sockets' paths must be.
fn root() -> PathBuf {
    std::env::temp_dir().join("mesh-lab")
}

/// Makes the directory above if it is missing. Everybody may write to its parent, so what is there already is looked
/// at before root trusts it.
fn prepare_root() -> Result<()> {
    let root = root();
    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(&root)
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("cannot create {}", root.display()));
    }
    let found = fs::symlink_metadata(&root)?;
    let shown = root.display();
    ensure!(found.is_dir() && found.uid() == 0, "{shown} is no directory of root's: move it away");
    Ok(())
}

/// Waits until no other test's lab is there; the turn ends when the returned file is closed.
pub(super) fn take_turn() -> Result<File> {
    prepare_root()?;
    let path = root().join("turn.lock");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Takes away the labs whose makers ended without doing so, save those that are to be kept.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(root()) else { return };
    for entry in entries.flatten() {
        let directory = entry.path();
        let Ok(owner) = fs::read_to_string(directory.join("owner")) else { continue };
        if !directory.join("kept").exists() && Identity::parse(&owner).is_none_or(|owner| !owner.lives()) {
            let prefix = entry.file_name().to_string_lossy().into_owned();
            drop(Record { prefix, directory });
        }
    }
}

/// A process that cannot be mistaken for a later one of the same number: its start time tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything; the start time is the
        // twenty-second (proc(5)).
        let (_, rest) = stat.rsplit_once(')')?;
        let started = rest.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
    }

    fn lives(self) -> bool {
        Self::of(self.pid) == Some(self) && !ended(self.pid)
    }
}

/// Whether a process has ended and only waits for its parent to notice.
fn ended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().starts_with('Z')))
        .unwrap_or(true)
}

impl Record {
    /// Opens the book of a new lab.
    pub(super) fn create(prefix: &str) -> Result<Self> {
        prepare_root()?;
        let directory = root().join(prefix);
        ensure!(
            !directory.exists(),
            "a lab with the prefix {prefix} is there already: `cargo xtask lab down` takes it away"
        );
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let record = Self { prefix: prefix.to_owned(), directory };
        let own = i32::try_from(std::process::id())?;
        let identity = Identity::of(own).context("cannot read this process's own state in /proc")?;
        fs::write(record.directory.join("owner"), format!("{} {}\n", identity.pid, identity.started))?;
        Ok(record)
    }

    /// Opens the book of a lab that was kept.
    ///
    /// # Errors
    /// If there is none of this prefix.
    pub fn find(prefix: &str) -> Result<Kept> {
        let directory = root().join(prefix);
        let path = directory.join("kept");
        let text = fs::read_to_string(&path).ok();
        let text = text.context("no lab is running: `cargo xtask lab up` starts one")?;
        let hosts = text.lines().map(str::to_owned).collect();
        Ok(Kept { prefix: prefix.to_owned(), directory, hosts })
    }

    /// Takes a lab away; true if there was one.
    ///
    /// # Errors
    /// If something of it stayed.
    pub fn remove(prefix: &str) -> Result<bool> {
        let directory = root().join(prefix);
        let namespaces = namespaces(prefix);
        if !directory.exists() && namespaces.is_empty() {
            return Ok(false);
        }
        Self { prefix: prefix.to_owned(), directory }.clear()?;
        Ok(true)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn namespace_name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    pub(super) fn create_namespace(&self, host: &str) -> Result<Namespace> {
        Namespace::create(&self.namespace_name(host))
    }

    pub(super) fn delete_namespace(&self, host: &str) -> Result<()> {
        super::command::ip(&format!("netns delete {}", self.namespace_name(host)))
    }

    /// Writes down a process that was started, the leader of its group.
    pub(super) fn note_process(&self, pid: u32) -> Result<()> {
        let pid = i32::try_from(pid)?;
        // One that has ended already needs no noting.
        let Some(identity) = Identity::of(pid) else { return Ok(()) };
        let path = self.directory.join("processes");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        writeln!(file, "{} {}", identity.pid, identity.started)?;
        Ok(())
    }

    /// Writes down that the lab outlives its maker.
    pub(super) fn keep(&self, mesh: &Mesh) -> Result<()> {
        let hosts: Vec<_> = mesh.hosts();
        fs::write(self.directory.join("kept"), hosts.join("\n") + "\n")?;
        Ok(())
    }

    /// Each log file, in order.
    pub(super) fn logs(&self) -> Vec<PathBuf> {
        let mut logs = Vec::new();
        for host in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let files = fs::read_dir(host.path()).into_iter().flatten().flatten().map(|file| file.path());
            logs.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "log")));
        }
        logs.sort();
        logs
    }

    /// Ends the processes, then unmounts, then deletes: an open file would hold a namespace or a mount.
    fn clear(&self) -> Result<()> {
        self.end_processes()?;
        for mount in mounts(&self.directory)? {
            umount2(mount.as_path(), MntFlags::MNT_DETACH)
                .with_context(|| format!("cannot unmount {}", mount.display()))?;
        }
        for namespace in namespaces(&self.prefix) {
            run(Command::new("ip").args(["netns", "delete", &namespace]))?;
        }
        for directory in etc_netns(&self.prefix) {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("cannot remove {}", self.directory.display()))?;
        }
        Ok(())
    }

    fn end_processes(&self) -> Result<()> {
        let book = fs::read_to_string(self.directory.join("processes")).unwrap_or_default();
        let living: Vec<_> = book.lines().filter_map(Identity::parse).filter(|p| p.lives()).collect();
        for process in &living {
            // It may end by itself in the meantime.
            let _ = killpg(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        eventually("the lab's processes end", Duration::from_secs(5), || {
            for process in &living {
                ensure!(!process.lives(), "process {} goes on", process.pid);
            }
            Ok(())
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.directory.join("kept").exists() {
            return;
        }
        if let Err(error) = self.clear() {
            eprintln!("The lab {} was not taken away wholly: {error:#}", self.prefix);
        }
    }
}

/// A lab that outlived its maker.
#[derive(Debug)]
pub struct Kept {
    prefix: String,
    directory: PathBuf,
    hosts: Vec<String>,
}

impl Kept {
    /// The names of its hosts.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// A host's namespace.
    ///
    /// # Errors
    /// If it has no such host, with the names of those that it has.
    pub fn namespace(&self, host: &str) -> Result<Namespace> {
        if !self.hosts.iter().any(|name| name == host) {
            bail!("the lab has no {host}; it has {}", self.hosts.join(", "));
        }
        Namespace::open(&format!("{}-{host}", self.prefix))
    }

    /// The control socket of a host, if it is a node; there is none while its daemon is down.
    #[must_use]
    pub fn socket(&self, host: &str) -> Option<PathBuf> {
        let own = self.directory.join(host);
        own.join("mesh.yaml").exists().then(|| own.join("run/meshd.sock"))
    }

    /// Where its logs are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Everything of a lab that is still there, in words; empty when it is gone.
///
/// # Errors
/// If the machine cannot be asked.
pub fn remains(prefix: &str) -> Result<Vec<String>> {
    let directory = root().join(prefix);
    let mut found: Vec<_> = namespaces(prefix).into_iter().map(|name| format!("namespace {name}")).collect();
    found.extend(mounts(&directory)?.iter().map(|mount| format!("mount {}", mount.display())));
    found.extend(etc_netns(prefix).iter().map(|directory| format!("directory {}", directory.display())));
    if directory.exists() {
        found.push(format!("directory {}", directory.display()));
    }
    Ok(found)
}

fn namespaces(prefix: &str) -> Vec<String> {
    beginning(prefix, Path::new("/run/netns"))
}

/// The directories with what `ip netns exec` shows in each namespace, in the place of the machine's own files.
fn etc_netns(prefix: &str) -> Vec<PathBuf> {
    let root = Path::new("/etc/netns");
    beginning(prefix, root).into_iter().map(|name| root.join(name)).collect()
}

/// The names in a directory that begin as a lab's do.
fn beginning(prefix: &str, directory: &Path) -> Vec<String> {
    let start = format!("{prefix}-");
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&start)).collect()
}

/// The mounts below a directory, the innermost first.
pub(super) fn mounts(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points = table.lines().filter_map(|line| line.split_whitespace().nth(4)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    Ok(below)
}
