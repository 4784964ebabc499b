//! Answers for every kind of name, and for any bytes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use proptest::prelude::*;

use super::{Asker, NEGATIVE_TTL, Names, Reaction, TTL, react};
use crate::{
    plan::testing::{endpoint, ip, network, service, table},
    table::{EndpointMode, Protocol, PublishMode, PublishedPort, Table},
};

/// `blue` and `red` have the same addresses. `search` is on both, each with tasks of its own; `pool` has no virtual IP; one
/// task is on both networks; `vault` is internal.
fn sample() -> Table {
    let mut table = table();
    network(&mut table, "red", 4098, &["10.0.9.0/24", "fd00:9::/64"]);
    network(&mut table, "Vault", 4099, &["10.0.11.0/24"]);
    table.networks.get_mut("Vault").unwrap().internal = true;
    let vips: &[&str] = &["10.0.9.2", "fd00:9::2"];
    service(&mut table, "search", &[("blue", vips), ("red", &["10.0.9.7"])], &[(9200, 9201)]);
    let udp = PublishedPort {
        published: 53,
        target: 5353,
        protocol: Protocol::Udp,
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    };
    table.services.get_mut("search").unwrap().ports.push(udp);
    service(&mut table, "Pool", &[], &[]);
    table.services.get_mut("Pool").unwrap().endpoint_mode = EndpointMode::Dnsrr;
    service(&mut table, "lonely", &[("blue", &["10.0.9.3"])], &[]);
    endpoint(&mut table, "search.1", "n1", "search", "blue", &["10.0.9.11", "fd00:9::11"]);
    endpoint(&mut table, "search.2", "n2", "search", "blue", &["10.0.9.12", "fd00:9::12"]);
    endpoint(&mut table, "search.3", "n2", "search", "red", &["10.0.9.13"]);
    endpoint(&mut table, "Pool.1", "n1", "Pool", "blue", &["10.0.9.21"]);
    endpoint(&mut table, "Pool.2", "n2", "Pool", "blue", &["10.0.9.22"]);
    endpoint(&mut table, "Pool.3", "n2", "Pool", "blue", &["10.0.9.23"]);
    endpoint(&mut table, "drained", "n2", "search", "blue", &["10.0.9.14"]);
    table.endpoints.get_mut("drained").unwrap().weight = 0;
    endpoint(&mut table, "safe", "n1", "", "Vault", &["10.0.11.5"]);
    endpoint(&mut table, "both.blue", "n1", "", "blue", &["10.0.9.31"]);
    endpoint(&mut table, "both.vault", "n1", "", "Vault", &["10.0.11.31"]);
    table.services.get_mut("search").unwrap().aliases = vec!["Elastic".to_owned(), "data".to_owned()];
    table.endpoints.get_mut("Pool.1").unwrap().aliases = vec!["data".to_owned(), "pool".to_owned()];
    let room = table.endpoints["both.blue"].netns.clone();
    table.endpoints.get_mut("both.vault").unwrap().netns = room;
    table
}

fn names_of(table: &Table) -> Names {
    Names::default().follow(&Arc::new(table.clone()), "n1", 7)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// A task that nobody else shares a namespace with.
const CLIENT: &str = "10.0.9.99";

fn asker<'a>(network: &'a str, client: &str) -> Asker<'a> {
    Asker { network, client: ip(client), by_tcp: false }
}

fn answered(reaction: Reaction) -> Message {
    let Reaction::Answer(bytes) = reaction else { panic!("{reaction:?}") };
    Message::from_vec(&bytes).unwrap()
}

fn ask(table: &Table, network: &str, name: &str, kind: RecordType) -> Message {
    let bytes = question(name, kind).to_vec().unwrap();
    answered(react(&bytes, asker(network, CLIENT), &names_of(table), 1))
}

