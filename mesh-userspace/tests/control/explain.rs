//! What `explain` says of flows of every sort.

use std::sync::Arc;

use mesh_common::{abi, abi::Family, hash};
use mesh_userspace::{
    api::{
        client::ClientError,
        types::{ExplainQuery, Explanation, Verdict},
    },
    table::{Protocol, ReturnPath, Scheduler},
};

use crate::fake::{self, SEED, Server, ip};

fn query(from: &str, to: &str) -> ExplainQuery {
    ExplainQuery {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        protocol: Protocol::Tcp,
        network: None,
    }
}

async fn ask(server: &Server, from: &str, to: &str) -> Explanation {
    server.client().explain(&query(from, to)).await.unwrap()
}

/// The slot that the pipeline would look at: the golden rule that `explain` must agree with.
fn slot(client: &str, port: u16, service_port: u16, protocol: u8) -> u32 {
    let hash = hash::flow(SEED, ip(client).into(), port.to_be_bytes(), service_port.to_be_bytes(), protocol);
    hash::slot(hash, 7)
}

/// The slots of `search` hold its three backends in turn.
fn backend_of(slot: u32) -> (String, String) {
    let number = slot % 3 + 1;
    (format!("search.{number}"), format!("n{number}"))
}

#[track_caller]
fn because(explanation: &Explanation, words: &str) {
    assert!(explanation.why.iter().any(|why| why.contains(words)), "{words}: {explanation:#?}");
}

#[track_caller]
fn instead(explanation: &Explanation, words: &str) {
    assert!(explanation.instead.iter().any(|instead| instead.contains(words)), "{words}: {explanation:#?}");
}

#[tokio::test]
async fn a_client_of_a_published_port_gets_the_pipelines_own_slot() {
    let server = Server::start();
    let mut seen = std::collections::BTreeSet::new();
    for port in 40000..40040 {
        let told = ask(&server, &format!("198.51.100.9:{port}"), "192.0.2.1:9200").await;
        let choice = told.choice.unwrap();
        let expected = slot("198.51.100.9", port, 9200, 6);
        let (backend, node) = backend_of(expected);
        assert_eq!((choice.slot, choice.slots), (Some(expected), 7));
        assert_eq!((choice.backend.as_ref(), choice.node.as_ref()), (Some(&backend), Some(&node)));
        assert_eq!((choice.service.as_str(), choice.scheduler), ("search", Scheduler::Mh));
        let way = if node == "n1" {
            "n1, without a tunnel".to_owned()
        } else {
            format!("n1 → VXLAN 4097 → {node}")
        };
        let address = format!("10.0.9.1{}", &node[1..]);
        assert_eq!(
            told.path.unwrap(),
            format!("{way}, delivered as {address}:9200; the answer returns through n1")
        );
        seen.insert(backend);
    }
    assert_eq!(seen.len(), 3, "each backend has its share");
}

