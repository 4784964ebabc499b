//! Who this node is to the others, over all its starts.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::Path};

use mesh_cluster::{NodeId, seal::KeyId};
use serde::{Deserialize, Serialize};

use super::log::put_aside;
use crate::replace::replace;

/// What is kept of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) id: NodeId,
    pub(super) incarnation: u64,
}

/// Reads who this node is, and notes that it starts again. `fresh` is its number if it has none yet, and `wall` the time in
/// milliseconds since 1970: a node that has lost its directory begins beyond whatever incarnation it had.
///
/// # Errors
/// It could not be written. Nobody may join with an incarnation that may come a second time.
pub(super) fn begin(path: &Path, fresh: NodeId, wall: u64) -> io::Result<(Kept, Option<String>)> {
    let (earlier, problem) = read::<Kept>(path);
    let kept = match earlier {
        Some(earlier) => {
            Kept { id: earlier.id, incarnation: earlier.incarnation.saturating_add(1).max(wall) }
        }
        None => Kept { id: fresh, incarnation: wall },
    };
    replace(path, &serde_json::to_vec(&kept).map_err(io::Error::other)?)?;
    Ok((kept, problem))
}

/// The keys of the keyring as meshd last knew it, the one in use first.
pub(super) fn known_keys(path: &Path) -> (Option<Vec<KeyId>>, Option<String>) {
    let (texts, problem) = read::<Vec<String>>(path);
    (texts.map(|texts| texts.iter().filter_map(|text| text.parse().ok()).collect()), problem)
}

/// Notes the keys of the keyring.
pub(super) fn keep_keys(path: &Path, keys: impl Iterator<Item = KeyId>) -> io::Result<()> {
    let texts: Vec<String> = keys.map(|id| id.to_string()).collect();
    replace(path, &serde_json::to_vec(&texts).map_err(io::Error::other)?)
}

/// Where the members were, when this node last ran.
pub(super) fn known_members(path: &Path) -> (BTreeSet<SocketAddr>, Option<String>) {
    let (addresses, problem) = read(path);
    (addresses.unwrap_or_default(), problem)
}

/// Notes where the members are.
pub(super) fn keep_members(path: &Path, addresses: &BTreeSet<SocketAddr>) -> io::Result<()> {
    replace(path, &serde_json::to_vec(addresses).map_err(io::Error::other)?)
}

/// What a file says; and where it cannot be read, what became of it.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> (Option<T>, Option<String>) {
    let why = match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => return (Some(value), None),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, None),
        Err(error) => error.to_string(),
    };
    (None, Some(put_aside(path, &why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::Directory;

    #[test]
    fn a_node_stays_who_it_is_and_its_incarnation_grows() {
        let directory = Directory::new();
        let path = directory.path().join("node.json");
        let start = |fresh, wall| begin(&path, NodeId(fresh), wall).unwrap();
        assert_eq!(start(1, 1000), (Kept { id: NodeId(1), incarnation: 1000 }, None));
        assert_eq!(start(2, 5000), (Kept { id: NodeId(1), incarnation: 5000 }, None));
        // The clock was set back.
        assert_eq!(start(3, 10), (Kept { id: NodeId(1), incarnation: 5001 }, None));
    }

    #[test]
    fn a_broken_file_is_kept_aside_and_another_node_begins() {
        let directory = Directory::new();
        let path = directory.path().join("node.json");
        fs::write(&path, "{").unwrap();
        let (kept, problem) = begin(&path, NodeId(7), 1000).unwrap();
        assert_eq!(kept, Kept { id: NodeId(7), incarnation: 1000 });
        assert!(problem.unwrap().contains("node.json.broken"));
        assert_eq!(begin(&path, NodeId(8), 0).unwrap().0, Kept { id: NodeId(7), incarnation: 1001 });
    }

    #[test]
    fn keys_are_remembered() {
        let directory = Directory::new();
        let path = directory.path().join("keys.json");
        assert_eq!(known_keys(&path), (None, None));
        let ids: Vec<KeyId> = ["0000000000000001", "ffffffffffffffff"].map(|id| id.parse().unwrap()).into();
        keep_keys(&path, ids.iter().copied()).unwrap();
        assert_eq!(known_keys(&path), (Some(ids), None));
    }
}
