//! What a node's plan says, piece by piece.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_common::abi::{
    Address, EndpointKey, Family, Local, ServiceKey, host_alias, local_flags, network_flags,
};

use super::{
    testing::{plan, *},
    *,
};
use crate::table::{Endpoint, Node, PublishMode, PublishedPort, Scheduler as Rule, XdpMode};

const SERVES: u32 = local_flags::SERVES;
const OWN: u32 = local_flags::OWN;

fn key_of_port(port: u16, family: u8) -> ServiceKey {
    ServiceKey { address: Address::UNSPECIFIED, scope: 0, port: port.to_be_bytes(), protocol: 6, family }
}

fn key_of_vip(vni: u32, vip: &str) -> ServiceKey {
    let address = ip(vip);
    ServiceKey {
        address: Address::from(address),
        scope: vni,
        port: [0; 2],
        protocol: 0,
        family: if address.is_ipv4() { 4 } else { 6 },
    }
}

fn addresses(service: &PlannedService) -> Vec<String> {
    service.ring.backends().iter().map(|backend| backend.address.to_string()).collect()
}

/// Three replicas of `search`, one on each node, published on 9200.
fn search() -> Table {
    let mut table = table();
    service(&mut table, "search", &[("blue", &["10.0.9.2", "fd00:9::2"])], &[(9200, 9201)]);
    for n in 1..=3 {
        let (v4, v6) = (format!("10.0.9.1{n}"), format!("fd00:9::1{n}"));
        endpoint(&mut table, &format!("search.{n}"), &format!("n{n}"), "search", "blue", &[&v4, &v6]);
    }
    table
}

#[test]
fn a_node_that_is_not_in_the_table_is_told_which_are() {
    let error = plan(&table(), "n9", &facts()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "This node, n9, is not among the nodes of the configuration. Add it under `nodes:`, or name an entry with \
         --node: n1, n2, n3."
    );
}

#[test]
fn a_service_has_an_entry_for_each_family_of_its_virtual_ip_and_of_its_port() {
    let plan = plan(&search(), "n1", &facts()).unwrap();
    assert_eq!(plan.services.len(), 4);
    for (key, target, first) in [
        (key_of_vip(4097, "10.0.9.2"), 0, "10.0.9.11"),
        (key_of_vip(4097, "fd00:9::2"), 0, "fd00:9::11"),
        (key_of_port(9200, 4), 9201, "10.0.9.11"),
        (key_of_port(9200, 6), 9201, "fd00:9::11"),
    ] {
        let service = &plan.services[&key];
        assert_eq!((service.name.as_str(), service.target_port), ("search", target));
        assert_eq!(service.ring.backends().len(), 3);
        assert_eq!(addresses(service)[0], first);
        assert_eq!(service.ring.len(), 1024);
    }
    assert_eq!(plan.backends.len(), 6);
    let backend = plan.backends[&BackendId { vni: 4097, address: ip("10.0.9.12") }];
    assert_eq!(backend, PlannedBackend { mac: [2, 0x42, 10, 0, 9, 12], node: ip("192.0.2.2") });
    assert_eq!(plan.problems, []);
}

#[test]
fn each_node_has_the_same_rings() {
    let (one, two) = (plan(&search(), "n1", &facts()).unwrap(), plan(&search(), "n2", &facts()).unwrap());
    assert_eq!(one.services, two.services);
    assert_eq!(one.backends, two.backends);
}

#[test]
fn round_robin_goes_by_the_tasks_numbers() {
    let mut table = search();
    endpoint(&mut table, "search.10", "n1", "search", "blue", &["10.0.9.5"]);
    table.services.get_mut("search").unwrap().scheduler = Rule::Rr;
    let plan = plan(&table, "n1", &facts()).unwrap();
    let ring = &plan.services[&key_of_port(9200, 4)].ring;
    assert_eq!(
        ring.slots().flatten().map(|id| id.address.to_string()).collect::<Vec<_>>(),
        ["10.0.9.11", "10.0.9.12", "10.0.9.13", "10.0.9.5"]
    );
}

/// How many slots each backend has, by the last number of its address.
fn slots_of(service: &PlannedService) -> BTreeMap<u8, usize> {
    service.ring.slots().flatten().fold(BTreeMap::new(), |mut counts, id| {
        let IpAddr::V4(address) = id.address else { panic!("{id:?}") };
        *counts.entry(address.octets()[3]).or_default() += 1;
        counts
    })
}

