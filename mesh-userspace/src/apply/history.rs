//! What a ring's slots remember: the backends that their flows may still live with.
//!
//! A flow's slot is its hash as a fraction of the ring, so that of two rings whose sizes are powers of two each slot of
//! the smaller one is a run of slots of the greater: across a doubling or halving nothing is lost.

use mesh_common::abi::{BackendIndex, Slot};

/// What is known of the backends, by index.
#[derive(Debug)]
pub(super) struct Known(Vec<State>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    /// It has no flows any more, but its node may have been told where flows live that were looked for with it.
    Left,
    /// It may have flows.
    Alive,
}

impl Known {
    /// Of those that left, only such count whose nodes are there. One that is among both is alive.
    pub(super) fn new(
        alive: impl Iterator<Item = BackendIndex>,
        left: impl Iterator<Item = BackendIndex>,
    ) -> Self {
        let mut states = Vec::new();
        let left = left.map(|index| (index, State::Left));
        for (index, state) in left.chain(alive.map(|index| (index, State::Alive))) {
            let Ok(index) = usize::try_from(index) else { continue };
            if states.len() <= index {
                states.resize(index + 1, State::Unknown);
            }
            if let Some(entry) = states.get_mut(index) {
                *entry = state;
            }
        }
        Self(states)
    }

    /// 0 is none.
    fn state(&self, index: BackendIndex) -> State {
        let state = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        state.copied().unwrap_or(State::Unknown)
    }

    /// Whether a slot may remember this backend.
    pub(super) fn has(&self, index: BackendIndex) -> bool {
        self.state(index) != State::Unknown
    }
}

/// Slots with these backends as the current ones, in the place of a ring with the `old` slots: where the backend
/// changes, the old one comes first of those before. What the old slots remember themselves may be forgotten.
pub(super) fn succeed(
    currents: impl ExactSizeIterator<Item = BackendIndex>,
    old: &[Slot],
    forget: bool,
    known: &Known,
) -> Vec<Slot> {
    let (new, was) = (currents.len(), old.len());
    if !new.is_power_of_two() || !was.is_power_of_two() {
        return without_history(currents);
    }
    if was <= new {
        let shift = (new / was).trailing_zeros();
        let mut slots = Vec::with_capacity(new);
        for (index, current) in currents.enumerate() {
            let mut before = Before::new(current, known);
            if let Some(old) = old.get(index >> shift) {
                before.add(old.current());
                if !forget {
                    before.add_all(old.before());
                }
            }
            slots.push(Slot::new(current, before.all()));
        }
        return slots;
    }
    let mut ranks = Vec::new();
    let runs = old.chunks_exact(was / new);
    let slots = currents.zip(runs).map(|(current, run)| {
        let mut before = Before::new(current, known);
        before.add_most_frequent(run, &mut ranks);
        if !forget {
            // The latest of each come before the oldest of any.
            for place in 0..Slot::HISTORY {
                before.add_all(run.iter().filter_map(|slot| slot.before().get(place).copied()));
            }
        }
        Slot::new(current, before.all())
    });
    slots.collect()
}

/// Slots that remember nothing.
pub(super) fn without_history(currents: impl Iterator<Item = BackendIndex>) -> Vec<Slot> {
    currents.map(|current| Slot::new(current, [0; Slot::HISTORY])).collect()
}

/// The backends before a current one, as they are found. Those that left have what room the others leave.
struct Before<'a> {
    current: BackendIndex,
    known: &'a Known,
    kept: [BackendIndex; Slot::HISTORY],
    left: [BackendIndex; Slot::HISTORY],
}

impl<'a> Before<'a> {
    const fn new(current: BackendIndex, known: &'a Known) -> Self {
        Self { current, known, kept: [0; Slot::HISTORY], left: [0; Slot::HISTORY] }
    }

    fn all(mut self) -> [BackendIndex; Slot::HISTORY] {
        let free = self.kept.iter_mut().filter(|kept| **kept == 0);
        free.zip(self.left).for_each(|(free, left)| *free = left);
        self.kept
    }

    /// Keeps those that were current in slots, first the ones that held most of them. `ranks` is room to count in.
    fn add_most_frequent(&mut self, run: &[Slot], ranks: &mut Vec<(usize, BackendIndex)>) {
        ranks.clear();
        for slot in run {
            match ranks.iter_mut().find(|(_, known)| *known == slot.current()) {
                Some((count, _)) => *count += 1,
                None => ranks.push((1, slot.current())),
            }
        }
        // A stable sort: among equals the first stays first.
        ranks.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        self.add_all(ranks.iter().map(|(_, index)| *index));
    }

