//! Numbers stay, entries never dangle, and drift is put right.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_common::abi::{Address, Backend, Node, Service, ServiceKey, Slot, capacity, station_flags};
use proptest::prelude::*;

use super::{memory::MemoryMaps, *};
use crate::{
    plan::{Plan, ring::BackendId, testing::*},
    table::{Scheduler, Table},
};

/// No ring forgets.
const NONE: BTreeSet<ServiceKey> = BTreeSet::new();

/// The plan of `n1` for services with these tasks, each on the node of its number modulo 3; even services count
/// by `mh`, odd ones by `rr`.
fn plan_of(services: &BTreeMap<u8, BTreeSet<u8>>) -> Plan {
    plan(&table_of(services), "n1", &facts()).unwrap()
}

fn table_of(services: &BTreeMap<u8, BTreeSet<u8>>) -> Table {
    let mut table = table();
    for (number, tasks) in services {
        let name = format!("s{number}");
        service(
            &mut table,
            &name,
            &[("blue", &[&format!("10.0.9.{number}")])],
            &[(8000 + u16::from(*number), 80)],
        );
        if number % 2 == 1 {
            table.services.get_mut(&name).unwrap().scheduler = Scheduler::Rr;
        }
        for task in tasks {
            let node = format!("n{}", 1 + task % 3);
            let address = format!("10.0.9.{}", 100 + number * 8 + task);
            endpoint(&mut table, &format!("{name}.{task}"), &node, &name, "blue", &[&address]);
        }
    }
    table
}

fn services(list: &[(u8, &[u8])]) -> BTreeMap<u8, BTreeSet<u8>> {
    list.iter().map(|(number, tasks)| (*number, tasks.iter().copied().collect())).collect()
}

/// The identities that a service's ring stands for, followed through the maps as a program would.
fn resolve(contents: &MapContents, service: &Service) -> Result<Vec<(BackendId, IpAddr)>, String> {
    (service.first_slot..service.first_slot + service.slots)
        .map(|index| {
            let slot = contents.slots.get(index).ok_or(format!("slot {index} is not there"))?;
            let backend =
                contents.backends.get(&slot.current()).ok_or(format!("backend {} is not", slot.current()))?;
            let node = contents.nodes.get(&backend.node).ok_or(format!("node {} is not", backend.node))?;
            Ok((BackendId { vni: backend.vni, address: backend.address.into() }, node.address.into()))
        })
        .collect()
}

fn planned_ring(plan: &Plan, key: &ServiceKey) -> Vec<(BackendId, IpAddr)> {
    plan.services[key].ring.slots().flatten().map(|id| (id, plan.backends[&id].node)).collect()
}

/// Checks that the contents are what the plan says.
fn check(plan: &Plan, contents: &MapContents) {
    assert_eq!(contents.services.keys().collect::<Vec<_>>(), plan.services.keys().collect::<Vec<_>>());
    for (key, service) in &contents.services {
        assert_eq!(resolve(contents, service).unwrap(), planned_ring(plan, key));
        assert_eq!(service.slots as usize, plan.services[key].ring.len());
    }
    let ids: BTreeSet<u32> = contents.services.values().map(|service| service.id).collect();
    assert_eq!(ids.len(), contents.services.len(), "numbers are distinct");
    assert!(!ids.contains(&0));
    assert!(!contents.nodes.contains_key(&0) && !contents.backends.contains_key(&0));
    for (address, node) in &contents.peers {
        assert_eq!(contents.nodes[node].address, *address);
    }
    for endpoint in contents.endpoints.values() {
        assert!(contents.nodes.contains_key(&endpoint.node));
    }
    assert_eq!(contents.nodes[&contents.settings[&0].node].address, contents.settings[&0].address);
    // Rings lie apart, or on top of one another.
    let ranges: BTreeSet<(u32, u32)> = contents
        .services
        .values()
        .filter(|s| s.slots > 0)
        .map(|s| (s.first_slot, s.first_slot + s.slots))
        .collect();
    for ((_, end), (start, _)) in ranges.iter().zip(ranges.iter().skip(1)) {
        assert!(end <= start, "{ranges:?}");
    }
}

