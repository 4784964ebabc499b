//! Processes of the lab: started inside a namespace, their output in a file, ended with the lab.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};

use super::{command::shown, eventually, record::Record};

/// A running process and its children, all in one process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts a command whose output goes to the end of a file.
    pub(super) fn start(record: &Record, mut command: Command, log: &Path) -> Result<Self> {
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        // Whoever leaves signals to a thread of its own blocks them, and a child would inherit that.
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(io::Error::from));
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", shown(&command)))?;
        record.note_process(child.id())?;
        Ok(Self { child, command: shown(&command), log: log.to_owned(), kept: false })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// With how it ended and the end of its output.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n");
        bail!("{} ended ({status}):\n{tail}", self.command)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.group()?, signal).with_context(|| format!("cannot send {signal} to {}", self.command))
    }

    /// Waits until it has ended by itself and tells whether it did so with success.
    ///
    /// # Errors
    /// If it goes on longer than that.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        eventually(&format!("{} ends", self.command), timeout, || {
            self.child.try_wait()?.map(|status| status.success()).context("it goes on")
        })
    }

    /// Ends it by SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// If it does not end within five seconds.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.wait(Duration::from_secs(5)).map(drop)
    }

    /// Ends it without its doing, as a crash would.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(5)).map(drop)
    }

    /// Lets it run on when this value goes.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    fn group(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kept || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(group) = self.group() {
            // Nothing is left to do if it is gone already.
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
