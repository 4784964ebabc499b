//! The file system for pins: the agent's own, at `<run_dir>/bpf`, since `ip netns exec` hides the one under
//! /sys.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{DatapathError, home, sys};

/// The name of the mount point in the run directory.
const NAME: &str = "bpf";

/// A mounted bpffs, reached through a descriptor: its mount point may not be visible to this process.
#[derive(Debug)]
pub(super) struct BpfFs {
    root: File,
}

impl BpfFs {
    /// Opens the one of `run_dir`, mounting it if it is not there.
    pub(super) fn open(run_dir: &Path) -> Result<Self, DatapathError> {
        fs::create_dir_all(run_dir)
            .map_err(|source| file(format!("make the directory {}", run_dir.display()), source))?;
        let (run_dir, path) = paths(run_dir)?;
        let fault = |source| DatapathError::Mount { path: path.clone(), source };
        let root = home::at_home(&run_dir, || {
            fs::create_dir_all(&path)?;
            if !is_mounted(&path)? {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some("bpf"), &path, Some("bpf"), flags, Some("mode=0700"))?;
            }
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&path)
        })
        .and_then(|opened| opened)
        .map_err(fault)?;
        Ok(Self { root })
    }

    /// Removes everything from the one of `run_dir` and unmounts it, if it is there.
    pub(super) fn remove(run_dir: &Path) -> Result<(), DatapathError> {
        if !run_dir.exists() {
            return Ok(());
        }
        let (run_dir, path) = paths(run_dir)?;
        home::at_home(&run_dir, || -> Result<(), DatapathError> {
            let mounted = is_mounted(&path);
            if matches!(&mounted, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                return Ok(());
            }
            let fault = |source| file(format!("unmount the bpffs on {}", path.display()), source);
            if mounted.map_err(fault)? {
                // What is unmounted while somebody has it open would live on with its pins.
                directories(&path)?.iter().try_for_each(|name| remove_tree(&path.join(name)))?;
                umount2(&path, MntFlags::MNT_DETACH).map_err(|error| fault(error.into()))?;
            }
            fs::remove_dir(&path).map_err(|source| file(format!("remove {}", path.display()), source))
        })
        .map_err(|source| DatapathError::Mount { path: path.clone(), source })?
    }

    /// A path by which this process reaches `name` on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd())).join(name)
    }

    /// Makes a directory at its root, if it is not there.
    pub(super) fn make_directory(&self, name: &str) -> Result<(), DatapathError> {
        match fs::create_dir(self.path(name)) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(file(format!("make the directory {name} on the bpffs"), source))
            }
            _ => Ok(()),
        }
    }

    /// Removes every directory at its root but these.
    pub(super) fn keep_only(&self, names: &[&str]) -> Result<(), DatapathError> {
        for name in directories(&self.path(""))? {
            if !names.contains(&name.as_str()) {
                remove_tree(&self.path(&name))?;
            }
        }
        Ok(())
    }

    /// Removes every pin in a directory of it but these.
    pub(super) fn keep_only_in(&self, directory: &str, pins: &[String]) -> Result<(), DatapathError> {
        let found = self.list(directory)?;
        let mut doomed = found.iter().filter(|name| !pins.contains(name));
        doomed.try_for_each(|name| remove_tree(&self.path(directory).join(name)))
    }

    /// Removes every pin in a directory of it.
    pub(super) fn clear(&self, directory: &str) -> Result<(), DatapathError> {
        self.keep_only_in(directory, &[])
    }

    /// The names in a directory of it, sorted.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<String>, DatapathError> {
        names(&self.path(directory))
    }

    /// Removes a pin, and detaches it if it is a link; it is no error if there is none.
    pub(super) fn remove_pin(&self, name: &str) -> Result<(), DatapathError> {
        remove_tree(&self.path(name))
    }
}

fn file(doing: String, source: io::Error) -> DatapathError {
    DatapathError::File { doing, source }
}

/// The run directory and the mount point in it, without symbolic links, which may lead elsewhere in another
/// mount namespace.
fn paths(run_dir: &Path) -> Result<(PathBuf, PathBuf), DatapathError> {
    let run_dir =
        run_dir.canonicalize().map_err(|source| file(format!("look at {}", run_dir.display()), source))?;
    let path = run_dir.join(NAME);
    Ok((run_dir, path))
}

fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

fn names(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let fault = |source| file(format!("list {}", directory.display()), source);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(fault)? {
        names.push(entry.map_err(fault)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The directories in a directory, sorted: links go before maps, so that no program runs on tables half
/// gone. The kernel puts files of its own at the root of every bpffs, which nobody can remove.
fn directories(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let mut names = names(directory)?;
    names.retain(|name| directory.join(name).is_dir());
    Ok(names)
}

fn remove_tree(path: &Path) -> Result<(), DatapathError> {
    let fault = |source| file(format!("remove {}", path.display()), source);
    if path.is_dir() {
        names(path)?.iter().try_for_each(|name| remove_tree(&path.join(name)))?;
        return fs::remove_dir(path).map_err(fault);
    }
    if let Ok(object) = sys::get_pinned(path) {
        // Without its pin the kernel would detach a link as well, but some time later. A link whose
        // interface is gone is detached already, and a map cannot be.
        let _ = sys::detach_link(object.as_fd());
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(fault(source)),
        _ => Ok(()),
    }
}