#[tokio::test]
async fn the_entry_is_the_node_that_is_spoken_to() {
    let server = Server::start();
    let from = "198.51.100.9:40000";
    let told = ask(&server, from, "192.0.2.3:9200").await;
    because(&told, "192.0.2.3 is an address of n3: it enters the mesh there");
    assert!(told.path.unwrap().ends_with("the answer returns through n3"));
    server.fake.edit(|snapshot| Arc::make_mut(&mut snapshot.table).options.r#return = ReturnPath::Direct);
    let told = ask(&server, from, "192.0.2.3:9200").await;
    assert!(told.path.unwrap().ends_with("the answer goes straight to the client"));
}

#[tokio::test]
async fn the_protocol_counts() {
    let server = Server::start();
    let udp = ExplainQuery { protocol: Protocol::Udp, ..query("198.51.100.9:1", "192.0.2.1:9200") };
    let told = server.client().explain(&udp).await.unwrap();
    assert_eq!(told.verdict, Verdict::Passed);
    because(&told, "no service publishes 9200/udp");
    instead(&told, "9200/tcp (search)");
}

#[tokio::test]
async fn a_node_s_own_process_is_hashed_as_the_node() {
    let server = Server::start();
    for from in ["127.0.0.1:40000", "192.0.2.1:40000"] {
        let told = ask(&server, from, "127.0.0.1:9200").await;
        because(&told, "are n1's own");
        assert_eq!(told.choice.unwrap().slot, Some(slot("192.0.2.1", 40000, 9200, 6)));
    }
    // The node has no IPv6 address in the table: which one it speaks from is not known here.
    let told = ask(&server, "[::1]:40000", "[::1]:9200").await;
    assert_eq!(told.choice.unwrap().shares.len(), 3);
    // A node that speaks to another one is a client like any other.
    let told = ask(&server, "192.0.2.1:40000", "192.0.2.2:9200").await;
    because(&told, "192.0.2.2 is an address of n2");
}

#[tokio::test]
async fn a_stranger_does_not_reach_a_loopback_address() {
    let server = Server::start();
    let told = ask(&server, "198.51.100.9:1", "127.0.0.1:9200").await;
    assert_eq!(told.verdict, Verdict::Passed);
    because(&told, "127.0.0.1 is n1's own, and 198.51.100.9 is not on n1");
}

#[tokio::test]
async fn an_address_of_an_interface_that_is_not_listed() {
    let server = Server::start();
    for (from, network) in [("198.51.100.9:4000", None), ("10.0.9.40:4000", Some("blue".to_owned()))] {
        let asked = ExplainQuery { network, ..query(from, "10.77.0.1:9200") };
        let told = server.client().explain(&asked).await.unwrap();
        assert_eq!((told.verdict, &told.choice), (Verdict::Passed, &None), "{told:#?}");
        because(&told, "10.77.0.1 is of no interface that `options: {interfaces: …}` lists");
    }
}

#[tokio::test]
async fn a_task_that_asks_a_virtual_ip() {
    let server = Server::start();
    let network = Some("blue".to_owned());
    let asked = ExplainQuery { network, ..query("10.0.9.40:5000", "10.0.9.2:8080") };
    let told = server.client().explain(&asked).await.unwrap();
    let expected = slot("10.0.9.40", 5000, 8080, 6);
    let (backend, node) = backend_of(expected);
    let choice = told.choice.clone().unwrap();
    assert_eq!((choice.slot, choice.backend), (Some(expected), Some(backend)));
    assert_eq!(choice.by, "virtual IP 10.0.9.2 on blue");
    // A virtual IP takes every port as it is.
    let address = format!("delivered as 10.0.9.1{}:8080", &node[1..]);
    assert!(told.path.as_ref().unwrap().contains(&address), "{told:#?}");
    because(&told, "10.0.9.40 is tool's address on blue (VNI 4097), attached on n1");
    assert_eq!(told.verdict, Verdict::Delivered);
}

#[tokio::test]
async fn ipv6_has_its_own_rings() {
    let server = Server::start();
    let told = ask(&server, "[fd00:9::a00:90b]:5000", "[fd00:9::2]:80").await;
    let expected = slot("fd00:9::a00:90b", 5000, 80, 6);
    assert_eq!(told.choice.unwrap().backend, Some(backend_of(expected).0));
    assert!(told.path.unwrap().contains("delivered as [fd00:9::a00:90"));
    let told = ask(&server, "[2001:db8::9]:1", "[2001:db8::1]:8000").await;
    assert_eq!(told.verdict, Verdict::Passed);
    because(&told, "turns has no network with IPv6 addresses");
}

#[tokio::test]
async fn without_a_port_and_with_round_robin_there_are_shares() {
    let server = Server::start();
    let told = ask(&server, "198.51.100.9", "192.0.2.1:9200").await;
    let shares: Vec<_> = told
        .choice
        .as_ref()
        .unwrap()
        .shares
        .iter()
        .map(|share| (share.backend.as_str(), share.slots))
        .collect();
    assert_eq!(shares, [("search.1", 3), ("search.2", 2), ("search.3", 2)]);
    because(&told, "the slot depends on the client's port");

    let told = ask(&server, "198.51.100.9:40000", "192.0.2.1:8000").await;
    let choice = told.choice.as_ref().unwrap();
    assert_eq!((choice.scheduler, choice.backend.as_ref(), choice.slot), (Scheduler::Rr, None, None));
    assert_eq!(choice.shares.len(), 2);
    because(&told, "rr: each new connection goes to the next backend in turn");
}

#[tokio::test]
async fn a_task_that_asks_a_task() {
    let server = Server::start();
    let told = ask(&server, "10.0.9.11:5000", "10.0.9.13:22").await;
    assert_eq!(told.summary, "delivered to search.3 on n3");
    assert_eq!(
        told.path.unwrap(),
        "n1 → VXLAN 4097 → n3, delivered as 10.0.9.13:22; the answer comes straight back"
    );
    assert!(told.choice.is_none());
    let told = ask(&server, "10.0.9.11:5000", "10.0.9.21:22").await;
    assert!(told.path.unwrap().starts_with("n1, without a tunnel"));
}

#[tokio::test]
async fn what_is_dropped_says_as_what() {
    let server = Server::start();
    let dropped = |from: &'static str, to: &'static str, label: &'static str| {
        let client = server.client();
        async move {
            let told = client.explain(&query(from, to)).await.unwrap();
            assert_eq!(told.verdict, Verdict::Dropped, "{told:#?}");
            assert!(told.summary.starts_with(&format!("dropped as {label}: ")), "{told:#?}");
            told
        }
    };
    let told = dropped("10.0.9.11:1", "10.0.9.200:80", "no_such_endpoint").await;
    instead(&told, "`meshctl networks inspect blue`");
    let told = server.client().explain(&query("10.0.9.11:1", "10.0.9.1:80")).await.unwrap();
    assert_eq!(told.verdict, Verdict::Dropped, "{told:#?}");
    assert!(told.summary.starts_with("refused by the gateway of blue"), "{told:#?}");
    dropped("10.0.9.11:1", "224.0.0.1:80", "multicast").await;
    let told = dropped("10.0.10.11:1", "203.0.113.5:80", "internal").await;
    because(&told, "203.0.113.5 is in no subnet of vault");
    // Another network, from the internal one.
    let told = dropped("10.0.10.11:1", "10.0.9.2:9200", "internal").await;
    because(&told, "10.0.9.2 is the virtual IP of search on blue, which only tasks on blue reach");
    instead(&told, "search's published port 9200/tcp on any node");
    let forged = ExplainQuery { network: Some("vault".to_owned()), ..query("10.0.10.99:1", "10.0.10.2:1") };
    let told = server.client().explain(&forged).await.unwrap();
    assert!(told.summary.starts_with("dropped as source_forged"));
    // db has a virtual IP, but the maps do not have it yet: nothing there.
    dropped("10.0.10.11:1", "10.0.10.2:80", "no_such_endpoint").await;
}