/// Runs a change as the agent does; after each single write, each service must lead to backends of its old ring
/// or its new one.
fn change(maps: &mut MemoryMaps, known: &MapContents, plan: &Plan) -> MapContents {
    let found = read(maps, Some(known)).unwrap();
    let wanted = lower(plan, known, &NONE).unwrap();
    check(plan, &wanted);
    for operation in diff(&found, &wanted) {
        execute(maps, &[operation]).unwrap();
        let now = read(maps, Some(&wanted)).unwrap();
        for (key, service) in &now.services {
            let ring = resolve(&now, service).unwrap();
            let old = found.services.get(key).map(|service| resolve(&found, service).unwrap());
            let is_new = plan.services.contains_key(key) && ring == planned_ring(plan, key);
            assert!(Some(&ring) == old.as_ref() || is_new, "a ring that is neither the old one nor the new");
        }
    }
    let after = read(maps, None).unwrap();
    let named = |contents: &MapContents| MapContents { slots: Blocks::default(), ..contents.clone() };
    assert_eq!(named(&after), named(&wanted), "the maps hold what is wanted");
    wanted
}

#[test]
fn a_second_round_changes_nothing() {
    let plan = plan_of(&services(&[(2, &[1, 2, 3]), (3, &[1]), (4, &[])]));
    let mut maps = MemoryMaps::default();
    let first = change(&mut maps, &MapContents::default(), &plan);
    let writes = maps.writes;
    assert!(diff(&read(&maps, Some(&first)).unwrap(), &lower(&plan, &first, &NONE).unwrap()).is_empty());
    // A restarted agent reads the same from the kernel alone.
    let read_anew = read(&maps, None).unwrap();
    assert_eq!(lower(&plan, &read_anew, &NONE).unwrap(), first);
    assert_eq!(maps.writes, writes);
}

#[test]
fn the_datapath_is_told_who_drains() {
    let mut plan = plan_of(&services(&[(2, &[1, 2, 3])]));
    let draining = *plan.stations.keys().next().expect("there are three");
    plan.stations[&draining].draining = true;
    let contents = lower(&plan, &MapContents::default(), &NONE).unwrap();
    let drains = |key| contents.stations[key].flags & station_flags::DRAINING != 0;
    assert!(plan.stations.keys().all(|key| drains(key) == (*key == draining)));
}

#[test]
fn a_backend_that_joins_touches_its_own_service_alone() {
    let mut maps = MemoryMaps::default();
    let before =
        change(&mut maps, &MapContents::default(), &plan_of(&services(&[(2, &[1, 2]), (4, &[1, 2])])));
    let plan = plan_of(&services(&[(2, &[1, 2, 3]), (4, &[1, 2])]));
    let wanted = lower(&plan, &before, &NONE).unwrap();
    let touched: BTreeSet<String> = diff(&before, &wanted)
        .into_iter()
        .map(|operation| match operation {
            Operation::Put(Entry::Services(key, _)) => format!("service {}", u16::from_be_bytes(key.port)),
            Operation::Put(Entry::FastServices(_, service)) => {
                let [a, b, ..] = service.asked.to_le_bytes();
                format!("fast {}", u16::from_be_bytes([a, b]))
            }
            Operation::Remove(entry) => format!("removed {}", entry.map()),
            other => other.map().to_owned(),
        })
        .collect();
    assert_eq!(
        touched.iter().map(String::as_str).collect::<Vec<_>>(),
        ["BACKENDS", "ENDPOINTS", "SLOTS", "STATIONS", "fast 8002", "service 0", "service 8002"]
    );
    for (key, service) in &before.services {
        assert_eq!(wanted.services[key].id, service.id);
    }
}

#[test]
fn a_changed_ring_leaves_the_slots_of_the_old_one_alone_until_the_next_time() {
    let mut maps = MemoryMaps::default();
    let before = change(&mut maps, &MapContents::default(), &plan_of(&services(&[(2, &[1, 2])])));
    let after = lower(&plan_of(&services(&[(2, &[1, 2, 3])])), &before, &NONE).unwrap();
    let old = firsts(&before);
    assert!(firsts(&after).is_disjoint(&old));
    let again = lower(&plan_of(&services(&[(2, &[1])])), &after, &NONE).unwrap();
    assert_eq!(firsts(&again), old, "the first room is used again");
}

/// Where the rings begin.
fn firsts(contents: &MapContents) -> BTreeSet<u32> {
    contents.slots.iter().map(|(first, _)| first).collect()
}

