//! When a ring's slots may forget whom they held before.
//!
//! A changed ring's slots remember their old backends, so that flows which live there are found. Meanwhile each node tells
//! where its flows live; once that is done, the memory would only send strangers' packets on a detour.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_common::abi::ServiceKey;

use crate::apply::MapContents;

/// After this time without a change, a ring forgets: several times as long as it takes the slowest node to notice the
/// change and to tell of its flows.
pub const AFTER: Duration = Duration::from_secs(60);

/// The rings that remember, and since when they are as they are. It is not kept across restarts: then the time begins
/// anew.
#[derive(Debug, Default)]
pub(super) struct Settling(BTreeMap<ServiceKey, Unchanged>);

#[derive(Clone, Copy, Debug)]
struct Unchanged {
    /// A ring that changes goes to another place.
    place: (u32, u32),
    since: Instant,
}

impl Settling {
    /// The services whose rings have remembered for long enough.
    pub(super) fn settled(&self, now: Instant) -> BTreeSet<ServiceKey> {
        let is_over = |ring: &Unchanged| now.saturating_duration_since(ring.since) >= AFTER;
        self.0.iter().filter(|(_, ring)| is_over(ring)).map(|(key, _)| *key).collect()
    }

    /// Takes note of what the maps hold now.
    pub(super) fn note(&mut self, contents: &MapContents, now: Instant) {
        let remembering = contents.services.iter().filter(|(_, service)| {
            contents.slots.of(service).is_some_and(|block| !block.before().is_empty())
        });
        self.0 = remembering
            .map(|(key, service)| {
                let place = (service.first_slot, service.slots);
                let known = self.0.get(key).filter(|known| known.place == place);
                (*key, known.copied().unwrap_or(Unchanged { place, since: now }))
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_common::abi::{Service, Slot};

    use super::*;
    use crate::apply::Block;

    /// A service of each of these scopes, whose ring of one slot lies there and remembers so much.
    fn contents(rings: &[(u32, u32, [u32; 2])]) -> MapContents {
        let mut contents = MapContents::default();
        for (scope, first_slot, before) in rings {
            let service = Service { first_slot: *first_slot, slots: 1, ..Service::default() };
            contents.services.insert(key(*scope), service);
            contents.slots.insert(*first_slot, Arc::new(Block::new(vec![Slot::new(1, *before)])));
        }
        contents
    }

    fn key(scope: u32) -> ServiceKey {
        ServiceKey { scope, ..ServiceKey::default() }
    }

    #[test]
    fn a_ring_settles_a_minute_after_its_last_change() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let settled = |settling: &Settling, seconds| {
            settling.settled(at(seconds)).into_iter().map(|key| key.scope).collect::<Vec<_>>()
        };
        let mut settling = Settling::default();
        settling.note(&contents(&[(1, 0, [2, 0]), (2, 1, [0, 0]), (3, 2, [2, 3])]), at(0));
        assert!(settled(&settling, 59).is_empty());
        assert_eq!(settled(&settling, 60), [1, 3]);
        // The third changes, the second begins to remember.
        settling.note(&contents(&[(1, 0, [2, 0]), (2, 5, [4, 0]), (3, 6, [2, 3])]), at(30));
        assert_eq!(settled(&settling, 60), [1]);
        assert_eq!(settled(&settling, 90), [1, 2, 3]);
        // The first has forgotten, and the second is gone.
        settling.note(&contents(&[(1, 7, [0, 0]), (3, 6, [2, 3])]), at(80));
        assert_eq!(settled(&settling, 1000), [3]);
    }
}
