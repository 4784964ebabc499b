//! Which index stands for which identity, in the maps whose entries flows and other entries name by their index.

use imbl::OrdMap;

use super::maps::{Full, Map};

/// The indices of identities that are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Vec<bool>);

impl Wanted {
    fn set(&mut self, index: u32, is_wanted: bool) {
        let Ok(index) = usize::try_from(index) else { return };
        if self.0.len() <= index {
            self.0.resize(index + 1, false);
        }
        if let Some(entry) = self.0.get_mut(index) {
            *entry = is_wanted;
        }
    }

    /// Whether an index is one of them; 0 is none.
    pub(super) fn has(&self, index: u32) -> bool {
        usize::try_from(index).ok().and_then(|index| self.0.get(index)).copied().unwrap_or_default()
    }

    /// Each of them.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.0).filter(|(_, is_wanted)| **is_wanted).map(|(index, _)| index)
    }
}

/// A map from indices to entries that have an identity; index 0 is none.
pub(super) trait Indexed: Map<Key = u32> {
    /// What an entry is, wherever it stands.
    type Identity: Ord + Copy;

    /// The identity of an entry; none for an empty one.
    fn identity(value: &Self::Value) -> Option<Self::Identity>;

    /// A number that is different for most identities.
    fn spread(identity: Self::Identity) -> u32;
}

/// The indices of identities: of those that are wanted, and of those that left and still have their entries.
#[derive(Clone, Debug)]
pub(super) struct Indices<M: Indexed> {
    all: OrdMap<M::Identity, u32>,
    wanted: Wanted,
}

impl<M: Indexed> Indices<M> {
    /// Those that a map holds, none of which is wanted yet.
    pub(super) fn of(entries: &OrdMap<u32, M::Value>) -> Self {
        let mut all = OrdMap::new();
        for (index, value) in entries.range(1..) {
            if let Some(identity) = M::identity(value) {
                // Of two entries of one identity the first counts.
                all.entry(identity).or_insert(*index);
            }
        }
        Self { all, wanted: Wanted::default() }
    }

    /// The index of an identity that is wanted; 0 for any other.
    pub(super) fn get(&self, identity: &M::Identity) -> u32 {
        self.all.get(identity).copied().filter(|index| self.wanted.has(*index)).unwrap_or_default()
    }

    /// The indices that are wanted.
    pub(super) const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Gives each identity that comes an index: the one it had, else the first that was never used, else one that was left
    /// by another, beginning at a place given by its spread so that an index rests for long before it is used again.
    pub(super) fn change(
        &mut self,
        entries: &OrdMap<u32, M::Value>,
        left: &[M::Identity],
        came: &[M::Identity],
    ) -> Result<(), Full> {
        for index in left.iter().filter_map(|identity| self.all.get(identity)) {
            self.wanted.set(*index, false);
        }
        let mut new = Vec::new();
        for identity in came {
            match self.all.get(identity) {
                Some(index) => self.wanted.set(*index, true),
                None => new.push(*identity),
            }
        }
        let mut unused = unused::<M>(entries);
        for identity in new {
            let index = unused.next().or_else(|| self.left_by_another(identity)).ok_or_else(Full::of::<M>)?;
            if let Some(other) = entries.get(&index).and_then(M::identity)
                && self.all.get(&other) == Some(&index)
            {
                self.all.remove(&other);
            }
            self.all.insert(identity, index);
            self.wanted.set(index, true);
        }
        Ok(())
    }

    fn left_by_another(&self, identity: M::Identity) -> Option<u32> {
        let start = 1 + M::spread(identity) % (M::CAPACITY - 1);
        (start..M::CAPACITY).chain(1..start).find(|index| !self.wanted.has(*index))
    }
}

/// The indices that a map does not hold, found in one walk.
fn unused<M: Indexed>(entries: &OrdMap<u32, M::Value>) -> impl Iterator<Item = u32> {
    let mut used = entries.range(1..).map(|(index, _)| *index).peekable();
    (1..M::CAPACITY).filter(move |index| used.next_if_eq(index).is_none())
}