fn addresses(message: &Message) -> BTreeSet<IpAddr> {
    assert_eq!(message.response_code, ResponseCode::NoError, "{message}");
    assert!(message.answers.iter().all(|record| record.ttl == TTL));
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

/// Of which zone, and until when, it is said that there is nothing.
fn authority(message: &Message) -> String {
    assert!(message.answers.is_empty(), "{message}");
    let [record] = message.authorities.as_slice() else { panic!("{message}") };
    let RData::SOA(soa) = &record.data else { panic!("{message}") };
    assert_eq!((soa.serial, soa.minimum, record.ttl), (7, NEGATIVE_TTL, NEGATIVE_TTL));
    record.name.to_ascii()
}

#[test]
fn each_kind_of_name_has_its_addresses() {
    let table = sample();
    for (network, name, kind, expected) in [
        ("blue", "search.", RecordType::A, &["10.0.9.2"][..]),
        ("blue", "SeArCh.", RecordType::A, &["10.0.9.2"]),
        ("blue", "search.", RecordType::AAAA, &["fd00:9::2"]),
        ("blue", "search.", RecordType::ANY, &["10.0.9.2", "fd00:9::2"]),
        ("blue", "search.blue.", RecordType::A, &["10.0.9.2"]),
        ("red", "search.", RecordType::A, &["10.0.9.7"]),
        ("red", "search.RED.", RecordType::A, &["10.0.9.7"]),
        ("blue", "tasks.search.", RecordType::A, &["10.0.9.11", "10.0.9.12"]),
        ("blue", "tasks.search.blue.", RecordType::AAAA, &["fd00:9::11", "fd00:9::12"]),
        ("red", "tasks.search.", RecordType::A, &["10.0.9.13"]),
        ("blue", "search.1.", RecordType::A, &["10.0.9.11"]),
        ("blue", "search.1.blue.", RecordType::A, &["10.0.9.11"]),
        ("blue", "drained.", RecordType::A, &["10.0.9.14"]),
        ("blue", "pool.", RecordType::A, &["10.0.9.21", "10.0.9.22", "10.0.9.23"]),
        ("blue", "pool.2.", RecordType::A, &["10.0.9.22"]),
        ("blue", "tasks.POOL.blue.", RecordType::A, &["10.0.9.21", "10.0.9.22", "10.0.9.23"]),
        ("Vault", "safe.vault.", RecordType::A, &["10.0.11.5"]),
        // Aliases: of one, of several together, and behind a name.
        ("blue", "elastic.", RecordType::AAAA, &["fd00:9::2"]),
        ("red", "ELASTIC.red.", RecordType::A, &["10.0.9.7"]),
        ("blue", "data.", RecordType::A, &["10.0.9.2", "10.0.9.21"]),
        ("red", "data.", RecordType::A, &["10.0.9.7"]),
    ] {
        let message = ask(&table, network, name, kind);
        assert_eq!(addresses(&message), ips(expected), "{name} {kind} on {network}");
        assert!(message.authoritative && message.recursion_available && message.recursion_desired);
        assert_eq!((message.id, message.message_type), (0x1234, MessageType::Response));
        // What asks in a case of its own wants it back.
        assert_eq!(message.queries[0].name().to_ascii(), name);
    }
}

#[test]
fn many_addresses_come_in_an_order_of_chance() {
    let names = names_of(&sample());
    let bytes = question("pool.", RecordType::A).to_vec().unwrap();
    let first = |chance| {
        let message = answered(react(&bytes, asker("blue", CLIENT), &names, chance));
        message.answers[0].data.ip_addr().unwrap()
    };
    let count = |address: &str| (0..3000).filter(|chance| first(*chance) == ip(address)).count();
    for address in ["10.0.9.21", "10.0.9.22", "10.0.9.23"] {
        assert!((900..1100).contains(&count(address)), "{address}: {}", count(address));
    }
}

#[test]
fn a_known_name_without_the_kind_is_no_error() {
    let table = sample();
    for (network, name, kind, zone) in [
        ("blue", "search.", RecordType::MX, "."),
        ("blue", "search.", RecordType::HTTPS, "."),
        ("red", "search.", RecordType::AAAA, "."),
        ("blue", "search.blue.", RecordType::TXT, "blue."),
        ("blue", "pool.", RecordType::AAAA, "."),
        ("blue", "tasks.lonely.", RecordType::A, "."),
        ("blue", "blue.", RecordType::A, "blue."),
        ("blue", "_tcp.search.", RecordType::SRV, "."),
        ("blue", "_81._tcp.search.", RecordType::SRV, "."),
        ("blue", "_9200._udp.search.", RecordType::SRV, "."),
        ("blue", "9.0.10.in-addr.arpa.", RecordType::NS, "0.10.in-addr.arpa."),
    ] {
        let message = ask(&table, network, name, kind);
        assert_eq!(message.response_code, ResponseCode::NoError, "{name} {kind}");
        assert_eq!(authority(&message), zone, "{name} {kind}");
    }
}

#[test]
fn an_unknown_name_of_ours_is_none_for_sure() {
    let table = sample();
    for (network, name, zone) in [
        ("blue", "nobody.", "."),
        ("blue", "nobody.blue.", "blue."),
        ("blue", "tasks.nobody.blue.", "blue."),
        // Another network's, and there is none of the name here.
        ("red", "search.1.", "."),
        ("red", "pool.", "."),
        ("red", "lonely.", "."),
        ("blue", "safe.", "."),
        ("blue", "search.9.", "."),
        ("blue", "99.9.0.10.in-addr.arpa.", "9.0.10.in-addr.arpa."),
        // An internal network has no other names.
        ("Vault", "example.org.", "."),
        ("Vault", "search.blue.", "."),
    ] {
        let message = ask(&table, network, name, RecordType::A);
        assert_eq!(message.response_code, ResponseCode::NXDomain, "{name} on {network}");
        assert_eq!(authority(&message), zone, "{name} on {network}");
    }
}

#[test]
fn other_names_are_for_the_hosts_resolvers() {
    let names = names_of(&sample());
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("safe.vault.", RecordType::A),
        ("search.example.org.", RecordType::A),
        ("tasks.example.", RecordType::A),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR),
        ("5.11.0.10.in-addr.arpa.", RecordType::PTR),
        (".", RecordType::NS),
        ("org.", RecordType::DS),
        ("_9200._tcp.example.org.", RecordType::SRV),
    ] {
        let bytes = question(name, kind).to_vec().unwrap();
        let reaction = react(&bytes, asker("blue", CLIENT), &names, 1);
        assert_eq!(reaction, Reaction::Forward { longest: 512 }, "{name}");
    }
    // A byte that no name of ours has.
    let mut message = question("a.b.", RecordType::A);
    let odd = Name::from_labels([&b"a.b"[..], b"blue"]).unwrap();
    message.queries[0].set_name(odd);
    let reaction = react(&message.to_vec().unwrap(), asker("blue", CLIENT), &names, 1);
    assert_eq!(reaction, Reaction::Forward { longest: 512 });
}

