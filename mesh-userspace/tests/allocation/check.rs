//! The promises, held against what happened.

use std::collections::BTreeMap;

use mesh_cluster::{Key, Kind, Stamp};

use crate::history::{Confirmed, History, Owners, Thing, View, Wish, Written};

/// How often what was confirmed was moved after all, because somebody older had it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) confirmed: usize,
    pub(crate) moved: usize,
}

struct Checker<'a> {
    history: &'a History,
    owners: Vec<Owners>,
    /// Who first wrote that an object has something.
    claims: BTreeMap<(&'a Key, Stamp, &'a Thing), &'a Written>,
    /// What was written under a key, by its stamp.
    by_stamp: BTreeMap<(&'a Key, Stamp), &'a Written>,
    broken: Vec<String>,
}

/// Which promises were broken.
pub(crate) fn check(history: &History) -> Vec<String> {
    examine(history).0
}

/// Which promises were broken, and how much there was to break.
pub(crate) fn examine(history: &History) -> (Vec<String>, Found) {
    let mut claims = BTreeMap::new();
    let mut by_stamp = BTreeMap::new();
    for written in &history.written {
        by_stamp.insert((&written.key, written.stamp), written);
        for (wish, thing) in
            written.wish.iter().flat_map(|wish| wish.wants.iter().map(move |thing| (wish, thing)))
        {
            claims.entry((&written.key, wish.created, thing)).or_insert(written);
        }
    }
    let owners = history.views.iter().map(View::owners).collect();
    let mut checker = Checker { history, owners, claims, by_stamp, broken: Vec::new() };
    checker.one_owner_each();
    checker.equal_stores_are_equal_tables();
    checker.aside_for_a_reason();
    checker.given_to_nobody_later();
    checker.written_only_what_is_free();
    checker.full_is_full();
    checker.ends();
    let found = checker.confirmed_stays();
    checker.broken.dedup();
    (checker.broken, found)
}

fn owned_by<'o>(owners: &'o Owners, thing: &Thing) -> &'o [Key] {
    owners.get(thing).map_or(&[], Vec::as_slice)
}

impl<'a> Checker<'a> {
    fn broken(&mut self, view: usize, what: &str) {
        let node = self.history.views[view].node;
        self.broken.push(format!("view {view} on node {node}: {what}"));
    }

    fn one_owner_each(&mut self) {
        for view in 0..self.owners.len() {
            let shared: Vec<String> = self.owners[view]
                .iter()
                .filter(|(_, owners)| owners.len() > 1)
                .map(|(thing, owners)| format!("{thing:?} has two owners: {owners:?}"))
                .collect();
            shared.iter().for_each(|what| self.broken(view, what));
        }
    }

    fn equal_stores_are_equal_tables(&mut self) {
        let mut tables: BTreeMap<u128, &View> = BTreeMap::new();
        for (index, view) in self.history.views.iter().enumerate() {
            let first = *tables.entry(view.digest).or_insert(view);
            if first.table != view.table || first.aside != view.aside {
                self.broken(
                    index,
                    &format!("its table is not that of node {}, and its store is", first.node),
                );
            }
        }
    }

    /// Everything is there, or set aside because somebody older has what it wanted, or it lacks what it needs.
    fn aside_for_a_reason(&mut self) {
        for (index, view) in self.history.views.iter().enumerate() {
            for (key, wish) in &view.objects {
                let (is_there, why) = (view.has(key), view.aside.get(key));
                if is_there == why.is_some() {
                    self.broken(index, &format!("{key:?} is there: {is_there}, and set aside: {why:?}"));
                } else if let Some(why) = why
                    && !self.has_reason(index, key, wish)
                {
                    self.broken(
                        index,
                        &format!("{key:?} is set aside with nothing older in its place: {why}"),
                    );
                }
            }
        }
    }

    fn has_reason(&self, index: usize, key: &Key, wish: &Wish) -> bool {
        let (view, owners) = (&self.history.views[index], &self.owners[index]);
        let is_older =
            |other: &Key| view.objects.get(other).is_some_and(|it| (it.created, other) < (wish.created, key));
        let is_full = || {
            let networks = wish.needs.iter().filter(|need| need.kind == Kind::Network);
            let mut full = networks.filter(|network| view.free(&network.name, owners).is_empty());
            full.next().is_some()
                && wish.wants.iter().all(|thing| !view.fits(thing) || !owned_by(owners, thing).is_empty())
        };
        // Somebody older waits for this one, and has what it wants as soon as it is there.
        let is_awaited = || {
            view.objects.iter().any(|(other, it)| {
                is_older(other) && it.needs.contains(key) && !it.wants.is_disjoint(&wish.wants)
            })
        };
        view.is_blocked(wish)
            || is_awaited()
            || wish.wants.iter().any(|thing| owned_by(owners, thing).iter().any(is_older))
            // The network was made anew, with other subnets, or its gateway has the address.
            || wish.asks.iter().any(|thing| !view.fits(thing))
            || (wish.wants.iter().all(|thing| !view.fits(thing)) && is_full())
    }

