//! Maps in memory, which behave as the kernel's do.

use std::{any::Any, collections::BTreeMap};

use super::maps::{Entries, Full, Map, MapError, MapKind, Maps};

/// Maps in memory.
#[derive(Default)]
pub(crate) struct MemoryMaps {
    maps: BTreeMap<&'static str, Box<dyn Any>>,
    /// The writes and removals so far.
    pub(crate) writes: usize,
    /// After so many more writes, each one is refused.
    pub(crate) fail_after: Option<usize>,
}

impl MemoryMaps {
    fn map<M: Map>(&self) -> Option<&BTreeMap<M::Key, M::Value>> {
        self.maps.get(M::NAME).and_then(|map| map.downcast_ref())
    }

    fn map_mut<M: Map>(&mut self) -> Result<&mut BTreeMap<M::Key, M::Value>, MapError> {
        if let Some(left) = &mut self.fail_after {
            *left = left.checked_sub(1).ok_or_else(|| MapError::Kernel {
                map: M::NAME,
                action: "write",
                source: std::io::Error::from_raw_os_error(1),
            })?;
        }
        self.writes += 1;
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
}
