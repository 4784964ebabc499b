//! The maps by their types: keys and values of [`mesh_common::abi`].

use std::fmt::Debug;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie};
use mesh_common::abi::Pod;

use super::{Datapath, DatapathError, error::chain};

/// A type of the ABI as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Raw<T>(pub T);

// SAFETY: the ABI's Pod demands the same as aya's, and more: no padding, and any bytes are a valid value.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

/// A hash map, with or without an order of last use.
#[derive(Debug)]
pub struct HashTable<'a, K: Pod, V: Pod> {
    name: &'a str,
    capacity: u32,
    map: HashMap<&'a mut MapData, Raw<K>, Raw<V>>,
}

/// An array.
pub struct ArrayTable<'a, V: Pod> {
    name: &'a str,
    map: Array<&'a mut MapData, Raw<V>>,
}

/// A table searched by the longest prefix.
#[derive(Debug)]
pub struct TrieTable<'a, K: Pod, V: Pod> {
    name: &'a str,
    capacity: u32,
    map: LpmTrie<&'a mut MapData, Raw<K>, Raw<V>>,
}

/// An array that every CPU has one of its own of.
pub struct PerCpuTable<'a, V: Pod> {
    name: &'a str,
    map: PerCpuArray<&'a MapData, Raw<V>>,
}

impl Datapath {
    /// The hash map `name`.
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashTable<'_, K, V>, DatapathError> {
        let (name, map) = self.map_mut(name)?;
        let capacity = capacity(name, map)?;
        let map = HashMap::try_from(map).map_err(|error| shape(name, &error))?;
        Ok(HashTable { name, capacity, map })
    }

    /// The array `name`.
    pub fn array<V: Pod>(&mut self, name: &str) -> Result<ArrayTable<'_, V>, DatapathError> {
        let (name, map) = self.map_mut(name)?;
        let map = Array::try_from(map).map_err(|error| shape(name, &error))?;
        Ok(ArrayTable { name, map })
    }

    /// The longest-prefix table `name`.
    pub fn trie<K: Pod, V: Pod>(&mut self, name: &str) -> Result<TrieTable<'_, K, V>, DatapathError> {
        let (name, map) = self.map_mut(name)?;
        let capacity = capacity(name, map)?;
        let map = LpmTrie::try_from(map).map_err(|error| shape(name, &error))?;
        Ok(TrieTable { name, capacity, map })
    }

    /// The array `name` of which every CPU has one of its own.
    pub fn per_cpu<V: Pod>(&self, name: &str) -> Result<PerCpuTable<'_, V>, DatapathError> {
        let (name, map) = self.maps.get_key_value(name).ok_or_else(|| missing(name))?;
        let map = PerCpuArray::try_from(map).map_err(|error| shape(name, &error))?;
        Ok(PerCpuTable { name, map })
    }

    /// The ring `name`, to be read by its taker alone: the next call finds none.
    pub fn take_ring(&mut self, name: &str) -> Result<RingBuf<MapData>, DatapathError> {
        let map = self.maps.remove(name).ok_or_else(|| missing(name))?;
        RingBuf::try_from(map).map_err(|error| shape(name, &error))
    }

    /// The names of all maps.
    pub fn map_names(&self) -> impl Iterator<Item = &str> {
        self.maps.keys().map(String::as_str)
    }

    fn map_mut(&mut self, name: &str) -> Result<(&str, &mut Map), DatapathError> {
        self.maps
            .iter_mut()
            .find(|(known, _)| *known == name)
            .map(|(known, map)| (known.as_str(), map))
            .ok_or_else(|| missing(name))
    }
}

impl<K: Pod + Debug, V: Pod> HashTable<'_, K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        found(self.map.get(&Raw(*key), 0))
            .map(|value| value.map(|value| value.0))
            .map_err(|error| entry("read", self.name, key, &error))
    }

    /// Sets the value of a key, in one step for the programs.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.map
            .insert(Raw(*key), Raw(*value), 0)
            .map_err(|error| write_fault(self.name, self.capacity, key, &error))
    }

    /// Removes a key; false if it was not there.
    pub fn remove(&mut self, key: &K) -> Result<bool, DatapathError> {
        found(self.map.remove(&Raw(*key)))
            .map(|removed| removed.is_some())
            .map_err(|error| entry("remove", self.name, key, &error))
    }

    /// Every entry, in no order. What the programs change meanwhile may be missed or met twice.
    pub fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        collect(self.name, self.map.iter().map(|item| item.map(|(key, value)| (key.0, value.0))))
    }
}