#[test]
fn a_task_on_several_networks_sees_all_of_them_and_no_others() {
    let table = sample();
    let names = names_of(&table);
    let from = |network, client: &str, name| {
        let bytes = question(name, RecordType::A).to_vec().unwrap();
        react(&bytes, asker(network, client), &names, 1)
    };
    assert_eq!(addresses(&answered(from("blue", "10.0.9.31", "safe."))), ips(&["10.0.11.5"]));
    assert_eq!(addresses(&answered(from("Vault", "10.0.11.31", "search."))), ips(&["10.0.9.2"]));
    // One of them leads outside.
    assert_eq!(from("Vault", "10.0.11.31", "example.org."), Reaction::Forward { longest: 512 });
    let elsewhere = names.follow(&Arc::new(table), "n2", 8);
    let bytes = question("safe.", RecordType::A).to_vec().unwrap();
    let message = answered(react(&bytes, asker("blue", "10.0.9.31"), &elsewhere, 1));
    assert_eq!(message.response_code, ResponseCode::NXDomain, "it is another node's task");
}

#[test]
fn an_address_has_a_name() {
    let table = sample();
    for (network, name, expected) in [
        ("blue", "2.9.0.10.in-addr.arpa.", "search.blue."),
        ("blue", "11.9.0.10.IN-ADDR.arpa.", "search.1.blue."),
        ("red", "13.9.0.10.in-addr.arpa.", "search.3.red."),
        ("red", "7.9.0.10.in-addr.arpa.", "search.red."),
        (
            "blue",
            "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa.",
            "search.1.blue.",
        ),
    ] {
        let message = ask(&table, network, name, RecordType::PTR);
        let pointers: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(pointers, [expected], "{name} on {network}");
    }
}