#[tokio::test]
async fn a_service_without_backends_is_told_what_it_lacks() {
    let server = Server::start();
    server.fake.edit(|snapshot| {
        let mut maps = fake::maps();
        let empty =
            fake::Ring { service: "search", scheduler: abi::Scheduler::Mh, target_port: 9200, slots: vec![] };
        maps.add(fake::published(9200, Protocol::Tcp, Family::V4), &empty);
        snapshot.lookup = Arc::new(maps);
    });
    let told = ask(&server, "198.51.100.9:1", "192.0.2.1:9200").await;
    assert!(told.summary.starts_with("dropped as no_backend"));
    because(&told, "search has no backend with an IPv4 address");
    instead(&told, "--service search");
}

#[tokio::test]
async fn what_is_not_the_mesh_s_is_left_alone() {
    let server = Server::start();
    let told = ask(&server, "198.51.100.9:1", "192.0.2.1:22").await;
    assert_eq!(told.verdict, Verdict::Passed);
    instead(&told, "published: 9100/tcp (agent), 9200/tcp (search), 8000/tcp (turns)");
    let told = ask(&server, "198.51.100.9:1", "203.0.113.7:9200").await;
    because(&told, "203.0.113.7 is no node's address");
    instead(&told, "192.0.2.1 (n1)");
    let told = ask(&server, "198.51.100.9:1", "10.0.9.2:9200").await;
    assert_eq!(told.verdict, Verdict::Passed);
    because(&told, "the virtual IP of search on blue");
    let told = ask(&server, "198.51.100.9:1", "10.0.9.13:9200").await;
    because(&told, "10.0.9.13 is search.3 on blue");
}