#[test]
fn rings_follow_the_weights() {
    let mut table = search();
    table.endpoints.get_mut("search.2").unwrap().weight = 2;
    let plan = plan(&table, "n1", &facts()).unwrap();
    let service = &plan.services[&key_of_port(9200, 4)];
    let counts = slots_of(service);
    assert!(counts[&12].abs_diff(service.ring.len() / 2) <= 1, "{counts:?}");
    assert!(counts[&11].abs_diff(service.ring.len() / 4) <= 1, "{counts:?}");
}

#[test]
fn a_backend_that_drains_has_no_slot_and_stays_a_backend() {
    for scheduler in [Rule::Mh, Rule::Rr] {
        let mut table = search();
        table.services.get_mut("search").unwrap().scheduler = scheduler;
        table.endpoints.get_mut("search.2").unwrap().weight = 0;
        let draining = plan(&table, "n1", &facts()).unwrap();
        let keys: Vec<u8> = slots_of(&draining.services[&key_of_port(9200, 4)]).into_keys().collect();
        assert_eq!(keys, [11, 13], "{scheduler:?}");
        // Flows under way are looked for there.
        assert_eq!(draining.backends.len(), 6);
        assert!(draining.services.values().all(|service| !service.draining), "{scheduler:?}");
        // Its own node is to know that no flow begins there.
        let drains = |last| {
            let mac = [2, 0x42, 10, 0, 9, last];
            draining.stations[&MacKey { vni: 4097, mac, reserved: [0; 2] }].draining
        };
        assert_eq!([11, 12, 13].map(drains), [false, true, false]);

        let drains = |(name, endpoint)| (name, Endpoint { weight: 0, ..endpoint });
        table.endpoints = table.endpoints.into_iter().map(drains).collect();
        let all = plan(&table, "n1", &facts()).unwrap();
        // They find their backends by a ring as it would be without draining.
        assert!(all.services.values().all(|service| service.draining && !service.ring.is_empty()));
        assert_eq!((all.services.len(), all.backends.len()), (4, 6));
    }
}

#[test]
fn a_service_that_is_to_be_silent_is() {
    let mut table = search();
    let silence = |table: &Table| {
        let plan = plan(table, "n1", &facts()).unwrap();
        plan.services.values().map(|service| service.silent).collect::<Vec<_>>()
    };
    assert!(silence(&table).iter().all(|silent| !silent));
    table.services.get_mut("search").unwrap().on_no_backend = crate::table::OnNoBackend::Drop;
    assert!(!silence(&table).is_empty() && silence(&table).iter().all(|silent| *silent));
}

#[test]
fn a_port_without_backends_is_there_only_in_the_families_of_its_networks() {
    let mut table = table();
    network(&mut table, "old", 5, &["10.5.0.0/24"]);
    service(&mut table, "empty", &[("old", &["10.5.0.2"])], &[(80, 80)]);
    let plan = plan(&table, "n1", &facts()).unwrap();
    assert_eq!(
        plan.services.iter().map(|(key, service)| (*key, service.ring.len())).collect::<Vec<_>>(),
        [(key_of_port(80, 4), 0), (key_of_vip(5, "10.5.0.2"), 0)]
    );
}

#[test]
fn ports_at_which_tasks_answer() {
    let mut table = table();
    network(&mut table, "blue", 4097, &["10.0.9.0/24"]);
    service(&mut table, "web", &[("blue", &["10.0.9.2"])], &[(80, 8080), (443, 0)]);
    assert!(plan(&table, "n1", &facts()).unwrap().targets.is_empty(), "nobody answers");
    endpoint(&mut table, "web.1", "n2", "web", "blue", &["10.0.9.11"]);
    let plan = plan(&table, "n1", &facts()).unwrap();
    let targets: Vec<_> = plan.targets.iter().map(|key| (key.vni, key.port, key.protocol)).collect();
    assert_eq!(targets, [443u16, 8080].map(|port| (4097, port.to_be_bytes(), 6)));
}

#[test]
fn dnsrr_has_no_virtual_ip_but_its_ports_answer() {
    let mut table = search();
    table.services.get_mut("search").unwrap().vips.clear();
    let plan = plan(&table, "n1", &facts()).unwrap();
    let keys: Vec<_> = plan.services.keys().copied().collect();
    assert_eq!(keys, [key_of_port(9200, 4), key_of_port(9200, 6)]);
}

