//! The difference between the contents that maps have and those they should have, and its execution.

use super::maps::{
    Attachments, Backends, Endpoints, Entry, Locals, Map, MapContents, MapError, Maps, Networks,
    NodeSettings, Nodes, Peers, Services, Slots, Stations, Subnets, Targets, Uplinks,
};

/// A change to one entry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the entry, in the place of what is there.
    Put(Entry),
    /// Remove the entry, whatever its value is.
    Remove(Entry),
}

impl Operation {
    /// The name of the map that it changes.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::Put(entry) | Self::Remove(entry) => entry.map(),
        }
    }
}

/// The changes that lead from one contents to another, in an order in which no entry ever names one that is not
/// there: what is named is written first, and removed last.
#[must_use]
pub fn diff(current: &MapContents, wanted: &MapContents) -> Vec<Operation> {
    let mut operations = Vec::new();
    current.missing_from(wanted, |entry| operations.push(Operation::Put(entry)));
    let mut removals = Vec::new();
    current.left_over_from(wanted, |entry| {
        // Slots that no service names are free as they are.
        if !matches!(entry, Entry::Slots(..)) {
            removals.push(Operation::Remove(entry));
        }
    });
    operations.extend(removals.into_iter().rev());
    operations
}

/// Carries out changes, up to the first that fails.
///
/// # Errors
/// When a map is full or the kernel refuses; the changes before it have been made.
pub fn execute(maps: &mut impl Maps, operations: &[Operation]) -> Result<(), MapError> {
    for operation in operations {
        match operation {
            Operation::Put(entry) => entry.insert(maps)?,
            Operation::Remove(entry) => entry.remove(maps)?,
        }
    }
    Ok(())
}

/// Reads what the maps hold. With the contents that were last written as `known`, only the entries of arrays
/// that are in use are read, not each of their many thousands; of the slots it is only ever those of rings.
///
/// # Errors
/// When the kernel refuses.
pub fn read(maps: &impl Maps, known: Option<&MapContents>) -> Result<MapContents, MapError> {
    let mut contents = MapContents {
        nodes: array::<Nodes>(maps, known.map(|known| known.nodes.keys()))?,
        settings: array::<NodeSettings>(maps, None::<std::iter::Empty<&u32>>)?,
        peers: maps.entries::<Peers>()?.into_iter().collect(),
        locals: maps.entries::<Locals>()?.into_iter().collect(),
        uplinks: maps.entries::<Uplinks>()?.into_iter().collect(),
        networks: maps.entries::<Networks>()?.into_iter().collect(),
        subnets: maps.entries::<Subnets>()?.into_iter().collect(),
        endpoints: maps.entries::<Endpoints>()?.into_iter().collect(),
        stations: maps.entries::<Stations>()?.into_iter().collect(),
        targets: maps.entries::<Targets>()?.into_iter().collect(),
        attachments: maps.entries::<Attachments>()?.into_iter().collect(),
        backends: array::<Backends>(maps, known.map(|known| known.backends.keys()))?,
        services: maps.entries::<Services>()?.into_iter().collect(),
        slots: Default::default(),
    };
    let known_services = known.into_iter().flat_map(|known| known.services.values());
    let ranges: std::collections::BTreeSet<(u32, u32)> = contents
        .services
        .values()
        .chain(known_services)
        .map(|service| {
            (service.first_slot, service.first_slot.saturating_add(service.slots).min(Slots::CAPACITY))
        })
        .collect();
    for (first, end) in ranges {
        for index in first..end {
            if let Some(slot) = maps.get::<Slots>(&index)? {
                contents.slots.insert(index, slot);
            }
        }
    }
    Ok(contents)
}

/// The entries of an array that are not zero: of these indices, or of all.
fn array<'a, M: Map<Key = u32>>(
    maps: &impl Maps,
    indices: Option<impl Iterator<Item = &'a u32>>,
) -> Result<std::collections::BTreeMap<u32, M::Value>, MapError> {
    let Some(indices) = indices else {
        return Ok(maps.entries::<M>()?.into_iter().collect());
    };
    let mut entries = std::collections::BTreeMap::new();
    for index in indices {
        if let Some(value) = maps.get::<M>(index)?
            && value != M::Value::default()
        {
            entries.insert(*index, value);
        }
    }
    Ok(entries)
}
