//! The store that every node has whole: entries by name, of which the one written last counts.
//!
//! Merging is commutative, associative and idempotent, so that nodes that have seen the same writes, in whatever order and
//! however often, have the same store; [`Store::digest`] is then the same too. What is deleted stays as a mark, so that an
//! older entry that somebody still has does not come back.

use std::{fmt, sync::Arc};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::stamp::Stamp;

/// The longest name of a key, in bytes.
pub const LONGEST_NAME: usize = 256;
/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 65_536;
/// Into how many parts a digest is divided.
pub const BUCKETS: usize = 256;
/// How many entries a store has at most, deletions included.
pub const MOST_ENTRIES: usize = 1 << 20;
/// How long all names and values are together at most, in bytes.
pub const MOST_BYTES: usize = 1 << 30;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What holds for the whole mesh.
    Options,
    /// A node.
    Node,
    /// A network.
    Network,
    /// A service.
    Service,
    /// A task's attachment to a network.
    Endpoint,
    /// Whether an endpoint is healthy, which only its node writes.
    Health,
    /// A key of the keyring.
    Secret,
}

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// What it is about.
    pub kind: Kind,
    /// Its name, at most [`LONGEST_NAME`] bytes.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// How the value of a secret begins, by which it is kept out of logs whatever it is part of.
const SECRET: &str = "{\"secret\":";

/// What was last written under a key. A secret's value is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When and by whom.
    pub stamp: Stamp,
    /// When what it is about began to be; stays while it is only changed. Of two that cannot both be, the one that was there
    /// first remains.
    pub created: Stamp,
    /// What it says, in JSON, at most [`LONGEST_VALUE`] bytes; none where it was deleted.
    pub value: Option<Arc<str>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("stamp", &self.stamp)
            .field("created", &self.created)
            .field("value", &shown(self.value.as_deref()))
            .finish()
    }
}

/// A wish to write: a value, or none to delete. A secret's value is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Write {
    /// Under which key.
    pub key: Key,
    /// What.
    pub value: Option<Arc<str>>,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("key", &self.key).field("value", &shown(self.value.as_deref())).finish()
    }
}

fn shown(value: Option<&str>) -> Option<&str> {
    value.map(|value| if value.starts_with(SECRET) { "…" } else { value })
}

/// What is wrong with an entry from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Its name is empty, too long or has control characters.
    #[error("a key's name has to have 1 to {LONGEST_NAME} bytes, without control characters")]
    Name,
    /// Its value is too long.
    #[error("the value of {0:?} has more than {LONGEST_VALUE} bytes")]
    Value(String),
    /// It was created after it was written.
    #[error("{0:?} was created after it was last written")]
    Created(String),
    /// The store is full.
    #[error(
        "there is no room for {0:?}: a mesh has at most {MOST_ENTRIES} entries with {MOST_BYTES} bytes; remove what is \
         not used"
    )]
    Full(String),
}

/// What a store holds, in 256 sums of 128 bits: equal for equal stores, and otherwise different where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub Vec<u128>);

impl Digest {
    /// One number for all.
    #[must_use]
    pub fn root(&self) -> u128 {
        let mut hash = Sha256::new();
        for part in &self.0 {
            hash.update(part.to_be_bytes());
        }
        first_half(hash)
    }

    /// The parts in which two differ.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        self.0.iter().zip(&other.0).enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index)
    }
}

/// The store. A copy is cheap: it shares what it has in common with the one it was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Kept", into = "Kept")]
pub struct Store {
    entries: OrdMap<Key, Entry>,
    buckets: Vec<OrdSet<Key>>,
    digest: Digest,
    bytes: usize,
    horizon: Stamp,
    current: u64,
}

/// A store as it is kept on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    horizon: Stamp,
    #[serde(default)]
    current: u64,
    entries: Vec<(Key, Entry)>,
}

impl From<Store> for Kept {
    fn from(store: Store) -> Self {
        let Store { entries, horizon, current, .. } = store;
        Self { horizon, current, entries: entries.into_iter().collect() }
    }
}