    /// What a node saw in use, and claimed by who has it, it does not see given to somebody who came later.
    fn given_to_nobody_later(&mut self) {
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for (now, view) in self.history.views.iter().enumerate() {
            let Some(before) = last.insert(view.node, now) else { continue };
            let earlier = &self.history.views[before];
            let mut told = Vec::new();
            for (thing, had) in &self.owners[before] {
                let ([had], [has]) = (had.as_slice(), owned_by(&self.owners[now], thing)) else { continue };
                let (Some(wish), Some(taker)) = (earlier.objects.get(had), view.objects.get(has)) else {
                    continue;
                };
                if has == had || self.is_network_other(before, now, thing) {
                    continue;
                }
                let is_older = (taker.created, has) < (wish.created, had);
                let in_use = match view.life(had, wish.created) {
                    Some(wish) => wish.wants.contains(thing) && !view.is_blocked(wish),
                    None => !self.has_ended(had, wish),
                };
                if in_use && !is_older {
                    told.push(format!("{thing:?} of {had:?} was given to {has:?}, which came later"));
                }
            }
            told.iter().for_each(|what| self.broken(now, what));
        }
    }

    /// Whether an address is in a network that is another now, of the same name.
    fn is_network_other(&self, before: usize, now: usize, thing: &Thing) -> bool {
        let Thing::Address(network, _) = thing else { return false };
        let key = Key::new(Kind::Network, &**network);
        let created = |view: usize| self.history.views[view].objects.get(&key).map(|wish| wish.created);
        created(before) != created(now) || !self.history.views[now].fits(thing)
    }

    /// Whether somebody removed an object, or wrote another in its place.
    fn has_ended(&self, key: &Key, wish: &Wish) -> bool {
        let other =
            |written: &Written| written.wish.as_ref().is_none_or(|other| other.created != wish.created);
        self.history
            .written
            .iter()
            .any(|written| written.key == *key && written.stamp > wish.stamp && other(written))
    }

    /// Nobody writes down as given what the table before it gives to somebody else, who is not removed at once.
    fn written_only_what_is_free(&mut self) {
        let history = self.history;
        for written in &history.written {
            let Some(wish) = &written.wish else { continue };
            let earlier = written.before.and_then(|before| self.by_stamp.get(&(&written.key, before)));
            let had =
                earlier.and_then(|earlier| earlier.wish.as_ref()).filter(|had| had.created == wish.created);
            let fresh = wish.wants.iter().filter(|thing| had.is_none_or(|had| !had.wants.contains(*thing)));
            let is_removed = |key: &Key| {
                let mut batch = history.written.iter().filter(|other| other.batch == written.batch);
                batch.any(|other| other.key == *key && other.wish.is_none())
            };
            let taken: Vec<String> = fresh
                .filter_map(|thing| {
                    let owner = owned_by(&self.owners[written.view], thing)
                        .iter()
                        .find(|owner| **owner != written.key)?;
                    (!is_removed(owner))
                        .then(|| format!("{:?} was given {thing:?} of {owner:?}", written.key))
                })
                .collect();
            taken.iter().for_each(|what| self.broken(written.view, what));
        }
    }

    fn full_is_full(&mut self) {
        for exhausted in &self.history.exhausted {
            let view = &self.history.views[exhausted.view];
            let subnets =
                view.table.networks.get(&exhausted.network).map_or(&[][..], |network| &network.subnets);
            let free = view.free(&exhausted.network, &self.owners[exhausted.view]);
            // In a network of both families an address needs its counterpart too.
            if subnets.len() == 1 && !free.is_empty() {
                self.broken(
                    exhausted.view,
                    &format!("{} was said to be full, and has {free:?}", exhausted.network),
                );
            }
        }
    }

