//! A sliding window over counters: which were seen, so that nothing is taken twice.

/// How far behind the greatest counter one may come and still be taken: what a network turns round, also while the sender
/// speaks to thousands of others in between.
pub const WIDTH: u64 = 2048;

const BITS: u64 = 64;
const BLOCKS: usize = (WIDTH / BITS) as usize;

/// The counters that were seen of one sender. As in RFC 6479, the bits go round in blocks, so that nothing is ever shifted.
#[derive(Clone, Debug)]
pub struct Window {
    /// The counter after the greatest that was seen.
    next: u64,
    seen: [u64; BLOCKS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, seen: [0; BLOCKS] }
    }
}

impl Window {
    /// Notes a counter. Returns whether it is new: neither seen before nor so old that nobody could tell. The greatest
    /// number is never new, so that there is always a next one.
    pub fn take(&mut self, counter: u64) -> bool {
        let Some(after) = counter.checked_add(1) else { return false };
        if after > self.next {
            self.advance(after);
        } else if self.oldest() > counter {
            return false;
        }
        let bit = 1 << (counter % BITS);
        let Some(block) = self.seen.get_mut(index(counter / BITS)) else { return false };
        let is_new = *block & bit == 0;
        *block |= bit;
        is_new
    }

    /// The least counter that can be told apart: one block is always partly ahead.
    const fn oldest(&self) -> u64 {
        let block = self.next.saturating_sub(1) / BITS;
        block.saturating_sub(BLOCKS as u64 - 1) * BITS
    }

    /// Forgets what lies in the blocks that come into view.
    fn advance(&mut self, next: u64) {
        let before = self.next.saturating_sub(1) / BITS;
        let now = next.saturating_sub(1) / BITS;
        for block in 1..=(now - before).min(BLOCKS as u64) {
            if let Some(block) = self.seen.get_mut(index(before + block)) {
                *block = 0;
            }
        }
        self.next = next;
    }
}

const fn index(block: u64) -> usize {
    (block % BLOCKS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_counts_once() {
        let mut window = Window::default();
        for counter in [0, 1, 5, 3, 2000, 4, 2047] {
            assert!(window.take(counter), "{counter}");
            assert!(!window.take(counter), "{counter} again");
        }
    }

    #[test]
    fn what_is_too_old_to_tell_is_refused() {
        let mut window = Window::default();
        assert!(window.take(10));
        assert!(window.take(10 + WIDTH));
        assert!(!window.take(11 - BITS.min(11)), "it has left the window");
        assert!(!window.take(63), "its block has left the window");
        assert!(window.take(64), "the oldest block that is whole in the window");
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(10 + WIDTH + 1));
        assert!(!window.take(u64::MAX), "there would be no next one");
        assert!(window.take(u64::MAX - 2));
    }

    proptest! {
        /// Against a set that remembers all: nothing is taken twice, and nothing new within the window is refused.
        #[test]
        fn agrees_with_a_memory_of_everything(steps in prop::collection::vec((any::<bool>(), 0_u64..5000), 1..400)) {
            let mut window = Window::default();
            let (mut taken, mut greatest) = (BTreeSet::new(), 0_u64);
            for (ahead, by) in steps {
                let counter = if ahead { greatest + by } else { greatest.saturating_sub(by) };
                let is_new = window.take(counter);
                prop_assert!(!(is_new && taken.contains(&counter)), "{} was taken twice", counter);
                if !taken.contains(&counter) && counter + (WIDTH - BITS) > greatest {
                    prop_assert!(is_new, "{} of {} was refused", counter, greatest);
                }
                if is_new {
                    taken.insert(counter);
                }
                greatest = greatest.max(counter);
            }
        }
    }
}
