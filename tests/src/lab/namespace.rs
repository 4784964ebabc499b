//! Network namespaces, and work done inside them.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::command::{ip, run};

/// A named network namespace, as `ip netns` keeps them.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes a namespace, its loopback interface up.
    pub(super) fn create(name: &str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        let namespace = Self::open(name)?;
        namespace.ip("link set lo up")?;
        // Addresses are told apart by the test, not by the kernel.
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_ra", "0")?;
        // The lab's clients ping a lot, and a busy machine's limits are no part of a test.
        namespace.sysctl("net.ipv4.ping_group_range", "0 0")?;
        Ok(namespace)
    }

    /// Opens one that exists.
    ///
    /// # Errors
    /// If there is none of the name.
    pub fn open(name: &str) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        let handle = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), handle })
    }

    pub(super) fn reopen(&self) -> Result<Self> {
        Ok(Self { name: self.name.clone(), handle: self.handle.try_clone()? })
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside, with everything but the network as it is outside: unlike `ip netns
    /// exec`, the mounts stay the host's.
    ///
    /// # Errors
    /// If the namespace's handle cannot be copied.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let handle = OwnedFd::from(self.handle.try_clone()?);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command
                .pre_exec(move || setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(command)
    }

    /// Runs a command inside to its end, its words separated by spaces, and returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn exec(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let program = words.next().context("no command to run")?;
        run(self.command(program)?.args(words))
    }

    /// `ip` inside.
    ///
    /// # Errors
    /// If it fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.exec(&format!("ip {arguments}"))
    }

    /// Sets a kernel parameter of the network, which is the namespace's own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        run(self.command("sysctl")?.args(["-qw", &format!("{name}={value}")])).map(drop)
    }

    /// Does work on a thread that is inside, and returns its result. Sockets opened there stay inside.
    ///
    /// # Panics
    /// If the work does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the namespace {}", self.name))?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