impl TryFrom<Kept> for Store {
    type Error = EntryFault;

    fn try_from(kept: Kept) -> Result<Self, EntryFault> {
        let mut store = Self { horizon: kept.horizon, current: kept.current, ..Self::default() };
        for (key, entry) in kept.entries {
            store.merge(key, entry)?;
        }
        Ok(store)
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            entries: OrdMap::new(),
            buckets: vec![OrdSet::new(); BUCKETS],
            digest: Digest(vec![0; BUCKETS]),
            bytes: 0,
            horizon: Stamp::default(),
            current: 0,
        }
    }
}

impl Store {
    /// A store as it was kept on disk, to which its entries are yet to be merged.
    #[must_use]
    pub fn kept(horizon: Stamp, current: u64) -> Self {
        Self { horizon, current, ..Self::default() }
    }

    /// What a key says now, if it was not deleted.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<&Arc<str>> {
        self.entries.get(key)?.value.as_ref()
    }

    /// What was last written under a key.
    #[must_use]
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Everything, in the order of the keys, deletions included.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Everything that was not deleted, in the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = (&Key, &Entry, &Arc<str>)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry, entry.value.as_ref()?)))
    }

    /// How many entries there are, deletions included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The greatest stamp.
    #[must_use]
    pub fn latest(&self) -> Stamp {
        self.entries.values().map(|entry| entry.stamp).max().unwrap_or_default()
    }

    /// Deletions with a stamp that is not greater have been forgotten; see `forget`.
    #[must_use]
    pub const fn horizon(&self) -> Stamp {
        self.horizon
    }

    /// When it was last known to be equal to another's, in milliseconds since 1970 by this node's clock.
    #[must_use]
    pub const fn current(&self) -> u64 {
        self.current
    }

    /// What it holds, to compare with another's.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The entries of a part of the digest, in the order of the keys.
    pub fn bucket(&self, index: usize) -> impl Iterator<Item = (&Key, &Entry)> {
        let keys = self.buckets.get(index).into_iter().flatten();
        keys.filter_map(|key| self.entries.get_key_value(key))
    }

    /// Writes something new: of whatever was there before, only when it was created is kept.
    ///
    /// # Errors
    /// The key or the value is too long; nothing is written.
    pub fn write(&mut self, write: Write, stamp: Stamp) -> Result<Entry, EntryFault> {
        let there = self.entries.get(&write.key).filter(|there| there.value.is_some());
        let created = there.map_or(stamp, |there| there.created);
        let entry = Entry { stamp, created, value: write.value };
        self.merge(write.key, entry.clone())?;
        Ok(entry)
    }

    /// Takes what was written elsewhere, if it was written later than what is here; returns whether it was.
    ///
    /// # Errors
    /// It is not as an entry is; nothing is taken.
    pub fn merge(&mut self, key: Key, entry: Entry) -> Result<bool, EntryFault> {
        check(&key, &entry)?;
        let there = self.entries.get(&key).map(|there| there.stamp);
        if there.is_some_and(|there| there >= entry.stamp) {
            return Ok(false);
        }
        let bytes = self.bytes.saturating_sub(self.entries.get(&key).map_or(0, |there| size(&key, there)));
        let bytes = bytes.saturating_add(size(&key, &entry));
        if bytes > MOST_BYTES || (there.is_none() && self.entries.len() >= MOST_ENTRIES) {
            return Err(EntryFault::Full(key.name));
        }
        self.bytes = bytes;
        if let Some(there) = there {
            self.sum(&key, there);
        }
        let index = self.sum(&key, entry.stamp);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.insert(key.clone());
        }
        self.entries.insert(key, entry);
        Ok(true)
    }

    /// It is equal to another's now.
    pub(crate) fn set_current(&mut self, wall: u64) {
        self.current = self.current.max(wall);
    }

    /// Forgets the deletions up to `horizon`, and, if `all`, whatever else was written up to then. Returns the keys.
    pub(crate) fn forget(&mut self, horizon: Stamp, all: bool) -> Vec<Key> {
        self.horizon = self.horizon.max(horizon);
        let old = |entry: &Entry| entry.stamp <= horizon && (all || entry.value.is_none());
        let gone: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| old(entry)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.remove(key);
        }
        gone
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(size(key, &entry));
        let index = self.sum(key, entry.stamp);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.remove(key);
        }
    }

    /// Adds a write to the digest, or takes it out again; returns its part.
    fn sum(&mut self, key: &Key, stamp: Stamp) -> usize {
        let index = bucket_of(key);
        if let Some(part) = self.digest.0.get_mut(index) {
            *part ^= fingerprint(key, stamp);
        }
        index
    }
}

