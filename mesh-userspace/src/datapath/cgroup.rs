//! The root of the control groups (version 2), wherever it is mounted, and even if it is mounted nowhere.

use std::{fs::File, io, os::fd::OwnedFd};

use nix::sched::{CloneFlags, setns};

use super::{DatapathError, sys};

/// Opens the root: by a mount of our own that is seen nowhere, since `ip netns exec` hides /sys/fs/cgroup and
/// other systems mount it elsewhere. It is the host's root even where the agent runs in a control group
/// namespace of its own, if pid 1 may be looked at.
pub(super) fn open_root() -> Result<OwnedFd, DatapathError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("cgroup".into())
            .spawn_scoped(scope, || {
                if let Ok(namespace) = File::open("/proc/1/ns/cgroup") {
                    // Without it, the root of our own namespace is the best that there is.
                    let _ = setns(&namespace, CloneFlags::CLONE_NEWCGROUP);
                }
                sys::detached_mount(c"cgroup2")
            })?
            .join()
            .map_err(|_| io::Error::other("the thread that opens it panicked"))?
    })
    .map_err(|source| DatapathError::Cgroup { source })
}
