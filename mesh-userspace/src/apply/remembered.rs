//! Whoever held a slot is remembered by it, through whatever changes.

use std::{collections::BTreeSet, sync::Arc};

use mesh_common::{
    abi::{BackendIndex, Service, ServiceKey, Slot},
    hash,
};
use proptest::prelude::*;

use super::{MapContents, lower};
use crate::{
    plan::{Plan, RingCache, testing::*},
    table::{Scheduler, Table},
};

const NONE: BTreeSet<ServiceKey> = BTreeSet::new();

/// One service with these tasks, at a virtual IP and these ports.
fn table_of(tasks: impl IntoIterator<Item = u8>, ports: &[(u16, u16)]) -> Table {
    let mut table = table();
    service(&mut table, "web", &[("blue", &["10.0.9.2"])], ports);
    for task in tasks {
        let node = format!("n{}", 1 + task % 3);
        endpoint(&mut table, &format!("web.{task}"), &node, "web", "blue", &[&format!("10.0.9.{task}")]);
    }
    table
}

fn planned(table: &Table, rings: &mut RingCache) -> Plan {
    crate::plan::plan(table, "n1", &facts(), rings).unwrap()
}

fn plan_of(tasks: impl IntoIterator<Item = u8>) -> Plan {
    planned(&table_of(tasks, &[]), &mut RingCache::default())
}

fn key_of_vip(contents: &MapContents) -> ServiceKey {
    *contents.services.keys().find(|key| key.scope != 0).unwrap()
}

fn key_of_port(contents: &MapContents, port: u16) -> ServiceKey {
    let of_port = |key: &&ServiceKey| key.port == port.to_be_bytes() && key.family == 4;
    *contents.services.keys().find(of_port).unwrap()
}

/// The slot that a hash names.
fn slot_of(contents: &MapContents, service: &Service, hash: u32) -> Slot {
    contents.slots.get(service.first_slot + hash::slot(hash, service.slots)).unwrap()
}

fn alive(plan: &Plan, contents: &MapContents) -> BTreeSet<BackendIndex> {
    let is_planned = |address: std::net::IpAddr| plan.backends.keys().any(|id| id.address == address);
    let planned = contents.backends.iter().filter(|(_, backend)| is_planned(backend.address.into()));
    planned.map(|(index, _)| *index).collect()
}

/// Checks that each slot is sound: nobody twice, nobody that left before one that did not, and no gap.
fn check_sound(slot: Slot, alive: &BTreeSet<BackendIndex>) {
    let [latest, oldest] = slot.before();
    assert!(alive.contains(&slot.current()));
    assert!(latest != slot.current() && oldest != slot.current(), "{slot:?}");
    assert!(alive.contains(&latest) || !alive.contains(&oldest), "{slot:?}");
    assert!(latest != oldest && latest != 0 || oldest == 0, "{slot:?}");
}