    fn add_all(&mut self, indices: impl IntoIterator<Item = BackendIndex>) {
        for index in indices {
            self.add(index);
        }
    }

    /// Keeps one more, if there is room, it is known, and it is none that is kept already.
    fn add(&mut self, index: BackendIndex) {
        let kept = match self.known.state(index) {
            State::Alive => &mut self.kept,
            State::Left => &mut self.left,
            State::Unknown => return,
        };
        if index == self.current || kept.contains(&index) {
            return;
        }
        if let Some(free) = kept.iter_mut().find(|kept| **kept == 0) {
            *free = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known::new([1, 2, 3, 4].into_iter(), [4, 5, 6].into_iter())
    }

    fn succeeded(currents: &[u32], old: &[Slot]) -> Vec<[u32; 3]> {
        let slots = succeed(currents.iter().copied(), old, false, &known());
        slots.into_iter().map(|slot| [slot.current(), slot.before()[0], slot.before()[1]]).collect()
    }

    #[test]
    fn the_old_one_goes_to_the_front_and_nothing_repeats_itself() {
        for (current, old, expected) in [
            (1, [1, 2, 3], [1, 2, 3]),
            (2, [1, 3, 4], [2, 1, 3]),
            (2, [1, 2, 3], [2, 1, 3]),
            (2, [1, 3, 2], [2, 1, 3]),
            (2, [1, 0, 0], [2, 1, 0]),
            // The ninth is not known.
            (2, [9, 3, 0], [2, 3, 0]),
            (1, [1, 9, 3], [1, 3, 0]),
            // The fifth and the sixth have left, and their nodes have not.
            (2, [5, 3, 0], [2, 3, 5]),
            (1, [5, 6, 3], [1, 3, 5]),
            (1, [5, 6, 9], [1, 5, 6]),
            (1, [5, 2, 3], [1, 2, 3]),
        ] {
            assert_eq!(succeeded(&[current], &[Slot::new(old[0], [old[1], old[2]])]), [expected], "{old:?}");
        }
    }

    #[test]
    fn a_ring_that_grows_hands_each_slot_to_those_that_it_becomes() {
        let old = [Slot::new(1, [2, 0]), Slot::new(3, [0; 2])];
        let expected =
            [[1, 2, 0], [4, 1, 2], [3, 0, 0], [3, 0, 0], [4, 3, 0], [3, 0, 0], [2, 3, 0], [3, 0, 0]];
        assert_eq!(succeeded(&[1, 4, 1, 1, 4, 3, 2, 3], &old)[..2], expected[..2]);
        assert_eq!(succeeded(&[1, 4, 1, 1, 4, 3, 2, 3], &old)[4..], expected[4..]);
    }

    #[test]
    fn a_ring_that_shrinks_remembers_all_that_fell_together() {
        let slot = |current| Slot::new(current, [0; 2]);
        assert_eq!(succeeded(&[4, 2], &[slot(1), slot(2), slot(2), slot(3)]), [[4, 1, 2], [2, 3, 0]]);
        // Of four, those that held most.
        assert_eq!(succeeded(&[4], &[slot(1), slot(2), slot(2), slot(3)]), [[4, 2, 1]]);
        // What was before is not lost while there is room.
        assert_eq!(succeeded(&[1], &[Slot::new(1, [2, 3]), Slot::new(1, [4, 2])]), [[1, 2, 4]]);
    }

    #[test]
    fn what_is_forgotten_is_only_what_the_old_slots_remember() {
        let old = [Slot::new(1, [2, 3]), Slot::new(2, [4, 0])];
        for (currents, expected) in [
            (&[1, 2][..], &[Slot::new(1, [0; 2]), Slot::new(2, [0; 2])][..]),
            (&[4, 2], &[Slot::new(4, [1, 0]), Slot::new(2, [0; 2])]),
            (&[3], &[Slot::new(3, [1, 2])]),
        ] {
            assert_eq!(succeed(currents.iter().copied(), &old, true, &known()), expected);
        }
    }

    #[test]
    fn a_ring_of_another_sort_has_no_history() {
        let slot = |current| Slot::new(current, [0; 2]);
        assert_eq!(succeeded(&[4, 2], &[slot(1), slot(2), slot(3)]), [[4, 0, 0], [2, 0, 0]]);
        assert_eq!(succeeded(&[4], &[]), [[4, 0, 0]]);
    }
}
