//! The smallest XDP program: it lets everything pass.
//!
//! A veth that transmits from XDP only wakes a peer that has an XDP program of its own (`veth_xdp_flush` in the kernel's
//! drivers/net/veth.c); without one the packets wait for the next that comes another way. A real card has no such peer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bpf::{self, Kind};

/// The code `XDP_PASS`.
const XDP_PASS: u8 = 2;

/// The program, pinned for as long as this lives; interfaces keep it longer.
#[derive(Debug)]
pub(super) struct Pass {
    directory: PathBuf,
}

impl Pass {
    /// Loads it, and pins it in a bpffs that is mounted on a new directory.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", directory.display()))?;
        let pass = Self { directory: directory.to_owned() };
        let program = bpf::load(Kind::XdpFrags, &[bpf::answer(XDP_PASS), bpf::EXIT])
            .context("cannot load an XDP program")?;
        bpf::pin(&program, &pass.path()).context("cannot pin an XDP program")?;
        Ok(pass)
    }

    /// Where it is pinned.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join("pass")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // The lab's end takes away what stays now.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}