#[test]
fn a_port_leads_to_the_tasks_that_have_it() {
    let table = sample();
    for (name, port) in
        [("_9200._tcp.search.", 9201), ("_9201._TCP.search.blue.", 9201), ("_53._udp.search.", 5353)]
    {
        let message = ask(&table, "blue", name, RecordType::SRV);
        let mut servers: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        servers.sort();
        let expected = [format!("0 1 {port} search.1.blue."), format!("0 1 {port} search.2.blue.")];
        assert_eq!(servers, expected, "{name}");
        let beside: BTreeSet<IpAddr> =
            message.additionals.iter().filter_map(|record| record.data.ip_addr()).collect();
        assert_eq!(beside, ips(&["10.0.9.11", "10.0.9.12", "fd00:9::11", "fd00:9::12"]));
    }
}

/// A service with so many tasks.
fn crowd(tasks: u16) -> Table {
    let mut table = table();
    network(&mut table, "wide", 5000, &["10.0.0.0/16"]);
    service(&mut table, "many", &[], &[]);
    table.services.get_mut("many").unwrap().endpoint_mode = EndpointMode::Dnsrr;
    for number in 0..tasks {
        let [high, low] = (number + 10).to_be_bytes();
        let address = format!("10.0.{high}.{low}");
        endpoint(&mut table, &format!("many.{number}"), "n1", "many", "wide", &[&address]);
    }
    table
}

#[test]
fn what_is_too_long_is_cut_and_whole_by_tcp() {
    let names = names_of(&crowd(1500));
    let cut = |edns: Option<u16>, by_tcp| {
        let mut message = question("many.", RecordType::A);
        message.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(true);
            edns
        });
        let asker = Asker { by_tcp, ..asker("wide", CLIENT) };
        let Reaction::Answer(bytes) = react(&message.to_vec().unwrap(), asker, &names, 1) else { panic!() };
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.edns.is_some(), edns.is_some());
        assert!(answer.edns.as_ref().is_none_or(|edns| edns.flags().dnssec_ok));
        (bytes.len(), answer.answers.len(), answer.truncation)
    };
    for (edns, longest) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(65535), 1232)] {
        let (bytes, records, truncated) = cut(edns, false);
        assert!(truncated && bytes <= longest, "{edns:?}: {bytes}");
        // Each record takes 16 bytes.
        assert!(records >= (longest - 100) / 16, "{edns:?}: {records} in {bytes}");
    }
    let (bytes, records, truncated) = cut(None, true);
    assert!(!truncated && records == 1000, "{bytes} bytes, {records} records");
}

