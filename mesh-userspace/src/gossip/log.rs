//! The store on disk: a file to which what is written is appended, one entry a line, so that a change costs as much as it is
//! long however great the table is. Now and then it is written anew without what was overwritten.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use mesh_cluster::{Entry, Key, Stamp, Store};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::replace::replace;

/// Hexadecimal digits of a line's checksum.
const CHECKSUM: usize = 16;
/// So many lines more than entries are no reason to write the file anew.
const LINES_SPARE: usize = 1024;

/// When a store was last equal to another's is written this often, in milliseconds: it is compared with days.
pub(super) const CURRENT_EVERY: u64 = 600_000;

/// A line that is no entry: what a store knows about its marks of deletions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Marks {
    horizon: Stamp,
    current: u64,
}

impl Marks {
    const fn of(store: &Store) -> Self {
        Self { horizon: store.horizon(), current: store.current() }
    }

    /// Whether there is nothing to write of them.
    fn are_good_for(self, store: &Store) -> bool {
        self.horizon == store.horizon() && store.current() < self.current.saturating_add(CURRENT_EVERY)
    }
}

/// A line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Entry(Key, Entry),
    Marks(Marks),
}

/// What a file held.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Loaded {
    pub(super) store: Store,
    /// Why the file, or a part of it, could not be used, and where it was kept: a sentence.
    pub(super) problem: Option<String>,
}

/// The file.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    marks: Marks,
}

