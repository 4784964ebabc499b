//! That each promise can be broken: histories and code with a fault, which the checker finds.

use std::rc::Rc;

use mesh_cluster::{Key, Kind};
use mesh_userspace::table::Endpoint;

use crate::{
    check::check,
    history::{Exhausted, History, View},
    run::{How, Run, SECOND, turned_about},
};

fn history() -> History {
    let history = Run::new(1).rounds(100, How::Parted).finish();
    assert_eq!(check(&history), Vec::<String>::new());
    history
}

fn assert_finds(history: &History, what: &str) {
    let broken = check(history);
    assert!(broken.iter().any(|broken| broken.contains(what)), "{what}: {broken:#?}");
}

/// Two endpoints of one network that are in a view, the older one first.
fn two_of_a_network(view: &View) -> Option<[(String, Endpoint); 2]> {
    let created = |name: &str| view.objects[&Key::new(Kind::Endpoint, name)].created;
    view.table.endpoints.iter().find_map(|(name, one)| {
        let is_younger = |other: &str| created(other) > created(name);
        let (other, two) = view
            .table
            .endpoints
            .iter()
            .find(|(other, two)| is_younger(other) && two.network == one.network)?;
        Some([(name.clone(), one.clone()), (other.clone(), two.clone())])
    })
}

#[test]
fn an_address_with_two_owners_is_found() {
    let mut history = history();
    let view = history.views.last_mut().unwrap();
    let [(_, one), (other, two)] = two_of_a_network(view).unwrap();
    view.table.endpoints.insert(other, Endpoint { addresses: one.addresses, ..two });
    assert_finds(&history, "has two owners");
}

#[test]
fn a_vni_with_two_owners_is_found() {
    let mut history = history();
    let view = history.views.last_mut().unwrap();
    let vni = view.table.networks.values().next().unwrap().vni;
    view.table.networks.values_mut().next_back().unwrap().vni = vni;
    assert_finds(&history, "has two owners");
}

#[test]
fn tables_that_differ_are_found() {
    let mut history = history();
    let end = history.ends[3];
    let table = &mut history.views[end].table;
    let (name, endpoint) = table.endpoints.iter().next().unwrap();
    let (name, other) = (name.clone(), Endpoint { weight: 77, ..endpoint.clone() });
    table.endpoints.insert(name, other);
    assert_finds(&history, "its table is not that of node");
    assert_finds(&history, "in the end it is not equal to node 0");
}

#[test]
fn what_is_missing_or_set_aside_for_nothing_is_found() {
    let mut history = history();
    let end = history.ends[0];
    let view = &mut history.views[end];
    let mut names = view.table.endpoints.keys().cloned().collect::<Vec<_>>().into_iter();
    let (missing, aside) = (names.next().unwrap(), names.next().unwrap());
    view.table.endpoints.remove(&missing);
    view.table.endpoints.remove(&aside);
    view.aside.insert(Key::new(Kind::Endpoint, aside), "It is not liked.".to_owned());
    assert_finds(&history, "is there: false, and set aside: None");
    assert_finds(&history, "is set aside with nothing older in its place: It is not liked.");
}

#[test]
fn what_was_confirmed_and_moves_is_found() {
    let mut history = history();
    // The last one that is still there at the end.
    let last = history.ends[0];
    let confirmed = history.confirmed.iter().rev().find(|confirmed| {
        confirmed.key.kind == Kind::Endpoint
            && [confirmed.view, last].iter().all(|view| {
                let view = &history.views[*view];
                view.life(&confirmed.key, confirmed.created).is_some() && view.has(&confirmed.key)
            })
    });
    let name = confirmed.unwrap().key.name.clone();
    let end = &history.views[last];
    let endpoint = &end.table.endpoints[&name];
    let free = end.free(&endpoint.network, &end.owners());
    let moved = Endpoint { addresses: vec![free[0]], ..endpoint.clone() };
    history.views[last].table.endpoints.insert(name, moved);
    assert_finds(&history, "was confirmed to have what others have now");
}

#[test]
fn an_address_that_is_given_to_who_came_later_is_found() {
    let mut history = history();
    let last = history.ends[0];
    let [(older, one), (younger, two)] = two_of_a_network(&history.views[last]).unwrap();
    // As the node sees it next.
    let mut view = history.views[last].clone();
    view.table.endpoints.insert(older, Endpoint { addresses: two.addresses.clone(), ..one.clone() });
    view.table.endpoints.insert(younger, Endpoint { addresses: one.addresses, ..two });
    history.views.push(view);
    assert_finds(&history, "which came later");
}

#[test]
fn what_is_written_down_though_another_has_it_is_found() {
    let mut history = history();
    let number = history.written.iter().position(|written| {
        let view = &history.views[written.view];
        written.key.kind == Kind::Endpoint && written.wish.is_some() && !view.table.endpoints.is_empty()
    });
    let written = &mut history.written[number.unwrap()];
    let view = &history.views[written.view];
    let other = view.table.endpoints.keys().find(|name| **name != written.key.name).unwrap();
    let mut wish = (**written.wish.as_ref().unwrap()).clone();
    wish.wants = view.objects[&Key::new(Kind::Endpoint, other)].wants.clone();
    written.wish = Some(Rc::new(wish));
    assert_finds(&history, " was given ");
}

#[test]
fn who_is_told_that_a_network_is_full_which_is_not_is_found() {
    let mut history = history();
    let view = history.ends[0];
    let roomy =
        history.views[view].table.networks.iter().find(|(_, network)| network.subnets[0].prefix_len() == 24);
    let network = roomy.unwrap().0.clone();
    history.exhausted.push(Exhausted { network, view });
    assert_finds(&history, "was said to be full");
}

#[test]
fn agents_that_do_not_know_who_was_first_are_found() {
    let broken: Vec<String> = (1..=6)
        .flat_map(|seed| check(&Run::new(seed).with_fault(turned_about).rounds(100, How::Parted).finish()))
        .collect();
    for what in ["which came later", "was confirmed to have"] {
        assert!(broken.iter().any(|broken| broken.contains(what)), "{what}: {broken:#?}");
    }
}

#[test]
fn what_disks_have_lost_is_found() {
    let mut run = Run::new(2).rounds(40, How::Crowded);
    let disks = run.disks();
    for _ in 0..30 {
        run.ask();
        run.wait(SECOND / 2);
    }
    run.fall_back(disks);
    assert_finds(&run.finish(), "was confirmed, and is lost");
}
