//! What follows from a change alone is what all of it comes to anew: the plan's great maps, and the contents of maps.

use std::collections::BTreeSet;

use mesh_common::abi::ServiceKey;
use proptest::prelude::*;

use super::{Lowered, MapContents, diff, lower};
use crate::{
    plan::{Earlier, NodeFacts, testing::*},
    table::{OnNoBackend, PublishMode, Scheduler, Table},
};

/// A change of the table or of the node; the numbers are those of endpoints, services and nodes.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An endpoint comes, or becomes another service's; of 4 and more there are none, so it is nobody's.
    Endpoint(u8, u8),
    NoEndpoint(u8),
    Weight(u8, u16),
    /// It goes to another node.
    Move(u8, u8),
    /// Two exchange their addresses.
    Exchange(u8, u8),
    /// A service comes, or is what it was at first again.
    Service(u8),
    NoService(u8),
    RoundRobin(u8),
    Silent(u8),
    /// Its port is in mode host, or at an address of its own.
    HostMode(u8),
    HostIp(u8),
    /// An endpoint is attached on the node.
    Attached(u8),
    /// The node has another address.
    Address,
    Node(u8),
    NoNode(u8),
    /// The network's packets may only be so long.
    Mtu(u32),
    /// Each ring has remembered for long enough.
    Settled,
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    let (endpoint, service, node) = (0u8..20, 0u8..4, 2u8..6);
    prop_oneof![
        8 => (endpoint.clone(), 0u8..6).prop_map(|(endpoint, service)| Step::Endpoint(endpoint, service)),
        3 => endpoint.clone().prop_map(Step::NoEndpoint),
        2 => (endpoint.clone(), 0u16..4).prop_map(|(endpoint, weight)| Step::Weight(endpoint, weight)),
        2 => (endpoint.clone(), 1u8..4).prop_map(|(endpoint, node)| Step::Move(endpoint, node)),
        2 => (endpoint.clone(), endpoint.clone()).prop_map(|(one, other)| Step::Exchange(one, other)),
        4 => service.clone().prop_map(Step::Service),
        1 => service.clone().prop_map(Step::NoService),
        1 => service.clone().prop_map(Step::RoundRobin),
        1 => service.clone().prop_map(Step::Silent),
        1 => service.clone().prop_map(Step::HostMode),
        1 => service.prop_map(Step::HostIp),
        2 => endpoint.prop_map(Step::Attached),
        1 => Just(Step::Address),
        1 => node.clone().prop_map(Step::Node),
        1 => node.prop_map(Step::NoNode),
        1 => (1280u32..1400).prop_map(Step::Mtu),
        2 => Just(Step::Settled),
        2 => Just(Step::Nothing),
    ]
}

