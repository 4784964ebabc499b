//! What commands add to the file's wishes: what they get, what they are refused, and what stays as it was.

use std::net::IpAddr;

use mesh_userspace::{
    config::{self, pick_node},
    spec::{Endpoint, Fault, Given, Membership, Network, Origin, Service, Spec, published_ports, resolve},
    table::{EndpointMode, Table},
};

const FILE: &str = r#"
nodes:
  n1: {address: 192.0.2.1}
  n2: {address: 192.0.2.2}
networks:
  blue: {vni: 4097, subnets: [10.0.9.0/24, "fd00:9::/64"]}
services:
  search: {networks: [blue], ports: ["9200:9200"]}
endpoints:
  - {name: search.1, node: n1, service: search, network: blue, address: 10.0.9.11, netns: search1}
"#;

fn spec_of(text: &str) -> Spec {
    config::parse("mesh.yaml", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}")).spec
}

fn spec() -> Spec {
    spec_of(FILE)
}

fn table(spec: &Spec) -> Table {
    resolve(spec).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(spec: &Spec) -> String {
    resolve(spec).expect_err("a fault").to_string()
}

fn by(command: &'static str) -> Origin {
    Origin::command(command)
}

fn given<T>(value: T) -> Given<T> {
    Given::new(value, by("meshctl attach"))
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        origin: by("meshctl attach"),
        name: given(name.to_owned()),
        node: given("n1".to_owned()),
        service: None,
        weight: None,
        network: given("blue".to_owned()),
        addresses: Vec::new(),
        mac: None,
        netns: None,
        aliases: Vec::new(),
        remembered: Vec::new(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| address(text)).collect()
}

fn on_blue() -> Service {
    Service {
        origin: by("meshctl services create"),
        networks: vec![given("blue".to_owned())],
        ..Service::default()
    }
}

#[test]
fn a_task_joins_and_leaves() {
    let mut spec = spec();
    let before = table(&spec);
    spec.add_endpoint(Endpoint { service: Some(given("search".to_owned())), ..endpoint("late") })
        .expect("room");
    let after = table(&spec);
    // .1 is the gateway, .2 the VIP.
    assert_eq!(after.endpoints["late"].addresses, addresses(&["10.0.9.3", "fd00:9::a00:903"]));
    assert_eq!(after.endpoints["late"].mac, [0x02, 0x42, 10, 0, 9, 3]);
    assert_eq!(after.services, before.services);
    spec.remove_endpoint("late").expect("it is there");
    assert_eq!(table(&spec), before);
}

#[test]
fn networks_and_services_come_and_go() {
    let mut spec = spec();
    let before = table(&spec);
    let network = Network { origin: by("meshctl networks create"), ..Network::default() };
    spec.add_network("green", network).expect("a new name");
    let mut service = on_blue();
    service.networks.push(given("green".to_owned()));
    service.ports = published_ports("80:8080").expect("a port").into_iter().map(given).collect();
    spec.add_service("web", service).expect("a new name");
    let after = table(&spec);
    assert_eq!((after.networks["green"].vni, after.networks["green"].subnets.len()), (4096, 1));
    assert_eq!(after.services["web"].vips["green"], addresses(&["10.0.0.2"]));
    assert_eq!(after.services["web"].vips["blue"], addresses(&["10.0.9.3", "fd00:9::a00:903"]));

    let told = |fault: Fault| fault.to_string();
    assert_eq!(
        spec.remove_network("green").map_err(told).expect_err("it is used"),
        r#"The network "green" is still used by the service "web"; remove them first."#
    );
    spec.remove_service("web").expect("it is there");
    spec.remove_network("green").expect("nobody is on it");
    assert_eq!(table(&spec), before);
}

#[test]
fn what_stands_in_the_file_is_changed_there() {
    let mut spec = spec();
    let untouched = spec.clone();
    let told: Vec<String> = [
        spec.remove_endpoint("search.1").map(drop),
        spec.remove_service("search").map(drop),
        spec.remove_network("blue").map(drop),
        spec.replace_service("search", on_blue()),
        spec.remove_endpoint("nobody").map(drop),
        spec.remove_network("nowhere").map(drop),
        spec.add_endpoint(endpoint("search.1")),
        spec.add_service("search", on_blue()),
    ]
    .into_iter()
    .map(|result| result.expect_err("a refusal").to_string())
    .collect();
    assert_eq!(
        told,
        [
            r#"The endpoint "search.1" stands in the file (mesh.yaml:10:5); change it there."#,
            r#"The service "search" stands in the file (mesh.yaml:8:3); change it there."#,
            r#"The network "blue" stands in the file (mesh.yaml:6:3); change it there."#,
            r#"The service "search" stands in the file (mesh.yaml:8:3); change it there."#,
            r#"There is no endpoint "nobody"; `meshctl endpoints ls` lists them."#,
            r#"There is no network "nowhere"; `meshctl networks ls` lists them."#,
            r#"There is an endpoint "search.1" already (mesh.yaml:10:5); choose another name."#,
            r#"There is a service "search" already (mesh.yaml:8:3); choose another name."#,
        ]
    );
    assert_eq!(spec, untouched);
}

#[test]
fn a_commands_faults_are_plain_sentences() {
    for (change, expected) in [
        (
            Endpoint { addresses: vec![given(address("10.0.9.11"))], ..endpoint("t") },
            r#"The endpoint "t" has the address 10.0.9.11, which the endpoint "search.1" has too (mesh.yaml:10:73); give it another."#,
        ),
        (
            Endpoint { addresses: vec![given(address("10.0.8.11"))], ..endpoint("t") },
            r#"The endpoint "t" has the address 10.0.8.11, which is outside of the network "blue"; give it one of 10.0.9.0/24 or fd00:9::/64."#,
        ),
        (
            Endpoint { network: given("bleu".to_owned()), ..endpoint("t") },
            r#"The endpoint "t" is on the network "bleu", which does not exist; did you mean "blue"?"#,
        ),
        (
            Endpoint { node: given("n3".to_owned()), ..endpoint("t") },
            r#"The endpoint "t" is on the node "n3", which does not exist; there are "n1" and "n2"."#,
        ),
        (
            Endpoint { name: given("t/1".to_owned()), ..endpoint("t") },
            r#""t/1" cannot be the name of an endpoint; take up to 128 letters, digits, ".", "_" and "-" that begin with a letter or a digit."#,
        ),
        (
            Endpoint { mac: Some(given([1, 0, 0, 0, 0, 0])), ..endpoint("t") },
            r#"The endpoint "t" cannot have the MAC address 01:00:00:00:00:00, which is not that of one interface; give it one such as 02:42:0a:00:09:0b."#,
        ),
    ] {
        let mut spec = spec();
        spec.add_endpoint(change).expect("a new name");
        assert_eq!(faults(&spec), expected);
    }
}

#[test]
fn whoever_asks_for_an_address_gets_it_before_whoever_does_not() {
    let mut spec = spec();
    assert_eq!(table(&spec).services["search"].vips["blue"], addresses(&["10.0.9.2", "fd00:9::a00:902"]));
    spec.add_endpoint(Endpoint { addresses: vec![given(address("10.0.9.2"))], ..endpoint("t") })
        .expect("new");
    let table = table(&spec);
    assert_eq!(table.endpoints["t"].addresses, addresses(&["10.0.9.2", "fd00:9::a00:902"]));
    assert_eq!(table.services["search"].vips["blue"], addresses(&["10.0.9.3", "fd00:9::a00:903"]));
}

#[test]
fn an_allocated_address_never_has_a_derived_one_that_is_taken() {
    let mut spec = spec();
    let six = Endpoint { addresses: vec![given(address("fd00:9::a00:902"))], ..endpoint("six") };
    // From its IPv6 address follows the IPv4 address that the VIP would have had.
    spec.add_endpoint(six).expect("new");
    assert_eq!(table(&spec).endpoints["six"].addresses, addresses(&["10.0.9.2", "fd00:9::a00:902"]));
    let mut apart = Endpoint { addresses: vec![given(address("fd00:9::a00:903"))], ..endpoint("apart") };
    apart.addresses.push(given(address("10.0.9.77")));
    spec.add_endpoint(apart).expect("new");
    assert_eq!(table(&spec).services["search"].vips["blue"], addresses(&["10.0.9.4", "fd00:9::a00:904"]));
}

#[test]
fn an_ipv6_address_without_a_counterpart_gets_the_first_free_ipv4_address() {
    let mut spec = spec();
    let plain = Endpoint { addresses: vec![given(address("fd00:9::11"))], ..endpoint("plain") };
    spec.add_endpoint(plain).expect("new");
    let table = table(&spec);
    assert_eq!(table.endpoints["plain"].addresses, addresses(&["10.0.9.3", "fd00:9::11"]));
    assert_eq!(table.endpoints["plain"].mac, [0x02, 0x42, 10, 0, 9, 3]);
}

#[test]
fn a_small_ipv6_subnet_is_allocated_from() {
    let spec = spec_of(
        "nodes: {n1: {address: 192.0.2.1}}\n\
         networks: {blue: {subnets: [10.0.9.0/24, \"fd00:9::/112\"]}}\n\
         services: {search: {networks: [blue]}}\n\
         endpoints: [{name: t, node: n1, network: blue, address: 10.0.9.11}]\n",
    );
    let table = table(&spec);
    assert_eq!(table.services["search"].vips["blue"], addresses(&["10.0.9.2", "fd00:9::2"]));
    assert_eq!(table.endpoints["t"].addresses, addresses(&["10.0.9.11", "fd00:9::3"]));
}

#[test]
fn what_a_command_was_given_stays() {
    let mut spec = spec();
    spec.add_endpoint(endpoint("z")).expect("new");
    let before = table(&spec);
    assert_eq!(before.endpoints["z"].addresses, addresses(&["10.0.9.3", "fd00:9::a00:903"]));
    spec.remember(&before);
    spec.add_endpoint(endpoint("a")).expect("new");
    let after = table(&spec);
    assert_eq!(after.endpoints["z"], before.endpoints["z"]);
    assert_eq!(after.endpoints["a"].addresses, addresses(&["10.0.9.4", "fd00:9::a00:904"]));

    // The file is read again, and asks for the address itself.
    let mut reloaded =
        spec_of(&FILE.replace("networks: [blue],", "networks: [blue], vip: {blue: 10.0.9.3},"));
    reloaded.adopt(&spec).expect("no name is taken");
    let after = table(&reloaded);
    assert_eq!(after.services["search"].vips["blue"], addresses(&["10.0.9.3", "fd00:9::a00:903"]));
    assert_ne!(after.endpoints["z"].addresses, before.endpoints["z"].addresses);

    // The file is read again, and has the name now.
    let mut reloaded = spec_of(&FILE.replace("search.1", "z"));
    assert_eq!(
        reloaded.adopt(&spec).expect_err("the name is taken").to_string(),
        r#"There is an endpoint "z" already (mesh.yaml:10:5); choose another name."#
    );
}

#[test]
fn a_replaced_service_keeps_its_virtual_ip() {
    let mut spec = spec();
    spec.add_service("web", on_blue()).expect("new");
    let before = table(&spec);
    spec.remember(&before);
    spec.replace_service("web", Service { endpoint_mode: EndpointMode::Vip, ..on_blue() })
        .expect("it is there");
    spec.add_service("before", on_blue()).expect("new");
    assert_eq!(table(&spec).services["web"], before.services["web"]);
}

#[test]
fn the_state_survives_as_json() {
    let mut spec = spec();
    spec.add_endpoint(endpoint("late")).expect("new");
    spec.add_service("web", on_blue()).expect("new");
    let before = table(&spec);
    spec.remember(&before);
    let json = serde_json::to_string(&spec.by_command()).expect("JSON");
    assert!(!json.contains("search"), "what stands in the file is not kept twice: {json}");
    let mut restarted = spec_of(FILE);
    restarted.adopt(&serde_json::from_str(&json).expect("a specification")).expect("no name is taken");
    assert_eq!(table(&restarted), before);
}

#[test]
fn names_for_the_nameless() {
    let mut spec = spec();
    assert_eq!(spec.free_endpoint_name("search"), "search.2");
    spec.add_endpoint(endpoint("web.1")).expect("new");
    assert_eq!(spec.free_endpoint_name("web"), "web.2");
}

#[test]
fn a_daemon_finds_its_node() {
    let mut table = table(&spec());
    let picked = |table: &Table, told, host| pick_node(table, told, host).map_err(|fault| fault.to_string());
    assert_eq!(picked(&table, Some("n2"), "elsewhere"), Ok("n2".to_owned()));
    assert_eq!(picked(&table, None, "n1"), Ok("n1".to_owned()));
    assert_eq!(picked(&table, None, "n1.example.org"), Ok("n1".to_owned()));
    assert_eq!(
        picked(&table, Some("n3"), "n1"),
        Err(r#"There is no node "n3"; the nodes are n1 and n2."#.to_owned())
    );
    assert_eq!(
        picked(&table, None, "laptop"),
        Err(r#"No node is named like this host, "laptop"; name one with --node NAME (the nodes are n1 and n2)."#
            .to_owned())
    );
    let node = table.nodes["n1"].clone();
    table.nodes.insert("n3.example.org".to_owned(), node.clone());
    assert_eq!(picked(&table, None, "n3"), Ok("n3.example.org".to_owned()));
    assert!(picked(&table, None, "n3.example.net").is_err());
    table.nodes.insert("n3.example.net".to_owned(), node);
    assert!(picked(&table, None, "n3").is_err(), "two nodes might be meant");
    assert!(picked(&table, None, "").is_err());
}

fn weighed(spec: &mut Spec, name: &str, weight: u16) {
    let now = Membership { service: Some("search".to_owned()), weight: Some(weight) };
    spec.set_membership(name, now, &by("meshctl backends weight")).expect("it is there");
}

/// The weight after the file was read again, as it is kept in memory or over a restart.
fn after_reload(spec: &Spec, file: &str, restarted: bool) -> (u16, bool) {
    let earlier = if restarted {
        let kept = serde_json::to_string(&spec.by_command()).expect("JSON");
        serde_json::from_str(&kept).expect("the same again")
    } else {
        spec.clone()
    };
    let mut again = spec_of(file);
    again.adopt(&earlier).expect("nothing clashes");
    (table(&again).endpoints["search.1"].weight, !again.overrides.is_empty())
}

#[test]
fn a_drained_backend_of_the_file_stays_drained_until_the_file_says_otherwise() {
    let mut spec = spec();
    weighed(&mut spec, "search.1", 0);
    assert_eq!(table(&spec).endpoints["search.1"].weight, 0);
    let elsewhere = FILE.replace("9200:9200", "9300:9200");
    let newer = FILE.replace("netns: search1", "netns: search1, weight: 7");
    for restarted in [false, true] {
        assert_eq!(after_reload(&spec, FILE, restarted), (0, true));
        assert_eq!(after_reload(&spec, &elsewhere, restarted), (0, true));
        assert_eq!(after_reload(&spec, &newer, restarted), (7, false), "the file is the newer word");
    }
}

#[test]
fn a_backend_by_command_keeps_its_weight_with_itself() {
    let mut spec = spec();
    let late = Endpoint { service: Some(given("search".to_owned())), ..endpoint("late") };
    spec.add_endpoint(late).expect("room");
    assert_eq!(table(&spec).endpoints["late"].weight, 1);
    weighed(&mut spec, "late", 5);
    assert!(spec.overrides.is_empty());
    let mut again = spec_of(FILE);
    again.adopt(&spec.by_command()).expect("nothing clashes");
    assert_eq!(table(&again).endpoints["late"].weight, 5);
    assert!(spec.set_membership("nobody", Membership::default(), &by("meshctl")).is_err());
}
