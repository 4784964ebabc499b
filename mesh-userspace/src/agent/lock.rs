//! One agent for each run directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The lock's name in the run directory.
const NAME: &str = "meshd.lock";

/// Why the run directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "Another meshd{} uses the run directory {}. Stop that one, or give this one a directory of its own with \
         `node: {{run_dir: …}}`.",
        .pid.as_ref().map_or(String::new(), |pid| format!(", process {pid},")),
        .directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// The other agent's process, where it says.
        pid: Option<String>,
    },
    /// Another agent has the network namespace.
    #[error(
        "Another meshd serves this network namespace already. One is enough for a node: stop that one first."
    )]
    NamespaceTaken,
    /// The system refused the socket that stands for the network namespace.
    #[error("The network namespace cannot be taken: {0}.")]
    Namespace(io::Error),
    /// The system refused.
    #[error("The run directory {} cannot be used: {source}. meshd must run as root.", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A run directory that is ours until this is dropped, or the process ends however it may.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    _lock: Flock<File>,
}

impl RunDirectory {
    /// Makes the directory if it is missing, and takes it.
    ///
    /// # Errors
    /// When another agent has it, or the system refuses.
    pub(crate) fn take(directory: &Path) -> Result<Self, LockError> {
        let refused = |source| LockError::Io { directory: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(refused)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(NAME))
            .map_err(refused)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // For people: the lock itself is what counts.
                lock.set_len(0).and_then(|()| lock.rewind()).map_err(refused)?;
                writeln!(lock, "{}", std::process::id()).map_err(refused)?;
                Ok(Self { _lock: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let pid = file.read_to_string(&mut pid).is_ok().then(|| pid.trim().to_owned());
                let pid = pid.filter(|pid| !pid.is_empty());
                Err(LockError::Taken { directory: directory.to_owned(), pid })
            }
            Err((_, errno)) => Err(refused(errno.into())),
        }
    }
}

/// A network namespace that is ours until this is dropped, or the process ends however it may: a socket of an
/// abstract name, of which each namespace has its own.
#[derive(Debug)]
pub(crate) struct NamespaceLock {
    _socket: UnixListener,
}

impl NamespaceLock {
    /// Takes the namespace that the calling thread is in.
    ///
    /// # Errors
    /// When another agent has it, or the system refuses.
    pub(crate) fn take() -> Result<Self, LockError> {
        let bound =
            SocketAddr::from_abstract_name("mesh/meshd").and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::NamespaceTaken),
            Err(error) => Err(LockError::Namespace(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::testing::Directory, scratch::Scratch};

    #[test]
    fn a_namespace_has_one_agent_and_each_has_its_own() {
        let (one, two) = (Scratch::new("lock"), Scratch::new("lock"));
        let take = |scratch: &Scratch| scratch.namespace().run_blocking(NamespaceLock::take).unwrap();
        let first = take(&one).unwrap();
        assert!(matches!(take(&one), Err(LockError::NamespaceTaken)));
        let _second = take(&two).unwrap();
        drop(first);
        take(&one).unwrap();
    }

    #[test]
    fn a_second_agent_is_told_of_the_first() {
        let directory = Directory::new();
        let path = directory.path().join("run");
        let first = RunDirectory::take(&path).unwrap();
        let error = RunDirectory::take(&path).unwrap_err().to_string();
        let expected = format!(
            "Another meshd, process {}, uses the run directory {}.",
            std::process::id(),
            path.display()
        );
        assert!(error.starts_with(&expected), "{error}");
        drop(first);
        RunDirectory::take(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told() {
        let directory = Directory::new();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(RunDirectory::take(&file.join("run")), Err(LockError::Io { .. })));
    }
}
