//! Which compiler builds the eBPF crate.
//!
//! It needs the source of `core` and leave to use unstable options. A rustup nightly with `rust-src` has both; so has
//! Debian's `rustc-web` with `rust-web-src`, once `RUSTC_BOOTSTRAP` is set. And bpf-linker must understand what the
//! compiler writes, so its LLVM must not be the older of the two.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{process, project};

/// Debian's compiler, and the source of its `core`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";

/// A compiler with the source of `core`, and the cargo that drives it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// What to call it, with its version.
    pub(crate) name: String,
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    /// The first that can build the eBPF crate: rustup's nightly, then Debian's. Neither may have a newer LLVM than
    /// the linker's, where that is known.
    pub(crate) fn find(newest_llvm: Option<u32>) -> Option<Self> {
        Self::nightly(newest_llvm).or_else(|| Self::debian(newest_llvm))
    }

    /// rustup's nightly, if it has `rust-src`.
    fn nightly(newest_llvm: Option<u32>) -> Option<Self> {
        let rustup = process::find("rustup")?;
        let which = |program| {
            let mut rustup = process::independent(&rustup);
            rustup.env("RUSTUP_AUTO_INSTALL", "0");
            let path = process::answer(rustup.args(["which", "--toolchain", "nightly", program]))?;
            Some(PathBuf::from(path.trim()))
        };
        let rustc = which("rustc")?;
        let source = rustc.parent()?.parent()?.join("lib/rustlib/src/rust/library");
        let release = usable(&rustc, &source, newest_llvm)?;
        Some(Self { name: format!("rustc {release} (rustup's nightly)"), cargo: which("cargo")?, rustc })
    }

    /// Debian's `rustc-web`, driven by the cargo that runs us: Debian has none that is as new.
    fn debian(newest_llvm: Option<u32>) -> Option<Self> {
        let rustc = PathBuf::from(DEBIAN_RUSTC);
        let release = usable(&rustc, Path::new(DEBIAN_SOURCE), newest_llvm)?;
        Some(Self { name: format!("rustc {release} (Debian's rustc-web)"), cargo: project::cargo(), rustc })
    }

    /// A cargo command that uses this compiler and may use unstable options.
    pub(crate) fn command(&self) -> Command {
        let mut command = process::independent(&self.cargo);
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// The compiler's version, if it is new enough for the workspace, old enough for the linker and has the source
/// of `core`.
fn usable(rustc: &Path, source: &Path, newest_llvm: Option<u32>) -> Option<String> {
    if !source.join("core/Cargo.toml").is_file() {
        return None;
    }
    let told = process::answer(process::independent(rustc).arg("-vV"))?;
    let minimum = major_minor(env!("CARGO_PKG_RUST_VERSION"))?;
    let release = field(&told, "release: ")?;
    let new_enough = major_minor(release)? >= minimum;
    let old_enough = match newest_llvm {
        Some(newest) => major_minor(field(&told, "LLVM version: ")?)?.0 <= newest,
        None => true,
    };
    (new_enough && old_enough).then(|| release.to_owned())
}

/// The program that links eBPF objects.
#[derive(Debug)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// `bpf-linker 0.13.0`.
    pub(crate) name: String,
    /// The major version of its LLVM, where it is a library that one can see.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// bpf-linker, if it is there and runs (it does not where its LLVM library was removed).
    pub(crate) fn find() -> Option<Self> {
        let path = process::find("bpf-linker")?;
        let name = process::answer(process::independent(&path).arg("--version"))?.trim().to_owned();
        let libraries = process::answer(process::independent("ldd").arg(&path)).unwrap_or_default();
        Some(Self { path, name, llvm: llvm_library(&libraries) })
    }
}

/// The major version in ldd's `libLLVM.so.22.1 => …`.
fn llvm_library(libraries: &str) -> Option<u32> {
    let (_, version) = libraries.split_once("libLLVM.so.")?;
    version.split(|other: char| !other.is_ascii_digit()).next()?.parse().ok()
}

/// What follows a label at the start of a line.
fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(label))
}

/// The first two numbers of a version.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_compilers_tell_them() {
        let told =
            "rustc 1.97.0-nightly (0123456 2026-05-01)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(field(told, "release: ").and_then(major_minor), Some((1, 97)));
        assert_eq!(field(told, "LLVM version: ").and_then(major_minor), Some((22, 1)));
        assert_eq!(field(told, "host: "), None);
        assert_eq!(major_minor("unknown"), None);
    }

    #[test]
    fn reads_the_linkers_llvm_where_it_is_a_library() {
        let dynamic =
            "\tlinux-vdso.so.1 (0x00007f)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(llvm_library(dynamic), Some(22));
        assert_eq!(llvm_library("\tstatically linked\n"), None);
    }
}