#[test]
fn what_is_no_question_of_ours_is_refused_or_not_heard() {
    let names = names_of(&sample());
    let code = |message: &[u8]| answered(react(message, asker("blue", CLIENT), &names, 1)).response_code;
    let of = |change: &dyn Fn(&mut Message)| {
        let mut message = question("search.", RecordType::A);
        change(&mut message);
        message.to_vec().unwrap()
    };
    assert_eq!(code(&of(&|message| message.metadata.op_code = OpCode::Update)), ResponseCode::NotImp);
    let chaos = of(&|message| {
        message.queries[0].set_query_class(DNSClass::CH);
    });
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let transfer = of(&|message| {
        message.queries[0].set_query_type(RecordType::AXFR);
    });
    assert_eq!(code(&transfer), ResponseCode::Refused);
    let newer = of(&|message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        message.edns = Some(edns);
    });
    // Its number is that of BADSIG as well (RFC 6895, section 2.3).
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
    let two = of(&|message| {
        let again = message.queries[0].clone();
        message.queries.push(again);
    });
    assert_eq!(code(&two), ResponseCode::FormErr);
    let none = of(&|message| message.queries.clear());
    assert_eq!(code(&none), ResponseCode::FormErr);
    let whole = of(&|_| {});
    assert_eq!(code(&whole[..whole.len() - 1]), ResponseCode::FormErr);
    for silent in [&whole[..11], &of(&|message| message.metadata.message_type = MessageType::Response), &[]] {
        assert_eq!(react(silent, asker("blue", CLIENT), &names, 1), Reaction::Silence);
    }
}

fn table_of(endpoints: &[(u8, u8, bool, u8)], services: &[(u8, u8)]) -> Table {
    let mut table = table();
    network(&mut table, "red", 4098, &["10.0.9.0/24"]);
    let networks = ["blue", "red"];
    for (number, vip) in services {
        let on = networks[usize::from(vip % 2)];
        let vip = format!("10.0.9.{}", 100 + number);
        let name = format!("S{number}");
        service(&mut table, &name, &[(on, &[&vip])], &[]);
        table.services.get_mut(&name).unwrap().aliases = vec![format!("A{}", number / 2)];
    }
    for (number, of, here, on) in endpoints {
        let address = format!("10.0.9.{}", 10 + number);
        let node = if *here { "n1" } else { "n2" };
        let name = if number % 2 == 0 { format!("t{number}") } else { format!("T{number}") };
        let network = networks[usize::from(on % 2)];
        endpoint(&mut table, &name, node, &format!("S{of}"), network, &[&address]);
        table.endpoints.get_mut(&name).unwrap().aliases = vec![format!("a{of}"), format!("b{}", on % 3)];
        table.endpoints.get_mut(&name).unwrap().netns = Some(format!("/run/netns/{}", number % 3).into());
    }
    table
}

proptest! {
    #[test]
    fn names_that_follow_a_change_are_the_same_as_those_made_anew(
        tables in proptest::collection::vec(
            (
                proptest::collection::vec((0u8..9, 0u8..4, any::<bool>(), any::<u8>()), 0..12),
                proptest::collection::vec((0u8..4, any::<u8>()), 0..4),
            ),
            1..6,
        ),
    ) {
        let mut names = Names::default();
        for (endpoints, services) in tables {
            let table = Arc::new(table_of(&endpoints, &services));
            names = names.follow(&table, "n1", 7);
            prop_assert_eq!(&names, &Names::default().follow(&table, "n1", 7));
        }
    }

    #[test]
    fn any_bytes_are_answered_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..600), by_tcp: bool) {
        within_bounds(&bytes, by_tcp)?;
    }

    #[test]
    fn any_question_altered_is_answered_within_bounds(
        which in 0usize..6,
        kind in any::<u16>(),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        cut in any::<usize>(),
        by_tcp: bool,
    ) {
        let name = ["search.", "_9200._tcp.search.blue.", "pool.", "2.9.0.10.in-addr.arpa.", "a.blue.", "."][which];
        let mut message = question(name, RecordType::from(kind));
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        for (at, to) in changes {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        if cut % 4 == 0 {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        within_bounds(&bytes, by_tcp)?;
    }
}

fn within_bounds(bytes: &[u8], by_tcp: bool) -> Result<(), TestCaseError> {
    let names = names_of(&sample());
    let asker = Asker { by_tcp, ..asker("blue", CLIENT) };
    if let Reaction::Answer(answer) = react(bytes, asker, &names, 1) {
        prop_assert!(answer.len() >= 12 && (by_tcp || answer.len() <= 1232));
        prop_assert_eq!(&answer[..2], &bytes[..2]);
        prop_assert!(answer[2] & 0x80 != 0);
    }
    Ok(())
}
