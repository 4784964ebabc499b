//! Backends: how they are changed, how many live flows they have, and how a drain waits for them.

use std::{sync::Arc, time::Duration};

use mesh_common::abi::{Flow, FlowKey, Space, flow_flags};
use mesh_userspace::{
    api::{
        Change, FlowDump,
        types::{Backend, BackendAdd},
    },
    table::{Endpoint, Health, HealthState, Protocol},
};
use tokio::time::Instant;

use crate::{
    fake::{BLUE, Fake, Server, ip},
    meshctl::{meshctl, refused, stdout},
};

const FIN: u32 = flow_flags::FIN;
const RST: u32 = flow_flags::RST;
const NOW: u64 = 10_000;

/// The numbers of services in the pretended maps, in the order in which they were added.
const SEARCH: u32 = 1;
const TURNS: u32 = 2;

/// Both directions of a conversation of 198.51.100.9 or 10.0.9.40 with a backend, each seen so many seconds ago and
/// with these flags.
fn conversation(
    space: Space,
    port: u16,
    backend: &str,
    service: u32,
    protocol: Protocol,
    (there, back): ((u64, u32), (u64, u32)),
) -> [(FlowKey, Flow); 2] {
    let (client, asked, node) = match space {
        Space::Network => ("10.0.9.40", "10.0.9.2", 0),
        _ => ("198.51.100.9", "192.0.2.2", 2),
    };
    let [client, asked, backend] = [client, asked, backend].map(|text| ip(text).into());
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let (port, served) = (port.to_be_bytes(), 9200_u16.to_be_bytes());
    let key = |space, source, source_port, destination, destination_port| FlowKey {
        source,
        destination,
        source_port,
        destination_port,
        scope: FlowKey::scope(space, BLUE),
        protocol: number,
        reserved: [0; 7],
    };
    let flow = |source, source_port, destination, destination_port, (ago, flags): (u64, u32)| Flow {
        source,
        destination,
        source_port,
        destination_port,
        node,
        service,
        flags,
        seen: NOW - ago,
        ..Flow::default()
    };
    let (ago, flags) = back;
    [
        (key(space, client, port, asked, served), flow(client, port, backend, served, there)),
        (
            key(Space::Network, backend, served, client, port),
            flow(asked, served, client, port, (ago, flags | flow_flags::REPLY)),
        ),
    ]
}

fn keep(fake: &Fake, conversations: impl IntoIterator<Item = [(FlowKey, Flow); 2]>) {
    *fake.flows.lock().unwrap() =
        FlowDump { entries: conversations.into_iter().flatten().collect(), now: NOW, capacity: 65_536 };
}

const FRESH: ((u64, u32), (u64, u32)) = ((0, 0), (0, 0));

/// So many live TCP connections by a published port to a backend.
fn live(count: u16, backend: &str) -> impl Iterator<Item = [(FlowKey, Flow); 2]> {
    (0..count).map(move |n| conversation(Space::Published, 40_000 + n, backend, SEARCH, Protocol::Tcp, FRESH))
}

async fn flows_of(server: &Server, backend: &str) -> Option<u64> {
    server.client().backend("search", backend).await.unwrap().flows
}

#[tokio::test]
async fn what_lives_is_counted_and_what_is_over_is_not() {
    use Protocol::{Tcp, Udp};
    let server = Server::start();
    for (protocol, state, lives) in [
        (Tcp, ((0, 0), (0, 0)), true),
        (Tcp, ((0, FIN), (0, 0)), true),
        (Tcp, ((0, FIN), (0, FIN)), false),
        (Tcp, ((0, 0), (0, RST)), false),
        (Tcp, ((0, RST), (0, 0)), false),
        (Tcp, ((5000, 0), (900, 0)), true),
        (Tcp, ((5000, 0), (901, 0)), false),
        (Udp, ((120, 0), (300, 0)), true),
        (Udp, ((121, 0), (300, 0)), false),
    ] {
        for space in [Space::Published, Space::Network] {
            keep(&server.fake, [conversation(space, 40_000, "10.0.9.11", SEARCH, protocol, state)]);
            let flows = flows_of(&server, "search.1").await;
            assert_eq!(flows, Some(u64::from(lives)), "{space:?} {protocol:?} {state:?}");
        }
    }
}

