//! Numbers that nobody outside can foretell.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// A source of numbers: a keyed hash of a counter, under a key of the system's.
#[derive(Debug, Default)]
pub(super) struct Random {
    key: RandomState,
    count: AtomicU64,
}

impl Random {
    pub(super) fn next(&self) -> u64 {
        self.key.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// Orders items by chance (Fisher and Yates).
pub(super) fn shuffle<T>(items: &mut [T], mut chance: u64) {
    for last in (1..items.len()).rev() {
        // Steele, Lea and Flood's splitmix64.
        chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (chance ^ (chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let choices = last as u64 + 1;
        items.swap(last, ((mixed ^ (mixed >> 31)) % choices) as usize);
    }
}
