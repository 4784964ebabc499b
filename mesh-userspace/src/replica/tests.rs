//! Stores of nodes that did not hear of each other, merged in any order: one table, and nobody's address twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use mesh_cluster::{Entry, Key, Kind, NodeId, Stamp, Store, Write};
use proptest::prelude::*;

use super::*;
use crate::{
    config,
    spec::{Membership, Network, Options, Origin, Service, Spec},
    table::Table,
};

fn stamp(time: u64, node: u64) -> Stamp {
    Stamp { time, count: 0, node: NodeId(node) }
}

/// A node's store, and the time there.
#[derive(Clone, Default)]
struct Site {
    id: u64,
    now: u64,
    store: Store,
}

impl Site {
    /// A node `nN` that has written its own entry.
    fn new(id: u64) -> Self {
        let mut site = Self { id, ..Self::default() };
        let entry = NodeEntry {
            address: IpAddr::from([192, 0, 2, u8::try_from(id).unwrap()]),
            interface: None,
            member: true,
            restarts: None,
        };
        site.write([node(&site.name(), &entry).unwrap()]);
        site
    }

    fn name(&self) -> String {
        format!("n{}", self.id)
    }

    fn write(&mut self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            self.now += 1;
            self.store.write(write, stamp(self.now, self.id)).unwrap();
        }
    }

    fn raw(&mut self, kind: Kind, name: &str, value: &str) {
        self.write([Write { key: Key::new(kind, name), value: Some(value.into()) }]);
    }

    fn merge(&mut self, other: &Self) {
        for (key, entry) in other.store.entries() {
            self.store.merge(key.clone(), entry.clone()).unwrap();
        }
        self.now = self.now.max(other.now);
    }

    fn settled(&self) -> Settled {
        settle(&Objects::of(&self.store), &Options::default()).unwrap()
    }

    /// What a command does: refused where the rules refuse it, and with its allocations.
    fn change(&mut self, change: impl FnOnce(&mut Spec)) -> Result<(), String> {
        let before = self.settled();
        let mut after = before.spec.clone();
        change(&mut after);
        self.write(changes(&before, after).map_err(|faults| faults.to_string())?);
        Ok(())
    }

    fn amend(&mut self, live: &[&str]) -> usize {
        let objects = Objects::of(&self.store);
        let settled = self.settled();
        let name = self.name();
        let amended =
            amendments(&settled, &objects, (&name, NodeId(self.id)), |node| live.contains(&node)).unwrap();
        let count = amended.len();
        self.write(amended);
        count
    }
}

fn add_network(spec: &mut Spec, name: &str) {
    spec.add_network(name, Network { origin: Origin::default(), ..Network::default() }).unwrap();
}

fn add_service(spec: &mut Spec, name: &str, network: &str) {
    let networks = vec![network.to_owned().into()];
    spec.add_service(name, Service { networks, ..Service::default() }).unwrap();
}

fn add_endpoint(spec: &mut Spec, name: &str, node: &str, network: &str, address: Option<&str>) {
    let endpoint = crate::spec::Endpoint {
        origin: Origin::default(),
        name: name.to_owned().into(),
        node: node.to_owned().into(),
        service: None,
        weight: None,
        network: network.to_owned().into(),
        addresses: address.into_iter().map(|address| address.parse::<IpAddr>().unwrap().into()).collect(),
        mac: None,
        netns: None,
        aliases: Vec::new(),
        remembered: Vec::new(),
    };
    spec.add_endpoint(endpoint).unwrap();
}

/// Two nodes with a network, which then hear nothing of each other.
fn parted() -> (Site, Site) {
    let (mut one, mut other) = (Site::new(1), Site::new(2));
    one.change(|spec| {
        let subnets = vec!["10.0.9.0/29".parse::<ipnet::IpNet>().unwrap().into()];
        spec.add_network("blue", Network { vni: Some(4097.into()), subnets, ..Network::default() }).unwrap();
    })
    .unwrap();
    one.merge(&other.clone());
    other.merge(&one.clone());
    (one, other)
}

