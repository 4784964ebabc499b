//! `cargo xtask build-ebpf`: the eBPF object that meshd embeds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    process, project,
    setup::{self, Purpose},
    toolchain::{Linker, Toolchain},
};

/// The target: eBPF's instructions, little endian.
const TARGET: &str = "bpfel-unknown-none";
/// What every unit is compiled with. No types for the kernel (BTF): it refuses those of Rust's enums that carry data, and
/// meshd's start would tell so in a hundred lines; nothing in the programs asks for them.
///
/// bpf-linker has LLVM expand copies in order, and LLVM then expands no filling with zeros at all, but calls a loop that goes
/// byte by byte: a quarter of the instructions of a delivered packet. The last flag gives the expansion back.
const RUSTFLAGS: &[&str] =
    &["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--llvm-args=--max-store-memset=128"];

/// How the tables of the data plane are laid out: of the others there are agents for the tests of upgrades alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As the product has them.
    Own,
    /// As a later version may have them.
    Other,
    /// As the product has them, in a version after that.
    OtherBefore,
}

impl Layout {
    /// The layouts that the product does not have.
    pub(crate) const FOREIGN: [Self; 2] = [Self::Other, Self::OtherBefore];

    /// The feature of each crate that stands for it, and the name of its agent's directory.
    pub(crate) const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Other => Some("other-layout"),
            Self::OtherBefore => Some("other-layout-before"),
        }
    }
}

/// An object that stands on the disk.
pub(crate) struct Built {
    /// Where it is.
    pub(crate) object: PathBuf,
    /// Which compiler made it.
    pub(crate) compiler: String,
    /// Whether its content is another than before.
    changed: bool,
}

/// Sets up what is missing, and builds the object.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let built = build(Layout::Own)?;
    let bytes = fs::metadata(&built.object).map_or(0, |metadata| metadata.len());
    let state = if built.changed { "" } else { ", unchanged" };
    println!("{} ({bytes} bytes{state})", built.object.display());
    Ok(())
}

/// Compiles the eBPF crate and puts the object where meshd's build script looks, touching the file only if its content
/// changed, so that nothing is built again in vain.
pub(crate) fn build(layout: Layout) -> Result<Built> {
    let compiler = compile(&project::bpf_target(), RUSTFLAGS, layout)?;
    let linked = project::bpf_target().join(TARGET).join("release/mesh-ebpf");
    let content = fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let object = project::bpf_object(layout.feature());
    let changed = fs::read(&object).ok().is_none_or(|before| before != content);
    if changed {
        // Written beside and renamed, so that a build that reads it meanwhile never sees half of it.
        let fresh = object.with_extension(format!("o.{}", std::process::id()));
        fs::write(&fresh, &content).with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, &object).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(Built { object, compiler, changed })
}

/// Compiles the eBPF crate to the same instructions, and an object that also tells of which line of the source each of them is:
/// in a target directory of its own, so that none of the product is built again. Gives its content.
pub(crate) fn build_with_lines() -> Result<Vec<u8>> {
    let target = project::bpf_target().join("lines");
    let flags: Vec<_> = RUSTFLAGS.iter().copied().chain(["-Clink-arg=--btf"]).collect();
    compile(&target, &flags, Layout::Own)?;
    let linked = target.join(TARGET).join("release/mesh-ebpf");
    fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))
}

/// Compiles the eBPF crate; gives the compiler's name.
fn compile(target: &Path, flags: &[&str], layout: Layout) -> Result<String> {
    let linker = Linker::find().context("bpf-linker is not installed: run `cargo xtask setup`")?;
    let toolchain = Toolchain::find(linker.llvm).context(
        "no compiler for the eBPF programs: it takes rustup's nightly with rust-src, or Debian's rustc-web with \
         rust-web-src, neither with a newer LLVM than bpf-linker's. Run `cargo xtask setup`",
    )?;
    let mut command = toolchain.command();
    command
        .current_dir(project::ebpf_crate())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker.path)
        .args(["build", "--release", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target)
        .args(layout.feature().map(|feature| format!("--features={feature}")));
    process::run(&mut command).with_context(|| {
        format!("the eBPF programs did not build with {} and {}", toolchain.name, linker.name)
    })?;
    Ok(toolchain.name)
}
