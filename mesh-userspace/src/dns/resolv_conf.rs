//! The resolv.conf of tasks, by which their C libraries find the gateway.
//!
//! `ip netns exec NAME` shows a command /etc/netns/NAME/resolv.conf in the place of the host's. For a namespace that has no
//! name there, the same text is kept under the run directory, for whoever starts the task.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{plan::Resolvers, problem::Problem, spec::NETNS_DIRECTORY};

/// What the first line of each begins with. The run directory follows: each daemon of a host has its own.
const MARK: &str = "# Written by meshd, whose run directory is ";
/// Where `ip netns exec` looks.
const ETC_NETNS: &str = "/etc/netns";
/// The files are looked at again after this time at the earliest.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The file's name there.
const NAME: &str = "resolv.conf";

/// The files of this node's tasks.
#[derive(Debug)]
pub(crate) struct ResolvConfs {
    run_dir: PathBuf,
    etc_netns: PathBuf,
    last: Option<Last>,
}

/// What was ensured last.
#[derive(Debug)]
struct Last {
    wanted: BTreeMap<String, Resolvers>,
    problems: Vec<Problem>,
    at: Instant,
}

/// The text for a task that asks these name servers.
pub(super) fn text(run_dir: &Path, name_servers: &[IpAddr]) -> String {
    let mut text = mark(run_dir);
    for server in name_servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // A name with a dot, such as search.1, is as good as one without.
    text.push_str("options ndots:0\n");
    text
}

fn mark(run_dir: &Path) -> String {
    format!("{MARK}{}: it comes and goes with the task's endpoint.\n", run_dir.display())
}

/// Whether any meshd wrote this.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

impl ResolvConfs {
    /// Those of the daemon with this run directory.
    pub(crate) fn of(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), etc_netns: ETC_NETNS.into(), last: None }
    }

    /// Writes those of these tasks, by their endpoints' names, and removes all others of this daemon's. What somebody else
    /// wrote stays as it is. What was ensured a moment ago is taken to be so: a node may have many tasks, of which few come and
    /// go at a time.
    pub(crate) fn ensure(&mut self, wanted: &BTreeMap<String, Resolvers>) -> Vec<Problem> {
        let is_same = |last: &&Last| last.wanted == *wanted && last.at.elapsed() < LOOK_EVERY;
        if let Some(last) = self.last.as_ref().filter(is_same) {
            return last.problems.clone();
        }
        let problems = self.write_all(wanted);
        self.last = Some(Last { wanted: wanted.clone(), problems: problems.clone(), at: Instant::now() });
        problems
    }

    fn write_all(&self, wanted: &BTreeMap<String, Resolvers>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut told = |path: &Path, done: io::Result<()>| {
            if let Err(error) = done {
                let message =
                    format!("It cannot be written: {error}. Let meshd write there, or write it yourself.");
                problems.push(Problem::new(path.display().to_string(), message));
            }
        };
        let directory = self.directory();
        let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
        for (endpoint, resolvers) in wanted {
            let text = text(&self.run_dir, &resolvers.name_servers);
            let named = resolvers.netns.strip_prefix(NETNS_DIRECTORY).ok();
            let named = named.filter(|name| name.components().count() == 1);
            let named = named.map(|name| self.etc_netns.join(name).join(NAME));
            for path in [Some(directory.join(format!("{endpoint}.conf"))), named].into_iter().flatten() {
                told(&path, self.write(&path, &text));
                kept.insert(path);
            }
        }
        told(&directory, self.remove_but(&kept));
        problems
    }

    /// Removes all of them.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        self.remove_but(&BTreeSet::new())?;
        remove_empty(&self.directory());
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.run_dir.join("resolv")
    }

    /// In place, so that tasks that run already see it: the file itself is what they have in the place of their own.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        match fs::read(path) {
            Ok(found) if found == text.as_bytes() || !self.wrote(&found) => return Ok(()),
            Ok(_) => return fs::write(path, text),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match OpenOptions::new().write(true).create_new(true).open(path) {
            // A symbolic link that leads nowhere is somebody's too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            opened => opened?.write_all(text.as_bytes()),
        }
    }

    /// Whether this daemon wrote a file, or an earlier one in its place.
    fn wrote(&self, text: &[u8]) -> bool {
        text.starts_with(mark(&self.run_dir).as_bytes())
    }

    fn remove_but(&self, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        let of_namespaces = list(&self.etc_netns)?.into_iter().map(|directory| directory.join(NAME));
        let ours = list(&self.directory())?;
        for path in ours.into_iter().chain(of_namespaces).filter(|path| !kept.contains(path)) {
            let is_ours = fs::read(&path).is_ok_and(|text| self.wrote(&text));
            if is_ours {
                fs::remove_file(&path)?;
                if path.starts_with(&self.etc_netns)
                    && let Some(directory) = path.parent()
                {
                    remove_empty(directory);
                }
            }
        }
        Ok(())
    }
}

