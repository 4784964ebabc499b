//! Which compiler builds the eBPF crate.
//!
//! It needs the source of `core` and leave to use unstable options. A rustup nightly with `rust-src` has both; so has
//! Debian's `rustc-web` with `rust-web-src`, once `RUSTC_BOOTSTRAP` is set.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::process;

/// The Rust compiler that Debian keeps fresh for its browsers, and the source of its `core`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";
/// The oldest of Debian's compilers whose LLVM bpf-linker here understands: 1.96 of bookworm-security.
const DEBIAN_MINIMUM: (u32, u32) = (1, 87);

/// A compiler with the source of `core`, and the cargo that drives it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// What to call it, with its version.
    pub(crate) name: String,
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    /// The first that can build the eBPF crate: rustup's nightly, then Debian's.
    pub(crate) fn find() -> Option<Self> {
        Self::nightly().or_else(Self::debian)
    }

    /// rustup's nightly, if it has `rust-src`.
    fn nightly() -> Option<Self> {
        let rustup = process::find("rustup")?;
        let which = |program| {
            let mut rustup = process::command(&rustup);
            let path = process::answer(rustup.args(["which", "--toolchain", "nightly", program]))?;
            Some(PathBuf::from(path.trim()))
        };
        let rustc = which("rustc")?;
        let root = rustc.parent()?.parent()?;
        if !root.join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        let cargo = which("cargo")?;
        let name = format!("rustup's nightly ({})", version(&rustc)?.trim());
        Some(Self { name, cargo, rustc })
    }

    /// Debian's `rustc-web`, driven by the cargo that runs us (Debian's own is older than our lock files).
    fn debian() -> Option<Self> {
        let rustc = PathBuf::from(DEBIAN_RUSTC);
        if !Path::new(DEBIAN_SOURCE).join("core").is_dir() {
            return None;
        }
        let version = version(&rustc)?;
        if release(&version)? < DEBIAN_MINIMUM {
            return None;
        }
        Some(Self { name: format!("Debian's rustc-web ({})", version.trim()), cargo: cargo(), rustc })
    }

    /// A cargo command that uses this compiler and may use unstable options.
    pub(crate) fn command(&self) -> Command {
        let mut command = process::command(&self.cargo);
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// The cargo that runs us, or the one on the path.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO")
        .map(PathBuf::from)
        .or_else(|| process::find("cargo"))
        .unwrap_or_else(|| "cargo".into())
}

/// What a compiler says of itself: `rustc 1.96.0 (ac68faa20 2026-05-25)…`.
fn version(rustc: &Path) -> Option<String> {
    process::answer(process::command(rustc).arg("--version"))
}

/// The major and minor version in `rustc 1.96.0 (…)`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_compilers_say_of_themselves() {
        assert_eq!(
            release("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some((1, 96))
        );
        assert_eq!(release("rustc 1.97.0-nightly (0123456 2026-05-01)"), Some((1, 97)));
        assert_eq!(release("cannot run"), None);
    }
}
