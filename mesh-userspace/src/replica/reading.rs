//! Following a store: each entry is read once for each time that it was written.

use std::collections::BTreeMap;

use mesh_cluster::{Entry, Key, Kind, Stamp, Store};

/// What was read of an entry.
pub(super) trait Reading {
    /// When that entry was written.
    fn stamp(&self) -> Stamp;
}

/// Reads what has been written since of the kinds that are wanted; returns whether there is anything new.
pub(super) fn follow<R: Reading>(
    known: &mut BTreeMap<Key, R>,
    store: &Store,
    is_wanted: impl Fn(Kind) -> bool,
    read: impl Fn(&Key, &Entry, &str) -> R,
) -> bool {
    let mut before = std::mem::take(known);
    let mut is_new = false;
    for (key, entry, value) in store.values().filter(|(key, ..)| is_wanted(key.kind)) {
        let earlier = before.remove(key).filter(|earlier| earlier.stamp() == entry.stamp);
        is_new |= earlier.is_none();
        known.insert(key.clone(), earlier.unwrap_or_else(|| read(key, entry, value)));
    }
    is_new || !before.is_empty()
}
