//! The difference between the contents that maps have and those they should have, and its execution.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use mesh_common::abi::Slot;

use super::{
    maps::{
        Allowed, Attachments, Backends, Endpoints, Entry, FastServices, Locals, Map, MapContents, MapError,
        Maps, Networks, NodeSettings, Nodes, Peers, PublishedPorts, SLOTS, Services, Stations, Subnets,
        Targets, Uplinks,
    },
    slots::{Block, Blocks},
};

/// A change to one entry of a map, or to the slots of one ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the entry, in the place of what is there.
    Put(Entry),
    /// Write the slots from this one on.
    Fill(u32, Arc<Block>),
    /// Remove the entry, whatever its value is.
    Remove(Entry),
}

impl Operation {
    /// The name of the map that it changes.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::Put(entry) | Self::Remove(entry) => entry.map(),
            Self::Fill(..) => SLOTS,
        }
    }
}

/// The changes that lead from one contents to another, in an order in which no entry ever names one that is not
/// there: what is named is written first, and removed last.
#[must_use]
pub fn diff(current: &MapContents, wanted: &MapContents) -> Vec<Operation> {
    let (mut operations, mut services) = (Vec::new(), Vec::new());
    current.missing_from(wanted, |entry| match entry {
        // They name slots, which name what was written before them.
        Entry::Services(..) | Entry::FastServices(..) | Entry::PublishedPorts(..) => {
            services.push(Operation::Put(entry));
        }
        _ => operations.push(Operation::Put(entry)),
    });
    let rings = wanted.slots.unlike(&current.slots);
    operations.extend(rings.map(|(first, block)| Operation::Fill(first, Arc::clone(block))));
    operations.extend(services);
    // Slots that no service names are free as they are.
    let mut removals = Vec::new();
    current.left_over_from(wanted, |entry| removals.push(Operation::Remove(entry)));
    operations.extend(removals.into_iter().rev());
    operations
}

/// Carries out changes, up to the first that fails.
///
/// # Errors
/// When a map is full or the kernel refuses; the changes before it have been made.
pub fn execute(maps: &mut impl Maps, operations: &[Operation]) -> Result<(), MapError> {
    let mut puts = Vec::new();
    for operation in operations {
        if let Operation::Put(entry) = operation {
            puts.push(*entry);
            continue;
        }
        Entry::insert_all(&std::mem::take(&mut puts), maps)?;
        match operation {
            Operation::Put(_) => {}
            Operation::Fill(first, block) => maps.write_slots(*first, block.slots())?,
            Operation::Remove(entry) => entry.remove(maps)?,
        }
    }
    Entry::insert_all(&puts, maps)
}

/// Reads what the maps hold. With the contents that were last written as `known`, only the entries of arrays
/// that are in use are read, not each of their many thousands; of the slots it is only ever those of rings. What is as it is
/// known is shared with it, so that nobody compares it again.
///
/// # Errors
/// When the kernel refuses.
pub fn read(maps: &impl Maps, known: Option<&MapContents>) -> Result<MapContents, MapError> {
    let mut contents = MapContents {
        nodes: array::<Nodes>(maps, known.map(|known| &known.nodes))?,
        settings: array::<NodeSettings>(maps, None)?,
        peers: maps.entries::<Peers>()?.into_iter().collect(),
        locals: maps.entries::<Locals>()?.into_iter().collect(),
        uplinks: maps.entries::<Uplinks>()?.into_iter().collect(),
        networks: maps.entries::<Networks>()?.into_iter().collect(),
        subnets: maps.entries::<Subnets>()?.into_iter().collect(),
        endpoints: hash::<Endpoints>(maps, known.map(|known| &known.endpoints))?,
        stations: hash::<Stations>(maps, known.map(|known| &known.stations))?,
        targets: maps.entries::<Targets>()?.into_iter().collect(),
        attachments: maps.entries::<Attachments>()?.into_iter().collect(),
        backends: array::<Backends>(maps, known.map(|known| &known.backends))?,
        allowed: maps.entries::<Allowed>()?.into_iter().collect(),
        services: maps.entries::<Services>()?.into_iter().collect(),
        fast_services: array::<FastServices>(maps, known.map(|known| &known.fast_services))?,
        published_ports: array::<PublishedPorts>(maps, known.map(|known| &known.published_ports))?,
        slots: Blocks::with_room(maps.slot_room()?),
    };
    read_rings(maps, known, &mut contents)?;
    Ok(contents)
}

/// Reads the rings of the services that were found, and of those that are known. What is as it is known is not read but
/// compared.
fn read_rings(
    maps: &impl Maps,
    known: Option<&MapContents>,
    contents: &mut MapContents,
) -> Result<(), MapError> {
    let room = contents.slots.room();
    for (first, block) in known.into_iter().flat_map(|known| known.slots.iter()) {
        let slots = block.slots();
        if maps.has_slots(first, slots)? {
            contents.slots.insert(first, Arc::clone(block));
        } else {
            contents.slots.insert(first, Arc::new(block_at(maps, first, slots.len())?));
        }
    }
    let places: BTreeSet<(u32, u32)> = contents
        .services
        .values()
        .filter(|service| service.slots > 0 && contents.slots.of(service).is_none())
        .map(|service| (service.first_slot, service.slots.min(room.saturating_sub(service.first_slot))))
        .collect();
    for (first, count) in places {
        let block = block_at(maps, first, usize::try_from(count).unwrap_or(usize::MAX))?;
        contents.slots.insert(first, Arc::new(block));
    }
    Ok(())
}

fn block_at(maps: &impl Maps, first: u32, count: usize) -> Result<Block, MapError> {
    let mut slots = vec![Slot::default(); count];
    maps.read_slots(first, &mut slots)?;
    Ok(Block::new(slots))
}

/// The entries of an array that are not zero: those that are known, or all.
fn array<M: Map<Key = u32>>(
    maps: &impl Maps,
    known: Option<&OrdMap<u32, M::Value>>,
) -> Result<OrdMap<u32, M::Value>, MapError> {
    let Some(known) = known else {
        return Ok(maps.entries::<M>()?.into_iter().collect());
    };
    let mut entries = known.clone();
    for (index, value) in known {
        match maps.get::<M>(index)?.filter(|found| *found != M::Value::default()) {
            Some(found) if found == *value => {}
            Some(found) => drop(entries.insert(*index, found)),
            None => drop(entries.remove(index)),
        }
    }
    Ok(entries)
}

/// The entries of a hash.
fn hash<M: Map>(
    maps: &impl Maps,
    known: Option<&OrdMap<M::Key, M::Value>>,
) -> Result<OrdMap<M::Key, M::Value>, MapError> {
    let mut found = maps.entries::<M>()?;
    found.sort_unstable_by_key(|(key, _)| *key);
    let are_known = known.filter(|known| known.iter().eq(found.iter().map(|(key, value)| (key, value))));
    Ok(are_known.cloned().unwrap_or_else(|| found.into_iter().collect()))
}