#[test]
fn a_port_in_host_mode_answers_where_a_task_runs_and_goes_to_that_task() {
    let mut table = search();
    table.endpoints.remove("search.3");
    table.services.get_mut("search").unwrap().ports[0].mode = PublishMode::Host;
    let on_n1 = plan(&table, "n1", &facts()).unwrap();
    assert_eq!(addresses(&on_n1.services[&key_of_port(9200, 4)]), ["10.0.9.11"]);
    let on_n3 = plan(&table, "n3", &facts()).unwrap();
    assert!(!on_n3.services.contains_key(&key_of_port(9200, 4)));
    assert!(on_n3.services.contains_key(&key_of_vip(4097, "10.0.9.2")));
}

#[test]
fn a_task_on_two_networks_of_its_service_is_one_backend_of_its_port() {
    let mut table = search();
    network(&mut table, "amber", 9, &["10.1.0.0/24"]);
    endpoint(&mut table, "search.1.amber", "n1", "search", "amber", &["10.1.0.11"]);
    table.services.get_mut("search").unwrap().vips.insert("amber".into(), vec![ip("10.1.0.2")]);
    let netns = table.endpoints["search.1"].netns.clone();
    table.endpoints.get_mut("search.1.amber").unwrap().netns = netns;

    let plan = plan(&table, "n2", &facts()).unwrap();
    // amber comes before blue; amber has no IPv6, so there it is blue's.
    assert_eq!(addresses(&plan.services[&key_of_port(9200, 4)]), ["10.1.0.11", "10.0.9.12", "10.0.9.13"]);
    assert_eq!(addresses(&plan.services[&key_of_port(9200, 6)]), ["fd00:9::11", "fd00:9::12", "fd00:9::13"]);
    // A virtual IP has the backends of its own network.
    assert_eq!(
        addresses(&plan.services[&key_of_vip(4097, "10.0.9.2")]),
        ["10.0.9.11", "10.0.9.12", "10.0.9.13"]
    );
    assert_eq!(addresses(&plan.services[&key_of_vip(9, "10.1.0.2")]), ["10.1.0.11"]);
}

#[test]
fn attached_endpoints_fill_the_tables_of_their_interfaces() {
    let mut facts = facts();
    facts.attached.insert("search.1".into(), 7);
    facts.attached.insert("search.2".into(), 8);
    let plan = plan(&search(), "n1", &facts).unwrap();

    let (v4, v6) = (Address::from(ip("10.0.9.11")), Address::from(ip("fd00:9::11")));
    let mac = [2, 0x42, 10, 0, 9, 11];
    let key = |address| EndpointKey { address, vni: 4097, reserved: 0 };
    assert_eq!(plan.endpoints.len(), 6);
    assert_eq!(plan.endpoints[&key(v6)], PlannedEndpoint { mac, node: ip("192.0.2.1"), ifindex: 7 });
    let elsewhere = plan.endpoints[&key(Address::from(ip("10.0.9.12")))];
    assert_eq!((elsewhere.node, elsewhere.ifindex), (ip("192.0.2.2"), 0));

    assert_eq!(plan.attachments.keys().copied().collect::<Vec<_>>(), [7]);
    assert_eq!(
        plan.attachments[&7],
        Attachment { v4, v6, vni: 4097, mac, gateway_mac: [2, 0x42, 10, 0, 9, 1], mtu: 1450, reserved: 0 }
    );
    let station = plan.stations[&MacKey { vni: 4097, mac, reserved: [0; 2] }];
    assert_eq!(station, PlannedStation { v4, v6, node: ip("192.0.2.1"), draining: false });
    assert_eq!(plan.stations.len(), 3);
    let hooks: Vec<_> = plan.hooks.into_iter().collect();
    assert_eq!(hooks, [(2, Hook::Underlay(XdpMode::Auto)), (4, Hook::Host), (7, Hook::Endpoint)]);
}

#[test]
fn a_port_of_a_bridge_is_left_to_the_bridge() {
    let mut facts = facts();
    let of_kind = |index, name: &str, kind: &str, master| Interface {
        index,
        name: name.into(),
        kind: kind.into(),
        master,
        mtu: 1500,
        up: true,
        ..Interface::default()
    };
    facts.interfaces.extend([
        of_kind(10, "br0", "bridge", None),
        of_kind(11, "veth1", "veth", Some(10)),
        of_kind(12, "red", "vrf", None),
        of_kind(13, "eth2", "", Some(12)),
        of_kind(14, "eth3", "", Some(10)),
    ]);
    let mut table = search();
    let of = |table: &Table| plan(table, "n1", &facts).unwrap().uplinks.keys().copied().collect::<Vec<_>>();
    assert_eq!(of(&table), [2, 10, 12, 13]);
    table.options.interfaces = vec!["eth3".into()];
    assert_eq!(of(&table), [2, 14], "what is asked for by name is done");
}