fn take(table: &mut Table, facts: &mut NodeFacts, step: Step) {
    let task = |number: u8| format!("t{number}");
    let edit = |table: &mut Table, number: u8, edit: &dyn Fn(&mut crate::table::Service)| {
        if let Some(service) = table.services.get_mut(&format!("s{number}")) {
            edit(service);
        }
    };
    match step {
        Step::Endpoint(number, service) => {
            let service = if service < 4 { format!("s{service}") } else { String::new() };
            let addresses = [format!("10.0.9.{}", 100 + number), format!("fd00:9::{number}")];
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            // An exchange may have given its address away.
            let is_free = |name: &String| *name == task(number);
            let taken = table.endpoints.iter().find(|(_, known)| known.addresses.contains(&ip(addresses[0])));
            if taken.is_none_or(|(name, _)| is_free(name)) {
                let families = 1 + usize::from(number % 3 != 0);
                endpoint(
                    table,
                    &task(number),
                    &format!("n{}", 1 + number % 3),
                    &service,
                    "blue",
                    &addresses[..families],
                );
            }
        }
        Step::NoEndpoint(number) => drop(table.endpoints.remove(&task(number))),
        Step::Weight(number, weight) => {
            if let Some(endpoint) = table.endpoints.get_mut(&task(number)) {
                endpoint.weight = weight;
            }
        }
        Step::Move(number, node) => {
            if let Some(endpoint) = table.endpoints.get_mut(&task(number)) {
                endpoint.node = format!("n{node}");
            }
        }
        Step::Exchange(one, other) => {
            let both = (table.endpoints.get(&task(one)).cloned(), table.endpoints.get(&task(other)).cloned());
            if let (Some(mut first), Some(mut second)) = both {
                std::mem::swap(&mut first.addresses, &mut second.addresses);
                std::mem::swap(&mut first.mac, &mut second.mac);
                table.endpoints.insert(task(one), first);
                table.endpoints.insert(task(other), second);
            }
        }
        Step::Service(number) => {
            let vips = [format!("10.0.9.{}", 10 + number), format!("fd00:9::1:{number}")];
            let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
            service(table, &format!("s{number}"), &[("blue", &vips)], &[(8000 + u16::from(number), 80)]);
        }
        Step::NoService(number) => drop(table.services.remove(&format!("s{number}"))),
        Step::RoundRobin(number) => edit(table, number, &|service| service.scheduler = Scheduler::Rr),
        Step::Silent(number) => edit(table, number, &|service| service.on_no_backend = OnNoBackend::Drop),
        Step::HostMode(number) => edit(table, number, &|service| service.ports[0].mode = PublishMode::Host),
        Step::HostIp(number) => edit(table, number, &|service| {
            service.ports[0].host_ip = Some(ip(&format!("192.0.2.{}", 100 + number)));
        }),
        Step::Attached(number) => drop(facts.attached.insert(task(number), 100 + u32::from(number))),
        Step::Address => {
            let address = facts.addresses.last().unwrap().address;
            facts.addresses.last_mut().unwrap().address =
                if address == ip("192.0.2.100") { ip("192.0.2.101") } else { ip("192.0.2.100") };
        }
        Step::Node(number) => {
            let address = ip(&format!("192.0.2.{number}"));
            table.nodes.insert(format!("n{number}"), crate::table::Node { address, interface: None });
        }
        Step::NoNode(number) => drop(table.nodes.remove(&format!("n{number}"))),
        Step::Mtu(mtu) => table.networks.get_mut("blue").unwrap().mtu = Some(mtu),
        Step::Settled | Step::Nothing => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_follows_is_what_it_comes_to_anew(steps in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..20)) {
        let (mut table, mut facts) = (table(), facts());
        let mut earlier = Earlier::default();
        let mut known: Option<Lowered> = None;
        for steps in steps {
            let mut settled: BTreeSet<ServiceKey> = BTreeSet::new();
            for step in steps {
                take(&mut table, &mut facts, step);
                if let (Step::Settled, Some(known)) = (step, &known) {
                    settled = known.contents().services.keys().copied().collect();
                }
            }
            let followed = crate::plan::plan(&table, "n1", &facts, &mut earlier).unwrap();
            prop_assert_eq!(&followed, &plan(&table, "n1", &facts).unwrap());
            let current = known.as_ref().map(|known| known.contents().as_ref().clone()).unwrap_or_default();
            let next = match &known {
                Some(known) => known.next(&followed, &settled).unwrap(),
                None => Lowered::anew(&followed, &MapContents::default(), &settled).unwrap(),
            };
            let anew = lower(&followed, &current, &settled).unwrap();
            prop_assert_eq!(next.contents().as_ref(), &anew);
            prop_assert_eq!(diff(&current, next.contents()), diff(&current, &anew));
            known = Some(next);
        }
    }
}

/// A change is found by what two tables do not share: that is what makes it quick.
#[test]
fn what_has_not_changed_is_shared() {
    let (mut table, facts) = (table(), facts());
    for step in
        [Step::Service(0), Step::Service(1)].into_iter().chain((0..20).map(|n| Step::Endpoint(n, n % 2)))
    {
        take(&mut table, &mut facts.clone(), step);
    }
    let mut earlier = Earlier::default();
    let mut planned = |table: &Table| crate::plan::plan(table, "n1", &facts, &mut earlier).unwrap();
    let (first, second) = (planned(&table), planned(&table));
    assert!(first.endpoints.ptr_eq(&second.endpoints) && first.stations.ptr_eq(&second.stations));
    assert!(first.backends.ptr_eq(&second.backends) && first.services.ptr_eq(&second.services));
    let known = Lowered::anew(&first, &MapContents::default(), &BTreeSet::new()).unwrap();
    let next = known.next(&second, &BTreeSet::new()).unwrap();
    let (was, is) = (known.contents(), next.contents());
    assert!(was.endpoints.ptr_eq(&is.endpoints) && was.backends.ptr_eq(&is.backends));
    // One service's change does not make the other's ring anew.
    table.endpoints.remove("t0").unwrap();
    let third = planned(&table);
    let same = first.services.iter().filter(|(key, service)| {
        third.services.get(*key).is_some_and(|now| std::sync::Arc::ptr_eq(&now.ring, &service.ring))
    });
    let names: BTreeSet<&str> = same.map(|(_, service)| service.name.as_str()).collect();
    assert!(names.contains("s1"));
}