fn addresses(table: &Table) -> BTreeMap<(String, IpAddr), Vec<String>> {
    let mut owners: BTreeMap<(String, IpAddr), Vec<String>> = BTreeMap::new();
    for (name, service) in &table.services {
        for (network, vips) in &service.vips {
            for vip in vips {
                owners.entry((network.clone(), *vip)).or_default().push(format!("service {name}"));
            }
        }
    }
    for (name, endpoint) in &table.endpoints {
        for address in &endpoint.addresses {
            owners.entry((endpoint.network.clone(), *address)).or_default().push(format!("endpoint {name}"));
        }
    }
    owners
}

fn assert_one_owner_each(table: &Table) {
    let shared: Vec<_> = addresses(table).into_iter().filter(|(_, owners)| owners.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:?}");
    let vnis: BTreeSet<u32> = table.networks.values().map(|network| network.vni).collect();
    assert_eq!(vnis.len(), table.networks.len(), "a VNI has two networks");
}

#[test]
fn entries_give_back_what_was_written() {
    let (mut one, _) = parted();
    one.change(|spec| {
        add_service(spec, "web", "blue");
        add_endpoint(spec, "web.1", "n1", "blue", None);
        let membership = Membership { service: Some("web".to_owned()), weight: Some(3) };
        spec.set_membership("web.1", membership, &Origin::default()).unwrap();
    })
    .unwrap();
    let settled = one.settled();
    assert!(settled.aside.is_empty(), "{:?}", settled.aside);
    let endpoint = &settled.table.endpoints["web.1"];
    assert_eq!((endpoint.service.as_deref(), endpoint.weight), (Some("web"), 3));
    assert_eq!(settled.spec.endpoints[0].remembered, endpoint.addresses, "it is written down");
    assert_eq!(settled.spec.services["web"].remembered["blue"], settled.table.services["web"].vips["blue"]);
    // Nothing changed is nothing written, whatever origin says where it was asked for.
    assert_eq!(writes(&settled.spec, &settled.spec.clone()).unwrap(), []);
    assert_eq!(one.amend(&["n1", "n2"]), 0);
}

#[test]
fn what_goes_is_written_as_gone() {
    let (mut one, _) = parted();
    one.change(|spec| add_endpoint(spec, "a", "n1", "blue", None)).unwrap();
    one.change(|spec| drop(spec.remove_endpoint("a").unwrap())).unwrap();
    one.change(|spec| drop(spec.remove_network("blue").unwrap())).unwrap();
    assert_eq!(one.store.value(&Key::new(Kind::Network, "blue")), None);
    assert!(one.settled().table.networks.is_empty());
}

