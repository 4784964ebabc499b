//! `cargo xtask build`: the eBPF object, meshd and meshctl.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    ebpf, process, programs, project,
    setup::{self, Purpose},
};

/// What `build` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build meshd and meshctl optimised, into target/release. (The eBPF programs always are.)
    #[arg(long)]
    release: bool,
    /// Record the sizes of the eBPF programs in docs/programs.md.
    #[arg(long)]
    record: bool,
}

/// How meshd and meshctl are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly, for trying out.
    Dev,
    /// Optimised.
    Release,
}

/// What a build leaves.
pub(crate) struct Binaries {
    /// The agent.
    pub(crate) meshd: PathBuf,
    /// Its command line.
    pub(crate) meshctl: PathBuf,
    /// The eBPF object, which meshd holds as well.
    pub(crate) ebpf: ebpf::Built,
}

/// Sets up what is missing, builds everything, and prints what the eBPF programs cost.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let built = build(if arguments.release { Profile::Release } else { Profile::Dev })?;
    println!("\n{}\n{}\n", shown(&built.meshd), shown(&built.meshctl));
    programs::report(&built.ebpf, arguments.record)
}

/// Builds everything, and prints no more than cargo does. What it takes must be there: see `setup::ensure`.
pub(crate) fn build(profile: Profile) -> Result<Binaries> {
    let ebpf = ebpf::build()?;
    let mut cargo = process::command(project::cargo());
    cargo.current_dir(project::root()).args(["build", "--package", "mesh-userspace", "--bins"]);
    let directory = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    process::run(&mut cargo)?;
    let directory = project::target().join(directory);
    Ok(Binaries { meshd: directory.join("meshd"), meshctl: directory.join("meshctl"), ebpf })
}

/// A path as seen from the repository's root.
fn shown(path: &Path) -> String {
    path.strip_prefix(project::root()).unwrap_or(path).display().to_string()
}
