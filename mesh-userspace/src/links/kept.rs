//! Network namespaces of the mesh's own, kept by name under a directory, so that what is attached in them outlives the
//! daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};

use super::{LinkError, Namespace};
use crate::datapath::home::at_home;

/// The namespaces of a directory. Each is a file there which the namespace is mounted on, as `ip netns` does it, in the
/// mount namespace of the host: this process may not see the mounts, and holds each open.
#[derive(Debug)]
pub struct KeptNamespaces {
    directory: PathBuf,
    open: BTreeMap<String, Namespace>,
}

impl KeptNamespaces {
    /// Those under a directory, which is made when it is needed.
    #[must_use]
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory, open: BTreeMap::new() }
    }

    /// The namespace of a name; it is made if it is not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure(&mut self, name: &str) -> Result<&Namespace, LinkError> {
        if !self.open.contains_key(name) {
            let namespace = self.open_or_make(name)?;
            self.open.insert(name.to_owned(), namespace);
        }
        self.open.get(name).ok_or_else(|| LinkError::Vanished { name: name.to_owned() })
    }

    /// Removes every namespace but these.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn keep_only(&mut self, names: &BTreeSet<&str>) -> Result<(), LinkError> {
        self.open.retain(|name, _| names.contains(name.as_str()));
        let there = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let there = there.map_err(|source| self.fault("list", &self.directory, source))?;
        let found = there.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let doomed: Vec<String> = found.filter(|name| !names.contains(name.as_str())).collect();
        doomed.iter().try_for_each(|name| self.remove(name))
    }

    /// Removes all of them, and their directory.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_all(&mut self) -> Result<(), LinkError> {
        self.keep_only(&BTreeSet::new())?;
        match fs::remove_dir(&self.directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.fault("remove", &self.directory, source))
            }
            _ => Ok(()),
        }
    }

    fn open_or_make(&self, name: &str) -> Result<Namespace, LinkError> {
        let fault = |source| self.fault("make the network namespace", &self.directory.join(name), source);
        fs::create_dir_all(&self.directory).map_err(fault)?;
        // Without symbolic links, which may lead elsewhere in another mount namespace.
        let directory = self.directory.canonicalize().map_err(fault)?;
        let path = directory.join(name);
        let file = at_home(&directory, || {
            if !is_namespace(&path) {
                make(&path)?;
            }
            File::open(&path)
        });
        Namespace::of_file(path.clone(), file.and_then(|opened| opened).map_err(fault)?)
    }

    fn remove(&self, name: &str) -> Result<(), LinkError> {
        let fault = |source| self.fault("remove the network namespace", &self.directory.join(name), source);
        let directory = self.directory.canonicalize().map_err(fault)?;
        let path = directory.join(name);
        at_home(&directory, || {
            if is_namespace(&path) {
                umount2(&path, MntFlags::MNT_DETACH)?;
            }
            fs::remove_file(&path)
        })
        .and_then(|removed| removed)
        .map_err(fault)
    }

    fn fault(&self, doing: &str, path: &Path, source: io::Error) -> LinkError {
        LinkError::Kernel { doing: format!("{doing} {}", path.display()), source }
    }
}

/// Whether a namespace is mounted there. After a restart of the machine, its file may be left.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes a namespace and mounts it on a file. Its loopback interface stays down: it speaks to nobody but its network.
fn make(path: &Path) -> io::Result<()> {
    File::create(path)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, || -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let own = Path::new("/proc/thread-self/ns/net");
                mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                Ok(())
            })?
            .join()
            .map_err(|_| io::Error::other("the thread that makes it panicked"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::Directory;

    #[test]
    fn a_namespace_is_made_once_found_again_and_removed() {
        let directory = Directory::new();
        let kept = directory.path().join("netns");
        let mut namespaces = KeptNamespaces::in_directory(kept.clone());
        let blue = namespaces.ensure("blue").unwrap().id();
        assert_ne!(blue, Namespace::current().unwrap().id());
        assert_ne!(namespaces.ensure("red").unwrap().id(), blue);

        // As after a restart of the daemon.
        let mut namespaces = KeptNamespaces::in_directory(kept.clone());
        assert_eq!(namespaces.ensure("blue").unwrap().id(), blue);
        namespaces.keep_only(&BTreeSet::from(["blue"])).unwrap();
        assert_eq!((kept.join("blue").exists(), kept.join("red").exists()), (true, false));

        // A file that a restart of the machine has left.
        fs::write(kept.join("green"), "").unwrap();
        namespaces.ensure("green").unwrap();
        namespaces.remove_all().unwrap();
        assert!(!kept.exists());
        namespaces.remove_all().unwrap();
    }
}