    fn ends(&mut self) {
        let Some(first) = self.history.ends.first() else {
            self.broken.push("no node is left".to_owned());
            return;
        };
        let end = &self.history.views[*first];
        for other in &self.history.ends {
            let view = &self.history.views[*other];
            if view.table != end.table || view.digest != end.digest {
                self.broken(*other, "in the end it is not equal to node 0");
            }
        }
        for Confirmed { key, created, view, .. } in &self.history.confirmed {
            let Some(wish) = self.history.views[*view].life(key, *created) else { continue };
            if end.life(key, *created).is_none() && !self.has_ended(key, wish) {
                self.broken.push(format!("{key:?} was confirmed, and is lost"));
            }
        }
    }

    fn confirmed_stays(&mut self) -> Found {
        let mut found = Found::default();
        for confirmed in &self.history.confirmed {
            let Confirmed { key, created, view, at, views } = confirmed;
            // What settling has moved here is promised once that is written down.
            let Some(wish) = self.history.views[*view].life(key, *created) else { continue };
            let has = |thing: &&Thing| owned_by(&self.owners[*view], thing) == [key.clone()];
            let promised: Vec<&Thing> = wish.wants.iter().filter(has).collect();
            found.confirmed += usize::from(!promised.is_empty());
            let mut was_moved = false;
            for judged in views.iter().copied().chain(*at..self.history.views.len()) {
                match self.keeps(confirmed, wish, &promised, judged) {
                    Kept::Yes => {}
                    Kept::Moved => was_moved = true,
                    Kept::No(what) => {
                        self.broken(judged, &what);
                        break;
                    }
                }
            }
            found.moved += usize::from(was_moved);
        }
        found
    }

    /// Whether an object has in a view what was confirmed to be its own.
    fn keeps(&self, confirmed: &Confirmed, wish: &Wish, promised: &[&Thing], index: usize) -> Kept {
        let (view, owners, key) = (&self.history.views[index], &self.owners[index], &confirmed.key);
        let Some(now) = view.life(key, wish.created).filter(|now| now.stamp >= wish.stamp) else {
            return Kept::Yes;
        };
        let has = |thing: &Thing| owned_by(owners, thing) == [key.clone()];
        let is_lost = |thing: &&&Thing| !has(thing) && !self.is_network_other(confirmed.view, index, thing);
        let lost: Vec<&&Thing> = promised.iter().filter(is_lost).collect();
        if lost.is_empty() || view.is_blocked(now) {
            return Kept::Yes;
        }
        let is_excused = |thing: &Thing| {
            !self.history.is_orderly
                && if now.wants.contains(thing) {
                    self.is_older_claimed(view, key, wish.created, thing)
                } else {
                    self.was_lost_before(key, wish, now, thing)
                }
        };
        let excused = lost.iter().filter(|thing| is_excused(thing)).count();
        // What is set aside loses everything for one thing.
        if excused == lost.len() || (excused > 0 && !view.has(key)) {
            return Kept::Moved;
        }
        let owners: Vec<_> = lost.iter().map(|thing| (thing, owned_by(owners, thing))).collect();
        Kept::No(format!("{key:?} was confirmed to have what others have now: {owners:?}"))
    }

    /// Whether somebody older claims a thing, and who wrote that did not see it in use.
    fn is_older_claimed(&self, view: &View, key: &Key, created: Stamp, thing: &Thing) -> bool {
        view.objects.iter().any(|(other, wish)| {
            let is_older = (wish.created, other) < (created, key) && wish.wants.contains(thing);
            let first = self.claims.get(&(other, wish.created, thing)).filter(|_| is_older);
            first.is_some_and(|first| {
                let saw = &self.history.views[first.view];
                let in_use = owned_by(&self.owners[first.view], thing) == [key.clone()];
                !(in_use && saw.life(key, created).is_some())
            })
        })
    }

    /// Whether an entry says no more that it has a thing because its writer had not heard that, or had lost it.
    fn was_lost_before(&self, key: &Key, wish: &Wish, now: &Wish, thing: &Thing) -> bool {
        let mut chain = Vec::new();
        let mut stamp = Some(now.stamp);
        while let Some(at) = stamp.filter(|at| *at > wish.stamp) {
            let Some(written) = self.by_stamp.get(&(key, at)) else { return false };
            chain.push(*written);
            stamp = written.before;
        }
        if stamp != Some(wish.stamp) {
            return true;
        }
        let claims =
            |written: &&&Written| written.wish.as_ref().is_some_and(|wish| wish.wants.contains(thing));
        let first = chain.iter().rev().find(|written| !claims(written));
        first.is_some_and(|first| owned_by(&self.owners[first.view], thing) != [key.clone()])
    }
}

/// What became of what was confirmed.
enum Kept {
    Yes,
    /// Somebody older had it.
    Moved,
    No(String),
}
