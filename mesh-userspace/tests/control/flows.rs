//! The kernel's flows by people's names, and the filters.

use mesh_common::abi::{Flow, FlowKey, Space, flow_flags};
use mesh_userspace::{
    api::{
        FlowDump,
        types::{FlowFilter, FlowKind},
    },
    table::Protocol,
};

use crate::fake::{BLUE, Server, ip};

fn key(space: Space, vni: u32, source: (&str, u16), destination: (&str, u16), protocol: u8) -> FlowKey {
    FlowKey {
        source: ip(source.0).into(),
        destination: ip(destination.0).into(),
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        scope: FlowKey::scope(space, vni),
        protocol,
        reserved: [0; 7],
    }
}

fn value(source: (&str, u16), destination: (&str, u16), seen: u64) -> Flow {
    Flow {
        source: ip(source.0).into(),
        destination: ip(destination.0).into(),
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        seen,
        ..Flow::default()
    }
}

/// One flow of each kind, as the pipeline writes them.
fn dump() -> FlowDump {
    const CLIENT: (&str, u16) = ("198.51.100.9", 40000);
    const NODE: (&str, u16) = ("192.0.2.2", 9200);
    const TASK: (&str, u16) = ("10.0.9.11", 9200);
    let published = Flow { node: 2, service: 1, flags: flow_flags::NEW, ..value(CLIENT, TASK, 97) };
    let answer =
        Flow { node: 2, service: 1, flags: flow_flags::REPLY | flow_flags::FIN, ..value(NODE, CLIENT, 98) };
    let entry = Flow { backend: 4, service: 2, seen: 99, ..Flow::default() };
    let asked = Flow { backend: 2, service: 1, ..value(("10.0.9.40", 5000), ("10.0.9.12", 53), 40) };
    let outside = Flow { flags: flow_flags::ROUTE, ..value(("192.0.2.1", 61001), ("203.0.113.5", 443), 100) };
    let back = Flow {
        flags: flow_flags::REPLY | flow_flags::ROUTE,
        vni: BLUE,
        ..value(("203.0.113.5", 443), ("10.0.9.40", 5001), 100)
    };
    FlowDump {
        entries: vec![
            (key(Space::Published, BLUE, CLIENT, NODE, 6), published),
            (key(Space::Network, BLUE, TASK, CLIENT, 6), answer),
            (key(Space::Entry, 0, CLIENT, ("192.0.2.1", 8000), 6), entry),
            (key(Space::Network, BLUE, ("10.0.9.40", 5000), ("10.0.9.2", 53), 17), asked),
            (key(Space::Network, BLUE, ("10.0.9.40", 5001), ("203.0.113.5", 443), 6), outside),
            (key(Space::Outside, 0, ("203.0.113.5", 443), ("192.0.2.1", 61001), 6), back),
        ],
        now: 100,
        capacity: 65_536,
    }
}

/// A server that keeps these flows; the maps give the second of `search` the index 2 and the first of `turns` 7.
fn server() -> Server {
    let server = Server::start();
    let mut dump = dump();
    let mut maps = crate::fake::maps();
    dump.entries[2].1.backend = maps.backend_index(ip("10.0.9.21"));
    dump.entries[3].1.backend = maps.backend_index(ip("10.0.9.12"));
    dump.entries.sort_unstable_by_key(|(key, _)| *key);
    *server.fake.flows.lock().unwrap() = dump;
    server
}

