//! Emptying what a node remembers.

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use mesh_common::abi::{Flow, FlowKey, Space};

use super::Node;

/// A type of the kernel's tables, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: the types of `mesh_common::abi` that stand in tables are plain data without padding, and any bytes are one.
unsafe impl aya::Pod for Raw<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Flow> {}

/// Takes from a node what it remembers of the flows that enter by it, and tells how many they were. What it remembers of the
/// flows of its own tasks stays.
///
/// # Errors
/// If the node has no table of flows, or the kernel refuses.
pub fn forget_entries(node: &Node) -> Result<usize> {
    let pin = node.map_pin("FLOWS")?;
    let data = MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
    let mut flows: HashMap<MapData, Raw<FlowKey>, Raw<Flow>> = HashMap::try_from(Map::LruHashMap(data))?;
    // Flows come and go in the meantime: a walk that lost its place begins again, so it is bounded.
    let most = 4 * 1024 * 1024;
    let keys: Vec<_> = flows.keys().take(most).filter_map(Result::ok).collect();
    let is_entry = |key: &Raw<FlowKey>| key.0.scope >> 24 == Space::Entry as u32;
    let entries = keys.into_iter().filter(is_entry);
    Ok(entries.filter(|key| flows.remove(key).is_ok()).count())
}
