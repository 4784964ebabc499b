//! What a person sees while a long step runs: a spinner on a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::process;

/// How many of a failed command's last lines are shown.
const LAST_LINES: usize = 30;

/// Runs a command whose output is of interest only if it fails; `what` says what it does.
pub(crate) fn step(what: &str, command: Command) -> Result<()> {
    let began = Instant::now();
    let shown = process::shown(&command);
    let spinner = spinner(what);
    let mut last = VecDeque::with_capacity(LAST_LINES);
    let outcome = process::run_lines(command, |line| {
        if let Some(spinner) = &spinner {
            spinner.set_message(line.trim().to_owned());
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    });
    if let Some(spinner) = &spinner {
        spinner.finish_and_clear();
    }
    let status = outcome?;
    if !status.success() {
        for line in &last {
            eprintln!("  | {line}");
        }
        bail!("{what}: `{shown}` failed ({status}); the lines above are the last that it printed");
    }
    println!("{what}: done ({})", took(began.elapsed()));
    Ok(())
}

/// A spinner if there is a terminal to show it; else a line that says what begins.
fn spinner(what: &str) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        println!("{what} …");
        return None;
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}") {
        spinner.set_style(style);
    }
    spinner.set_prefix(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    Some(spinner)
}

/// A duration as a person reads it: `0.4 s`, `2 min 05 s`.
pub(crate) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(took(Duration::from_millis(420)), "0.4 s");
        assert_eq!(took(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn a_failed_step_names_its_command_and_its_status() {
        let mut command = process::command("sh");
        command.args(["-c", "echo reason; exit 7"]);
        let error = step("trying", command).expect_err("the command fails");
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains('7'), "{text}");
    }
}
