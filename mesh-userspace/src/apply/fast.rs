//! The fast path's table of published ports: what follows from the services and from this node's addresses.

use std::collections::HashSet;

use imbl::OrdMap;
use mesh_common::abi::{Address, FastService, Local, Service, ServiceKey, Settings};

/// The table's entries. One that is in `current` keeps its place, so that nobody who looks for it at this moment misses it; one
/// whose places are all taken is left out, and goes the longer way. What stays is shared with `current`, so that nobody compares
/// it again.
pub(super) fn place(
    settings: &Settings,
    services: &OrdMap<ServiceKey, Service>,
    locals: &OrdMap<Address, Local>,
    current: &OrdMap<u32, FastService>,
) -> OrdMap<u32, FastService> {
    let mut placed = current.clone();
    let mut kept = HashSet::with_capacity(current.len());
    let mut homeless = Vec::new();
    for entry in wanted(settings, services, locals) {
        let is_same = |there: &FastService| there.address == entry.address && there.asked == entry.asked;
        let there =
            entry.places().find_map(|place| Some((place, *current.get(&place).filter(|it| is_same(it))?)));
        match there {
            Some((place, there)) => {
                kept.insert(place);
                if there != entry {
                    placed.insert(place, entry);
                }
            }
            None => homeless.push(entry),
        }
    }
    for place in current.keys().filter(|place| !kept.contains(*place)) {
        placed.remove(place);
    }
    for entry in homeless {
        if let Some(place) = entry.places().find(|place| !placed.contains_key(place)) {
            placed.insert(place, entry);
        }
    }
    placed
}

/// The ports that answer at this node's addresses, of services that the fast path serves.
fn wanted(
    settings: &Settings,
    services: &OrdMap<ServiceKey, Service>,
    locals: &OrdMap<Address, Local>,
) -> Vec<FastService> {
    let published_at = |address: Address| {
        let first = ServiceKey { address, ..ServiceKey::default() };
        services.range(first..).take_while(move |(key, _)| key.address == address && key.scope == 0)
    };
    let mut wanted = Vec::new();
    for (address, local) in locals {
        let published = published_at(*address).chain(published_at(Address::UNSPECIFIED));
        let is_published = |key: &ServiceKey| services.contains_key(key);
        wanted.extend(
            published.filter_map(|published| {
                FastService::at(settings, (*address, local), published, is_published)
            }),
        );
    }
    wanted
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::{Scheduler, capacity, local_flags};

    use super::*;

    const SETTINGS: Settings = Settings {
        address: Address::UNSPECIFIED,
        seed: 0,
        node: 1,
        host_ifindex: 0,
        host_mac: [0; 6],
        vxlan_port: [0; 2],
        trace_every: 0,
        flags: 0,
    };

    fn key(address: Address, port: u16) -> ServiceKey {
        ServiceKey { address, scope: 0, port: port.to_be_bytes(), protocol: 6, family: 4 }
    }

    fn ring(first_slot: u32) -> Service {
        Service { first_slot, slots: 1024, ..Service::default() }
    }

    fn here(last: u8) -> Address {
        Address::from_v4([192, 0, 2, last])
    }

    fn found(table: &OrdMap<u32, FastService>) -> Vec<(Address, [u8; 2], u32)> {
        let mut found: Vec<_> = table
            .values()
            .map(|entry| {
                let [a, b, ..] = entry.asked.to_le_bytes();
                (entry.address, [a, b], entry.first_slot)
            })
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_port_is_known_by_each_address_that_it_answers_at() {
        let local = |flags| Local { ifindex: 3, flags, alias: 0 };
        let locals = OrdMap::from(vec![
            (here(1), local(local_flags::SERVES)),
            (here(2), local(local_flags::SERVES | local_flags::OWN)),
            (here(3), local(local_flags::OWN)),
            (here(4), local(0)),
        ]);
        let turns = Service { scheduler: Scheduler::Rr as u8, ..ring(5) };
        let services = OrdMap::from(vec![
            (key(Address::UNSPECIFIED, 80), ring(1)),
            (key(Address::UNSPECIFIED, 81), ring(2)),
            (key(here(2), 80), ring(3)),
            // What is published at the address itself comes first, also where the fast path leaves it alone.
            (key(here(2), 81), turns),
            (key(here(3), 80), ring(4)),
            (ServiceKey { scope: 4097, ..key(here(1), 0) }, ring(9)),
        ]);
        let table = place(&SETTINGS, &services, &locals, &OrdMap::new());
        assert_eq!(
            found(&table),
            [(here(1), [0, 80], 1), (here(1), [0, 81], 2), (here(2), [0, 80], 3), (here(3), [0, 80], 4)]
        );
    }

    #[test]
    fn an_entry_stays_where_it_is_and_a_full_table_leaves_some_out() {
        let locals = OrdMap::unit(here(1), Local { ifindex: 3, flags: local_flags::SERVES, alias: 0 });
        let services: OrdMap<_, _> =
            (1..=20_000).map(|port| (key(Address::UNSPECIFIED, port), ring(u32::from(port)))).collect();
        let before = place(&SETTINGS, &services, &locals, &OrdMap::new());
        assert!(before.len() > 19_900, "{} of 20,000 found a place", before.len());
        assert!(before.keys().all(|place| *place < capacity::FAST_SERVICES));
        let mut fewer = services.clone();
        for port in (1..=20_000).step_by(2) {
            fewer.remove(&key(Address::UNSPECIFIED, port));
        }
        let after = place(&SETTINGS, &fewer, &locals, &before);
        let stayed = after.iter().filter(|(place, entry)| before.get(*place) == Some(*entry)).count();
        let were_there = before.values().filter(|entry| entry.first_slot % 2 == 0).count();
        assert_eq!(stayed, were_there);
        assert!(after.len() <= 10_000);
    }
}
