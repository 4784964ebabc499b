//! The mount namespace in which the agent's mounts outlive it.
//!
//! `ip netns exec` gives every command a mount namespace of its own, so a file system that a command mounts
//! there is gone with it, and with the file system every pin and what the pins keep attached. (It makes a
//! copy of the mounts as they are, as slaves: what is mounted outside later is seen inside only where the
//! outside shares its mounts, and what is mounted inside is never seen outside.) systemd does the same to a
//! service with private mounts. So the mount is made in the namespace of the oldest process that sees the
//! very same run directory: pid 1 on a host, and where that cannot be looked at, the eldest that can.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns, unshare};

/// Runs `work` on a thread of its own that sees the mounts of the oldest process that shares `run_dir` with
/// us; in our own mount namespace if there is none that may be entered.
pub(crate) fn at_home<T: Send>(run_dir: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let home = find(run_dir)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("mounts".into())
            .spawn_scoped(scope, move || {
                if let Some(home) = home
                    && let Err(error) = enter(&home, run_dir)
                {
                    tracing::warn!(
                        %error,
                        "the mounts of the host cannot be reached: what is attached will not outlive this \
                         process if it runs in a mount namespace of its own"
                    );
                }
                work()
            })?
            .join()
            .map_err(|_| io::Error::other("the thread that mounts panicked"))
    })
}

fn enter(home: &File, run_dir: &Path) -> io::Result<()> {
    let before = identity(run_dir)?;
    // A thread that shares its root and working directory with others may not change mount namespaces.
    unshare(CloneFlags::CLONE_FS)?;
    let ours = File::open("/proc/thread-self/ns/mnt")?;
    setns(home, CloneFlags::CLONE_NEWNS)?;
    // The process may have had another root than its namespace has.
    if identity(run_dir).ok() == Some(before) {
        return Ok(());
    }
    setns(&ours, CloneFlags::CLONE_NEWNS)?;
    Err(io::Error::other(format!("{} is not the same directory there", run_dir.display())))
}

/// The mount namespace to go to, unless we are in it.
fn find(run_dir: &Path) -> io::Result<Option<File>> {
    let ours = identity(Path::new("/proc/thread-self/ns/mnt"))?;
    let wanted = identity(run_dir)?;
    let relative = run_dir.strip_prefix("/").unwrap_or(run_dir);
    let mut processes: Vec<u32> =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    processes.sort_unstable();
    for process in processes {
        let about = PathBuf::from(format!("/proc/{process}"));
        // Threads of the kernel run no file, and see mounts that nobody else does.
        if fs::read_link(about.join("exe")).is_err()
            || identity(&about.join("root").join(relative)).ok() != Some(wanted)
        {
            continue;
        }
        let Ok(namespace) = File::open(about.join("ns/mnt")) else { continue };
        let metadata = namespace.metadata()?;
        return Ok(((metadata.dev(), metadata.ino()) != ours).then_some(namespace));
    }
    Ok(None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