impl<V: Pod> ArrayTable<'_, V> {
    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.map.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `index`; none beyond the end.
    pub fn get(&self, index: u32) -> Result<Option<V>, DatapathError> {
        match self.map.get(&index, 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::OutOfBounds { .. }) => Ok(None),
            Err(error) => Err(entry("read", self.name, &index, &error)),
        }
    }

    /// Sets the entry at `index`.
    pub fn set(&mut self, index: u32, value: &V) -> Result<(), DatapathError> {
        let capacity = self.len();
        self.map.set(index, Raw(*value), 0).map_err(|error| write_fault(self.name, capacity, &index, &error))
    }
}

impl<K: Pod + Debug, V: Pod> TrieTable<'_, K, V> {
    /// The value of the longest prefix of `key`.
    pub fn search(&self, key: &K, bits: u32) -> Result<Option<V>, DatapathError> {
        found(self.map.get(&lpm_trie::Key::new(bits, Raw(*key)), 0))
            .map(|value| value.map(|value| value.0))
            .map_err(|error| entry("read", self.name, key, &error))
    }

    /// Sets the value of a prefix of `bits` bits.
    pub fn insert(&mut self, key: &K, bits: u32, value: &V) -> Result<(), DatapathError> {
        self.map
            .insert(&lpm_trie::Key::new(bits, Raw(*key)), Raw(*value), 0)
            .map_err(|error| write_fault(self.name, self.capacity, key, &error))
    }

    /// Removes a prefix; false if it was not there.
    pub fn remove(&mut self, key: &K, bits: u32) -> Result<bool, DatapathError> {
        found(self.map.remove(&lpm_trie::Key::new(bits, Raw(*key))))
            .map(|removed| removed.is_some())
            .map_err(|error| entry("remove", self.name, key, &error))
    }

    /// Every prefix with its length in bits and its value, in no order.
    pub fn entries(&self) -> Result<Vec<(K, u32, V)>, DatapathError> {
        let items = self.map.iter().map(|item| {
            item.map(|(key, value)| {
                let data = key.data();
                (data.0, key.prefix_len(), value.0)
            })
        });
        collect(self.name, items)
    }
}

impl<V: Pod> PerCpuTable<'_, V> {
    /// How many entries each CPU's has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.map.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `index`, of each CPU in turn.
    pub fn get(&self, index: u32) -> Result<Vec<V>, DatapathError> {
        self.map
            .get(&index, 0)
            .map(|values| values.iter().map(|value| value.0).collect())
            .map_err(|error| entry("read", self.name, &index, &error))
    }
}

impl PerCpuTable<'_, u64> {
    /// The sums over all CPUs, by index.
    pub fn sums(&self) -> Result<Vec<u64>, DatapathError> {
        (0..self.len()).map(|index| Ok(self.get(index)?.into_iter().fold(0, u64::wrapping_add))).collect()
    }
}

/// None in the place of "there is no such key".
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) if errno(&error) == Some(nix::libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn collect<T>(name: &str, items: impl Iterator<Item = Result<T, MapError>>) -> Result<Vec<T>, DatapathError> {
    items
        .filter_map(|item| found(item).transpose())
        .collect::<Result<_, _>>()
        .map_err(|error| entry("read", name, &"an entry", &error))
}

fn capacity(name: &str, map: &Map) -> Result<u32, DatapathError> {
    match map {
        Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => {
            data.info().map(|info| info.max_entries()).map_err(|error| shape(name, &error))
        }
        _ => Err(DatapathError::Shape {
            map: name.to_owned(),
            why: "it is neither a hash map nor a longest-prefix table".into(),
        }),
    }
}

pub(super) fn missing(name: &str) -> DatapathError {
    DatapathError::Missing { what: "map", name: name.to_owned() }
}

fn shape(name: &str, error: &MapError) -> DatapathError {
    DatapathError::Shape { map: name.to_owned(), why: chain(error) }
}

fn entry(
    doing: &'static str,
    map: &str,
    key: &impl Debug,
    error: &(dyn std::error::Error + 'static),
) -> DatapathError {
    DatapathError::Entry { doing, map: map.to_owned(), key: format!("{key:?}"), why: chain(error) }
}

fn write_fault(map: &str, capacity: u32, key: &impl Debug, error: &MapError) -> DatapathError {
    let full = matches!(error, MapError::OutOfBounds { .. })
        || matches!(errno(error), Some(nix::libc::E2BIG | nix::libc::ENOSPC));
    if full {
        DatapathError::Full { map: map.to_owned(), key: format!("{key:?}"), capacity }
    } else {
        entry("write", map, key, error)
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}