#[tokio::test]
async fn each_flow_is_its_own_backend_s_and_is_counted_once() {
    let server = Server::start();
    let entry = |port: u16| {
        let [(key, flow), _] = conversation(Space::Entry, port, "10.0.9.11", TURNS, Protocol::Tcp, FRESH);
        [(key, flow), (FlowKey { source_port: [0; 2], ..key }, flow)]
    };
    let vip = |port, backend| conversation(Space::Network, port, backend, SEARCH, Protocol::Tcp, FRESH);
    keep(
        &server.fake,
        live(3, "10.0.9.11")
            // What an entry node remembers is counted where it is delivered.
            .chain([entry(50_000)])
            .chain([vip(1, "10.0.9.11"), vip(2, "10.0.9.12"), vip(3, "fd00:9::a00:90b")])
            // Another service's, and one of a number that no service has any more.
            .chain([conversation(Space::Published, 7, "10.0.9.11", TURNS, Protocol::Tcp, FRESH)])
            .chain([conversation(Space::Published, 8, "10.0.9.11", 99, Protocol::Tcp, FRESH)])
            // No service at all: a task of its own speaks to the backend's address.
            .chain([conversation(Space::Network, 9, "10.0.9.11", 0, Protocol::Tcp, FRESH)]),
    );
    let flows: Vec<_> = server
        .client()
        .backends(None)
        .await
        .unwrap()
        .into_iter()
        .map(|backend| (backend.endpoint, backend.flows))
        .collect();
    let expected = [
        ("agent.2", None),
        ("db.1", Some(0)),
        // Three, one by each family's virtual IP, and the one whose service went.
        ("search.1", Some(6)),
        // On another node: what this node's own tasks have, or nothing that could be known.
        ("search.2", Some(1)),
        ("search.3", None),
        ("turns.1", Some(0)),
        ("turns.2", None),
    ];
    assert_eq!(flows, expected.map(|(name, count)| (name.to_owned(), count)));
    let text = stdout(&meshctl(&server, &["backends", "ls", "search"]).await);
    assert!(text.contains("n2    1       1 from here  –       on its own node\n"), "{text}");
    assert!(text.contains("n3    1       –            –       on its own node\n"), "{text}");
}

#[tokio::test]
async fn backends_are_added_weighed_and_removed() {
    let server = Server::start();
    let client = server.client();
    let asked = BackendAdd { backend: "tool".to_owned(), weight: Some(3), ..BackendAdd::default() };
    let added = client.add_backend("search", &asked).await.unwrap();
    assert_eq!((added.endpoint.as_str(), added.weight, added.flows), ("tool", 3, Some(0)));
    let weighed = client.weigh_backend("search", "10.0.9.40", 0).await.unwrap();
    assert_eq!((weighed.endpoint.as_str(), weighed.weight), ("tool", 0));
    assert_eq!(client.backend("search", "10.0.9.40:9200").await.unwrap(), weighed);
    client.remove_backend("search", "tool").await.unwrap();
    let error = client.backend("search", "tool").await.unwrap_err().to_string();
    assert_eq!(error, "search has no backend \"tool\"; `meshctl backends ls search` lists them");
    let error = client.backend("search", "10.0.9.11:81").await.unwrap_err().to_string();
    assert!(error.contains("directors, which are not supported yet"), "{error}");
    let (service, backend) = ("search".to_owned(), "10.0.9.40".to_owned());
    let weigh = Change::WeighBackend { service: service.clone(), backend, weight: 0 };
    let remove = Change::RemoveBackend { service: service.clone(), backend: "tool".to_owned() };
    assert_eq!(*server.fake.changes.lock().unwrap(), [Change::AddBackend { service, asked }, weigh, remove]);
}

#[tokio::test]
async fn meshctl_says_what_became_of_backends() {
    let server = Server::start();
    let tell = async |arguments: &[&str]| stdout(&meshctl(&server, arguments).await);
    let text =
        tell(&["backends", "add", "search", "10.0.9.40", "--weight", "2", "--node", "n1", "--forward", "x"])
            .await;
    assert_eq!(text, "tool is a backend of search now, with weight 2\n");
    {
        // What meshd refuses, it is asked for as it was typed.
        let changes = server.fake.changes.lock().unwrap();
        let [Change::AddBackend { asked, .. }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((asked.node.as_deref(), asked.forward.as_deref()), (Some("n1"), Some("x")));
    }
    assert_eq!(
        tell(&["backends", "weight", "search", "tool", "7"]).await,
        "tool has the weight 7 in search\n"
    );
    assert_eq!(
        tell(&["backends", "rm", "search", "tool"]).await,
        "tool is no backend of search any longer; it stays attached\n"
    );
    keep(&server.fake, live(2, "10.0.9.11"));
    assert_eq!(
        tell(&["backends", "drain", "search", "10.0.9.11"]).await,
        "search.1 drains: search gives it no new flow on this node; 2 flows are left\n"
    );
    let text = tell(&["backends", "ls", "search", "-o", "json"]).await;
    let listed: Vec<Backend> = serde_json::from_str(&text).unwrap();
    assert_eq!((listed[0].weight, listed[0].flows), (0, Some(2)));
    assert!(tell(&["services", "ps", "search"]).await.contains("n1    0, drains  2      –       attached\n"));
}

#[tokio::test]
async fn a_drain_waits_for_the_last_flow() {
    let server = Server::start();
    keep(&server.fake, live(3, "10.0.9.11"));
    let closing = async {
        for (pause, left) in [(700, 2), (200, 1), (2500, 0)] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            keep(&server.fake, live(left, "10.0.9.11"));
        }
        Instant::now()
    };
    let waiting = async {
        let output = meshctl(&server, &["backends", "drain", "search", "search.1", "--wait"]).await;
        (output, Instant::now())
    };
    let (closed, (output, ended)) = tokio::join!(closing, waiting);
    let late = ended.checked_duration_since(closed).expect("it waits for the last");
    assert!(late < Duration::from_secs(3), "{late:?}");
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    // Not each step, as they come faster than lines are told.
    assert_eq!(
        lines,
        [
            "search.1 drains: 3 flows are left",
            "search.1 drains: 1 flow is left",
            "search.1 is drained: no flow is left"
        ]
    );
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_with_what_is_left() {
    let server = Server::start();
    keep(&server.fake, live(2, "10.0.9.11"));
    let started = Instant::now();
    let arguments = ["backends", "drain", "search", "10.0.9.11", "--wait", "--timeout", "1s", "-o", "json"];
    let error = refused(&meshctl(&server, &arguments).await, 1);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        error,
        "meshctl: search.1 is not drained after 1 s: 2 flows are left; it goes on draining, and the same command waits \
         again\n"
    );
}

