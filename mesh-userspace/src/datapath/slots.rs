//! The table of slots, mapped into the agent: millions of them are written without a system call for each.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use mesh_common::abi::Slot;
use nix::libc;

use super::DatapathError;
use crate::apply::{Full, MapError, SLOTS};

/// A mapping of the kernel's array.
#[derive(Debug)]
pub(super) struct SlotTable {
    address: NonNull<AtomicU64>,
    count: u32,
}

// SAFETY: the mapping is the process's, not a thread's, and its words are only touched as atomics.
unsafe impl Send for SlotTable {}
// SAFETY: as above.
unsafe impl Sync for SlotTable {}

impl SlotTable {
    /// Maps the array; it must have been made with `BPF_F_MMAPABLE`.
    pub(super) fn of(map: &Map) -> Result<Self, DatapathError> {
        let shape = |why: String| DatapathError::Shape { map: SLOTS.to_owned(), why };
        let Map::Array(data) = map else { return Err(shape("it is no array".into())) };
        let info = data.info().map_err(|error| shape(error.to_string()))?;
        if usize::try_from(info.value_size()) != Ok(size_of::<Slot>()) {
            return Err(shape(format!("its values have {} bytes", info.value_size())));
        }
        Self::map(std::os::fd::AsFd::as_fd(data.fd()), info.max_entries()).map_err(|source| {
            DatapathError::File { doing: format!("map {SLOTS} into the agent's memory"), source }
        })
    }

    fn map(fd: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no memory in use is touched. A shared mapping of a BPF array is
        // backed by the array itself for as long as the mapping lives, whether the descriptor stays open or not.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("it was mapped to nowhere"))?;
        Ok(Self { address, count })
    }

    /// How many slots there are.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// Reads slots from `first` on into all of `slots`.
    pub(super) fn read(&self, first: u32, slots: &mut [Slot]) -> Result<(), MapError> {
        let words = self.run(first, slots.len())?;
        for (slot, word) in slots.iter_mut().zip(words) {
            *slot = Slot::from_bits(word.load(Ordering::Relaxed));
        }
        Ok(())
    }

    /// Whether the slots from `first` on are these.
    pub(super) fn has(&self, first: u32, slots: &[Slot]) -> Result<bool, MapError> {
        let words = self.run(first, slots.len())?;
        Ok(words.iter().zip(slots).all(|(word, slot)| word.load(Ordering::Relaxed) == slot.bits()))
    }

    /// Writes slots from `first` on, each in one step. The system call that switches a service to them afterwards is
    /// seen later than they are: it takes the lock of the other map.
    pub(super) fn write(&self, first: u32, slots: &[Slot]) -> Result<(), MapError> {
        for (word, slot) in self.run(first, slots.len())?.iter().zip(slots) {
            word.store(slot.bits(), Ordering::Release);
        }
        Ok(())
    }

    fn run(&self, first: u32, count: usize) -> Result<&[AtomicU64], MapError> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let run = self.words().get(first..).and_then(|words| words.get(..count));
        run.ok_or_else(|| Full::of_slots(self.count).into())
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words of eight bytes from a page's beginning on, lives as long as `self`, and the
        // kernel's programs only read it, a word at a time.
        unsafe {
            std::slice::from_raw_parts(self.address.as_ptr(), usize::try_from(self.count).unwrap_or_default())
        }
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that `map` made, of this length, and no reference to it outlives `self`.
        unsafe {
            libc::munmap(self.address.as_ptr().cast(), bytes(self.count));
        }
    }
}

fn bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size_of::<Slot>())
}
