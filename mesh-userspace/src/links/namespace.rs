//! Network namespaces, and work done inside them.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::LinkError;

/// Where `ip netns add` keeps namespaces by name.
const NAMED: &str = "/run/netns";

/// The socket option of asm-generic/socket.h (Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;

/// What tells one network namespace from another: the file on the kernel's nsfs that stands for it. A
/// namespace that was deleted and made again under the same name has another identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// The device number of nsfs.
    pub device: u64,
    /// The namespace's number.
    pub inode: u64,
}

/// A network namespace held open. It lives at least as long as this does.
#[derive(Clone, Debug)]
pub struct Namespace {
    path: PathBuf,
    file: Arc<File>,
    id: NamespaceId,
}

impl Namespace {
    /// The path of a namespace given by name or by path.
    #[must_use]
    pub fn path_of(name_or_path: &Path) -> PathBuf {
        if name_or_path.components().count() == 1 && name_or_path.is_relative() {
            Path::new(NAMED).join(name_or_path)
        } else {
            name_or_path.to_path_buf()
        }
    }

    /// Whether there is a file where the namespace should be.
    #[must_use]
    pub fn exists(name_or_path: &Path) -> bool {
        Self::path_of(name_or_path).exists()
    }

    /// Opens a namespace by its name under /run/netns, or by its path.
    pub fn open(name_or_path: &Path) -> Result<Self, LinkError> {
        let path = Self::path_of(name_or_path);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LinkError::NoNamespace {
                path: path.clone(),
                mend: match path.strip_prefix(NAMED) {
                    Ok(name) => format!("make it with `ip netns add {}`", name.display()),
                    Err(_) => "start the task that it belongs to".into(),
                },
            },
            _ => LinkError::Enter { path: path.clone(), source },
        })?;
        Self::of_file(path, file)
    }

    /// The one that the calling thread is in.
    pub fn current() -> Result<Self, LinkError> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let file = File::open(&path).map_err(|source| LinkError::Enter { path: path.clone(), source })?;
        Self::of_file(path, file)
    }

    pub(super) fn of_file(path: PathBuf, file: File) -> Result<Self, LinkError> {
        let metadata = file.metadata().map_err(|source| LinkError::Enter { path: path.clone(), source })?;
        // `ip netns del` leaves the file of a namespace behind for a moment, and `ip netns add` makes it
        // before it mounts the namespace on it: both look like any empty file.
        let magic = nix::sys::statfs::fstatfs(&file)
            .map_err(|error| LinkError::Enter { path: path.clone(), source: error.into() })?
            .filesystem_type();
        if magic != nix::sys::statfs::NSFS_MAGIC {
            return Err(LinkError::NotANamespace { path });
        }
        let id = NamespaceId { device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { path, file: Arc::new(file), id })
    }

    /// What tells it from others.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// The number by which eBPF programs know it, never given twice while the system runs.
    pub fn cookie(&self) -> Result<u64, LinkError> {
        self.run_blocking(cookie_here)?.map_err(|source| LinkError::Kernel {
            doing: format!("ask for the cookie of the network namespace {}", self.path.display()),
            source,
        })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path by which this process reaches it as long as it is held, also where the one that it was opened by is not
    /// visible to this process.
    #[must_use]
    pub fn own_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Runs `work` on a thread of its own inside the namespace, and waits for it.
    pub fn run_blocking<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LinkError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("namespace".into())
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(|error| self.cut_short(&error.to_string()))?
                .join()
                .map_err(|_| self.cut_short("its thread panicked"))?
        })
    }

    /// Runs `work` on a thread of its own inside the namespace. The thread knows the tokio runtime of the
    /// caller, so that sockets made by it can be registered there.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let (sender, receiver) = oneshot::channel();
        let namespace = self.clone();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("namespace".into())
            .spawn(move || {
                let _runtime = runtime.enter();
                // Nobody is left to tell when the caller has gone away.
                let _ = sender.send(namespace.enter().map(|()| work()));
            })
            .map_err(|error| self.cut_short(&error.to_string()))?;
        receiver.await.map_err(|_| self.cut_short("its thread panicked"))?
    }

    pub(super) fn enter(&self) -> Result<(), LinkError> {
        setns(self, CloneFlags::CLONE_NEWNET).map_err(|error| match error {
            // Another kind of namespace.
            nix::errno::Errno::EINVAL => LinkError::NotANamespace { path: self.path.clone() },
            _ => LinkError::Enter { path: self.path.clone(), source: error.into() },
        })
    }

    pub(super) fn cut_short(&self, why: &str) -> LinkError {
        LinkError::CutShort { path: self.path.clone(), why: why.into() }
    }
}

/// The number of the namespace that the calling thread is in, by which eBPF programs know it.
///
/// # Errors
/// When the kernel gives no socket.
pub(crate) fn cookie_here() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut length = nix::libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has as many.
    let result = unsafe {
        nix::libc::getsockopt(
            socket.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