#[test]
fn xdp_stays_off_veth_pairs_unless_it_was_asked_for() {
    let mut facts = facts();
    facts.interfaces[1].kind = "veth".into();
    let mut table = search();
    for (asked, expected) in [
        (XdpMode::Auto, XdpMode::Off),
        (XdpMode::Native, XdpMode::Native),
        (XdpMode::Generic, XdpMode::Generic),
    ] {
        table.options.xdp = asked;
        assert_eq!(plan(&table, "n1", &facts).unwrap().hooks[&2], Hook::Underlay(expected));
    }
}

#[test]
fn the_underlay_is_every_interface_that_is_not_the_meshs_own() {
    let mut facts = facts();
    facts.interfaces.push(Interface {
        index: 9,
        name: "eth1".into(),
        mtu: 9000,
        up: true,
        ..Interface::default()
    });
    facts.interfaces.push(Interface { index: 10, name: "mesh0123abcd".into(), ..Interface::default() });
    let mut table = search();
    let of = |table: &Table| plan(table, "n1", &facts).unwrap();
    let all = of(&table);
    assert_eq!(all.uplinks.keys().copied().collect::<Vec<_>>(), [2, 9]);
    let eth0 = all.uplinks[&2];
    assert_eq!((eth0.v4, eth0.v6, eth0.mtu), (ip("192.0.2.1").into(), ip("2001:db8::1").into(), 1500));
    // An interface without addresses is left with the node's own.
    assert_eq!((all.uplinks[&9].v4, all.uplinks[&9].v6), (ip("192.0.2.1").into(), Address::UNSPECIFIED));

    table.options.interfaces = vec!["eth1".into(), "eth7".into()];
    table.options.xdp = XdpMode::Off;
    let listed = of(&table);
    assert_eq!(
        listed.uplinks.keys().copied().collect::<Vec<_>>(),
        [2, 9],
        "the tunnels still come in by eth0"
    );
    assert_eq!(listed.hooks[&2], Hook::Underlay(XdpMode::Off));
    assert_eq!(listed.problems.iter().map(|p| p.subject.as_str()).collect::<Vec<_>>(), ["interface eth7"]);
}

/// The addresses that packets come to a node for, each with its interface and its flags.
fn locals(table: &Table, facts: &NodeFacts) -> BTreeMap<String, (u32, u32)> {
    let locals = plan(table, "n1", facts).unwrap().locals;
    let one = |(address, local): (Address, Local)| {
        (IpAddr::from(address).to_string(), (local.ifindex, local.flags))
    };
    locals.into_iter().map(one).collect()
}

#[test]
fn published_ports_answer_at_all_addresses_but_loopback_and_at_the_external_ones() {
    let mut table = search();
    table.services.get_mut("search").unwrap().external = vec![ip("198.51.100.7")];
    let expected = [
        ("127.0.0.1", (1, 0)),
        ("192.0.2.1", (2, SERVES)),
        ("198.51.100.7", (0, OWN)),
        ("2001:db8::1", (2, SERVES)),
        ("::1", (1, 0)),
        ("fe80::1", (2, SERVES)),
    ];
    let expected = expected.map(|(address, local)| (address.to_owned(), local));
    assert_eq!(locals(&table, &facts()), BTreeMap::from(expected));
}

/// Where a port of `search` that is limited so is known on a node: addresses, each with whether clients come by it.
fn spots(node: &str, facts: &NodeFacts, limits: impl FnOnce(&mut PublishedPort)) -> Vec<(String, bool)> {
    let mut table = search();
    let service = table.services.get_mut("search").unwrap();
    service.external = vec![ip("198.51.100.7"), ip("2001:db8:a::7")];
    limits(&mut service.ports[0]);
    let plan = plan(&table, node, facts).unwrap();
    let published = plan.services.keys().filter(|key| key.scope == 0 || key.scope == ServiceKey::ELSEWHERE);
    let mut spots: Vec<_> = published
        .filter(|key| !key.address.is_host_alias())
        .map(|key| {
            assert_eq!((key.port, key.protocol), (9200_u16.to_be_bytes(), 6));
            let address = if key.address.is_unspecified() {
                format!("every v{}", key.family)
            } else {
                IpAddr::from(key.address).to_string()
            };
            (address, key.scope == 0)
        })
        .collect();
    spots.sort();
    // Each single address has an alias for the node's own processes, in the same scope.
    for (key, service) in &plan.services {
        let is_alias = key.address.is_host_alias();
        let is_single = !is_alias && !key.address.is_unspecified() && key.scope == 0;
        if is_single && plan.locals[&key.address].alias != 0 {
            let family = if key.family == 4 { Family::V4 } else { Family::V6 };
            let alias = host_alias(family, plan.locals[&key.address].alias);
            assert_eq!(plan.services[&ServiceKey { address: alias, ..*key }].ring, service.ring);
        }
        assert!(service.sources.is_empty() || key.scope == 0 && !is_alias, "{key:?}");
    }
    spots
}

