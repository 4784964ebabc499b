//! Commands that must succeed, with an error that shows what they said.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// If it cannot be started or fails; the message holds the command and what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{}{}", shown(command), output.status, text, complaint.trim_end());
    }
    Ok(text)
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(command)))
}

/// A command as one would type it.
pub(super) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// `ip` with arguments separated by spaces.
pub(super) fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace())).map(drop)
}
