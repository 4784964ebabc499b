//! What the eBPF programs cost under another kernel: whether its verifier takes them, above all.

use std::env;

use anyhow::{Context as _, Result, bail};

use super::{Guest, Kernel};
use crate::{ebpf, programs};

/// Loads every program under a kernel, prints what they cost there, and compares it with what docs/programs.md records, or
/// records it.
pub(crate) fn load(kernel: Kernel, built: &ebpf::Built, record: bool) -> Result<()> {
    let this = env::current_exe().context("this program does not find itself")?;
    let (this, object) = (this.to_string_lossy(), built.object.to_string_lossy());
    // The kernel says its release first.
    let script = r#"uname -r && exec "$1" programs "$2""#;
    let output = Guest::new(kernel).run(&["sh", "-c", script, "sh", &this, &object])?;
    if output.status != 0 {
        bail!("Linux {} does not take every eBPF program: why stands above", kernel.name());
    }
    let (release, table) = output.stdout.split_once('\n').context("the guest printed no table")?;
    let command = format!("cargo xtask vm load --kernel {} --record", kernel.name());
    programs::settle(&format!("Debian's Linux {}", kernel.name()), release, built, table, record, &command)
}