#[test]
fn one_that_left_keeps_its_number_for_its_return() {
    let both = plan_of(&services(&[(2, &[1, 2])]));
    let before = lower(&both, &MapContents::default(), &NONE).unwrap();
    let without = lower(&plan_of(&services(&[(2, &[2]), (4, &[1])])), &before, &NONE).unwrap();
    let index_of = |contents: &MapContents, last: u8| {
        let address = Address::from(ip(&format!("10.0.9.{last}")));
        contents.backends.iter().find(|(_, backend)| backend.address == address).map(|(index, _)| *index)
    };
    assert_eq!(index_of(&without, 117), index_of(&before, 117), "it is still there for its flows");
    assert_ne!(index_of(&without, 133), index_of(&before, 117));
    let back = lower(&both, &without, &NONE).unwrap();
    assert_eq!(index_of(&back, 117), index_of(&before, 117));
}

#[test]
fn the_number_of_a_service_that_left_is_not_given_to_the_next() {
    let before = lower(&plan_of(&services(&[(2, &[1])])), &MapContents::default(), &NONE).unwrap();
    let after = lower(&plan_of(&services(&[(3, &[1])])), &before, &NONE).unwrap();
    let later = lower(&plan_of(&services(&[(4, &[1])])), &after, &NONE).unwrap();
    let ids = |contents: &MapContents| {
        contents.services.values().map(|service| service.id).collect::<BTreeSet<_>>()
    };
    assert_eq!((ids(&before).len(), ids(&later).len()), (3, 3));
    assert!(ids(&before).is_disjoint(&ids(&later)));
    let back = lower(&plan_of(&services(&[(2, &[1])])), &later, &NONE).unwrap();
    assert_eq!(ids(&back), ids(&before));
}

#[test]
fn a_node_that_left_keeps_its_index_but_no_way() {
    let mut table = table_of(&services(&[(2, &[1])]));
    let before = lower(&plan(&table, "n1", &facts()).unwrap(), &MapContents::default(), &NONE).unwrap();
    table.nodes.remove("n3");
    let after = lower(&plan(&table, "n1", &facts()).unwrap(), &before, &NONE).unwrap();
    let n3 = Address::from(ip("192.0.2.3"));
    let (index, node) = after.nodes.iter().find(|(_, node)| node.address == n3).unwrap();
    assert_eq!((before.nodes[index].address, node.ifindex), (n3, 0));
    assert!(!after.peers.contains_key(&n3));
}

#[test]
fn left_numbers_are_used_again_when_no_fresh_one_is_left() {
    let mut current = MapContents::default();
    for index in 1..1024 {
        let address = Address::from(IpAddr::from([198, 51, (index >> 8) as u8, index as u8]));
        current.nodes.insert(index, Node { address, ifindex: 2, mtu: 1500, ..Node::default() });
    }
    let plan = plan_of(&BTreeMap::new());
    let after = lower(&plan, &current, &NONE).unwrap();
    check(&plan, &after);
    assert_eq!(after.nodes.len(), 1023);
}

#[test]
fn a_full_table_names_its_map() {
    let mut table = table();
    for n in 0..1100u32 {
        let node =
            crate::table::Node { address: IpAddr::from(0x0a00_0001u32.to_be_bytes()), interface: None };
        let address = IpAddr::from((0x0a00_0001 + n).to_be_bytes());
        table.nodes.insert(format!("x{n}"), crate::table::Node { address, ..node });
    }
    let error = lower(&plan(&table, "n1", &facts()).unwrap(), &MapContents::default(), &NONE).unwrap_err();
    assert_eq!(error, Full::of::<Nodes>());
    assert!(error.to_string().starts_with("The kernel map NODES is full: it takes 1024 entries."));
}

#[test]
fn slots_run_out_with_a_name_too() {
    let mut current = MapContents::default();
    let hog = ServiceKey { scope: 1, family: 4, ..ServiceKey::default() };
    let slots = capacity::SLOTS - 100;
    current.services.insert(hog, Service { id: 1, first_slot: 0, slots, ..Service::default() });
    let plan = plan_of(&services(&[(2, &[1])]));
    assert_eq!(lower(&plan, &current, &NONE).unwrap_err(), Full::of_slots(capacity::SLOTS));
}