impl Log {
    /// Reads a file, as far as it can be read. A last line that was never finished is nothing that anybody was promised; a
    /// file with worse in it is kept aside.
    pub(super) fn open(path: &Path) -> (Self, Loaded) {
        let mut loaded = Loaded::default();
        let (mut lines, mut marks) = (0, Marks::default());
        // A file that ends in the middle of a line cannot be appended to.
        let mut is_whole = false;
        match fs::read(path) {
            Ok(bytes) => {
                let read = read(&bytes);
                lines = read.lines;
                marks = read.marks;
                is_whole = !read.is_torn && read.broken.is_none();
                loaded.store = read.store;
                if let Some(line) = read.broken {
                    loaded.problem = Some(put_aside(path, &format!("line {line} is not as meshd wrote it")));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => loaded.problem = Some(put_aside(path, &error.to_string())),
        }
        let file = if is_whole { OpenOptions::new().append(true).open(path).ok() } else { None };
        (Self { path: path.to_owned(), file, lines, marks }, loaded)
    }

    /// Appends entries of a store; they are on the disk when this returns. Where it is due, or the last time failed, the
    /// whole store is written anew; also where marks of deletions were forgotten, so that nothing is left of what they deleted.
    ///
    /// # Errors
    /// What the system says. What was written before stays.
    pub(super) fn append(&mut self, entries: &[(Key, Entry)], store: &Store) -> io::Result<()> {
        let is_due = self.lines + entries.len() > 2 * store.len() + LINES_SPARE;
        let mut text = Vec::new();
        // What fails leaves the file in doubt; so it is taken out first.
        match self.file.take() {
            Some(mut file) if !is_due && self.marks.horizon == store.horizon() => {
                for entry in entries {
                    line(&mut text, entry)?;
                    self.lines += 1;
                }
                if !self.marks.are_good_for(store) {
                    line(&mut text, &Marks::of(store))?;
                    self.lines += 1;
                }
                file.write_all(&text)?;
                file.sync_data()?;
                self.file = Some(file);
            }
            _ => {
                line(&mut text, &Marks::of(store))?;
                for entry in store.entries() {
                    line(&mut text, &entry)?;
                }
                replace(&self.path, &text)?;
                self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
                self.lines = store.len() + 1;
            }
        }
        self.marks = Marks::of(store);
        Ok(())
    }
}

/// Whether there is anything to write of a store, if this was written of it before.
pub(super) fn is_new(entries: &[(Key, Entry)], earlier: &Store, store: &Store) -> bool {
    !entries.is_empty() || !Marks::of(earlier).are_good_for(store)
}

fn line(text: &mut Vec<u8>, what: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_vec(what).map_err(io::Error::other)?;
    text.extend(checksum(&line).as_bytes());
    text.push(b' ');
    text.extend(line);
    text.push(b'\n');
    Ok(())
}

fn checksum(line: &[u8]) -> String {
    Sha256::digest(line).iter().take(CHECKSUM / 2).map(|byte| format!("{byte:02x}")).collect()
}

struct Read {
    store: Store,
    lines: usize,
    marks: Marks,
    /// Whether the last line was not finished.
    is_torn: bool,
    /// The first line, from 1, that is wrong though others follow it.
    broken: Option<usize>,
}

fn read(bytes: &[u8]) -> Read {
    let mut read =
        Read { store: Store::default(), lines: 0, marks: Marks::default(), is_torn: false, broken: None };
    let mut first_wrong = None;
    let mut entries = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match line.strip_suffix(b"\n").and_then(parse) {
            Some(line) => {
                match line {
                    Line::Entry(key, entry) => entries.push((key, entry)),
                    Line::Marks(marks) => read.marks = marks,
                }
                read.lines += 1;
                read.broken = read.broken.or(first_wrong);
            }
            None => _ = first_wrong.get_or_insert(index + 1),
        }
    }
    read.is_torn = first_wrong.is_some();
    read.store = Store::kept(read.marks.horizon, read.marks.current);
    for (key, entry) in entries {
        // Whoever wrote it had it in a store, so that it is as an entry is; and the order of lines does not matter.
        let _ = read.store.merge(key, entry);
    }
    read
}

fn parse(line: &[u8]) -> Option<Line> {
    let (sum, rest) = line.split_at_checked(CHECKSUM)?;
    let line = rest.strip_prefix(b" ")?;
    (sum == checksum(line).as_bytes()).then(|| serde_json::from_slice(line).ok()).flatten()
}

/// Keeps a broken file for whoever wants to look at it; says so.
pub(super) fn put_aside(path: &Path, why: &str) -> String {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".broken");
    let aside = path.with_file_name(name);
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("It was moved to {}.", aside.display()),
        Err(error) => format!("It could not be moved to {} ({error}).", aside.display()),
    };
    format!(
        "{} was not whole when meshd started: {why}. {kept} What is missing comes back from the other nodes; check the disk.",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use mesh_cluster::{Kind, NodeId, Stamp, Write as Wish};
    use proptest::prelude::*;

    use super::*;
    use crate::agent::testing::Directory;

    fn write(store: &mut Store, number: u64) -> (Key, Entry) {
        let key = Key::new(Kind::Service, format!("s{}", number % 7));
        let value =
            (!number.is_multiple_of(5)).then(|| format!("{{\"n\": {number}, \"line\": \"a\\nb\"}}").into());
        let stamp = Stamp { time: number + 1, count: 0, node: NodeId(1) };
        let entry = store.write(Wish { key: key.clone(), value }, stamp).unwrap();
        (key, entry)
    }

    fn written(path: &Path, count: u64) -> Store {
        let (mut log, loaded) = Log::open(path);
        let mut store = loaded.store;
        for number in 0..count {
            let entry = write(&mut store, number);
            log.append(&[entry], &store).unwrap();
        }
        store
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = Directory::new();
        let path = directory.path().join("store.log");
        let store = written(&path, 30);
        assert_eq!(Log::open(&path).1, Loaded { store, problem: None });
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn it_does_not_grow_with_what_is_overwritten() {
        let directory = Directory::new();
        let path = directory.path().join("store.log");
        let store = written(&path, 3 * LINES_SPARE as u64);
        let lines = fs::read(&path).unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= LINES_SPARE + 15, "{lines}");
        assert_eq!(Log::open(&path).1, Loaded { store, problem: None });
    }

    #[test]
    fn a_torn_end_is_cut_off_and_written_over() {
        let directory = Directory::new();
        let path = directory.path().join("store.log");
        let mut store = written(&path, 10);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for end in last..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let (_, loaded) = Log::open(&path);
            assert_eq!(loaded.problem, None);
            assert_eq!(loaded.store.len(), 7);
            assert_eq!(loaded.store.latest().time, 9, "all but the last, which was cut at {end}");
        }
        let (mut log, _) = Log::open(&path);
        let entry = write(&mut store, 11);
        log.append(&[entry], &store).unwrap();
        assert_eq!(Log::open(&path).1, Loaded { store, problem: None });
    }

    #[test]
    fn a_broken_file_is_kept_aside_and_what_can_be_read_is() {
        let directory = Directory::new();
        let path = directory.path().join("store.log");
        written(&path, 4);
        let mut bytes = fs::read(&path).unwrap();
        bytes[200] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (mut log, loaded) = Log::open(&path);
        let problem = loaded.problem.unwrap();
        assert!(
            problem.contains("line 2 is not as meshd wrote it") && problem.contains("store.log.broken"),
            "{problem}"
        );
        assert_eq!(fs::read(directory.path().join("store.log.broken")).unwrap(), bytes);
        assert_eq!(loaded.store.len(), 3);
        let mut store = loaded.store;
        let entry = write(&mut store, 50);
        log.append(&[entry], &store).unwrap();
        assert_eq!(Log::open(&path).1, Loaded { store, problem: None });
    }

    #[test]
    fn after_a_failure_all_is_written_anew() {
        let directory = Directory::new();
        let place = directory.path().join("state");
        fs::create_dir(&place).unwrap();
        let path = place.join("store.log");
        let mut store = written(&path, 3);
        let (mut log, _) = Log::open(&path);
        // A file that cannot be written to.
        log.file = Some(File::open(&path).unwrap());
        let lost = write(&mut store, 20);
        log.append(&[lost], &store).unwrap_err();
        let next = write(&mut store, 21);
        log.append(&[next], &store).unwrap();
        assert_eq!(Log::open(&path).1, Loaded { store, problem: None });
    }

    #[test]
    fn what_was_forgotten_does_not_come_back() {
        let directory = Directory::new();
        let path = directory.path().join("store.log");
        let store = written(&path, 10);
        let horizon = Stamp { time: 6, count: 0, node: NodeId(1) };
        let mut later = Store::kept(horizon, 77);
        for (key, entry) in store.entries().filter(|(_, entry)| entry.stamp > horizon) {
            later.merge(key.clone(), entry.clone()).unwrap();
        }
        assert!(later.len() < store.len());
        assert!(is_new(&[], &store, &later));
        Log::open(&path).0.append(&[], &later).unwrap();
        assert_eq!(Log::open(&path).1, Loaded { store: later.clone(), problem: None });

        // When it was equal to another's is written now and then, and never moves the rest.
        let mut equal = Store::kept(horizon, 77 + CURRENT_EVERY);
        for (key, entry) in later.entries() {
            equal.merge(key.clone(), entry.clone()).unwrap();
        }
        assert!(is_new(&[], &later, &equal));
        assert!(!is_new(&[], &equal, &later));
        Log::open(&path).0.append(&[], &equal).unwrap();
        assert_eq!(Log::open(&path).1, Loaded { store: equal, problem: None });
    }

    proptest! {
        /// Whatever a disk makes of a file, it is read without harm, and never comes to something that was not written.
        #[test]
        fn no_harm_in_any_file(cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let mut store = Store::default();
            let entries: Vec<_> = (0..20).map(|number| write(&mut store, number)).collect();
            let mut bytes = Vec::new();
            for entry in &entries {
                line(&mut bytes, entry).unwrap();
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            for (place, with) in flips {
                let place = place.index(bytes.len());
                bytes[place] ^= with;
            }
            let read = read(&bytes);
            for entry in read.store.entries() {
                prop_assert!(entries.iter().any(|(key, there)| (key, there) == entry));
            }
        }
    }
}
