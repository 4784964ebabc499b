//! Where the project's files are.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::process;

/// The repository's root.
///
/// Taken from cargo at run time, so that a moved checkout is followed; from where this crate was compiled otherwise.
pub(crate) fn root() -> PathBuf {
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    PathBuf::from(xtask).parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The eBPF crate, which is no member of the workspace.
pub(crate) fn ebpf_crate() -> PathBuf {
    root().join("mesh-ebpf")
}

/// The user-space build's target directory: `CARGO_TARGET_DIR`, or `target` at the root.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// Where the eBPF crate is built: `target/bpf` whatever `CARGO_TARGET_DIR` says, since that is where meshd's build
/// script finds it.
pub(crate) fn bpf_target() -> PathBuf {
    root().join("target/bpf")
}

/// The eBPF object that meshd embeds, built with this feature.
pub(crate) fn bpf_object(feature: Option<&str>) -> PathBuf {
    bpf_target().join(feature.map_or("mesh-ebpf.o".to_owned(), |feature| format!("mesh-ebpf-{feature}.o")))
}

/// Where the eBPF programs' sizes are recorded.
pub(crate) fn programs_record() -> PathBuf {
    root().join("docs/programs.md")
}

/// The cargo that runs us, or the one on the path.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO")
        .map(PathBuf::from)
        .or_else(|| process::find("cargo"))
        .unwrap_or_else(|| "cargo".into())
}

/// Where this program is. The tests build it anew while it runs: then the kernel says that the file it was started from is
/// deleted, and another is in its place.
pub(crate) fn this_program() -> Result<PathBuf> {
    let path = env::current_exe().context("this program does not find itself")?;
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    Ok(text.map_or_else(|| path.clone(), PathBuf::from))
}
