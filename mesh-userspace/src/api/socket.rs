//! The daemon's socket: who may speak to it, and one living daemon for each.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{Group, chown},
};
use thiserror::Error;
use tokio::net::UnixListener;

/// Owner and group may speak, nobody else.
const MODE: u32 = 0o660;

/// The group whose members may speak to the daemon, if the system has it.
const GROUP: &str = "mesh";

/// Why the daemon has no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers on it.
    #[error(
        "another meshd answers at {0}: stop that one, or give this one a `node.run_dir` of its own in its \
         configuration"
    )]
    Live(PathBuf),
    /// Another daemon is just making it.
    #[error("another meshd is starting in {0}: wait for it, or give this one a `node.run_dir` of its own")]
    Starting(PathBuf),
    /// Something else has its name.
    #[error("{0} is there and is no socket: move it away")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{what} {path}: {source}; meshd must be able to write to its run_dir")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::Io { what, path, source }
}

/// Listens on a socket of this path, in a directory that is made if it is missing. What a dead daemon left is
/// replaced.
///
/// # Errors
/// When another daemon has it, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(failed("cannot make the directory", directory))?;
    // Two daemons that start at once would each find the dead socket, and the slower would take away the living
    // one of the faster: the lock makes it look again. It is let go once the socket listens.
    let lock = File::open(directory).map_err(failed("cannot open the directory", directory))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => BindError::Starting(directory.to_owned()),
        errno => failed("cannot lock the directory", directory)(errno.into()),
    })?;
    refuse_living(path)?;

    // The socket is made under another name and takes its place when its mode is right, so that there is no
    // moment in which anybody else may connect, and none without a socket.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = directory.join(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("cannot remove", &fresh)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed("cannot listen on", &fresh))?;
    let placed = permit(&fresh).and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = placed {
        // The first error is the one to tell.
        let _ = fs::remove_file(&fresh);
        return Err(failed("cannot set up", path)(error));
    }
    Ok(listener)
}

/// An error if a daemon answers on the socket, or if what is there is no socket.
fn refuse_living(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("cannot look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("cannot tell whether a daemon answers at", path)(error)),
    }
}

fn permit(path: &Path) -> io::Result<()> {
    if let Some(group) = Group::from_name(GROUP)? {
        match chown(path, None, Some(group.gid)) {
            // A daemon that runs without root, as in tests, keeps its own group.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
}
