//! Telling when a network namespace comes, or goes, that a task is to be attached in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

/// How long nothing must happen before a change is told.
const QUIET: Duration = Duration::from_millis(100);
/// How long a change is withheld at most while others keep coming.
const PATIENCE: Duration = Duration::from_millis(300);
/// When it is told once more: a namespace's file comes first, and the namespace is mounted on it later, of which nothing
/// is to be heard.
const AGAIN: Duration = Duration::from_millis(400);

/// The directories in which namespaces are expected.
#[derive(Debug)]
pub(crate) struct NamespaceWatch {
    watcher: RecommendedWatcher,
    /// The namespaces' files, and their directories.
    expected: Arc<ArcSwap<BTreeSet<PathBuf>>>,
    /// What is watched, and which file that was: a directory may be made anew.
    watched: BTreeMap<PathBuf, Identity>,
    changes: mpsc::Receiver<()>,
}

/// A file's device and inode.
type Identity = (u64, u64);

impl NamespaceWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> notify::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let expected = Arc::<ArcSwap<BTreeSet<PathBuf>>>::default();
        let concerning = Arc::clone(&expected);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns_us = match event {
                Ok(event) => {
                    let expected = concerning.load();
                    !matches!(event.kind, EventKind::Access(_))
                        && (event.need_rescan() || event.paths.iter().any(|path| expected.contains(path)))
                }
                // Something was missed: better one look too many.
                Err(_) => true,
            };
            if concerns_us {
                // A change that nobody has taken yet tells of this one as well.
                let _ = sender.try_send(());
            }
        })?;
        let (calm, changes) = mpsc::channel(1);
        tokio::spawn(settle(events, calm));
        Ok(Self { watcher, expected, watched: BTreeMap::new(), changes })
    }

    /// Expects these namespaces from now on, and no others.
    pub(crate) fn expect<'a>(&mut self, namespaces: impl Iterator<Item = &'a Path>) {
        let mut expected = BTreeSet::new();
        let mut wanted = BTreeMap::new();
        for namespace in namespaces {
            // Processes' own namespaces are in a file system that tells nothing.
            let Some(directory) = namespace.parent().filter(|parent| !parent.starts_with("/proc")) else {
                continue;
            };
            expected.extend([namespace.to_owned(), directory.to_owned()]);
            // Before the first namespace is made, there may be no directory for them.
            let nearest = [Some(directory), directory.parent()].into_iter().flatten();
            if let Some((directory, identity)) =
                nearest.filter_map(|path| Some((path, identity(path)?))).next()
            {
                wanted.insert(directory.to_owned(), identity);
            }
        }
        if **self.expected.load() != expected {
            self.expected.store(Arc::new(expected));
        }
        let Self { watcher, watched, .. } = self;
        watched.retain(|path, identity| {
            let stays = wanted.get(path) == Some(identity);
            if !stays {
                // One that is gone is watched no longer already.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        for (path, identity) in wanted {
            if watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(path, identity);
                }
                Err(error) => tracing::debug!(%error, "a directory of namespaces cannot be watched"),
            }
        }
    }

    /// Returns when an expected namespace has come or gone; never if the watcher has ended. Nothing is lost if this is not
    /// waited for to its end.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn identity(directory: &Path) -> Option<Identity> {
    let metadata = fs::metadata(directory).ok().filter(fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}

/// Makes one change of events that come together, and tells it twice.
async fn settle(mut events: mpsc::Receiver<()>, calm: mpsc::Sender<()>) {
    while events.recv().await.is_some() {
        let latest = Instant::now() + PATIENCE;
        while let Ok(Some(())) = timeout_at(latest.min(Instant::now() + QUIET), events.recv()).await {}
        if calm.send(()).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
        if calm.send(()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::agent::testing::Directory;

    async fn is_told(watch: &mut NamespaceWatch) -> bool {
        let twice = async {
            watch.changed().await;
            watch.changed().await;
        };
        let told = timeout(Duration::from_secs(5), twice).await.is_ok();
        told && timeout(AGAIN + QUIET * 2, watch.changed()).await.is_err()
    }

    #[tokio::test]
    async fn what_is_expected_is_told_when_it_comes_and_when_it_goes() {
        let directory = Directory::new();
        let netns = directory.path().join("run").join("netns");
        let (ours, other) = (netns.join("ours"), netns.join("other"));
        let mut watch = NamespaceWatch::new().unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        watch.expect([ours.as_path()].into_iter());

        // The very first namespace of a machine.
        fs::create_dir(&netns).unwrap();
        assert!(is_told(&mut watch).await, "the directory came");
        watch.expect([ours.as_path()].into_iter());
        for _ in 0..2 {
            fs::write(&ours, "").unwrap();
            assert!(is_told(&mut watch).await, "it came");
            watch.expect([ours.as_path()].into_iter());
            fs::remove_file(&ours).unwrap();
            assert!(is_told(&mut watch).await, "it went");
        }
        fs::write(&other, "").unwrap();
        assert!(timeout(QUIET * 4, watch.changed()).await.is_err(), "another is none of ours");

        // A directory that is made anew is another one.
        fs::remove_dir_all(&netns).unwrap();
        assert!(is_told(&mut watch).await, "the directory went");
        fs::create_dir(&netns).unwrap();
        watch.expect([ours.as_path()].into_iter());
        fs::write(&ours, "").unwrap();
        assert!(is_told(&mut watch).await, "it came to the new directory");

        watch.expect([other.as_path()].into_iter());
        fs::remove_file(&ours).unwrap();
        assert!(timeout(QUIET * 4, watch.changed()).await.is_err(), "it is not expected any more");
    }
}
