//! A command whose end is what counts, and of whose processes none is left behind.

use std::{io, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::{Child, Command},
    time::timeout,
};

/// How many bytes of its last words are kept.
const LAST_WORDS: usize = 1024;
/// How long what it had written may take to arrive after its end.
const ECHO: Duration = Duration::from_millis(50);

/// A command that runs, alone in a process group of its own.
pub(super) struct Running {
    child: Child,
    group: Group,
    output: pipe::Receiver,
}

/// The processes of a command, which end with this value.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Mostly nobody is left. Linux gives numbers in a circle, so it is nobody else's by now either.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// Starts a command in the network namespace of the calling thread, with these variables in its environment. Nothing of it is a
/// shell's but what its words make of one.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(words: &[String], environment: &[(&str, String)]) -> io::Result<Running> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, there) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // It is not for a check to tell systemd how the daemon is.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(there.try_clone()?)
        .stderr(there)
        .process_group(0);
    let child = command.spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
    Ok(Running {
        child,
        group: Group(Pid::from_raw(id)),
        output: pipe::Receiver::from_owned_fd(output.into())?,
    })
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// Why the task is not well, without a full stop.
    pub(super) async fn end(self, program: &str) -> Result<(), String> {
        let Self { mut child, group, mut output } = self;
        let mut tail = Vec::new();
        let status = {
            let mut reading = std::pin::pin!(read(&mut output, &mut tail));
            tokio::select! {
                status = child.wait() => status,
                // It may close what it writes to and go on.
                () = &mut reading => child.wait().await,
            }
        };
        drop(group);
        let status = status.map_err(|error| format!("{program} could not be waited for: {error}"))?;
        if status.success() {
            return Ok(());
        }
        // What is late is missing, and no more.
        let _ = timeout(ECHO, read(&mut output, &mut tail)).await;
        let text = String::from_utf8_lossy(&tail);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let how = match status.code() {
            Some(code) => format!("{program} ended with {code}"),
            None => format!("{program} was ended ({status})"),
        };
        Err(last.map_or(how.clone(), |last| format!("{how}: {last}")))
    }
}

/// Reads to the end, and keeps the last of it.
async fn read(output: &mut pipe::Receiver, tail: &mut Vec<u8>) {
    let mut some = [0; LAST_WORDS];
    while let Ok(length @ 1..) = output.read(&mut some).await {
        tail.extend(some.iter().take(length));
        tail.drain(..tail.len().saturating_sub(LAST_WORDS));
    }
}
