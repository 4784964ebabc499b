//! Keys in the store: how what is asked for on one node becomes every node's keyring.
//!
//! Each key that a command has touched is an entry of [`Kind::Secret`] under its id: the key and whether it was put into
//! use, or the mark of its removal. Of those that were put into use the one written last is.

use std::sync::Arc;

use mesh_cluster::{
    Entry, Key, Kind, Stamp, Store, Write,
    seal::{KeyId, MOST_KEYS, Ring, Secret},
};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A key's entry. Its first field is the mark by which a store keeps it from being shown.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    /// In base64.
    secret: String,
    in_use: bool,
}

/// Under which key of the store a key is.
pub(super) fn entry_key(id: KeyId) -> Key {
    Key::new(Kind::Secret, id.to_string())
}

/// The wish that every node has this key, and whether it seals with it.
pub(super) fn keep(secret: &Secret, in_use: bool) -> Write {
    let value = Value { secret: secret.reveal().to_string(), in_use };
    // Two texts and a truth value always have a place in JSON.
    let text = serde_json::to_string(&value).unwrap_or_default();
    Write { key: entry_key(secret.id()), value: Some(Arc::from(text)) }
}

/// The wish that no node has this key.
pub(super) fn drop(id: KeyId) -> Write {
    Write { key: entry_key(id), value: None }
}

/// Entries of keys, in the order of their ids.
pub(super) fn entries(store: &Store) -> impl Iterator<Item = (&Key, &Entry)> {
    store.entries().filter(|(key, _)| key.kind == Kind::Secret)
}

/// What becomes of a ring by the store, and what is wrong with the store's entries. A ring never loses its last key.
pub(super) fn settle(ring: &Ring, store: &Store) -> (Ring, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut keys: Vec<Secret> = ring.keys().cloned().collect();
    let mut in_use: Option<(Stamp, KeyId)> = None;
    for (key, entry) in entries(store) {
        let Ok(id) = key.name.parse::<KeyId>() else {
            problems.push(wrong(key, "its name is no key's id"));
            continue;
        };
        let Some(text) = &entry.value else {
            keys.retain(|there| there.id() != id);
            continue;
        };
        let value: Option<Value> = serde_json::from_str(text).ok();
        let secret = value.as_ref().and_then(|value| value.secret.parse::<Secret>().ok());
        let (Some(value), Some(secret)) = (value, secret.filter(|secret| secret.id() == id)) else {
            problems.push(wrong(key, "it is not the key of that id"));
            continue;
        };
        if value.in_use {
            in_use = in_use.max(Some((entry.stamp, id)));
        }
        if keys.iter().all(|there| there.id() != id) {
            keys.push(secret);
        }
    }
    if let Some((_, id)) = in_use
        && let Some(index) = keys.iter().position(|key| key.id() == id)
    {
        let first = keys.remove(index);
        keys.insert(0, first);
    }
    if keys.len() > MOST_KEYS {
        let sentence = format!(
            "The cluster has more than {MOST_KEYS} keys, and this node leaves out the rest; remove some with `meshctl keys remove`."
        );
        problems.push(Problem::new("keyring", sentence));
        keys.truncate(MOST_KEYS);
    }
    match Ring::new(keys) {
        Ok(settled) => (settled, problems),
        Err(_) => {
            let sentence = "Every key of this node's keyring was removed on another node, so it keeps them; install a key with \
                            `meshctl keys install`, or write one into the keyring and restart meshd.";
            problems.push(Problem::new("keyring", sentence));
            (ring.clone(), problems)
        }
    }
}

fn wrong(key: &Key, why: &str) -> Problem {
    let sentence = format!(
        "The cluster's entry of the key {:?} cannot be used: {why}. Remove it with `meshctl keys remove`, and find out which node wrote it.",
        key.name
    );
    Problem::new("keyring", sentence)
}

/// What a keyring that was changed while this node was down asks of the cluster: `last` is what meshd knew of it, the key in use
/// first.
pub(super) fn edited(ring: &Ring, last: &[KeyId]) -> Vec<Write> {
    let gone = last.iter().filter(|id| ring.get(**id).is_none()).map(|id| drop(*id));
    let is_other = last.first() != Some(&ring.in_use());
    let fresh = ring.keys().enumerate().filter_map(|(index, key)| {
        let comes_into_use = index == 0 && is_other;
        (comes_into_use || !last.contains(&key.id())).then(|| keep(key, comes_into_use))
    });
    gone.chain(fresh).collect()
}

