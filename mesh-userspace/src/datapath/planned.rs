//! The maps that the plan fills, read and written without a detour: there may be a hundred thousand entries.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{Map as KernelMap, MapData};
use mesh_common::abi::Slot;
use nix::libc;

use super::{Datapath, slots::SlotTable, sys};
use crate::apply::{Entries, Full, Map, MapError, MapKind, Maps};

/// The kernel's maps by name, open.
#[derive(Debug)]
pub struct KernelMaps<'a> {
    open: BTreeMap<&'a str, Open<'a>>,
    slots: &'a SlotTable,
}

#[derive(Clone, Copy, Debug)]
struct Open<'a> {
    fd: BorrowedFd<'a>,
    /// Bytes of a key and of a value.
    sizes: (usize, usize),
}

impl Datapath {
    /// The maps for the plan.
    #[must_use]
    pub fn kernel_maps(&self) -> KernelMaps<'_> {
        let open = self.maps.iter().filter_map(|(name, map)| Some((name.as_str(), open(map)?)));
        KernelMaps { open: open.collect(), slots: &self.slots }
    }
}

fn open(map: &KernelMap) -> Option<Open<'_>> {
    let data: &MapData = match map {
        KernelMap::Array(data)
        | KernelMap::HashMap(data)
        | KernelMap::LruHashMap(data)
        | KernelMap::LpmTrie(data) => data,
        _ => return None,
    };
    let info = data.info().ok()?;
    let sizes = (usize::try_from(info.key_size()).ok()?, usize::try_from(info.value_size()).ok()?);
    Some(Open { fd: data.fd().as_fd(), sizes })
}

/// So many entries at once that the system calls no longer count; but the kernel copies them all.
const BATCH: u32 = 4096;

impl<'a> KernelMaps<'a> {
    /// The map's descriptor, once it is sure that its keys and values are as long as the types say.
    fn fd<M: Map>(&self, action: &'static str) -> Result<BorrowedFd<'a>, MapError> {
        let expected = (size_of::<M::Key>(), size_of::<M::Value>());
        match self.open.get(M::NAME) {
            Some(open) if open.sizes == expected => Ok(open.fd),
            Some(open) => Err(fault::<M>(action)(io::Error::other(format!(
                "its keys and values have {:?} bytes, not {expected:?}; build the eBPF object again",
                open.sizes
            )))),
            None => Err(fault::<M>(action)(io::Error::other("the eBPF object does not have it"))),
        }
    }
}

impl Maps for KernelMaps<'_> {
    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, MapError> {
        sys::lookup(self.fd::<M>("read")?, key).map_err(fault::<M>("read"))
    }

    fn insert<M: Map>(&mut self, key: &M::Key, value: &M::Value) -> Result<(), MapError> {
        sys::update(self.fd::<M>("write")?, key, value).map_err(write_fault::<M>)
    }

    fn insert_all<M: Map>(&mut self, entries: &[(M::Key, M::Value)]) -> Result<(), MapError> {
        // A longest-prefix table takes no batches before Linux 5.19, and one alone needs none.
        if M::KIND == MapKind::LpmTrie || entries.len() == 1 {
            return entries.iter().try_for_each(|(key, value)| self.insert::<M>(key, value));
        }
        let fd = self.fd::<M>("write")?;
        for batch in entries.chunks(BATCH as usize) {
            let (keys, values): (Vec<M::Key>, Vec<M::Value>) = batch.iter().copied().unzip();
            sys::update_all(fd, &keys, &values).map_err(write_fault::<M>)?;
        }
        Ok(())
    }

    fn remove<M: Map>(&mut self, key: &M::Key) -> Result<(), MapError> {
        const ACTION: &str = "remove an entry of";
        match M::KIND {
            MapKind::Array => self.insert::<M>(key, &M::Value::default()),
            MapKind::Hash | MapKind::LpmTrie => {
                sys::delete(self.fd::<M>(ACTION)?, key).map(drop).map_err(fault::<M>(ACTION))
            }
        }
    }

    fn entries<M: Map>(&self) -> Result<Entries<M>, MapError> {
        let mut entries = Vec::new();
        let fd = self.fd::<M>("read")?;
        if M::KIND == MapKind::Hash {
            let mut place = None;
            // More than there is room for would mean that it never ends.
            for _ in 0..M::CAPACITY {
                place = sys::lookup_batch(fd, place, BATCH, &mut entries).map_err(fault::<M>("read"))?;
                if place.is_none() {
                    break;
                }
            }
            return Ok(entries);
        }
        let mut last = None;
        // More than there is room for would mean that removals lead back to the beginning again and again.
        for _ in 0..M::CAPACITY {
            let Some(key) = sys::next_key(fd, last.as_ref()).map_err(fault::<M>("read"))? else { break };
            if let Some(value) = self.get::<M>(&key)?
                && (M::KIND != MapKind::Array || value != M::Value::default())
            {
                entries.push((key, value));
            }
            last = Some(key);
        }
        Ok(entries)
    }

    fn keys_after<M: Map>(&self, after: Option<&M::Key>, count: usize) -> Result<Vec<M::Key>, MapError> {
        let fd = self.fd::<M>("read")?;
        let mut keys: Vec<M::Key> = Vec::new();
        while keys.len() < count {
            let Some(key) = sys::next_key(fd, keys.last().or(after)).map_err(fault::<M>("read"))? else {
                break;
            };
            keys.push(key);
        }
        Ok(keys)
    }

    fn slot_room(&self) -> Result<u32, MapError> {
        Ok(self.slots.count())
    }

    fn read_slots(&self, first: u32, slots: &mut [Slot]) -> Result<(), MapError> {
        self.slots.read(first, slots)
    }

    fn has_slots(&self, first: u32, slots: &[Slot]) -> Result<bool, MapError> {
        self.slots.has(first, slots)
    }

    fn write_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        self.slots.write(first, slots)
    }
}

/// The error of a write, which may have found the map full.
fn write_fault<M: Map>(error: io::Error) -> MapError {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => Full::of::<M>().into(),
        _ => fault::<M>("write")(error),
    }
}

fn fault<M: Map>(action: &'static str) -> impl FnOnce(io::Error) -> MapError {
    move |source| MapError::Kernel { map: M::NAME, action, source }
}