/// Checks that whoever held a slot in the old contents and is alive is in it in the new.
fn check_remembered(old: &MapContents, plan: &Plan, new: &MapContents) {
    let alive = alive(plan, new);
    for (key, service) in &new.services {
        let Some(was) = old.services.get(key).filter(|was| was.slots > 0) else { continue };
        if service.slots == 0 {
            continue;
        }
        let finest = service.slots.max(was.slots);
        for part in 0..finest {
            let hash = part << (32 - finest.trailing_zeros());
            let (before, now) = (slot_of(old, was, hash), slot_of(new, service, hash));
            check_sound(now, &alive);
            let held = before.current();
            let is_known = now.current() == held || now.before().contains(&held);
            assert!(is_known || !alive.contains(&held), "{held} held {before:?}, which is {now:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Leave(u8),
    /// As many join, or leave, as it takes to this many.
    Scale(usize),
    Replace(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let task = 10u8..80;
    let step = prop_oneof![
        task.clone().prop_map(Step::Join),
        task.clone().prop_map(Step::Leave),
        (1usize..60).prop_map(Step::Scale),
        task.prop_map(Step::Replace),
    ];
    prop::collection::vec(step, 1..12)
}

fn take(tasks: &mut BTreeSet<u8>, step: &Step) {
    match step {
        Step::Join(task) => drop(tasks.insert(*task)),
        Step::Leave(task) => drop(tasks.remove(task)),
        Step::Scale(count) => {
            let others: Vec<u8> = (10..80).filter(|task| !tasks.contains(task)).collect();
            tasks.extend(others.into_iter().take(count.saturating_sub(tasks.len())));
            while tasks.len() > *count {
                tasks.pop_first();
            }
        }
        Step::Replace(task) => {
            if let Some(gone) = tasks.pop_last() {
                tasks.insert(if *task == gone { gone - 1 } else { *task });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A change that at most doubles or halves the ring loses nobody; one that halves it more than once may, for then
    /// more than two fall together.
    #[test]
    fn whoever_held_a_slot_is_remembered(steps in steps(), restarts in prop::collection::vec(any::<bool>(), 12)) {
        let mut cache = RingCache::default();
        let mut tasks = BTreeSet::from([10, 11, 12]);
        let mut known = lower(&planned(&table_of(tasks.clone(), &[(80, 80)]), &mut cache), &MapContents::default(), &NONE)
            .unwrap();
        for (step, restarts) in steps.iter().zip(restarts) {
            take(&mut tasks, step);
            if restarts {
                cache = RingCache::default();
            }
            let plan = planned(&table_of(tasks.clone(), &[(80, 80)]), &mut cache);
            let new = lower(&plan, &known, &NONE).unwrap();
            let (was, is) = (known.services[&key_of_vip(&known)], new.services[&key_of_vip(&new)]);
            prop_assert_eq!(is, Service { id: was.id, ..new.services[&key_of_vip(&new)] });
            if is.slots * 2 >= was.slots {
                check_remembered(&known, &plan, &new);
            }
            // A second look changes nothing.
            prop_assert_eq!(&lower(&plan, &new, &NONE).unwrap(), &new);
            known = new;
        }
    }

    /// Two changes without growth: whoever held a slot before both is still there.
    #[test]
    fn two_changes_lose_nobody(first in 10u8..20, second in 10u8..20) {
        let mut cache = RingCache::default();
        let plans: Vec<Plan> = [vec![], vec![first], vec![first, second]]
            .iter()
            .map(|drained| {
                // They take no new flows any more, and are still there.
                let mut plan = planned(&table_of(10..20, &[]), &mut cache);
                let left = planned(&table_of((10..20).filter(|task| !drained.contains(task)), &[]), &mut cache);
                plan.services = left.services;
                plan
            })
            .collect();
        let zero = lower(&plans[0], &MapContents::default(), &NONE).unwrap();
        let one = lower(&plans[1], &zero, &NONE).unwrap();
        let two = lower(&plans[2], &one, &NONE).unwrap();
        check_remembered(&zero, &plans[1], &one);
        check_remembered(&one, &plans[2], &two);
        check_remembered(&zero, &plans[2], &two);
    }
}

#[test]
fn a_backend_is_remembered_until_its_node_leaves() {
    let mut cache = RingCache::default();
    let whole = planned(&table_of([10, 11, 12], &[]), &mut cache);
    let left = planned(&table_of([10, 11], &[]), &mut cache);
    let drained = Plan { backends: whole.backends.clone(), ..left.clone() };
    let before = lower(&whole, &MapContents::default(), &NONE).unwrap();
    let index =
        *before.backends.iter().find(|(_, backend)| backend.address == ip("10.0.9.12").into()).unwrap().0;
    let during = lower(&drained, &before, &NONE).unwrap();
    let (key, remembering) = (key_of_vip(&during), |contents: &MapContents| {
        contents.slots.of(&contents.services[&key_of_vip(contents)]).unwrap().before().to_vec()
    });
    assert!(remembering(&during).contains(&index));
    let held =
        before.slots.of(&before.services[&key]).unwrap().slots().iter().map(|slot| slot.current() == index);
    for (was_held, slot) in held.zip(during.slots.of(&during.services[&key]).unwrap().slots()) {
        assert!(!was_held || slot.before()[0] == index);
        assert_ne!(slot.current(), index);
    }
    // Its node may know where flows live that it never had.
    let without_it = lower(&left, &during, &NONE).unwrap();
    assert!(remembering(&without_it).contains(&index));
    assert_eq!(without_it.services[&key], during.services[&key]);
    let mut without_node = left.clone();
    let node = without_it.nodes[&without_it.backends[&index].node].address.into();
    without_node.nodes.remove(&node).unwrap();
    let after = lower(&without_node, &without_it, &NONE).unwrap();
    assert!(!remembering(&after).contains(&index));
    // And that went to another place: the old one is being read.
    assert_ne!(after.services[&key].first_slot, during.services[&key].first_slot);
}

#[test]
fn what_is_settled_forgets_and_a_change_at_that_moment_is_remembered() {
    let before = lower(&plan_of([10, 11]), &MapContents::default(), &NONE).unwrap();
    let plan = plan_of([10, 11, 12]);
    let during = lower(&plan, &before, &NONE).unwrap();
    let key = key_of_vip(&during);
    let settled = BTreeSet::from([key]);
    let block = |contents: &MapContents| Arc::clone(contents.slots.of(&contents.services[&key]).unwrap());
    assert!(!block(&during).before().is_empty());

    let after = lower(&plan, &during, &settled).unwrap();
    assert!(block(&after).before().is_empty());
    let currents = |contents: &MapContents| {
        block(contents).slots().iter().map(|slot| slot.current()).collect::<Vec<_>>()
    };
    assert_eq!(currents(&after), currents(&during));
    assert_eq!(lower(&plan, &after, &settled).unwrap(), after);

    let changed = plan_of([10, 11, 12, 13]);
    let at_once = lower(&changed, &during, &settled).unwrap();
    check_remembered(&during, &changed, &at_once);
    assert!(block(&at_once).slots().iter().all(|slot| slot.before()[1] == 0));
}

#[test]
fn services_share_a_ring_only_with_the_same_memory() {
    let mut cache = RingCache::default();
    let mut planned =
        |tasks: &[u8], ports: &[(u16, u16)]| planned(&table_of(tasks.iter().copied(), ports), &mut cache);
    let place = |contents: &MapContents, key: ServiceKey| contents.services[&key].first_slot;
    let one = lower(&planned(&[10, 11], &[(80, 80)]), &MapContents::default(), &NONE).unwrap();
    let (vip, http, https) = (key_of_vip(&one), key_of_port(&one, 80), 443);
    assert_eq!(place(&one, vip), place(&one, http));
    let two = lower(&planned(&[10, 11, 12], &[(80, 80)]), &one, &NONE).unwrap();
    assert_eq!(place(&two, vip), place(&two, http));
    // A port that is new has no flows to remember.
    let plan = planned(&[10, 11, 12], &[(80, 80), (443, 80)]);
    let three = lower(&plan, &two, &NONE).unwrap();
    let https = key_of_port(&three, https);
    assert_eq!([place(&three, vip), place(&three, http)], [place(&two, vip); 2]);
    assert_ne!(place(&three, https), place(&three, http));
    assert!(three.slots.of(&three.services[&https]).unwrap().before().is_empty());
    // All have the same again once the first two have forgotten.
    let four = lower(&plan, &three, &BTreeSet::from([vip, http])).unwrap();
    assert_eq!([place(&four, vip), place(&four, http)], [place(&three, https); 2]);
    assert_eq!(four.slots.iter().count(), 1);
}

#[test]
fn round_robin_remembers_nothing() {
    let table = |tasks: &[u8], scheduler| {
        let mut table = table_of(tasks.iter().copied(), &[]);
        table.services.get_mut("web").unwrap().scheduler = scheduler;
        table
    };
    let mut known = MapContents::default();
    for (tasks, scheduler) in [
        (&[10, 11][..], Scheduler::Rr),
        (&[10, 11, 12], Scheduler::Rr),
        (&[10, 11, 12, 13], Scheduler::Rr),
        (&[10, 11], Scheduler::Mh),
        (&[10, 11, 12], Scheduler::Rr),
    ] {
        known = lower(&planned(&table(tasks, scheduler), &mut RingCache::default()), &known, &NONE).unwrap();
        let block = known.slots.of(&known.services[&key_of_vip(&known)]).unwrap();
        assert!(block.before().is_empty(), "{scheduler:?}");
    }
}

#[test]
fn rings_of_all_sizes_keep_what_they_can_when_they_shrink_at_once() {
    // From 4096 slots to 1024: of four that fall together, the two that held most.
    let before = lower(&plan_of(10..50), &MapContents::default(), &NONE).unwrap();
    let plan = plan_of(10..15);
    let after = lower(&plan, &before, &NONE).unwrap();
    let (was, is) = (before.services[&key_of_vip(&before)], after.services[&key_of_vip(&after)]);
    assert_eq!((was.slots, is.slots), (4096, 1024));
    let alive = alive(&plan, &after);
    for index in 0..is.slots {
        let slot = after.slots.get(is.first_slot + index).unwrap();
        check_sound(slot, &alive);
        let held: BTreeSet<BackendIndex> = (0..4)
            .map(|part| before.slots.get(was.first_slot + 4 * index + part).unwrap().current())
            .filter(|index| alive.contains(index) && *index != slot.current())
            .collect();
        let kept: BTreeSet<BackendIndex> = slot.before().into_iter().filter(|index| *index != 0).collect();
        assert_eq!(kept.intersection(&held).count(), held.len().min(2), "{held:?} {kept:?}");
    }
}