/// What is in a directory; nothing where there is none.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// A directory goes with the last that was in it; with anything else in it, it stays.
fn remove_empty(directory: &Path) {
    let _ = fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::Directory;

    fn wanted(tasks: &[(&str, &str, &[&str])]) -> BTreeMap<String, Resolvers> {
        let of = |(name, netns, servers): &(&str, &str, &[&str])| {
            let name_servers = servers.iter().map(|server| server.parse().unwrap()).collect();
            ((*name).to_owned(), Resolvers { netns: (*netns).into(), name_servers })
        };
        tasks.iter().map(of).collect()
    }

    #[test]
    fn they_come_and_go_with_their_tasks_and_others_stay() {
        let directory = Directory::new();
        let etc = directory.path().join("etc");
        let confs = |run_dir: &str| ResolvConfs {
            run_dir: directory.path().join(run_dir),
            etc_netns: etc.clone(),
            last: None,
        };
        let (mut one, mut other) = (confs("one"), confs("other"));
        let read = |path: &str| fs::read_to_string(directory.path().join(path)).unwrap_or_default();
        fs::create_dir_all(etc.join("theirs")).unwrap();
        fs::write(etc.join("theirs/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        let tasks = wanted(&[
            ("a.1", "/run/netns/a", &["10.0.9.1", "fd00:9::1"]),
            ("b.1", "/proc/7/ns/net", &["10.0.9.1"]),
            ("c.1", "/run/netns/theirs", &["10.0.9.1"]),
        ]);
        assert_eq!(one.ensure(&tasks), []);
        let text = read("etc/a/resolv.conf");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines, ["nameserver 10.0.9.1", "nameserver fd00:9::1", "options ndots:0"]);
        assert!(is_ours(&text) && read("one/resolv/a.1.conf") == text);
        assert!(read("one/resolv/b.1.conf").contains("nameserver 10.0.9.1\n"));
        assert_eq!(read("etc/theirs/resolv.conf"), "nameserver 192.0.2.1\n");

        // Another daemon of the host.
        assert_eq!(other.ensure(&wanted(&[("x", "/run/netns/x", &["10.0.9.1"])])), []);
        assert_eq!(one.ensure(&wanted(&[("a.1", "/run/netns/a", &["10.9.9.1"])])), []);
        assert!(read("etc/a/resolv.conf").contains("nameserver 10.9.9.1\n"));
        assert!(!directory.path().join("one/resolv/b.1.conf").exists());

        one.remove_all().unwrap();
        assert!(!etc.join("a").exists() && !directory.path().join("one/resolv").exists());
        assert_eq!(read("etc/theirs/resolv.conf"), "nameserver 192.0.2.1\n");
        assert!(etc.join("x/resolv.conf").exists());
        // There is nothing left to remove, not even a directory.
        fs::remove_dir_all(&etc).unwrap();
        one.remove_all().unwrap();
    }

    #[test]
    fn what_somebody_else_has_begun_is_left_to_them() {
        let directory = Directory::new();
        let mut confs = ResolvConfs {
            run_dir: directory.path().join("run"),
            etc_netns: directory.path().to_owned(),
            last: None,
        };
        fs::create_dir(directory.path().join("a")).unwrap();
        let link = directory.path().join("a/resolv.conf");
        std::os::unix::fs::symlink("/nowhere/resolv.conf", &link).unwrap();
        assert_eq!(confs.ensure(&wanted(&[("a", "/run/netns/a", &["10.0.9.1"])])), []);
        assert!(link.is_symlink());
        confs.remove_all().unwrap();
        assert!(link.is_symlink());
    }
}
