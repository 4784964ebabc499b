//! A thread that writes: the driver never waits for a disk, and what has come in the meantime is written at once.

use std::{io, sync::mpsc, thread};

use mesh_cluster::{Entry, Key, Store};
use tokio::sync::mpsc as told;

use super::log::Log;

/// What is to be written.
pub(super) struct Job {
    /// What has changed since the job before.
    pub(super) entries: Vec<(Key, Entry)>,
    /// All of it.
    pub(super) store: Store,
}

/// The writer. It takes one job at a time, and ends when this is dropped.
pub(super) struct Disk {
    jobs: mpsc::Sender<Job>,
    done: told::UnboundedReceiver<io::Result<()>>,
    is_busy: bool,
}

impl Disk {
    pub(super) fn start(mut log: Log) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, done) = told::unbounded_channel();
        thread::Builder::new().name("gossip-disk".to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                if tell.send(log.append(&job.entries, &job.store)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, done, is_busy: false })
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Has a job done, when the one before is.
    pub(super) fn write(&mut self, job: Job) {
        // The thread lives for as long as this does.
        self.is_busy = self.jobs.send(job).is_ok();
    }

    /// What became of the job.
    pub(super) async fn done(&mut self) -> io::Result<()> {
        let done = self.done.recv().await;
        self.is_busy = false;
        done.unwrap_or_else(|| Err(io::Error::other("the thread that writes has ended")))
    }
}

/// The entries of a store that an earlier one had not, or otherwise. Only the parts that differ are looked at.
pub(super) fn changes(earlier: &Store, store: &Store) -> Vec<(Key, Entry)> {
    let parts = store.digest().differing(earlier.digest());
    let entries = parts.flat_map(|part| store.bucket(part));
    let is_new =
        |(key, entry): &(&Key, &Entry)| earlier.entry(key).map(|there| there.stamp) != Some(entry.stamp);
    entries.filter(is_new).map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

#[cfg(test)]
mod tests {
    use mesh_cluster::{Kind, NodeId, Stamp, Write};

    use super::*;

    #[test]
    fn changes_are_what_is_new() {
        let mut store = Store::default();
        let mut write = |time, name: &str, value: Option<&str>| {
            let write = Write { key: Key::new(Kind::Network, name), value: value.map(Into::into) };
            store.write(write, Stamp { time, count: 0, node: NodeId(1) }).unwrap();
            store.clone()
        };
        let first = write(1, "a", Some("1"));
        let second = write(2, "b", Some("1"));
        let third = write(3, "a", None);
        let names =
            |changes: Vec<(Key, Entry)>| changes.into_iter().map(|(key, _)| key.name).collect::<Vec<_>>();
        assert_eq!(names(changes(&first, &second)), ["b"]);
        assert_eq!(names(changes(&second, &third)), ["a"]);
        assert_eq!(changes(&third, &third), []);
        assert_eq!(changes(&Store::default(), &third).len(), 2);
    }
}
