//! A virtual machine that runs one command and is gone.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::{boot, image::quoted, kernel::Kernel};

/// A virtual machine that runs one command and is gone.
///
/// It has this machine's files, by the same paths, and writes to memory alone; all of the kernel's modules, which the kernel
/// loads when they are asked for; one processor; and one network interface, `lo`. The command runs as root, in the directory that this
/// process stands in. See docs/vm.md.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    kernel: Kernel,
    pub(super) icount: bool,
    pub(super) console: bool,
    pub(super) memory: u32,
    pub(super) timeout: Duration,
    environment: Vec<(String, String)>,
}

/// How a guest's command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its exit status; 128 and the signal's number if a signal ended it.
    pub(crate) status: i32,
    /// What it printed on standard output. Standard error goes to ours.
    pub(crate) stdout: String,
}

impl Guest {
    /// MiB of memory, unless said otherwise.
    pub(super) const MEMORY: u32 = 2048;
    /// How long a command may take, unless said otherwise.
    pub(super) const TIMEOUT: Duration = Duration::from_secs(600);

    /// A guest with this kernel, which is fetched first if it is not here yet.
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            icount: false,
            console: false,
            memory: Self::MEMORY,
            timeout: Self::TIMEOUT,
            environment: Vec::new(),
        }
    }

    /// Whether every clock of the guest counts instructions, one for each virtual nanosecond. While the guest idles its clock jumps to the next timer.
    pub(crate) fn icount(mut self, icount: bool) -> Self {
        self.icount = icount;
        self
    }

    /// Whether all that the kernel says is shown on standard error. Otherwise its last words are, if it fails.
    pub(crate) fn console(mut self, console: bool) -> Self {
        self.console = console;
        self
    }

    /// Memory in MiB, which also holds what the guest writes to files.
    pub(crate) fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// How long a command may take by this machine's clock, the guest's start included.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets a variable of the command's environment, which has `PATH`, `HOME` and `TMPDIR` besides.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a command and returns what it printed.
    ///
    /// # Errors
    ///
    /// If there is no kernel, the guest does not start, its kernel fails, or the time is over; not if the command fails.
    pub(crate) fn run<W: AsRef<str>>(&self, words: &[W]) -> Result<Output> {
        let mut stdout = String::new();
        let status = self.run_lines(words, |line| {
            stdout.push_str(line);
            stdout.push('\n');
        })?;
        Ok(Output { status, stdout })
    }

    /// Runs a command and hands over each line that it prints, as it comes; returns its exit status.
    ///
    /// # Errors
    ///
    /// As of `run`.
    pub(crate) fn run_lines<W: AsRef<str>>(&self, words: &[W], line: impl FnMut(&str)) -> Result<i32> {
        let installed = self.kernel.installed()?;
        let script = self.script(words)?;
        boot::boot(self, &installed, &script, line)
            .with_context(|| format!("in the virtual machine with Linux {}", self.kernel.name()))
    }

    /// What the guest's shell runs.
    fn script<W: AsRef<str>>(&self, words: &[W]) -> Result<String> {
        let path = |path: PathBuf| {
            path.into_os_string()
                .into_string()
                .ok()
                .context("a path that is no text cannot be told to a guest")
        };
        let directory = path(env::current_dir().context("this process stands in no directory")?)?;
        let search = env::var("PATH").unwrap_or_default();
        let mut script = format!("cd {} || exit\n", quoted(&directory));
        // What is root's is not on everybody's path, and the command is root's.
        let all = format!("{search}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
        // What the machine has in its own directory for temporary files may be of programs that run there, and not here.
        for (name, value) in [("PATH", all.as_str()), ("HOME", "/root"), ("TMPDIR", "/run/tmp")]
            .into_iter()
            .chain(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        {
            script.push_str(&format!("export {name}={}\n", quoted(value)));
        }
        script.push_str("exec");
        for word in words {
            script.push(' ');
            script.push_str(&quoted(word.as_ref()));
        }
        script.push('\n');
        Ok(script)
    }
}
