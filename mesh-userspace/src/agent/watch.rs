//! Telling when the file changes.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::timeout};

/// How long the file must rest before a change is told: editors write in several steps.
const QUIET: Duration = Duration::from_millis(150);

/// A watched file.
#[derive(Debug)]
pub(crate) struct FileWatch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl FileWatch {
    /// Watches a file by its directory, because many editors replace a file by another one of its name; and where
    /// it is a symbolic link, also the directory of what it leads to.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new(file: &Path) -> notify::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let targets: Vec<PathBuf> =
            [Some(file.to_owned()), file.canonicalize().ok()].into_iter().flatten().collect();
        let names: Vec<OsString> =
            targets.iter().filter_map(|target| target.file_name()).map(ToOwned::to_owned).collect();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns_us = match event {
                Ok(event) => {
                    !matches!(event.kind, EventKind::Access(_))
                        && (event.need_rescan()
                            || event
                                .paths
                                .iter()
                                .filter_map(|path| path.file_name())
                                .any(|name| names.iter().any(|ours| ours == name)))
                }
                // Something was missed: better one look too many.
                Err(_) => true,
            };
            if concerns_us {
                // A change that nobody has taken yet tells of this one as well.
                let _ = sender.try_send(());
            }
        })?;
        let mut directories: Vec<PathBuf> = targets.iter().map(|target| parent(target)).collect();
        directories.dedup();
        for directory in directories {
            watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        }
        // In a task of its own, so that who waits for a change may give up waiting and loses none.
        let (calm, changes) = mpsc::channel(1);
        tokio::spawn(settle(events, calm));
        Ok(Self { _watcher: watcher, changes })
    }

    /// Returns when the file has changed and rests again; never if the watcher has ended. Nothing is lost if this
    /// is not waited for to its end.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Makes one change of events that come together.
async fn settle(mut events: mpsc::Receiver<()>, calm: mpsc::Sender<()>) {
    while events.recv().await.is_some() {
        while let Ok(Some(())) = timeout(QUIET, events.recv()).await {}
        if calm.send(()).await.is_err() {
            return;
        }
    }
}

fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::testing::Directory;

    async fn is_told(watch: &mut FileWatch) -> bool {
        timeout(Duration::from_secs(5), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn writing_renaming_and_returning_are_told_once_each() {
        let directory = Directory::new();
        let file = directory.path().join("mesh.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(&file).unwrap();

        fs::write(&file, "b").unwrap();
        fs::write(&file, "c").unwrap();
        assert!(is_told(&mut watch).await, "written in place");

        let other = directory.path().join(".mesh.yaml.swp");
        fs::write(&other, "d").unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(is_told(&mut watch).await, "replaced by renaming");

        fs::remove_file(&file).unwrap();
        fs::write(&file, "e").unwrap();
        assert!(is_told(&mut watch).await, "removed and written anew");

        fs::write(directory.path().join("other.yaml"), "f").unwrap();
        assert!(timeout(QUIET * 3, watch.changed()).await.is_err(), "another file is none of ours");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_loses_nothing() {
        let directory = Directory::new();
        let file = directory.path().join("mesh.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(&file).unwrap();
        fs::write(&file, "b").unwrap();
        // Longer than the event takes, shorter than the file must rest.
        assert!(timeout(QUIET / 2, watch.changed()).await.is_err());
        assert!(is_told(&mut watch).await);
    }

    #[tokio::test]
    async fn the_target_of_a_symbolic_link_is_watched_too() {
        let directory = Directory::new();
        let target = directory.path().join("there");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("real.yaml"), "a").unwrap();
        let link = directory.path().join("mesh.yaml");
        std::os::unix::fs::symlink(target.join("real.yaml"), &link).unwrap();
        let mut watch = FileWatch::new(&link).unwrap();
        fs::write(target.join("real.yaml"), "b").unwrap();
        assert!(is_told(&mut watch).await);
    }
}
