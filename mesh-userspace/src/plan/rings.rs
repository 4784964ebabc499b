//! Rings made once, and kept from plan to plan for as long as they are wanted: a change of one backend makes one anew.

use std::{
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A service's rings, each with what it is made of: a virtual IP and the ports mostly share theirs.
#[derive(Clone, Debug, Default)]
pub(super) struct Rings(Vec<(Recipe, Arc<Ring>)>);

impl Rings {
    /// The ring of this number.
    pub(super) fn number(&self, number: usize) -> Arc<Ring> {
        self.0.get(number).map(|(_, ring)| Arc::clone(ring)).unwrap_or_default()
    }

    fn made_of(&self, recipe: &Recipe) -> Option<&Arc<Ring>> {
        self.0.iter().find(|(made_of, _)| made_of == recipe).map(|(_, ring)| ring)
    }
}

/// The rings that a service wants, each under a number.
#[derive(Debug, Default)]
pub(super) struct WantedRings(Vec<Recipe>);

impl WantedRings {
    /// The number of a ring.
    pub(super) fn number(&mut self, recipe: Recipe) -> usize {
        let known = self.0.iter().position(|known| *known == recipe);
        known.unwrap_or_else(|| {
            self.0.push(recipe);
            self.0.len() - 1
        })
    }
}

/// The rings that services want, service by service. Those that one had before are not made anew.
pub(super) fn make<'a>(wanted: impl IntoIterator<Item = (WantedRings, Option<&'a Rings>)>) -> Vec<Rings> {
    let wanted: Vec<(WantedRings, Option<&Rings>)> = wanted.into_iter().collect();
    let had =
        |recipe: &Recipe, before: Option<&Rings>| before.and_then(|rings| rings.made_of(recipe)).cloned();
    let missing: Vec<&Recipe> = wanted
        .iter()
        .flat_map(|(recipes, before)| recipes.0.iter().filter(|recipe| had(recipe, *before).is_none()))
        .collect();
    let mut made = make_all(&missing).into_iter();
    let rings_of = |(recipes, before): (WantedRings, Option<&Rings>)| {
        let ring = |recipe: Recipe| {
            let ring = had(&recipe, before).or_else(|| made.next().map(Arc::new));
            (recipe, ring.unwrap_or_default())
        };
        Rings(recipes.0.into_iter().map(ring).collect())
    };
    wanted.into_iter().map(rings_of).collect()
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
        let rings = |recipes: &[Recipe], before: &Rings| {
            let mut wanted = WantedRings::default();
            let numbers: Vec<usize> = recipes.iter().map(|recipe| wanted.number(recipe.clone())).collect();
            let rings = make([(wanted, Some(before))]).remove(0);
            (numbers.into_iter().map(|number| rings.number(number)).collect::<Vec<_>>(), rings)
        };
        let [one, two, three] =
            [&[1, 1][..], &[1, 1, 1], &[1, 2]].map(|weights| recipe(Scheduler::Mh, weights));
        let (first, known) = rings(&[one.clone(), two.clone(), one.clone()], &Rings::default());
        assert!(Arc::ptr_eq(&first[0], &first[2]) && !Arc::ptr_eq(&first[0], &first[1]));
        assert_eq!(*first[1], two.make());
        let (second, known) = rings(&[three.clone(), two.clone()], &known);
        assert!(Arc::ptr_eq(&second[1], &first[1]));
        assert_eq!(*second[0], three.make());
        assert!(!Arc::ptr_eq(&rings(&[one], &known).0[0], &first[0]));
    }

    #[test]
    fn each_service_gets_its_own() {
        let wanted = [&[1, 1][..], &[1, 1, 1], &[1, 2]].map(|weights| {
            let mut wanted = WantedRings::default();
            wanted.number(recipe(Scheduler::Mh, weights));
            wanted
        });
        let made = make(wanted.into_iter().map(|wanted| (wanted, None)));
        let recipes = [&[1, 1][..], &[1, 1, 1], &[1, 2]].map(|weights| recipe(Scheduler::Mh, weights).make());
        assert_eq!(made.iter().map(|rings| (*rings.number(0)).clone()).collect::<Vec<_>>(), recipes);
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