fn check(key: &Key, entry: &Entry) -> Result<(), EntryFault> {
    let length = key.name.len();
    if length == 0 || length > LONGEST_NAME || key.name.chars().any(char::is_control) {
        return Err(EntryFault::Name);
    }
    if entry.value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE) {
        return Err(EntryFault::Value(key.name.clone()));
    }
    if entry.created > entry.stamp {
        return Err(EntryFault::Created(key.name.clone()));
    }
    Ok(())
}

fn size(key: &Key, entry: &Entry) -> usize {
    key.name.len() + entry.value.as_ref().map_or(0, |value| value.len())
}

/// In which part of the digest a key is.
fn bucket_of(key: &Key) -> usize {
    let hash = first_half(keyed(key));
    usize::from((hash & 0xff) as u8)
}

/// A number for a write. What was written under a key at a stamp is the same everywhere, so it need not be looked at.
fn fingerprint(key: &Key, stamp: Stamp) -> u128 {
    let mut hash = keyed(key);
    hash.update(stamp.time.to_be_bytes());
    hash.update(stamp.count.to_be_bytes());
    hash.update(stamp.node.0.to_be_bytes());
    first_half(hash)
}

fn keyed(key: &Key) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update([key.kind as u8]);
    hash.update((key.name.len() as u64).to_be_bytes());
    hash.update(key.name.as_bytes());
    hash
}