#[tokio::test]
async fn mode_host_answers_only_where_a_task_is() {
    let server = Server::start();
    let told = ask(&server, "198.51.100.9:1", "192.0.2.1:9100").await;
    assert_eq!(told.verdict, Verdict::Passed);
    because(&told, "no task of it is on n1");
    let told = ask(&server, "198.51.100.9:1", "192.0.2.2:9100").await;
    assert_eq!(
        (told.verdict, told.summary.as_str()),
        (Verdict::Delivered, "delivered on n2 to one of agent.2")
    );
    let told = ask(&server, "198.51.100.9:1", "192.0.2.3:9100").await;
    assert_eq!(told.verdict, Verdict::Passed);
}

#[tokio::test]
async fn tunnels_are_for_nodes() {
    let server = Server::start();
    let tunnel = |from: &str| ExplainQuery { protocol: Protocol::Udp, ..query(from, "192.0.2.1:4789") };
    let told = server.client().explain(&tunnel("198.51.100.9:1")).await.unwrap();
    assert!(told.summary.starts_with("dropped as not_a_peer"));
    let told = server.client().explain(&tunnel("192.0.2.2:1")).await.unwrap();
    assert!(told.summary.contains("a tunnel packet from n2"));
    let told = server.client().explain(&tunnel("10.0.9.11:1")).await.unwrap();
    assert!(told.summary.starts_with("dropped as tunnel_forged"));
}

#[tokio::test]
async fn a_task_that_speaks_to_the_world_is_masqueraded() {
    let server = Server::start();
    let told = ask(&server, "10.0.9.11:1", "203.0.113.5:443").await;
    assert_eq!(told.verdict, Verdict::Outside);
    assert_eq!(told.summary, "leaves blue for the world outside through n1");
    let told = ask(&server, "10.0.9.11:1", "192.0.2.2:9200").await;
    because(&told, "n1 masquerades it");
    because(&told, "the slot depends on the port that n1 masquerades with");
    assert_eq!((told.verdict, told.choice.as_ref().unwrap().shares.len()), (Verdict::Delivered, 3));
    instead(&told, "a task on a network of search reaches it by its virtual IP");
    // Its own node, and another port of it.
    let told = ask(&server, "10.0.9.11:1", "192.0.2.1:9200").await;
    assert_eq!(told.verdict, Verdict::Delivered);
    let told = ask(&server, "10.0.9.11:1", "192.0.2.1:22").await;
    assert_eq!(told.verdict, Verdict::Outside);
}

#[tokio::test]
async fn what_is_broken_on_the_way_is_told() {
    let server = Server::start();
    server.fake.edit(|snapshot| {
        snapshot.uplinks.clear();
        snapshot.attachments.get_mut("search.1").unwrap().waiting = Some("its namespace is gone".to_owned());
    });
    let told = ask(&server, "10.0.9.21:5000", "10.0.9.13:22").await;
    assert!(told.summary.starts_with("dropped as no_route"), "{told:#?}");
    because(&told, "n1 has no route to n3");
    let told = ask(&server, "10.0.9.21:5000", "10.0.9.11:22").await;
    assert!(told.summary.starts_with("dropped as no_such_endpoint"), "{told:#?}");
    because(&told, "search.1 is not attached: its namespace is gone");
    let told = ask(&server, "10.0.9.11:5000", "10.0.9.13:22").await;
    because(&told, "it can send nothing");
}

#[tokio::test]
async fn questions_without_one_answer_are_refused() {
    let server = Server::start();
    for (question, says) in [
        (query("10.0.9.40:1", "10.0.9.2:80"), "is an endpoint's address on blue and on green; say which one"),
        (query("10.0.9.11:1", "[fd00:9::2]:80"), "are not of one family"),
        (query("10.0.9.11:1", "10.0.9.2"), "has no port"),
        (
            ExplainQuery { network: Some("mauve".to_owned()), ..query("10.0.9.11:1", "10.0.9.2:80") },
            "there is no network \"mauve\"",
        ),
    ] {
        let error = server.client().explain(&question).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }));
        assert!(error.to_string().contains(says), "{error}");
    }
}
