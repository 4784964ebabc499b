//! Suites that measure in a virtual machine whose clock counts instructions: how one is told what to do, and what it tells.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{meshctl_path, meshd_path};
use serde::{Serialize, de::DeserializeOwned};

use super::watch::Watch;
use crate::{
    process, project,
    vm::{Guest, Kernel},
};

/// How long a virtual machine may take, on the slowest of machines.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs `xtask bench` with these words in a virtual machine; returns what it told by [`tell`].
pub(super) fn ask<T: DeserializeOwned>(kernel: Kernel, words: &[String]) -> Result<T> {
    let watch = Watch::new(&format!("Linux {}", kernel.name()));
    watch.now("starting a virtual machine");
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is no text");
    let guest = Guest::new(kernel)
        .icount(true)
        .timeout(TIMEOUT)
        .environment("MESHD", &text(&meshd_path()?)?)
        .environment("MESHCTL", &text(&meshctl_path()?)?);
    let mut command = vec![text(&project::this_program()?)?, "bench".to_owned()];
    command.extend_from_slice(words);
    let mut told = None;
    let status = guest.run_lines(&command, |line| match line.starts_with('{') {
        true => told = Some(serde_json::from_str(line)),
        false => watch.now(line),
    })?;
    ensure!(status == 0, "the measurement failed under Linux {} (exit status {status})", kernel.name());
    told.context("the virtual machine told nothing")?.context("the virtual machine told something else")
}

/// Tells whoever asked what was found, in one line that begins with `{`.
pub(super) fn tell<T: Serialize>(told: &T) -> Result<()> {
    println!("{}", serde_json::to_string(told)?);
    Ok(())
}

/// Has what the lab's daemon takes read into memory. The clock of a virtual machine that counts instructions leaps while it waits
/// for this machine's files, past the time that the lab gives a daemon to start.
pub(super) fn warm_up() -> Result<()> {
    let daemon = meshd_path()?;
    fs::read(&daemon).with_context(|| format!("cannot read {}", daemon.display()))?;
    // Where the kernel has no tcx. What it lacks is not needed.
    let mut modprobe = process::command("modprobe");
    let _ = process::answer(modprobe.args(["--all", "sch_ingress", "cls_bpf"]));
    Ok(())
}

/// The release of the kernel that this runs under.
pub(super) fn release() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel tells no release")?;
    Ok(kernel.trim().to_owned())
}