#[tokio::test]
async fn each_kind_has_its_names() {
    let server = server();
    let flows = server.client().flows(&FlowFilter::default()).await.unwrap();
    assert_eq!((flows.matching, flows.total, flows.capacity), (6, 6, 65_536));
    // The most recent first.
    assert_eq!(flows.flows.iter().map(|flow| flow.idle).collect::<Vec<_>>(), [0, 0, 1, 2, 3, 60]);

    let [outside, back, entry, answer, published, asked] = &flows.flows[..] else { panic!("{flows:?}") };
    assert_eq!((published.kind, published.network.as_deref()), (FlowKind::Published, Some("blue")));
    assert_eq!(published.service.as_deref(), Some("search"));
    assert_eq!(published.backend.as_deref(), Some("search.1"));
    assert_eq!(published.entry.as_deref(), Some("n2"));
    assert_eq!(published.new_destination.unwrap().to_string(), "10.0.9.11:9200");

    assert!(answer.reply && answer.closing);
    // Answers are as new as what they answer.
    assert!(published.new && answer.new && !outside.new && !back.new);
    assert_eq!(answer.backend.as_deref(), Some("search.1"));
    assert_eq!(answer.new_source.unwrap().to_string(), "192.0.2.2:9200");

    assert_eq!((entry.kind, entry.network.as_deref()), (FlowKind::Entry, Some("blue")));
    assert_eq!(entry.service.as_deref(), Some("turns"));
    assert_eq!(entry.backend.as_deref(), Some("turns.1"));
    assert_eq!((entry.new_source, entry.new_destination), (None, None));

    assert_eq!((asked.kind, asked.protocol.as_str()), (FlowKind::Network, "udp"));
    assert_eq!(asked.backend.as_deref(), Some("search.2"));

    assert_eq!((outside.kind, outside.service.as_deref()), (FlowKind::Network, None));
    assert_eq!(outside.backend, None);
    assert_eq!((back.kind, back.network.as_deref()), (FlowKind::Outside, Some("blue")));
    assert_eq!(back.backend, None);
}

#[tokio::test]
async fn filters_choose() {
    let server = server();
    let count = |filter: FlowFilter| {
        let client = server.client();
        async move { client.flows(&filter).await.unwrap().matching }
    };
    let none = FlowFilter::default;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(count(FlowFilter { service: some("search"), ..none() }).await, 3);
    assert_eq!(count(FlowFilter { service: some("turns"), ..none() }).await, 1);
    assert_eq!(count(FlowFilter { backend: some("search.1"), ..none() }).await, 2);
    assert_eq!(count(FlowFilter { backend: some("10.0.9.11"), ..none() }).await, 2);
    assert_eq!(count(FlowFilter { backend: some("fd00:9::a00:90b"), ..none() }).await, 2);
    assert_eq!(count(FlowFilter { backend: some("10.0.9.13"), ..none() }).await, 0);
    // An answer goes to the client, whose flow it is.
    assert_eq!(count(FlowFilter { client: Some(ip("198.51.100.9")), ..none() }).await, 3);
    assert_eq!(count(FlowFilter { client: Some(ip("10.0.9.40")), ..none() }).await, 3);
    assert_eq!(count(FlowFilter { protocol: Some(Protocol::Udp), ..none() }).await, 1);
    assert_eq!(count(FlowFilter { network: some("blue"), ..none() }).await, 6);
    assert_eq!(count(FlowFilter { network: some("vault"), ..none() }).await, 0);
    assert_eq!(
        count(FlowFilter { service: some("search"), protocol: Some(Protocol::Tcp), ..none() }).await,
        2
    );
}

#[tokio::test]
async fn a_limit_cuts_the_list_but_not_the_count() {
    let server = server();
    let limited = |limit| {
        let client = server.client();
        async move { client.flows(&FlowFilter { limit: Some(limit), ..FlowFilter::default() }).await.unwrap() }
    };
    let two = limited(2).await;
    assert_eq!((two.flows.len(), two.matching), (2, 6));
    assert_eq!(limited(0).await.flows.len(), 6);
}

#[tokio::test]
async fn a_backend_that_left_is_told_by_its_address() {
    let server = server();
    server.fake.edit(|snapshot| {
        std::sync::Arc::make_mut(&mut snapshot.table).endpoints.remove("search.1");
    });
    let flows = server.client().flows(&FlowFilter::default()).await.unwrap();
    let published = flows.flows.iter().find(|flow| flow.kind == FlowKind::Published).unwrap();
    assert_eq!(published.backend.as_deref(), Some("10.0.9.11"));
}
