//! The slots of all rings, ring by ring: there may be millions, of which a change touches thousands.

use std::{collections::BTreeMap, sync::Arc};

use mesh_common::abi::{BackendIndex, Service, Slot, capacity};

use crate::plan::ring::Ring;

/// The slots of one ring as they lie in the table of slots, wherever that is.
#[derive(Clone, Debug)]
pub struct Block {
    slots: Box<[Slot]>,
    before: Box<[BackendIndex]>,
    /// What it was made of; none when it was read from the kernel.
    ring: Option<Arc<Ring>>,
}

impl Block {
    /// A block of these slots.
    #[must_use]
    pub fn new(slots: Vec<Slot>) -> Self {
        let mut before: Vec<BackendIndex> = Vec::new();
        let mut last = Slot::default().before();
        for slot in &slots {
            let of_slot = slot.before();
            if of_slot != last {
                last = of_slot;
                before.extend(of_slot.into_iter().filter(|index| *index != 0));
                // They repeat themselves: sorted out now and then, they take little more room than what stays.
                if before.len() + Slot::HISTORY > before.capacity() {
                    before.sort_unstable();
                    before.dedup();
                    before.reserve(before.len() + Slot::HISTORY);
                }
            }
        }
        before.sort_unstable();
        before.dedup();
        Self { slots: slots.into(), before: before.into(), ring: None }
    }

    /// The same, made of a ring.
    pub(super) fn of(ring: &Arc<Ring>, slots: Vec<Slot>) -> Self {
        Self { ring: Some(Arc::clone(ring)), ..Self::new(slots) }
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The backends that any slot held before, in ascending order.
    #[must_use]
    pub fn before(&self) -> &[BackendIndex] {
        &self.before
    }

    /// Whether it is known to be made of this very ring.
    pub(super) fn is_of(&self, ring: &Arc<Ring>) -> bool {
        self.ring.as_ref().is_some_and(|made_of| Arc::ptr_eq(made_of, ring))
    }

    /// How many slots it has.
    fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }
}

/// Two are alike if their slots are, whatever they were made of.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl Eq for Block {}

/// The blocks by the index of their first slot, and how many slots there is room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    room: u32,
    blocks: BTreeMap<u32, Arc<Block>>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::with_room(capacity::SLOTS)
    }
}

impl Blocks {
    /// None yet, with room for so many slots.
    #[must_use]
    pub const fn with_room(room: u32) -> Self {
        Self { room, blocks: BTreeMap::new() }
    }

    /// How many slots there is room for.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.room
    }

    /// How many slots the blocks have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.values().map(|block| block.slots.len()).sum()
    }

    /// Whether there is no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The slot at an index of the table.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Slot> {
        let (first, block) = self.blocks.range(..=index).next_back()?;
        block.slots.get(usize::try_from(index - first).ok()?).copied()
    }

    /// The slots that a service's entry names, if they are exactly one block.
    #[must_use]
    pub fn of(&self, service: &Service) -> Option<&Arc<Block>> {
        self.blocks.get(&service.first_slot).filter(|block| block.count() == service.slots)
    }

    /// The blocks, with the index of the first slot of each.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Block>)> {
        self.blocks.iter().map(|(first, block)| (*first, block))
    }

    /// Puts a block to a place, instead of what begins there.
    pub fn insert(&mut self, first: u32, block: Arc<Block>) {
        self.blocks.insert(first, block);
    }

    /// Those that `self` has and `other` has not, or not so.
    pub(super) fn unlike<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u32, &'a Arc<Block>)> {
        self.iter().filter(|(first, block)| {
            // Comparing two that are one and the same costs nothing.
            other.blocks.get(first).is_none_or(|there| !Arc::ptr_eq(there, block) && there != *block)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(currents: &[u32]) -> Arc<Block> {
        Arc::new(Block::new(currents.iter().map(|current| Slot::new(*current, [current + 100, 0])).collect()))
    }

    #[test]
    fn a_slot_is_found_by_its_index_in_the_table() {
        let mut blocks = Blocks::with_room(100);
        blocks.insert(10, block(&[1, 2]));
        blocks.insert(12, block(&[3]));
        let currents: Vec<Option<u32>> = (9..14).map(|index| blocks.get(index).map(Slot::current)).collect();
        assert_eq!(currents, [None, Some(1), Some(2), Some(3), None]);
        assert_eq!(blocks.len(), 3);
        let service = |first_slot, slots| Service { first_slot, slots, ..Service::default() };
        assert!(blocks.of(&service(10, 2)).is_some());
        assert!(blocks.of(&service(10, 3)).is_none() && blocks.of(&service(11, 1)).is_none());
    }

    #[test]
    fn a_block_knows_who_was_there_before() {
        let slots = (0..5000u32).map(|n| Slot::new(1, [2 + n % 3, if n % 2 == 0 { 9 } else { 0 }]));
        assert_eq!(Block::new(slots.collect()).before(), [2, 3, 4, 9]);
        assert!(Block::new(vec![Slot::new(1, [0; 2]); 3]).before().is_empty());
    }

    #[test]
    fn blocks_are_compared_by_their_slots() {
        let (mut one, mut two) = (Blocks::with_room(9), Blocks::with_room(9));
        one.insert(0, block(&[1]));
        one.insert(1, block(&[2]));
        two.insert(0, block(&[1]));
        two.insert(1, block(&[3]));
        let unlike: Vec<u32> = two.unlike(&one).map(|(first, _)| first).collect();
        assert_eq!(unlike, [1]);
    }
}