#[test]
fn drift_is_put_right_in_place() {
    let plan = plan_of(&services(&[(2, &[1, 2, 3]), (3, &[1])]));
    let mut maps = MemoryMaps::default();
    let known = change(&mut maps, &MapContents::default(), &plan);
    let (key, service) = known.services.iter().find(|(_, service)| service.slots > 100).unwrap();

    maps.remove::<Services>(key).unwrap();
    maps.write_slots(service.first_slot + 5, &[Slot::new(999, [0; 2])]).unwrap();
    maps.insert::<Backends>(&1, &Backend::default()).unwrap();
    maps.insert::<Peers>(&Address::from(ip("203.0.113.1")), &3).unwrap();
    maps.remove::<NodeSettings>(&0).unwrap();

    let found = read(&maps, Some(&known)).unwrap();
    let operations = diff(&found, &lower(&plan, &known, &NONE).unwrap());
    assert_eq!(operations.len(), 5, "{operations:?}");
    execute(&mut maps, &operations).unwrap();
    assert_eq!(read(&maps, Some(&known)).unwrap(), known);
}

#[test]
fn a_refused_write_stops_the_change_and_the_next_round_completes_it() {
    let old = plan_of(&services(&[(2, &[1, 2]), (4, &[1])]));
    let new = plan_of(&services(&[(2, &[1, 3]), (6, &[1])]));
    for allowed in [0, 1, 5, 900, 1020, 1030] {
        let mut maps = MemoryMaps::default();
        let known = change(&mut maps, &MapContents::default(), &old);
        maps.fail_after = Some(allowed);
        let operations = diff(&read(&maps, Some(&known)).unwrap(), &lower(&new, &known, &NONE).unwrap());
        assert!(matches!(execute(&mut maps, &operations), Err(MapError::Kernel { .. })), "{allowed}");
        maps.fail_after = None;
        // What was written last is not known any more: it is read anew.
        let found = read(&maps, None).unwrap();
        let wanted = lower(&new, &found, &NONE).unwrap();
        execute(&mut maps, &diff(&found, &wanted)).unwrap();
        check(&new, &wanted);
        let after = read(&maps, None).unwrap();
        assert_eq!(after.services, wanted.services);
    }
}

#[test]
fn what_is_named_is_written_first_and_removed_last() {
    let plan = plan_of(&services(&[(2, &[1])]));
    let contents = lower(&plan, &MapContents::default(), &NONE).unwrap();
    let order = |operations: Vec<Operation>| {
        let mut names: Vec<&str> = operations.iter().map(Operation::map).collect();
        names.dedup();
        names
    };
    let mut written = order(diff(&MapContents::default(), &contents));
    assert_eq!(
        written,
        [
            "NODES",
            "SETTINGS",
            "PEERS",
            "LOCALS",
            "UPLINKS",
            "NETWORKS",
            "SUBNETS",
            "ENDPOINTS",
            "STATIONS",
            "TARGETS",
            "BACKENDS",
            "SLOTS",
            "SERVICES",
            "FAST_SERVICES",
            "PUBLISHED_PORTS"
        ]
    );
    written.retain(|name| *name != "SLOTS");
    written.reverse();
    assert_eq!(order(diff(&contents, &MapContents::default())), written);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn through_any_changes_numbers_stay_and_nothing_dangles(
        steps in prop::collection::vec(
            prop::collection::btree_map(2u8..8, prop::collection::btree_set(0u8..8, 0..6), 0..5),
            1..6,
        ),
        restarts in prop::collection::vec(any::<bool>(), 6),
    ) {
        let mut maps = MemoryMaps::default();
        let mut known = MapContents::default();
        let mut before: Option<(Plan, MapContents)> = None;
        for (step, restarted) in steps.iter().zip(restarts) {
            let plan = plan_of(step);
            if restarted {
                known = read(&maps, None).unwrap();
            }
            known = change(&mut maps, &known, &plan);
            if let Some((old_plan, old)) = &before {
                for (key, service) in &old.services {
                    let Some(now) = known.services.get(key) else { continue };
                    prop_assert_eq!(now.id, service.id);
                    if old_plan.services[key].ring == plan.services[key].ring {
                        prop_assert_eq!(now, service, "an unchanged service is untouched");
                    }
                }
                for (index, backend) in &old.backends {
                    prop_assert_eq!(known.backends[index].address, backend.address);
                }
                for (index, node) in &old.nodes {
                    prop_assert_eq!(known.nodes[index].address, node.address);
                }
            }
            before = Some((plan, known.clone()));
        }
    }
}