#[cfg(test)]
mod tests {
    use mesh_cluster::NodeId;

    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::new([byte; 32])
    }

    fn ring(keys: &[u8]) -> Ring {
        Ring::new(keys.iter().map(|byte| key(*byte)).collect()).unwrap()
    }

    fn store(writes: Vec<Write>) -> Store {
        let mut store = Store::default();
        for (time, write) in (1..).zip(writes) {
            store.write(write, Stamp { time, count: 0, node: NodeId(1) }).unwrap();
        }
        store
    }

    fn settled(before: &[u8], writes: Vec<Write>) -> (Ring, Vec<String>) {
        let (ring, problems) = settle(&ring(before), &store(writes));
        (ring, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_store_leaves_the_ring_as_it_is() {
        assert_eq!(settled(&[2, 1], vec![]), (ring(&[2, 1]), vec![]));
    }

    #[test]
    fn keys_are_installed_put_into_use_and_removed() {
        let mut writes = vec![keep(&key(2), false)];
        assert_eq!(settled(&[1], writes.clone()).0, ring(&[1, 2]));
        writes.push(keep(&key(2), true));
        assert_eq!(settled(&[1], writes.clone()).0, ring(&[2, 1]));
        writes.push(drop(key(1).id()));
        assert_eq!(settled(&[1], writes.clone()).0, ring(&[2]));
        // Whoever still had the removed one loses it, and nobody notices a repetition.
        assert_eq!(settled(&[2], writes).0, ring(&[2]));
    }

    #[test]
    fn of_two_that_were_put_into_use_the_later_one_is() {
        let writes = vec![keep(&key(2), true), keep(&key(3), true)];
        assert_eq!(settled(&[1], writes).0.in_use(), key(3).id());
        let writes = vec![keep(&key(3), true), keep(&key(2), true)];
        assert_eq!(settled(&[1], writes).0.in_use(), key(2).id());
    }

    #[test]
    fn the_last_key_stays() {
        let (settled, problems) = settled(&[1], vec![drop(key(1).id())]);
        assert_eq!(settled, ring(&[1]));
        assert!(problems[0].contains("install a key"), "{problems:?}");
    }

    #[test]
    fn what_is_no_key_is_told_and_left_out() {
        let text =
            |name: &str, value: &str| Write { key: Key::new(Kind::Secret, name), value: Some(value.into()) };
        let another = keep(&key(3), true);
        let writes = vec![
            text("blue", "{}"),
            text(&key(2).id().to_string(), "{\"secret\": \"AAAA\", \"in_use\": true}"),
            text(&key(2).id().to_string(), another.value.as_ref().unwrap()),
        ];
        let (settled, problems) = settled(&[1], writes);
        assert_eq!(settled, ring(&[1]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|told| !told.contains("secret\"")), "{problems:?}");
    }

    #[test]
    fn no_more_than_a_ring_holds() {
        let (settled, problems) = settled(&[1], (2..40).map(|byte| keep(&key(byte), byte == 39)).collect());
        assert_eq!(settled.keys().len(), MOST_KEYS);
        assert_eq!(settled.in_use(), key(39).id());
        assert!(problems[0].contains("more than 16 keys"), "{problems:?}");
    }

    #[test]
    fn a_keyring_that_was_edited_asks_for_what_was_changed() {
        let last = [key(1).id(), key(2).id()];
        assert_eq!(edited(&ring(&[1, 2]), &last), []);
        assert_eq!(edited(&ring(&[1]), &last), [drop(key(2).id())]);
        assert_eq!(edited(&ring(&[2, 1]), &last), [keep(&key(2), true)]);
        assert_eq!(edited(&ring(&[1, 2, 3]), &last), [keep(&key(3), false)]);
        assert_eq!(edited(&ring(&[3]), &last), [drop(key(1).id()), drop(key(2).id()), keep(&key(3), true)]);
    }
}
