//! `cargo xtask build`: the eBPF object, meshd and meshctl.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    ebpf::{self, Layout},
    process, programs, project,
    setup::{self, Purpose},
};

/// What `build` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build meshd and meshctl optimised, into target/release. (The eBPF programs always are.)
    #[arg(long)]
    release: bool,
    /// Record what the eBPF programs cost in docs/programs.md.
    #[arg(long)]
    record: bool,
    /// Why they cost more than was recorded, if they do.
    #[arg(long, value_name = "REASON", requires = "record")]
    because: Option<String>,
    /// Build the agents of other layouts as well, which the tests of upgrades run.
    #[arg(long)]
    layouts: bool,
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
    let profile = if arguments.release { Profile::Release } else { Profile::Dev };
    if arguments.layouts {
        build_layouts(profile)?;
    }
    let built = build(profile)?;
    println!("\n{}\n{}\n", shown(&built.meshd), shown(&built.meshctl));
    let record = arguments.record.then(|| programs::Record { because: arguments.because.clone() });
    programs::report(&built.ebpf, record.as_ref())
}

/// Builds everything, and prints no more than cargo does. What it takes must be there: see `setup::ensure`.
pub(crate) fn build(profile: Profile) -> Result<Binaries> {
    let ebpf = ebpf::build(Layout::Own)?;
    let directory = cargo(profile, &["--bins"])?;
    Ok(Binaries { meshd: directory.join("meshd"), meshctl: directory.join("meshctl"), ebpf })
}

/// Builds the agents of the layouts that the product does not have, each in a directory of its own beside the product's.
/// The product itself must be built after them, for it goes where cargo has put them.
pub(crate) fn build_layouts(profile: Profile) -> Result<()> {
    for layout in Layout::FOREIGN {
        let Some(feature) = layout.feature() else { continue };
        ebpf::build(layout)?;
        let directory = cargo(profile, &["--bin", "meshd", "--features", feature])?;
        let own = directory.join(feature);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        // Another file each time: one that runs cannot be written to.
        let (fresh, meshd) = (own.join("meshd.next"), own.join("meshd"));
        fs::copy(directory.join("meshd"), &fresh)
            .with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, &meshd).with_context(|| format!("cannot write {}", meshd.display()))?;
    }
    Ok(())
}

/// Compiles the user-space crate; returns the directory of its programs.
fn cargo(profile: Profile, arguments: &[&str]) -> Result<PathBuf> {
    let mut cargo = process::command(project::cargo());
    cargo.current_dir(project::root()).args(["build", "--package", "mesh-userspace"]).args(arguments);
    let directory = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    process::run(&mut cargo)?;
    Ok(project::target().join(directory))
}

/// A path as seen from the repository's root.
fn shown(path: &Path) -> String {
    path.strip_prefix(project::root()).unwrap_or(path).display().to_string()
}
