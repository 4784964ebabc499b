//! Each path of the API, and what it says to wrong requests.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use mesh_common::Reason;
use mesh_userspace::{
    api::{
        BODY_MAX, Change, Cluster, Member, Refusal, RefusalKind, bind,
        client::{Client, ClientError},
        server::{CONNECTIONS_MAX, IDLE_MAX},
        types::{Attach, EndpointState, ErrorBody, NetworkCreate, NodeState, ServiceCreate, Vip},
    },
    spec::HealthCheck,
    table::{EndpointMode, OnNoBackend, Protocol, PublishMode, PublishedPort, Scheduler},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::fake::{Directory, Server, dropped, ip, map_use};

fn refused(error: ClientError) -> (u16, String) {
    match error {
        ClientError::Refused { status, body } => (status.as_u16(), body.error),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn status_counts_and_knows_the_peers() {
    let server = Server::start();
    let status = server.client().status().await.unwrap();
    assert_eq!(status.node, "n1");
    assert_eq!(status.address, Some(ip("192.0.2.1")));
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!((3_700..3_760).contains(&status.uptime), "{}", status.uptime);
    assert_eq!((status.counts.nodes, status.counts.networks, status.counts.services), (3, 3, 4));
    assert_eq!((status.counts.endpoints, status.counts.local_endpoints), (9, 4));
    let peers: Vec<_> = status.peers.iter().map(|peer| (peer.name.as_str(), peer.mtu)).collect();
    assert_eq!(peers, [("n2", Some(1500)), ("n3", Some(1500))]);
    server.fake.edit(|snapshot| drop(snapshot.uplinks.remove("n3")));
    let status = server.client().status().await.unwrap();
    assert_eq!(status.peers[1].interface, None);
}

#[tokio::test]
async fn status_warns_of_maps_that_are_nearly_full() {
    let server = Server::start();
    for (entries, warns) in [(58_982, false), (58_983, true)] {
        let nearly = map_use("FLOWS", entries, 65_536);
        *server.fake.maps.lock().unwrap() =
            vec![nearly.clone(), map_use("SETTINGS", 1, 1), map_use("NODES", 9, 9)];
        let status = server.client().status().await.unwrap();
        assert_eq!(status.maps, [nearly, map_use("NODES", 9, 9)]);
        let subjects: Vec<_> = status.problems.iter().map(|problem| problem.subject.as_str()).collect();
        assert_eq!(subjects, if warns { &["map FLOWS"][..] } else { &[] }, "{entries}");
    }
}

#[tokio::test]
async fn nodes_know_their_endpoints() {
    let server = Server::start();
    let nodes = server.client().nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.this).collect::<Vec<_>>(), [true, false, false]);
    let n2 = server.client().node("n2").await.unwrap();
    assert_eq!(n2, nodes[1]);
    assert_eq!(n2.endpoints, ["agent.2", "search.2", "turns.2", "twin"]);
    assert_eq!(n2.route.as_deref(), Some("eth0"));
    let error = refused(server.client().node("n9").await.unwrap_err());
    assert_eq!(error, (404, "there is no node \"n9\"".to_owned()));
}

#[tokio::test]
async fn networks_are_made_and_removed() {
    let server = Server::start();
    let client = server.client();
    let blue = client.network("blue").await.unwrap();
    assert_eq!(blue.gateways, [ip("10.0.9.1"), ip("fd00:9::1")]);
    assert_eq!(blue.services, ["agent", "search", "turns"]);
    assert_eq!(blue.mtu, Some(1450));
    let asked = NetworkCreate {
        name: "red".to_owned(),
        subnets: vec!["10.0.11.0/24".parse().unwrap()],
        vni: Some(77),
        internal: true,
    };
    let red = client.create_network(&asked).await.unwrap();
    assert_eq!((red.vni, red.internal, &red.subnets), (77, true, &asked.subnets));
    assert_eq!(client.networks().await.unwrap().len(), 4);
    let error = refused(client.create_network(&asked).await.unwrap_err());
    assert_eq!(error, (409, "there is a network \"red\" already".to_owned()));
    let removed = client.remove_network("red").await.unwrap();
    assert_eq!(removed.name, "red");
    assert_eq!(refused(client.remove_network("red").await.unwrap_err()).0, 404);
    assert_eq!(refused(client.network("red").await.unwrap_err()).0, 404);
    let changes = server.fake.changes.lock().unwrap();
    assert_eq!(*changes, [Change::CreateNetwork(asked), Change::RemoveNetwork("red".to_owned())]);
}

#[tokio::test]
async fn a_change_waits_for_the_cluster_where_it_is_told_to() {
    let server = Server::start();
    let waited = || server.fake.waited.lock().unwrap().take();
    let asked = |name: &str| NetworkCreate { name: name.to_owned(), ..NetworkCreate::default() };
    let client = server.client().waiting(Some(Duration::from_secs(7)));
    client.create_network(&asked("red")).await.unwrap();
    assert_eq!(waited(), Some(Duration::from_secs(7)));
    client.remove_network("red").await.unwrap();
    assert_eq!(waited(), Some(Duration::from_secs(7)));
    assert_eq!(client.remove_node("n3").await.unwrap().name, "n3");
    assert_eq!(waited(), Some(Duration::from_secs(7)));
    server.client().create_network(&asked("amber")).await.unwrap();
    assert_eq!(waited(), None);
    assert_eq!(server.client().leave().await.unwrap().node, "n1");
    assert_eq!(waited(), Some(Duration::from_secs(10)), "leaving waits for the others anyway");
    let unconfirmed = Refusal::new(RefusalKind::Unconfirmed, "n3 has not applied it within 7 s", "");
    *server.fake.refuse.lock().unwrap() = Some(unconfirmed);
    let (status, error) = refused(client.create_network(&asked("blue")).await.unwrap_err());
    assert_eq!((status, error.as_str()), (504, "n3 has not applied it within 7 s"));
}

#[tokio::test]
async fn members_are_told_with_what_they_are() {
    let server = Server::start();
    let now = SystemTime::now();
    let member = |last: u8, state| Member {
        address: SocketAddr::from(([192, 0, 2, last], 7946)),
        state,
        since: now - Duration::from_secs(90),
    };
    server.fake.edit(|snapshot| {
        snapshot.cluster = Some(Cluster {
            members: [
                ("n1".to_owned(), member(1, NodeState::Alive)),
                ("n2".to_owned(), member(2, NodeState::Dead)),
            ]
            .into(),
            gone: ["n2".to_owned()].into(),
            digest: "00ff".to_owned(),
        });
    });
    let client = server.client();
    let nodes = client.nodes().await.unwrap();
    let states: Vec<_> = nodes.iter().map(|node| node.state).collect();
    assert_eq!(states, [Some(NodeState::Alive), Some(NodeState::Dead), None]);
    assert!(nodes[1].seconds.is_some_and(|seconds| (90..100).contains(&seconds)));
    let cluster = client.status().await.unwrap().cluster.unwrap();
    assert_eq!((cluster.members.len(), cluster.digest.as_str()), (2, "00ff"));
    let endpoints = client.endpoints().await.unwrap();
    for endpoint in endpoints {
        assert_eq!(endpoint.state == EndpointState::Gone, endpoint.node == "n2", "{endpoint:?}");
    }
}

#[tokio::test]
async fn services_are_made_and_removed() {
    let server = Server::start();
    let client = server.client();
    let asked = ServiceCreate {
        name: "dns".to_owned(),
        networks: vec!["blue".to_owned()],
        vips: vec![Vip { network: Some("blue".to_owned()), address: ip("10.0.9.5") }],
        scheduler: Scheduler::Rr,
        endpoint_mode: EndpointMode::Vip,
        on_no_backend: OnNoBackend::Drop,
        health_check: Some(Box::new(HealthCheck {
            tcp: Some(NonZeroU16::MIN.into()),
            ..HealthCheck::default()
        })),
        persistent: NonZeroU32::new(300),
        ports: vec![PublishedPort {
            published: 53,
            target: 5353,
            protocol: Protocol::Udp,
            mode: PublishMode::Host,
            ..PublishedPort::default()
        }],
    };
    let dns = client.create_service(&asked).await.unwrap();
    assert_eq!(dns.vips["blue"], [ip("10.0.9.5")]);
    assert_eq!((dns.scheduler, &dns.ports), (Scheduler::Rr, &asked.ports));
    assert_eq!((dns.on_no_backend, dns.persistent), (OnNoBackend::Drop, asked.persistent));
    assert_eq!(client.service("dns").await.unwrap(), dns);
    assert_eq!(client.services().await.unwrap().len(), 5);
    client.remove_service("dns").await.unwrap();
    assert_eq!(refused(client.service("dns").await.unwrap_err()).0, 404);
    let changes = server.fake.changes.lock().unwrap();
    assert_eq!(*changes, [Change::CreateService(asked), Change::RemoveService("dns".to_owned())]);
}

#[tokio::test]
async fn backends_of_all_and_of_one() {
    let server = Server::start();
    let client = server.client();
    let all = client.backends(None).await.unwrap();
    let names: Vec<_> = all.iter().map(|backend| backend.endpoint.as_str()).collect();
    assert_eq!(names, ["agent.2", "db.1", "search.1", "search.2", "search.3", "turns.1", "turns.2"]);
    let search = client.backends(Some("search")).await.unwrap();
    assert_eq!(search, client.tasks("search").await.unwrap());
    assert_eq!(search.len(), 3);
    assert_eq!(search[0].state, EndpointState::Attached);
    assert_eq!(search[1].state, EndpointState::Remote);
    assert_eq!(refused(client.backends(Some("none")).await.unwrap_err()).0, 404);
    assert_eq!(refused(client.tasks("none").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn tasks_are_attached_and_detached() {
    let server = Server::start();
    let client = server.client();
    let asked = Attach {
        name: None,
        network: "blue".to_owned(),
        netns: "search4".to_owned(),
        service: Some("search".to_owned()),
        weight: None,
        address: None,
    };
    let made = client.attach(&asked).await.unwrap();
    assert_eq!((made.name.as_str(), made.state.clone()), ("task.1", EndpointState::Attached));
    assert_eq!(made.mac, "02:42:0a:00:09:63");
    assert_eq!(client.endpoint("task.1").await.unwrap(), made);
    assert_eq!(client.endpoints().await.unwrap().len(), 10);
    client.detach("task.1").await.unwrap();
    assert_eq!(refused(client.endpoint("task.1").await.unwrap_err()).0, 404);
    assert_eq!(refused(client.detach("task.1").await.unwrap_err()).0, 404);
    let changes = server.fake.changes.lock().unwrap();
    assert_eq!(*changes, [Change::Attach(asked), Change::Detach("task.1".to_owned())]);
}

#[tokio::test]
async fn what_waits_says_why() {
    let server = Server::start();
    server.fake.edit(|snapshot| {
        snapshot.attachments.get_mut("tool").unwrap().waiting = Some("there is no namespace".to_owned());
        snapshot.attachments.remove("db.1");
    });
    let tool = server.client().endpoint("tool").await.unwrap();
    assert_eq!(tool.state, EndpointState::Waiting("there is no namespace".to_owned()));
    let db = server.client().endpoint("db.1").await.unwrap();
    assert!(matches!(db.state, EndpointState::Waiting(_)), "{:?}", db.state);
}

#[tokio::test]
async fn names_with_odd_letters_reach_the_daemon_whole() {
    let server = Server::start();
    let name = "a/b c?d=é%2F";
    server.client().detach(name).await.unwrap_err();
    server.fake.edit(|snapshot| {
        let table = std::sync::Arc::make_mut(&mut snapshot.table);
        let tool = table.endpoints["tool"].clone();
        table.endpoints.insert(name.to_owned(), tool);
    });
    assert_eq!(server.client().endpoint(name).await.unwrap().name, name);
    assert_eq!(server.client().detach(name).await.unwrap().name, name);
}

#[tokio::test]
async fn drops_name_every_reason_also_for_a_kernel_that_knows_fewer() {
    let server = Server::start();
    *server.fake.drops.lock().unwrap() = dropped(&[(Reason::NotAPeer, 3), (Reason::Gateway, 2)]);
    let drops = server.client().drops().await.unwrap();
    assert_eq!(drops.len(), Reason::ALL.len());
    let counted: Vec<_> = drops.iter().filter(|drop| drop.packets > 0).collect();
    assert_eq!(counted.len(), 2);
    assert_eq!((counted[0].reason.as_str(), counted[0].packets), ("not_a_peer", 3));
    assert_eq!(counted[1].sentence, Reason::Gateway.sentence());
    let stats = server.client().stats().await.unwrap();
    assert_eq!((stats.dropped, stats.maps[0].entries), (5, Some(12)));
    let hooks: Vec<_> =
        stats.hooks.iter().map(|hook| (hook.hook.as_str(), hook.outcome.as_str(), hook.bytes)).collect();
    assert_eq!(hooks, [("xdp", "transmit", 500)]);
    server.fake.drops.lock().unwrap().clear();
    assert!(server.client().drops().await.unwrap().iter().all(|drop| drop.packets == 0));
}

#[tokio::test]
async fn every_kind_of_refusal_has_its_status() {
    let server = Server::start();
    for (kind, status) in [
        (RefusalKind::Invalid, 422),
        (RefusalKind::NotFound, 404),
        (RefusalKind::Conflict, 409),
        (RefusalKind::Unavailable, 503),
        (RefusalKind::Failed, 500),
    ] {
        *server.fake.refuse.lock().unwrap() = Some(Refusal::new(kind, "the disk is full", "empty it"));
        let error = server.client().drops().await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is full; empty it");
        assert_eq!(refused(error).0, status);
    }
    // Where the error says the mend already.
    *server.fake.refuse.lock().unwrap() = Some(Refusal::new(RefusalKind::Invalid, "wrong. Mend it.", ""));
    assert_eq!(server.client().drops().await.unwrap_err().to_string(), "wrong. Mend it.");
}

#[tokio::test]
async fn a_trace_runs_as_long_as_it_is_listened_to() {
    let server = Server::start();
    let mut lines = server.client().trace(NonZeroU32::new(5).unwrap()).await.unwrap();
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!((first.hook.as_str(), first.outcome.as_str(), first.length), ("underlay", "deliver", 74));
    assert_eq!((first.interface.as_str(), first.out.as_deref()), ("eth0", Some("interface 7")));
    assert_eq!((first.tunnel, first.reason), (None, None));
    assert_eq!(first.packet.unwrap().source, Some("198.51.100.9:40000".parse().unwrap()));
    // The machine started some time ago, and some time after 1970.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(u128::from(first.at) < now.as_micros() && first.at > 1_700_000_000_000_000, "{}", first.at);
    lines.next().await.unwrap().unwrap();
    assert_eq!(server.fake.traced.load(Ordering::SeqCst), 5);
    drop(lines);
    for _ in 0..1000 {
        if server.fake.traced.load(Ordering::SeqCst) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it still traces");
}

/// The limit is for clients that ask nothing, not for those that listen.
#[tokio::test]
async fn a_trace_outlives_the_limit_of_silence() {
    let server = Server::start();
    let lines = server.client().trace(NonZeroU32::MIN).await.unwrap();
    let until = tokio::time::sleep(IDLE_MAX + Duration::from_secs(1));
    let mut lines = lines.take_until(Box::pin(until));
    while let Some(line) = lines.next().await {
        line.unwrap();
    }
    assert!(lines.take_future().is_none(), "it ended before its time");
}

#[tokio::test]
async fn an_orderly_end_cuts_traces() {
    let server = Server::start();
    let lines = server.client().trace(NonZeroU32::MIN).await.unwrap();
    let (all, ()) = tokio::join!(lines.map(Result::unwrap).count(), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.stop().await;
    });
    assert!(all > 0);
}

#[tokio::test]
async fn down_reaches_the_agent() {
    let server = Server::start();
    assert_eq!(server.client().down().await.unwrap().node, "n1");
    assert!(server.fake.is_down.load(Ordering::SeqCst));
}

/// Sends bytes and reads what comes until the end.
async fn raw(socket: &Path, request: &[u8]) -> (u16, ErrorBody) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read everything: what it said counts.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

async fn post(socket: &Path, path: &str, body: &str) -> (u16, ErrorBody) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw(socket, format!("{head}{body}").as_bytes()).await
}

#[tokio::test]
async fn malformed_bodies_get_a_sentence() {
    let server = Server::start();
    for (path, body, says) in [
        ("/v1/networks", "", "EOF while parsing"),
        ("/v1/networks", "{", "EOF while parsing"),
        ("/v1/networks", "[]", "invalid length 0"),
        ("/v1/networks", "{}", "missing field `name`"),
        ("/v1/networks", r#"{"name":"x","vin":3}"#, "unknown field `vin`"),
        ("/v1/networks", r#"{"name":"x","vni":-1}"#, "invalid value: integer `-1`"),
        ("/v1/networks", r#"{"name":"x","subnets":["10.0.9.0"]}"#, "invalid IP address syntax"),
        ("/v1/networks", "{\"name\":\"\u{0}\"}", "control character"),
        ("/v1/services", r#"{"name":"x","scheduler":"lc"}"#, "unknown variant `lc`, expected `mh` or `rr`"),
        ("/v1/services", r#"{"name":"x","ports":[{"published":70000}]}"#, "expected u16"),
        ("/v1/endpoints", r#"{"network":"x"}"#, "missing field `netns`"),
        ("/v1/endpoints", r#"{"network":"x","netns":"y","address":"z"}"#, "invalid IP address syntax"),
    ] {
        let (status, answer) = post(&server.socket(), path, body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer.error.starts_with(&format!("the body is not what POST {path} takes: ")), "{answer:?}");
        assert!(answer.error.contains(says), "{body}: {answer:?}");
        assert!(answer.mend.contains("docs/API.md"), "{answer:?}");
    }
    assert!(server.fake.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bodies_that_are_too_long_are_refused_unread() {
    let server = Server::start();
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(BODY_MAX));
    let (status, answer) = post(&server.socket(), "/v1/networks", &body).await;
    assert_eq!((status, answer.error.as_str()), (413, "the body is longer than 65536 bytes"));
    // As long as it may be, to the byte.
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(BODY_MAX - 11));
    assert_eq!(body.len(), BODY_MAX);
    let mut stream = UnixStream::connect(server.socket()).await.unwrap();
    let head = format!("POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_MAX}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 201");
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let server = Server::start();
    let mut request = b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=BODY_MAX / 0x1000 {
        request.extend_from_slice(b"1000\r\n");
        request.extend_from_slice(&[b' '; 0x1000]);
        request.extend_from_slice(b"\r\n");
    }
    assert_eq!(raw(&server.socket(), &request).await.0, 413);
}

#[tokio::test]
async fn wrong_paths_methods_and_queries_get_a_sentence() {
    let server = Server::start();
    let get = |method: &str, target: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let socket = server.socket();
        async move { raw(&socket, request.as_bytes()).await }
    };
    for (method, target, status, says) in [
        ("GET", "/", 404, "the API has no path /"),
        ("GET", "/v2/status", 404, "the API has no path /v2/status"),
        ("GET", "/v1/services/a/b/c", 404, "the API has no path"),
        ("PUT", "/v1/networks", 405, "/v1/networks does not take PUT"),
        ("DELETE", "/v1/status", 405, "/v1/status does not take DELETE"),
        ("GET", "/v1/down", 405, "/v1/down does not take GET"),
        ("GET", "/v1/flows?limit=-1", 400, "the query is not what GET /v1/flows takes"),
        ("GET", "/v1/flows?client=me", 400, "invalid IP address syntax"),
        ("GET", "/v1/flows?colour=blue", 400, "unknown field `colour`"),
        ("GET", "/v1/trace?every=0", 400, "expected a nonzero u32"),
        ("GET", "/v1/trace", 400, "missing field `every`"),
        ("GET", "/v1/explain?from=10.0.0.1", 400, "missing field `to`"),
        ("GET", "/v1/explain?from=here&to=10.0.0.1:1", 400, "is no address with or without a port"),
        ("GET", "/v1/explain?from=10.0.0.1&to=10.0.0.2", 422, "10.0.0.2 has no port"),
        ("GET", "/v1/backends?service=nope", 404, "there is no service \"nope\""),
    ] {
        let (got, answer) = get(method, target).await;
        assert_eq!(got, status, "{method} {target}: {answer:?}");
        assert!(answer.error.contains(says), "{method} {target}: {answer:?}");
        assert!(!answer.mend.is_empty());
    }
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let server = Server::start();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(UnixStream::connect(server.socket()).await.unwrap());
    }
    // Half a request is no request.
    idle[0].write_all(b"GET /v1/status HTTP/1.1\r\nHost: x").await.unwrap();
    let client = server.client().with_timeout(IDLE_MAX * 3);
    let began = Instant::now();
    assert_eq!(client.status().await.unwrap().node, "n1");
    // It had to wait for a place, so the places are bounded.
    assert!(began.elapsed() > IDLE_MAX / 2, "{:?}", began.elapsed());
    let mut byte = [0];
    assert_eq!(idle[1].read(&mut byte).await.unwrap(), 0, "it is closed");
}

#[tokio::test]
async fn an_orderly_end_lets_requests_finish_and_takes_no_more() {
    let server = Server::start();
    *server.fake.delay.lock().unwrap() = Duration::from_millis(300);
    let client = server.client();
    let socket = server.socket();
    // A connection without a request is not waited for.
    let _idle = UnixStream::connect(&socket).await.unwrap();
    let (drops, ()) = tokio::join!(client.drops(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        server.stop().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    });
    assert_eq!(drops.unwrap().len(), Reason::ALL.len());
    // The server's directory is gone with it.
    assert!(matches!(client.status().await.unwrap_err(), ClientError::NoSocket(_)));
}

/// Each path that the documentation names is there, and takes the method; and it names them all.
#[tokio::test]
async fn the_documentation_and_the_paths_agree() {
    let server = Server::start();
    let text = include_str!("../../../docs/API.md");
    let mut documented = 0;
    for line in text.lines() {
        let Some((method, rest)) = line.strip_prefix("| `").and_then(|line| line.split_once(" /v1/")) else {
            continue;
        };
        let path =
            rest.split('`').next().unwrap().replace("{name}", "search").replace("{backend}", "search.1");
        let request = format!("{method} /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut stream = UnixStream::connect(server.socket()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            !answer.contains("the API has no path") && !answer.contains(" does not take "),
            "{line}: {answer}"
        );
        documented += 1;
    }
    let routes = include_str!("../../src/api/routes.rs");
    let routed: usize = routes
        .split(".route(")
        .skip(1)
        .map(|route| route.split(".fallback(").next().unwrap())
        .map(|route| {
            let count = |method| route.matches(method).count();
            ["get(", "post(", "put(", "delete("].into_iter().map(count).sum::<usize>()
        })
        .sum();
    assert_eq!(documented, routed);
}

#[tokio::test]
async fn the_client_tells_a_missing_socket_from_a_dead_and_a_forbidden_one() {
    let directory = Directory::new();
    let path = directory.path().join("meshd.sock");
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NoSocket(_)));
    assert_eq!(
        error.to_string(),
        format!(
            "there is no socket {}: meshd is not running, or its run_dir is elsewhere; start it with `systemctl start \
             meshd` or name the socket with --socket",
            path.display()
        )
    );
    drop(bind(&path).unwrap());
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Dead(_)), "{error}");
    for other in ["/", "/proc/self/status"] {
        let error = Client::new(other).status().await.unwrap_err();
        assert!(matches!(error, ClientError::NotASocket(_)), "{error}");
    }
    let long = Client::new(format!("/{}", "x".repeat(200))).status().await.unwrap_err();
    assert!(matches!(long, ClientError::Connect { .. }), "{long}");
}

#[tokio::test]
async fn the_client_waits_no_longer_than_it_says() {
    let server = Server::start();
    *server.fake.delay.lock().unwrap() = Duration::from_secs(60);
    let client = server.client().with_timeout(Duration::from_millis(50));
    let error = client.drops().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("did not answer within"), "{error}");
}

#[tokio::test]
async fn the_client_does_not_take_any_words_for_an_answer() {
    for words in [
        "SSH-2.0-OpenSSH\r\n".to_owned(),
        String::new(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_owned(),
    ] {
        let directory = Directory::new();
        let path = directory.path().join("meshd.sock");
        let listener = bind(&path).unwrap();
        let said = words.clone();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        let error = Client::new(&path).status().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{words:?}: {error}");
        server.await.unwrap();
    }
}
