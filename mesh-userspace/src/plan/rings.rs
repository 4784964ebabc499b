//! Rings made once, and kept from plan to plan for as long as they are wanted: a change of one backend makes one anew.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use mesh_common::abi::Scheduler;

use super::{
    SEED,
    ring::{Ring, Weighted},
    weights,
};

/// The ring of these backends: for round robin in the order in which they come. Those of weight 0 get nothing.
#[must_use]
pub fn ring_of(scheduler: Scheduler, members: impl IntoIterator<Item = Weighted>) -> Ring {
    Recipe::new(scheduler, weights::reduced(members)).make()
}

/// What a ring is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Recipe {
    /// A [`Scheduler`].
    scheduler: u8,
    /// In the order in which `rr` takes them.
    members: Vec<Weighted>,
}

impl Recipe {
    pub(super) const fn new(scheduler: Scheduler, members: Vec<Weighted>) -> Self {
        Self { scheduler: scheduler as u8, members }
    }

    fn make(&self) -> Ring {
        let members = self.members.iter().copied();
        if self.scheduler == Scheduler::Rr as u8 {
            Ring::round_robin(members.filter(|member| member.weight > 0).map(|member| member.id))
        } else {
            Ring::maglev(SEED, members)
        }
    }
}

/// The rings of the last plan.
#[derive(Debug, Default)]
pub struct RingCache(HashMap<Recipe, Arc<Ring>>);

/// The rings that a plan wants, each under a number: a service's virtual IP and its ports mostly share theirs.
#[derive(Debug, Default)]
pub(super) struct WantedRings(HashMap<Recipe, usize>);

impl WantedRings {
    /// The number of a ring.
    pub(super) fn number(&mut self, recipe: Recipe) -> usize {
        let next = self.0.len();
        *self.0.entry(recipe).or_insert(next)
    }
}

impl RingCache {
    /// The rings that are wanted, by number. Those that were wanted the last time and no longer are go.
    pub(super) fn rings(&mut self, wanted: WantedRings) -> Vec<Arc<Ring>> {
        let mut recipes: Vec<(Recipe, usize)> = wanted.0.into_iter().collect();
        recipes.sort_unstable_by_key(|(_, number)| *number);
        let missing: Vec<&Recipe> =
            recipes.iter().map(|(recipe, _)| recipe).filter(|recipe| !self.0.contains_key(recipe)).collect();
        let made: HashMap<Recipe, Arc<Ring>> = missing
            .iter()
            .zip(make_all(&missing))
            .map(|(recipe, ring)| ((*recipe).clone(), Arc::new(ring)))
            .collect();
        self.0.extend(made);
        let mut rings = Vec::with_capacity(recipes.len());
        let mut kept = HashMap::with_capacity(recipes.len());
        for (recipe, _) in recipes {
            if let Some((recipe, ring)) = self.0.remove_entry(&recipe) {
                rings.push(Arc::clone(&ring));
                kept.insert(recipe, ring);
            }
        }
        self.0 = kept;
        rings
    }
}

/// Makes rings on all processors, if there are several.
fn make_all(recipes: &[&Recipe]) -> Vec<Ring> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(recipes.len());
    if threads <= 1 {
        return recipes.iter().map(|recipe| recipe.make()).collect();
    }
    let next = AtomicUsize::new(0);
    let made = Mutex::new(Vec::with_capacity(recipes.len()));
    let work = || {
        let mut mine = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(recipe) = recipes.get(number) else { break };
            mine.push((number, recipe.make()));
        }
        made.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be had, this one does all.
            let _ = thread::Builder::new().name("rings".into()).spawn_scoped(scope, work);
        }
        work();
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, ring)| ring).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::ring::BackendId, *};

    fn recipe(scheduler: Scheduler, weights: &[u32]) -> Recipe {
        let members = (1..).zip(weights).map(|(n, weight)| Weighted {
            id: BackendId { vni: 1, address: IpAddr::from([10, 0, 0, n]) },
            weight: *weight,
        });
        Recipe::new(scheduler, members.collect())
    }

    #[test]
    fn a_ring_is_made_once_and_goes_when_nobody_wants_it() {
        let mut cache = RingCache::default();
        let mut rings = |recipes: &[Recipe]| {
            let mut wanted = WantedRings::default();
            let numbers: Vec<usize> = recipes.iter().map(|recipe| wanted.number(recipe.clone())).collect();
            let rings = cache.rings(wanted);
            numbers.into_iter().map(|number| Arc::clone(&rings[number])).collect::<Vec<_>>()
        };
        let [one, two, three] =
            [&[1, 1][..], &[1, 1, 1], &[1, 2]].map(|weights| recipe(Scheduler::Mh, weights));
        let first = rings(&[one.clone(), two.clone(), one.clone()]);
        assert!(Arc::ptr_eq(&first[0], &first[2]) && !Arc::ptr_eq(&first[0], &first[1]));
        assert_eq!(*first[1], two.make());
        let second = rings(&[three.clone(), two.clone()]);
        assert!(Arc::ptr_eq(&second[1], &first[1]));
        assert_eq!(*second[0], three.make());
        assert!(!Arc::ptr_eq(&rings(&[one])[0], &first[0]));
    }

    #[test]
    fn many_are_made_in_their_order() {
        let recipes: Vec<Recipe> = (1..40).map(|weight| recipe(Scheduler::Mh, &[1, weight])).collect();
        let made = make_all(&recipes.iter().collect::<Vec<_>>());
        assert_eq!(made, recipes.iter().map(Recipe::make).collect::<Vec<_>>());
    }

    #[test]
    fn round_robin_leaves_out_who_weighs_nothing() {
        assert_eq!(recipe(Scheduler::Rr, &[1, 0, 3]).make().len(), 2);
    }
}