#[tokio::test]
async fn a_drain_does_not_wait_for_what_it_cannot_see_or_what_is_over() {
    let server = Server::start();
    let arguments = ["backends", "drain", "search", "search.2", "--wait"];
    let error = refused(&meshctl(&server, &arguments).await, 1);
    assert!(error.contains("search.2 runs on n2, and only there its flows are known"), "{error}");
    assert!(server.fake.changes.lock().unwrap().is_empty(), "nothing was changed");

    keep(&server.fake, live(1, "10.0.9.11"));
    let waiting = meshctl(&server, &["backends", "drain", "search", "search.1", "--wait"]);
    let undoing = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        server.fake.edit(|snapshot| {
            Arc::make_mut(&mut snapshot.table).endpoints.get_mut("search.1").unwrap().weight = 5;
        });
    };
    let (output, ()) = tokio::join!(waiting, undoing);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("search.1 has the weight 5 again, so it drains no longer"), "{error}");
}

#[tokio::test]
async fn explain_says_that_every_backend_drains() {
    let server = Server::start();
    server.fake.edit(|snapshot| {
        let table = Arc::make_mut(&mut snapshot.table);
        let drains = |(name, endpoint)| (name, Endpoint { weight: 0, ..endpoint });
        table.endpoints = std::mem::take(&mut table.endpoints).into_iter().map(drains).collect();
        let mut maps = crate::fake::Maps::default();
        let ring = crate::fake::Ring {
            service: "search",
            scheduler: mesh_common::abi::Scheduler::Mh,
            target_port: 9200,
            slots: vec!["10.0.9.11"],
        };
        let key = crate::fake::published(9200, Protocol::Tcp, mesh_common::abi::Family::V4);
        maps.add(key, &ring);
        // As the agent has it: the ring stays for flows under way.
        maps.set_flags(&key, mesh_common::abi::service_flags::DRAINING);
        snapshot.lookup = Arc::new(maps);
    });
    let arguments = ["explain", "--from", "198.51.100.9:40000", "--to", "192.0.2.1:9200"];
    let text = stdout(&meshctl(&server, &arguments).await);
    assert!(text.contains("each backend of search with an IPv4 address drains: its weight is 0"), "{text}");
    assert!(text.contains("`meshctl backends weight search ADDRESS 1`"), "{text}");
}

#[tokio::test]
async fn health_is_told_with_its_reason() {
    let server = Server::start();
    let health =
        |state, since, reason: Option<&str>| Health { state, since, reason: reason.map(str::to_owned) };
    server.fake.edit(|snapshot| {
        let sick = health(HealthState::Unhealthy, 1, Some("nothing listens on 10.0.9.11:80"));
        snapshot.healths.insert("search.1".to_owned(), sick);
        snapshot.healths.insert("search.2".to_owned(), health(HealthState::Starting, 0, None));
    });
    let client = server.client();
    let told: Vec<_> = client.backends(Some("search")).await.unwrap().into_iter().map(|b| b.health).collect();
    let [Some(sick), Some(unheard), None] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (sick.is, sick.why.as_deref()),
        (HealthState::Unhealthy, Some("nothing listens on 10.0.9.11:80"))
    );
    // It has been so since 1970.
    assert!(sick.seconds > 1_000_000_000);
    // Of this one its node has not told anything yet.
    assert_eq!((unheard.is, unheard.seconds, &unheard.why), (HealthState::Starting, 0, &None));
    assert_eq!(
        client.endpoint("search.1").await.unwrap().health.as_ref().map(|health| health.is),
        Some(sick.is)
    );
    let text = stdout(&meshctl(&server, &["endpoints", "inspect", "search.1"]).await);
    let line = text.lines().last().unwrap();
    assert!(line.starts_with("health") && line.contains("  unhealthy for "), "{text}");
    assert!(line.ends_with(": nothing listens on 10.0.9.11:80"), "{text}");
}
