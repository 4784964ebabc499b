//! Maps in memory, which behave as the kernel's do.

use std::{any::Any, collections::BTreeMap};

use mesh_common::abi::{Slot, capacity};

use super::maps::{Entries, Full, Map, MapError, MapKind, Maps, SLOTS};

/// Maps in memory.
pub(crate) struct MemoryMaps {
    maps: BTreeMap<&'static str, Box<dyn Any>>,
    slots: Vec<Slot>,
    /// The writes and removals so far.
    pub(crate) writes: usize,
    /// After so many more writes, each one is refused.
    pub(crate) fail_after: Option<usize>,
}

impl Default for MemoryMaps {
    fn default() -> Self {
        Self::with_slots(capacity::SLOTS)
    }
}

impl MemoryMaps {
    /// Maps with room for so many slots.
    pub(crate) fn with_slots(room: u32) -> Self {
        Self {
            maps: BTreeMap::new(),
            slots: vec![Slot::default(); room as usize],
            writes: 0,
            fail_after: None,
        }
    }

    /// Counts a write, or refuses it.
    fn write(&mut self, map: &'static str) -> Result<(), MapError> {
        if let Some(left) = &mut self.fail_after {
            *left = left.checked_sub(1).ok_or_else(|| MapError::Kernel {
                map,
                action: "write",
                source: std::io::Error::from_raw_os_error(1),
            })?;
        }
        self.writes += 1;
        Ok(())
    }

    fn slots_at(&self, first: u32, count: usize) -> Result<&[Slot], MapError> {
        let room = self.slots.len() as u32;
        let slots = self.slots.get(first as usize..).and_then(|slots| slots.get(..count));
        slots.ok_or_else(|| Full::of_slots(room).into())
    }

    fn map<M: Map>(&self) -> Option<&BTreeMap<M::Key, M::Value>> {
        self.maps.get(M::NAME).and_then(|map| map.downcast_ref())
    }

    fn map_mut<M: Map>(&mut self) -> Result<&mut BTreeMap<M::Key, M::Value>, MapError> {
        self.write(M::NAME)?;
        let map = self.maps.entry(M::NAME).or_insert_with(|| Box::new(BTreeMap::<M::Key, M::Value>::new()));
        Ok(map.downcast_mut().expect("a map's name says its types"))
    }
}

impl Maps for MemoryMaps {
    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, MapError> {
        let found = self.map::<M>().and_then(|map| map.get(key)).copied();
        Ok(if M::KIND == MapKind::Array { Some(found.unwrap_or_default()) } else { found })
    }

    fn insert<M: Map>(&mut self, key: &M::Key, value: &M::Value) -> Result<(), MapError> {
        let map = self.map_mut::<M>()?;
        if !map.contains_key(key) && map.len() >= M::CAPACITY as usize {
            return Err(Full::of::<M>().into());
        }
        map.insert(*key, *value);
        Ok(())
    }

    fn insert_all<M: Map>(&mut self, entries: &[(M::Key, M::Value)]) -> Result<(), MapError> {
        entries.iter().try_for_each(|(key, value)| self.insert::<M>(key, value))
    }

    fn remove<M: Map>(&mut self, key: &M::Key) -> Result<(), MapError> {
        self.map_mut::<M>()?.remove(key);
        Ok(())
    }

    fn entries<M: Map>(&self) -> Result<Entries<M>, MapError> {
        Ok(self.map::<M>().into_iter().flatten().map(|(key, value)| (*key, *value)).collect())
    }

    fn keys_after<M: Map>(&self, after: Option<&M::Key>, count: usize) -> Result<Vec<M::Key>, MapError> {
        let keys = self.map::<M>().into_iter().flat_map(BTreeMap::keys);
        Ok(keys.filter(|key| after.is_none_or(|after| *key > after)).take(count).copied().collect())
    }

    fn slot_room(&self) -> Result<u32, MapError> {
        Ok(self.slots.len() as u32)
    }

    fn read_slots(&self, first: u32, slots: &mut [Slot]) -> Result<(), MapError> {
        slots.copy_from_slice(self.slots_at(first, slots.len())?);
        Ok(())
    }

    fn has_slots(&self, first: u32, slots: &[Slot]) -> Result<bool, MapError> {
        Ok(self.slots_at(first, slots.len())? == slots)
    }

    fn write_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        self.slots_at(first, slots.len())?;
        for (index, slot) in (first as usize..).zip(slots) {
            self.write(SLOTS)?;
            self.slots[index] = *slot;
        }
        Ok(())
    }
}