#[test]
fn broken_entries_are_set_aside_and_take_nothing_with_them() {
    let (mut one, _) = parted();
    let before = one.settled().table;
    for (kind, name, value) in [
        (Kind::Network, "no-json", "{"),
        (Kind::Network, "unknown-field", r#"{"colour": 7}"#),
        (Kind::Network, "bad vni", r#"{"vni": 0}"#),
        (Kind::Network, "n\u{e4}me", "{}"),
        (Kind::Service, "nowhere", r#"{"networks": ["missing"]}"#),
        (Kind::Service, "list", "[1, 2]"),
        (Kind::Service, "two-checks", r#"{"networks": ["blue"], "health_check": {"tcp": 80, "http": "/"}}"#),
        (Kind::Service, "hasty", r#"{"networks": ["blue"], "health_check": {"tcp": 80, "interval": "1ms"}}"#),
        (Kind::Service, "alias", r#"{"networks": ["blue"], "aliases": ["not a name"]}"#),
        (Kind::Endpoint, "other-name", r#"{"name": "x", "node": "n1", "network": "blue"}"#),
        (Kind::Endpoint, "no-node", r#"{"name": "no-node", "node": "n9", "network": "blue"}"#),
        (Kind::Node, "nobody", r#"{"address": "here"}"#),
        (Kind::Node, "twin", r#"{"address": "192.0.2.1", "member": true}"#),
        (Kind::Node, "loop", r#"{"address": "127.0.0.1", "member": true}"#),
    ] {
        one.raw(kind, name, value);
    }
    let objects = Objects::of(&one.store);
    let settled = one.settled();
    assert_eq!(settled.table, before);
    assert_eq!(settled.aside.len(), 14, "{:#?}", settled.aside);
    let problems = settled.problems(&objects);
    let told = |subject: &str| {
        let found = problems.iter().find(|problem| problem.subject == subject);
        found.unwrap_or_else(|| panic!("{subject} is not told")).message.clone()
    };
    assert!(told("network no-json").starts_with("It is set aside (written on the node n1)"), "{problems:#?}");
    assert!(told("node twin").contains("192.0.2.1, which the node \"n1\" has too"), "{problems:#?}");
    assert!(told("endpoint other-name").contains("it says that its name is \"x\""), "{problems:#?}");
}

#[test]
fn of_two_that_asked_for_one_address_the_first_has_it() {
    let (mut one, mut other) = parted();
    one.now = 100;
    one.change(|spec| add_endpoint(spec, "late", "n1", "blue", Some("10.0.9.5"))).unwrap();
    other.now = 50;
    other.change(|spec| add_endpoint(spec, "early", "n2", "blue", Some("10.0.9.5"))).unwrap();
    one.merge(&other);
    let settled = one.settled();
    assert!(settled.table.endpoints.contains_key("early") && !settled.table.endpoints.contains_key("late"));
    let why = &settled.aside[&Key::new(Kind::Endpoint, "late")];
    assert!(why.contains("10.0.9.5, which the endpoint \"early\" has too (in the cluster)"), "{why}");
    // It comes back when the other goes.
    one.change(|spec| drop(spec.remove_endpoint("early").unwrap())).unwrap();
    assert!(one.settled().table.endpoints.contains_key("late") && one.settled().aside.is_empty());
}

#[test]
fn who_was_first_keeps_its_allocation_against_who_asks_later() {
    let (mut one, mut other) = parted();
    one.change(|spec| add_endpoint(spec, "first", "n1", "blue", None)).unwrap();
    let had = one.settled().table.endpoints["first"].addresses[0];
    other.now = 500;
    other.change(|spec| add_endpoint(spec, "second", "n2", "blue", Some(&had.to_string()))).unwrap();
    let refused = one.change(|spec| add_endpoint(spec, "third", "n1", "blue", Some(&had.to_string())));
    assert!(refused.unwrap_err().contains("which the endpoint \"first\" has too"));
    one.merge(&other);
    let settled = one.settled();
    assert_eq!(settled.table.endpoints["first"].addresses, [had]);
    assert!(settled.aside.contains_key(&Key::new(Kind::Endpoint, "second")));
}

#[test]
fn two_allocations_of_one_address_are_moved_apart_and_stay_so() {
    let (mut one, mut other) = parted();
    // Five addresses, four taken on each side: some of them twice.
    for (site, name) in [(&mut one, "a"), (&mut other, "b")] {
        for number in 0..2 {
            let node = site.name();
            site.change(|spec| add_endpoint(spec, &format!("{name}{number}"), &node, "blue", None)).unwrap();
        }
    }
    let taken = |site: &Site| addresses(&site.settled().table).into_keys().collect::<BTreeSet<_>>();
    let (of_one, of_other) = (taken(&one), taken(&other));
    one.merge(&other);
    other.merge(&one.clone());
    let merged = one.settled();
    assert_eq!(merged, other.settled());
    assert_one_owner_each(&merged.table);
    assert!(merged.aside.is_empty());
    let clashes = of_one.intersection(&of_other).count();
    let amended = one.amend(&["n1", "n2"]) + other.amend(&["n1", "n2"]);
    assert_eq!(amended, clashes, "each that was moved is written down, by its own node");
    one.merge(&other);
    other.merge(&one.clone());
    assert_eq!(one.settled().table, merged.table, "and stays where it is");
    assert_eq!(one.amend(&["n1", "n2"]) + other.amend(&["n1", "n2"]), 0);
}

#[test]
fn who_is_set_aside_keeps_nothing_from_who_came_later() {
    let (mut one, mut other) = parted();
    // A task of a service that goes on the other side.
    one.change(|spec| add_service(spec, "web", "blue")).unwrap();
    other.merge(&one);
    one.change(|spec| {
        add_endpoint(spec, "first", "n1", "blue", Some("10.0.9.5"));
        let membership = Membership { service: Some("web".to_owned()), weight: None };
        spec.set_membership("first", membership, &Origin::default()).unwrap();
    })
    .unwrap();
    other.now = 100;
    other.change(|spec| drop(spec.remove_service("web").unwrap())).unwrap();
    other.change(|spec| add_endpoint(spec, "second", "n2", "blue", Some("10.0.9.5"))).unwrap();
    one.merge(&other);
    let settled = one.settled();
    assert!(settled.aside[&Key::new(Kind::Endpoint, "first")].contains("which does not exist"));
    assert!(settled.table.endpoints.contains_key("second"), "{:?}", settled.aside);
}

#[test]
fn a_service_that_is_set_aside_leaves_its_addresses_to_the_next() {
    let (mut one, mut other) = parted();
    one.change(|spec| {
        let subnets = vec!["10.0.8.0/30".parse::<ipnet::IpNet>().unwrap().into()];
        spec.add_network("red", Network { subnets, ..Network::default() }).unwrap();
    })
    .unwrap();
    for number in 0..4 {
        one.change(|spec| add_endpoint(spec, &format!("e{number}"), "n1", "blue", None)).unwrap();
    }
    other.merge(&one);
    // The last address of both networks is given to one service, of the one network to another, and of the other to a task.
    other.change(|spec| add_endpoint(spec, "task", "n2", "red", None)).unwrap();
    one.now = 100;
    one.change(|spec| {
        let networks = vec!["blue".to_owned().into(), "red".to_owned().into()];
        spec.add_service("first", Service { networks, ..Service::default() }).unwrap();
    })
    .unwrap();
    other.now = 200;
    other.change(|spec| add_service(spec, "second", "blue")).unwrap();
    one.merge(&other);
    let settled = one.settled();
    let why = &settled.aside[&Key::new(Kind::Service, "first")];
    assert!(why.contains("The network \"red\" has no free IPv4 address left"), "{why}");
    assert!(settled.table.services.contains_key("second"), "{:?}", settled.aside);
}

#[test]
fn what_was_moved_and_is_not_written_down_yet_is_not_given_away() {
    let (mut one, mut other) = parted();
    one.change(|spec| add_endpoint(spec, "first", "n1", "blue", None)).unwrap();
    let had = one.settled().table.endpoints["first"].addresses[0];
    other.now = 100;
    let value = format!(r#"{{"name": "second", "node": "n2", "network": "blue", "remembered": ["{had}"]}}"#);
    other.raw(Kind::Endpoint, "second", &value);
    one.merge(&other);
    let moved = one.settled().table.endpoints["second"].addresses[0];
    assert_ne!(moved, had);
    let refused = one.change(|spec| add_endpoint(spec, "third", "n1", "blue", Some(&moved.to_string())));
    assert!(refused.unwrap_err().contains("which the endpoint \"second\" has too"));
    assert!(one.store.entry(&Key::new(Kind::Endpoint, "second")).unwrap().stamp.node == NodeId(2));
}

#[test]
fn a_network_that_is_full_is_an_error_to_who_asks() {
    let (mut one, _) = parted();
    for number in 0..5 {
        one.change(|spec| add_endpoint(spec, &format!("e{number}"), "n1", "blue", None)).unwrap();
    }
    let error = one.change(|spec| add_endpoint(spec, "e5", "n1", "blue", None)).unwrap_err();
    assert!(error.contains("has no free IPv4 address left for the endpoint \"e5\""), "{error}");
}

#[test]
fn a_node_within_a_network_is_set_aside_if_it_came_later() {
    let (mut one, _) = parted();
    one.raw(Kind::Node, "n3", r#"{"address": "10.0.9.3", "member": true}"#);
    let settled = one.settled();
    assert!(settled.table.networks.contains_key("blue"));
    let why = &settled.aside[&Key::new(Kind::Node, "n3")];
    assert!(why.contains("holds the address 10.0.9.3 of the node \"n3\""), "{why}");
    // An allocated network gives way to a node that was there before, and stays where it is before one that came later.
    one.change(|spec| add_network(spec, "red")).unwrap();
    let red = one.settled().table.networks["red"].subnets[0];
    let within = |site: &mut Site, now: u64| {
        site.now = now;
        let address = crate::table::gateway(&red);
        site.raw(Kind::Node, "n4", &format!(r#"{{"address": "{address}", "member": true}}"#));
        site.settled()
    };
    let later = within(&mut one.clone(), 10_000);
    assert_eq!(later.table.networks["red"].subnets, [red]);
    assert!(later.aside.contains_key(&Key::new(Kind::Node, "n4")));
    let mut before = one.clone();
    let early = within(&mut before, 0);
    assert_ne!(early.table.networks["red"].subnets, [red]);
    assert!(early.table.nodes.contains_key("n4"));
}

#[test]
fn a_file_is_published_once_and_withdrawn_when_it_says_so_no_more() {
    let file = |rest: &str| {
        let text = format!(
            "nodes:\n  n1: {{address: 192.0.2.1}}\n  n9: {{address: 192.0.2.9}}\nnetworks:\n  blue: {{vni: 7, subnets: \
             [10.0.9.0/24]}}\n{rest}"
        );
        config::parse("mesh.yaml", text.as_bytes()).unwrap().spec
    };
    let full = file(
        "services: {web: {networks: [blue]}}\nendpoints:\n- {name: web.1, node: n1, service: web, network: blue, netns: a}\n\
         - {name: web.9, node: n9, service: web, network: blue}\n- {name: web.2, node: n2, service: web, network: blue, netns: b}\n",
    );
    let mut one = Site::new(1);
    let follow = |site: &mut Site, published: &mut Published, spec: &Spec| {
        let name = site.name();
        let publication = published.follow(spec, &name, &Objects::of(&site.store)).unwrap();
        *published = publication.published;
        let keys: Vec<String> = publication
            .writes
            .iter()
            .map(|write| format!("{}{}", if write.value.is_some() { "" } else { "-" }, write.key.name))
            .collect();
        site.write(publication.writes);
        (keys, publication.problems.len())
    };
    let mut published = Published::default();
    let first = follow(&mut one, &mut published, &full);
    assert_eq!(first, (["n9", "blue", "web", "web.1", "web.9"].map(str::to_owned).to_vec(), 0));
    assert_eq!(follow(&mut one, &mut published, &full), (vec![], 0));
    one.amend(&["n1"]);
    assert_eq!(follow(&mut one, &mut published, &full), (vec![], 0), "allocations are no change");

    // A second node with the same file has nothing to say, but for its own task.
    let mut two = Site::new(2);
    two.merge(&one);
    let mut of_two = Published::default();
    assert_eq!(follow(&mut two, &mut of_two, &full), (vec!["web.2".to_owned()], 0));
    one.merge(&two);

    // What a command changed stays, as long as the file says what it said.
    one.change(|spec| {
        let drained = Membership { service: Some("web".to_owned()), weight: Some(0) };
        spec.set_membership("web.1", drained, &Origin::default()).unwrap();
    })
    .unwrap();
    assert_eq!(follow(&mut one, &mut published, &full), (vec![], 0));
    assert_eq!(one.settled().table.endpoints["web.1"].weight, 0);

    // What left the file is withdrawn, what uses something before it.
    let (keys, _) = follow(&mut one, &mut published, &file(""));
    assert_eq!(keys, ["-web.9", "-web.1", "-web"]);
    // On the second node it has left the store already. Its own word is not spoken again.
    two.merge(&one);
    assert_eq!(follow(&mut two, &mut of_two, &full), (vec![], 0));

    // A node with another idea of what was there before it yields, and says so.
    let mut three = Site::new(3);
    three.merge(&one);
    let mut of_three = Published::default();
    let other = config::parse("mesh.yaml", b"nodes: {n3: {address: 192.0.2.3}}\nnetworks: {blue: {vni: 8}}")
        .unwrap()
        .spec;
    assert_eq!(follow(&mut three, &mut of_three, &other), (vec![], 1));
    assert_eq!(three.settled().table.networks["blue"].vni, 7);
}

#[test]
fn a_member_that_has_left_does_not_come_back_by_a_file_that_names_it() {
    let text = b"nodes: {n1: {address: 192.0.2.1}, n2: {address: 192.0.2.2}}";
    let file = config::parse("mesh.yaml", text).unwrap().spec;
    let (mut one, two) = (Site::new(1), Site::new(2));
    one.merge(&two);
    let mut published = Published::default();
    let mut follow = |site: &Site| {
        let publication = published.follow(&file, "n1", &Objects::of(&site.store)).unwrap();
        published = publication.published;
        (publication.writes, publication.problems)
    };
    assert_eq!(follow(&one), (vec![], vec![]));
    one.write([Write { key: Key::new(Kind::Node, "n2"), value: None }]);
    assert_eq!(follow(&one), (vec![], vec![]));
    assert!(!one.settled().table.nodes.contains_key("n2"));
}

#[test]
fn a_member_is_gone_when_membership_says_so_and_a_node_without_meshd_never() {
    let mut one = Site::new(1);
    for id in [2, 3, 4] {
        one.merge(&Site::new(id));
    }
    one.raw(Kind::Node, "k1", r#"{"address": "192.0.2.50"}"#);
    let objects = Objects::of(&one.store);
    let is_there = |name: &str| match name {
        "n2" => Some(true),
        "n3" => Some(false),
        _ => None,
    };
    let gone = |seconds| {
        gone(&objects, "n1", is_there, Duration::from_secs(seconds)).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(gone(0), ["n3"], "of who was not heard of yet nothing is known");
    assert_eq!(gone(60), ["n3", "n4"]);
}

/// What nodes do: everything by few names, so that much clashes.
#[derive(Clone, Debug)]
enum Act {
    Network(u8),
    Service(u8, u8),
    Endpoint(u8, u8, Option<u8>),
    Remove(u8),
    Amend,
    Hear(u8),
    Garbage(u8),
}

fn acts() -> impl Strategy<Value = Vec<(u8, Act)>> {
    let act = prop_oneof![
        2 => (0..3_u8).prop_map(Act::Network),
        3 => (0..4_u8, 0..3_u8).prop_map(|(name, network)| Act::Service(name, network)),
        8 => (0..12_u8, 0..3_u8, prop::option::of(2..7_u8)).prop_map(|(name, on, at)| Act::Endpoint(name, on, at)),
        2 => (0..12_u8).prop_map(Act::Remove),
        2 => Just(Act::Amend),
        2 => (0..3_u8).prop_map(Act::Hear),
        1 => (0..4_u8).prop_map(Act::Garbage),
    ];
    prop::collection::vec((0..3_u8, act), 0..40)
}

fn play(acts: &[(u8, Act)]) -> Vec<Site> {
    let mut sites: Vec<Site> = (1..=3).map(Site::new).collect();
    for id in 0..3 {
        let others = sites.clone();
        others.iter().for_each(|other| sites[id].merge(other));
    }
    for (at, act) in acts {
        let others = sites.clone();
        let site = &mut sites[usize::from(*at)];
        let node = site.name();
        // What is refused is no matter here.
        let _ = match act {
            Act::Network(name) => site.change(|spec| {
                let network = Network {
                    subnets: vec!["10.0.9.0/29".parse::<ipnet::IpNet>().unwrap().into()],
                    ..Network::default()
                };
                let _ = spec.add_network(
                    &format!("net{name}"),
                    if *name == 0 { Network::default() } else { network },
                );
            }),
            Act::Service(name, network) => site.change(|spec| {
                let networks = vec![format!("net{network}").into()];
                let _ = spec.add_service(&format!("s{name}"), Service { networks, ..Service::default() });
            }),
            Act::Endpoint(name, network, address) => {
                let name = format!("e{name}");
                let exists = site.settled().spec.endpoint(&name).is_some();
                let address = address.map(|last| format!("10.0.9.{last}"));
                if exists {
                    Ok(())
                } else {
                    site.change(|spec| {
                        add_endpoint(spec, &name, &node, &format!("net{network}"), address.as_deref());
                    })
                }
            }
            Act::Remove(name) => site.change(|spec| {
                let _ = spec.remove_endpoint(&format!("e{name}"));
            }),
            Act::Amend => {
                site.amend(&["n1", "n2", "n3"]);
                Ok(())
            }
            Act::Hear(from) => {
                site.merge(&others[usize::from(*from)]);
                Ok(())
            }
            Act::Garbage(name) => {
                site.raw(Kind::Service, &format!("s{name}"), r#"{"networks": 3}"#);
                Ok(())
            }
        };
    }
    sites
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_of_merges_gives_one_table_with_one_owner_each(acts in acts(), shuffle in any::<prop::sample::Index>()) {
        let sites = play(&acts);
        let mut entries: Vec<(Key, Entry)> = sites
            .iter()
            .flat_map(|site| site.store.entries().map(|(key, entry)| (key.clone(), entry.clone())))
            .collect();
        let fill = |entries: &[(Key, Entry)]| {
            let mut store = Store::default();
            let mut objects = Objects::default();
            for (key, entry) in entries {
                store.merge(key.clone(), entry.clone()).unwrap();
                objects.follow(&store);
            }
            (store, objects)
        };
        let (store, objects) = fill(&entries);
        let middle = shuffle.index(entries.len());
        entries.rotate_left(middle);
        entries.reverse();
        let (again, followed) = fill(&entries);
        prop_assert_eq!(store.digest().root(), again.digest().root());
        prop_assert_eq!(&objects, &followed);
        let settled = settle(&objects, &Options::default()).unwrap();
        prop_assert_eq!(&settled, &settle(&Objects::of(&again), &Options::default()).unwrap());
        assert_one_owner_each(&settled.table);
        // What is not set aside is there, and what is set aside came later than something that is there.
        for (key, read) in objects.iter() {
            let is_there = match key.kind {
                Kind::Node => settled.table.nodes.contains_key(&key.name),
                Kind::Network => settled.table.networks.contains_key(&key.name),
                Kind::Service => settled.table.services.contains_key(&key.name),
                _ => settled.table.endpoints.contains_key(&key.name),
            };
            prop_assert_eq!(is_there, !settled.aside.contains_key(key), "{:?} {:?}", key, read);
        }
    }

    /// Once all have heard everything, writing down what was moved ends, and moves nothing.
    #[test]
    fn what_was_moved_is_written_down_and_then_rests(acts in acts()) {
        let mut sites = play(&acts);
        let meet = |sites: &mut Vec<Site>| {
            for _ in 0..2 {
                for id in 0..3 {
                    let others = sites.clone();
                    others.iter().for_each(|other| sites[id].merge(other));
                }
            }
        };
        meet(&mut sites);
        let table = sites[0].settled().table;
        let amended: usize = sites.iter_mut().map(|site| site.amend(&["n1", "n2", "n3"])).sum();
        meet(&mut sites);
        for site in &mut sites {
            prop_assert_eq!(&site.settled().table, &table, "{} were amended", amended);
            prop_assert_eq!(site.amend(&["n1", "n2", "n3"]), 0);
        }
    }

    /// A table that was allocated is allocated the same way again, from what was written down.
    #[test]
    fn any_bytes_are_read_without_harm(name in "\\PC{1,20}", value in "\\PC{0,80}", kind in 0..4_usize) {
        let kind = [Kind::Node, Kind::Network, Kind::Service, Kind::Endpoint][kind];
        let mut site = Site::new(1);
        let before = site.settled().table;
        site.raw(kind, &name, &value);
        let settled = site.settled();
        prop_assert!(settled.table == before || settled.aside.is_empty());
    }
}
