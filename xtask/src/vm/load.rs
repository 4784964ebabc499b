//! What the eBPF programs cost under another kernel: whether its verifier takes them, above all.

use anyhow::{Context as _, Result, bail};

use super::{Guest, Kernel};
use crate::{
    ebpf,
    programs::{self, Measured, Record},
    project,
};

/// Loads every program under a kernel, prints what they cost there, and compares it with what docs/programs.md records, or
/// records it.
pub(crate) fn load(kernel: Kernel, built: &ebpf::Built, record: Option<&Record>) -> Result<()> {
    let this = project::this_program()?;
    let (this, object) = (this.to_string_lossy(), built.object.to_string_lossy());
    // The kernel says its release first.
    let script = r#"uname -r && exec "$1" programs "$2""#;
    let output = Guest::new(kernel).run(&["sh", "-c", script, "sh", &this, &object])?;
    if output.status != 0 {
        bail!("Linux {} does not take every eBPF program: why stands above", kernel.name());
    }
    let (release, table) = output.stdout.split_once('\n').context("the guest printed no table")?;
    let title = format!("Debian's Linux {}", kernel.name());
    let command = format!("vm load --kernel {}", kernel.name());
    programs::settle(&Measured { title: &title, kernel: release, table }, built, record, &command)
}