#[test]
fn ports_are_published_where_they_are_limited_to() {
    let facts = facts();
    let of = |text: &[(&str, bool)]| -> Vec<(String, bool)> {
        text.iter().map(|(address, is_here)| ((*address).to_owned(), *is_here)).collect()
    };
    let everywhere = |is_here| {
        of(&[
            ("198.51.100.7", is_here),
            ("2001:db8:a::7", is_here),
            ("every v4", is_here),
            ("every v6", is_here),
        ])
    };
    assert_eq!(spots("n1", &facts, |_| {}), everywhere(true));
    let on = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(spots("n1", &facts, |port| port.nodes = on(&["n2", "n1"])), everywhere(true));
    assert_eq!(spots("n1", &facts, |port| port.nodes = on(&["n2"])), everywhere(false));
    // At an address of this node's, of another's, at an external one, and for its own processes alone.
    for (address, is_here) in
        [("192.0.2.1", true), ("192.0.2.2", false), ("198.51.100.7", true), ("::1", true)]
    {
        assert_eq!(spots("n1", &facts, |port| port.host_ip = Some(ip(address))), of(&[(address, is_here)]));
    }
    let interface = |name: &str| {
        let name = name.to_owned();
        move |port: &mut PublishedPort| port.interface = Some(name)
    };
    let elsewhere = [("every v4", false), ("every v6", false)];
    assert_eq!(spots("n1", &facts, interface("eth7")), of(&elsewhere));
    let eth0 = [("192.0.2.1", true), ("2001:db8::1", true)];
    assert_eq!(
        spots("n1", &facts, interface("eth0")),
        of(&[eth0.as_slice(), &elsewhere, &[("fe80::1", true)]].concat())
    );
    // Who may ask is asked where clients come in.
    spots("n1", &facts, |port| port.sources = vec!["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn an_address_that_is_no_longer_external_moves_few_others_aliases() {
    let mut table = search();
    let service = table.services.get_mut("search").unwrap();
    service.external = (1..=40).map(|last| ip(&format!("198.51.100.{last}"))).collect();
    let before = plan(&table, "n1", &facts()).unwrap().locals;
    let numbers: BTreeSet<u32> =
        before.values().map(|local| local.alias).filter(|alias| *alias != 0).collect();
    assert_eq!(numbers.len(), 40, "each has its own");
    assert!(numbers.iter().all(|number| (1..=254).contains(number)));
    let service = table.services.get_mut("search").unwrap();
    service.external.remove(7);
    let after = plan(&table, "n1", &facts()).unwrap().locals;
    let moved = after.iter().filter(|(address, local)| before[*address] != **local).count();
    assert!(moved <= 2, "{moved} moved");
    // The same on another node.
    let other = plan(&table, "n2", &facts()).unwrap().locals;
    assert!(after.iter().all(|(address, local)| other[address].alias == local.alias));
}

#[test]
fn published_ports_answer_at_the_addresses_of_the_listed_interfaces_alone() {
    let mut facts = facts();
    let other = |index, name: &str| Interface {
        index,
        name: name.into(),
        mtu: 1500,
        up: true,
        ..Interface::default()
    };
    facts.interfaces.extend([other(9, "eth1"), other(10, "eth2")]);
    for (address, ifindex) in
        [("198.51.100.10", 1), ("198.51.100.7", 1), ("203.0.113.1", 9), ("fe80::1", 9), ("fe80::2", 10)]
    {
        facts.addresses.push(LocalAddress { address: ip(address), prefix_len: 24, ifindex });
    }
    let mut table = search();
    table.services.get_mut("search").unwrap().external = vec![ip("198.51.100.7")];
    table.options.interfaces = vec!["eth1".into()];
    let of = |table: &Table, address: &str| locals(table, &facts)[address];
    // What is not served is the node's own all the same: tunnels come to one of them, and tasks reach the node.
    for (address, local) in [
        ("203.0.113.1", (9, SERVES)),
        ("fe80::1", (9, SERVES)),
        ("198.51.100.7", (1, OWN)),
        ("192.0.2.1", (2, 0)),
        ("2001:db8::1", (2, 0)),
        ("fe80::2", (10, 0)),
        ("198.51.100.10", (1, 0)),
        ("127.0.0.1", (1, 0)),
    ] {
        assert_eq!(of(&table, address), local, "{address}");
    }
    let uplinks = |table: &Table| plan(table, "n1", &facts).unwrap().uplinks.into_keys().collect::<Vec<_>>();
    assert_eq!(uplinks(&table), [2, 9], "tunnels and tasks' packets go on by eth0");
    // An address on the loopback interface is served if that is listed; nothing hangs on it.
    table.options.interfaces = vec!["lo".into(), "eth0".into(), "mesh0".into()];
    let flags = |address| of(&table, address).1;
    assert_eq!(["198.51.100.10", "192.0.2.1", "203.0.113.1"].map(flags), [SERVES, SERVES, 0]);
    assert_eq!(uplinks(&table), [2]);
}

#[test]
fn a_network_says_its_gateways_and_what_the_underlay_leaves_of_its_mtu() {
    let mut table = search();
    network(&mut table, "six", 6, &["fd00:6::/64"]);
    network(&mut table, "four", 4, &["10.4.0.0/24"]);
    table.networks.get_mut("four").unwrap().internal = true;
    table.networks.get_mut("four").unwrap().mtu = Some(1400);
    let plan = plan(&table, "n1", &facts()).unwrap();
    let blue = plan.networks[&4097];
    assert_eq!((blue.gateway_v4, blue.gateway_v6), (ip("10.0.9.1").into(), ip("fd00:9::1").into()));
    assert_eq!((blue.gateway_mac, blue.flags, blue.mtu), ([2, 0x42, 10, 0, 9, 1], 0, 1450));
    let six = plan.networks[&6];
    assert_eq!((six.gateway_v4, six.gateway_mac), (Address::UNSPECIFIED, [2, 0x42, 0, 0, 0, 1]));
    let four = plan.networks[&4];
    assert_eq!(
        (four.gateway_v6, four.flags, four.mtu),
        (Address::UNSPECIFIED, network_flags::INTERNAL, 1400)
    );
    let prefixes: Vec<_> = plan.subnets.iter().map(|(subnet, bits)| (subnet.prefix_len, *bits)).collect();
    let (v4, v6) = ((32 + 96 + 24, 8), (32 + 64, 64));
    assert_eq!(prefixes, [v6, v6, v4, v4]);
}

#[test]
fn one_slow_route_or_ipv6_underlay_lowers_the_mtu_of_networks() {
    let mut table = search();
    let mut facts = facts();
    facts.routes.get_mut(&ip("192.0.2.3")).unwrap().mtu = 1490;
    assert_eq!(plan(&table, "n1", &facts).unwrap().networks[&4097].mtu, 1440);
    table.nodes.insert("n4".into(), Node { address: ip("2001:db8::4"), interface: None });
    facts.routes.insert(ip("2001:db8::4"), NodeRoute { ifindex: 2, mtu: 1500, source: None });
    assert_eq!(plan(&table, "n1", &facts).unwrap().networks[&4097].mtu, 1430);
    facts.routes.get_mut(&ip("192.0.2.3")).unwrap().mtu = 1300;
    let small = plan(&table, "n1", &facts).unwrap();
    assert!(small.problems[0].message.contains("IPv6 needs 1280"), "{:?}", small.problems);
}

#[test]
fn a_network_takes_no_more_than_the_tunnels_whatever_it_is_given() {
    let mut table = search();
    for (mtu, expected) in [(1449, 1449), (1450, 1450), (1451, 1450), (9000, 1450)] {
        table.networks.get_mut("blue").unwrap().mtu = Some(mtu);
        let plan = plan(&table, "n1", &facts()).unwrap();
        assert_eq!(plan.networks[&4097].mtu, expected);
        let told = plan.problems.iter().filter(|problem| problem.subject == "network blue").count();
        assert_eq!(told == 1, mtu > expected, "{:?}", plan.problems);
    }
}

#[test]
fn what_is_missing_below_is_told_and_the_rest_stands() {
    let mut facts = facts();
    facts.routes.remove(&ip("192.0.2.3"));
    facts.addresses.retain(|local| local.address != ip("192.0.2.1"));
    let plan = plan(&search(), "n1", &facts).unwrap();
    assert_eq!(plan.nodes[&ip("192.0.2.3")].ifindex, 0);
    assert_eq!(plan.nodes[&ip("192.0.2.2")].ifindex, 2);
    assert_eq!(plan.services.len(), 4);
    let subjects: Vec<_> = plan.problems.iter().map(|problem| problem.subject.as_str()).collect();
    assert_eq!(subjects, ["node n1", "node n3"]);
}

#[test]
fn the_default_route_leads_through_the_first_network_that_is_not_internal() {
    let mut table = table();
    network(&mut table, "amber", 9, &["10.1.0.0/24"]);
    network(&mut table, "alpha", 8, &["10.2.0.0/24"]);
    table.networks.get_mut("alpha").unwrap().internal = true;
    endpoint(&mut table, "t.blue", "n1", "", "blue", &["10.0.9.20", "fd00:9::20"]);
    endpoint(&mut table, "t.amber", "n1", "", "amber", &["10.1.0.20"]);
    endpoint(&mut table, "t.alpha", "n1", "", "alpha", &["10.2.0.20"]);
    endpoint(&mut table, "other", "n2", "", "blue", &["10.0.9.21"]);
    for name in ["t.blue", "t.amber", "t.alpha"] {
        table.endpoints.get_mut(name).unwrap().netns = Some("/run/netns/t".into());
    }
    let links = plan(&table, "n1", &facts()).unwrap().links;
    assert_eq!(links.endpoints.len(), 3);
    assert_eq!(links.endpoints["t.amber"].gateways, [ip("10.1.0.1")]);
    assert_eq!(links.endpoints["t.blue"].gateways, [ip("fd00:9::1")], "amber has no IPv6");
    assert!(links.endpoints["t.alpha"].gateways.is_empty());
    let blue = &links.endpoints["t.blue"];
    assert_eq!(
        blue.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.9.20/24", "fd00:9::20/64"]
    );
    assert_eq!((blue.mtu, blue.mac), (1450, [2, 0x42, 10, 0, 9, 20]));
}

#[test]
fn a_networks_other_subnets_are_on_the_link_and_each_has_its_gateway() {
    let mut table = table();
    network(&mut table, "wide", 9, &["10.1.0.0/24", "10.2.0.0/25", "fd00:1::/64", "fd00:2::/64"]);
    endpoint(&mut table, "t.1", "n1", "", "wide", &["10.2.0.20", "fd00:1::20"]);
    endpoint(&mut table, "t.2", "n1", "", "wide", &["10.1.0.21"]);
    let of = |table: &Table, name: &str| {
        let link = &plan(table, "n1", &facts()).unwrap().links.endpoints[name];
        let texts = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let gateways = link.gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        [texts(&link.addresses), texts(&link.routes), gateways]
    };
    assert_eq!(
        of(&table, "t.1"),
        ["10.2.0.20/25 fd00:1::20/64", "10.1.0.0/24 fd00:2::/64", "10.2.0.1 fd00:1::1"]
    );
    assert_eq!(of(&table, "t.2"), ["10.1.0.21/24", "10.2.0.0/25", "10.1.0.1"]);
    table.networks.get_mut("wide").unwrap().internal = true;
    assert_eq!(of(&table, "t.2"), ["10.1.0.21/24", "10.2.0.0/25", ""]);
}

#[test]
fn the_nodes_own_packets_come_from_its_own_addresses_where_it_has_them() {
    let gate = |facts: &NodeFacts| plan(&table(), "n1", facts).unwrap().links.gate;
    let mut facts = facts();
    let both = gate(&facts);
    assert_eq!((both.v4.address.to_string(), both.v4.on_mesh0), ("192.0.2.1".into(), false));
    assert_eq!((both.v6.address.to_string(), both.v6.on_mesh0), ("2001:db8::1".into(), false));
    facts.addresses.retain(|local| local.address.is_ipv4());
    let one = gate(&facts);
    assert_eq!((one.v6.address, one.v6.on_mesh0), ("fdfe:6d65:7368::ffff:c000:201".parse().unwrap(), true));
}

#[test]
fn interface_names_are_short_and_distinct() {
    let names: BTreeSet<String> = (0..5000).map(|n| host_interface(&format!("search.{n}"))).collect();
    assert_eq!(names.len(), 5000);
    assert!(names.iter().all(|name| name.len() == 12), "IFNAMSIZ leaves 15");
    assert_eq!(host_interface("search.1"), host_interface("search.1"));
}

#[test]
fn a_gateway_is_an_endpoint_of_each_node_with_tasks_and_of_no_other_nodes_concern() {
    let mut table = search();
    endpoint(&mut table, "search.9", "n1", "search", "blue", &["10.0.9.19", "fd00:9::19"]);
    let mut facts = facts();
    let gateway = |plan: &Plan, address: &str| {
        let key = EndpointKey { address: ip(address).into(), vni: 4097, reserved: 0 };
        plan.endpoints.get(&key).copied()
    };
    let before = plan(&table, "n1", &facts).unwrap();
    let link = &before.links.gateways["blue"];
    assert_eq!((link.host_name.as_str(), link.mac), (&*gateway_interface("blue"), [2, 0x42, 10, 0, 9, 1]));
    assert_eq!(link.addresses, ["10.0.9.1/24".parse().unwrap(), "fd00:9::1/64".parse().unwrap()]);
    assert_eq!(gateway(&before, "10.0.9.1"), None, "it is not attached yet");

    facts.gateways.insert("blue".to_owned(), 40);
    let with = plan(&table, "n1", &facts).unwrap();
    let expected = PlannedEndpoint { mac: [2, 0x42, 10, 0, 9, 1], node: ip("192.0.2.1"), ifindex: 40 };
    for address in ["10.0.9.1", "fd00:9::1"] {
        assert_eq!(gateway(&with, address), Some(expected));
    }
    let attachment = with.attachments[&40];
    assert_eq!((attachment.v4, attachment.v6), (ip("10.0.9.1").into(), ip("fd00:9::1").into()));
    assert_eq!((attachment.vni, attachment.mac), (4097, expected.mac));
    assert_eq!(with.hooks[&40], Hook::Endpoint);
    assert_eq!((&with.stations, &with.backends), (&before.stations, &before.backends));

    // Another node has its own, and one without tasks of the network none.
    let elsewhere = plan(&table, "n2", &NodeFacts { gateways: BTreeMap::new(), ..facts.clone() }).unwrap();
    assert_eq!(gateway(&elsewhere, "10.0.9.1"), None);
    network(&mut table, "empty", 4099, &["10.0.8.0/24"]);
    assert_eq!(plan(&table, "n1", &facts).unwrap().links.gateways.keys().collect::<Vec<_>>(), ["blue"]);

    table.options.dns = false;
    let without = plan(&table, "n1", &facts).unwrap();
    assert!(without.links.gateways.is_empty() && without.resolvers.is_empty());
    assert!(gateway(&without, "10.0.9.1").is_none() && !without.attachments.contains_key(&40));
    assert!(!without.hooks.contains_key(&40));
}

#[test]
fn a_task_asks_its_first_networks_gateway_first() {
    let mut table = table();
    network(&mut table, "amber", 4098, &["10.0.8.0/24", "10.0.7.0/24"]);
    endpoint(&mut table, "a", "n1", "", "blue", &["10.0.9.11"]);
    endpoint(&mut table, "b", "n1", "", "amber", &["10.0.8.11"]);
    endpoint(&mut table, "other", "n1", "", "blue", &["10.0.9.12"]);
    endpoint(&mut table, "far", "n2", "", "blue", &["10.0.9.13"]);
    let room = table.endpoints["a"].netns.clone();
    table.endpoints.get_mut("b").unwrap().netns = room;
    let plan = plan(&table, "n1", &facts()).unwrap();
    let servers = |name: &str| -> Vec<String> {
        plan.resolvers[name].name_servers.iter().map(ToString::to_string).collect()
    };
    assert_eq!(servers("a"), ["10.0.8.1", "10.0.9.1", "fd00:9::1"]);
    assert_eq!(servers("a"), servers("b"));
    assert_eq!(servers("other"), ["10.0.9.1", "fd00:9::1"]);
    assert!(!plan.resolvers.contains_key("far"));
    // Of several subnets of a family, the first has the gateway that answers.
    assert_eq!(plan.links.gateways["amber"].addresses, ["10.0.8.1/24".parse().unwrap()]);
    assert_eq!(plan.links.gateways["amber"].routes, ["10.0.7.0/24".parse().unwrap()]);
}