fn first_half(hash: Sha256) -> u128 {
    let hash = hash.finalize();
    hash.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::stamp::NodeId;

    fn stamp(time: u64, node: u64) -> Stamp {
        Stamp { time, count: 0, node: NodeId(node) }
    }

    fn write(name: &str, value: Option<&str>) -> Write {
        Write { key: Key::new(Kind::Service, name), value: value.map(Into::into) }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut store = Store::default();
        let secret =
            Write { key: Key::new(Kind::Secret, "k"), value: Some("{\"secret\":\"hidden\"}".into()) };
        let shown = format!("{secret:?} {:#?}", store.write(secret.clone(), stamp(1, 1)));
        assert!(!(shown + &format!("{store:?}")).contains("hidden"));
        assert!(format!("{:?}", write("a", Some("open"))).contains("open"));
    }

    #[test]
    fn a_change_keeps_when_it_was_created_and_a_new_one_after_a_deletion_does_not() {
        let mut store = Store::default();
        store.write(write("web", Some("1")), stamp(1, 1)).unwrap();
        assert_eq!(store.write(write("web", Some("2")), stamp(2, 1)).unwrap().created, stamp(1, 1));
        store.write(write("web", None), stamp(3, 1)).unwrap();
        assert_eq!(store.write(write("web", Some("3")), stamp(4, 1)).unwrap().created, stamp(4, 1));
    }

    #[test]
    fn what_was_deleted_does_not_come_back() {
        let mut store = Store::default();
        let old = store.write(write("web", Some("1")), stamp(1, 1)).unwrap();
        store.write(write("web", None), stamp(2, 2)).unwrap();
        let key = Key::new(Kind::Service, "web");
        assert!(!store.merge(key.clone(), old).unwrap());
        assert_eq!(store.value(&key), None);
    }

    #[test]
    fn what_is_not_as_an_entry_is_changes_nothing() {
        let mut store = Store::default();
        let entry = |value: usize, created| Entry {
            stamp: stamp(5, 1),
            created: stamp(created, 1),
            value: Some("0".repeat(value).into()),
        };
        let long = "n".repeat(LONGEST_NAME + 1);
        assert_eq!(store.merge(Key::new(Kind::Node, ""), entry(0, 1)), Err(EntryFault::Name));
        assert_eq!(store.merge(Key::new(Kind::Node, "a\nb"), entry(0, 1)), Err(EntryFault::Name));
        assert_eq!(store.merge(Key::new(Kind::Node, long), entry(0, 1)), Err(EntryFault::Name));
        let key = Key::new(Kind::Node, "n1");
        let value = entry(LONGEST_VALUE + 1, 1);
        assert_eq!(store.merge(key.clone(), value), Err(EntryFault::Value("n1".to_owned())));
        assert_eq!(store.merge(key, entry(0, 6)), Err(EntryFault::Created("n1".to_owned())));
        assert_eq!(store, Store::default());
    }

    /// Writes to few keys, at few times, by few nodes: many clashes.
    fn writes() -> impl Strategy<Value = Vec<(Key, Entry)>> {
        let one = (0..6_u8, 1..20_u64, 0..3_u64, any::<bool>()).prop_map(|(name, time, node, deleted)| {
            let stamp = stamp(time, node);
            // What a stamp stamps is the same everywhere.
            let value = (!deleted).then(|| format!("{name} {time} {node}").into());
            (Key::new(Kind::Endpoint, name.to_string()), Entry { stamp, created: stamp, value })
        });
        prop::collection::vec(one, 0..40).prop_map(|mut writes| {
            writes.sort_by_key(|(key, entry)| (key.clone(), entry.stamp));
            writes.dedup_by_key(|(key, entry)| (key.clone(), entry.stamp));
            writes
        })
    }

    proptest! {
        #[test]
        fn the_same_writes_in_any_order_give_the_same_store(
            (writes, shuffled) in writes().prop_flat_map(|writes| (Just(writes.clone()), Just(writes).prop_shuffle())),
            again in 0..40_usize,
        ) {
            let (mut one, mut other) = (Store::default(), Store::default());
            for (key, entry) in writes.iter().cloned() {
                one.merge(key, entry).unwrap();
            }
            for (key, entry) in shuffled.iter().chain(shuffled.iter().take(again)).cloned() {
                other.merge(key, entry).unwrap();
            }
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(one.digest().root(), other.digest().root());
        }

        #[test]
        fn digests_differ_where_stores_do(writes in writes(), missing in 0..40_usize) {
            let (mut whole, mut part) = (Store::default(), Store::default());
            for (index, (key, entry)) in writes.into_iter().enumerate() {
                if index != missing {
                    part.merge(key.clone(), entry.clone()).unwrap();
                }
                whole.merge(key, entry).unwrap();
            }
            let differing: BTreeSet<usize> = whole.digest().differing(part.digest()).collect();
            let expected: BTreeSet<usize> = whole
                .entries()
                .filter(|(key, entry)| part.entry(key) != Some(entry))
                .map(|(key, _)| bucket_of(key))
                .collect();
            prop_assert_eq!(differing, expected);
        }

        #[test]
        fn what_is_kept_on_disk_is_read_again(writes in writes()) {
            let mut store = Store::default();
            for (key, entry) in writes {
                store.merge(key, entry).unwrap();
            }
            store.forget(stamp(7, 0), false);
            store.set_current(9);
            let kept = postcard::to_allocvec(&store).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Store>(&kept).unwrap(), store);
        }

        #[test]
        fn a_deletion_that_is_forgotten_leaves_no_trace(writes in writes()) {
            let (mut store, mut without) = (Store::default(), Store::default());
            for (key, entry) in writes {
                store.merge(key, entry).unwrap();
            }
            for (key, entry, _) in store.values() {
                without.merge(key.clone(), entry.clone()).unwrap();
            }
            let last = store.latest();
            store.forget(last, false);
            without.forget(last, false);
            prop_assert_eq!(store, without);
        }
    }
}
