//! Published ports: on every node, by each of its addresses, to each task in turn, the client's address kept.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{
    FAR, Host, Lab, Mesh, NameServer, UdpEcho, Underlay, Web, ask_tcp, ask_udp, eventually, udp_round_trip,
};
use serde_json::json;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Three replicas of `search`, one on each node, taken in turn.
fn round_robin() -> Mesh {
    Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("search", "blue", "10.0.9.2", "rr", &["9200:9200", "5300:5353/udp"])
        .backend("search", "search.1", "n1", "blue", "10.0.9.11")
        .backend("search", "search.2", "n2", "blue", "10.0.9.12")
        .backend("search", "search.3", "n3", "blue", "10.0.9.13")
}

/// The same, by hash, as port 9300.
fn hashed() -> Mesh {
    Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("hash", "blue", "10.0.9.2", "mh", &["9300:80", "5300:5353/udp"])
        .backend("hash", "hash.1", "n1", "blue", "10.0.9.11")
        .backend("hash", "hash.2", "n2", "blue", "10.0.9.12")
        .backend("hash", "hash.3", "n3", "blue", "10.0.9.13")
}

fn serve_http(lab: &Lab, service: &str, port: u16) -> Result<()> {
    (1..=3).try_for_each(|number| lab.host(&format!("{service}.{number}")).serve_http(&Web::on(port)))
}

/// Servers that answer datagrams to port 5353 with their names, by both families.
fn serve_udp(lab: &Lab, service: &str) -> Result<Vec<NameServer>> {
    let mut servers = Vec::new();
    for number in 1..=3 {
        let host = lab.host(&format!("{service}.{number}"));
        for address in [format!("10.0.9.1{number}"), format!("fd00:9::a00:90{}", ["b", "c", "d"][number - 1])]
        {
            servers.push(NameServer::start(host, SocketAddr::new(address.parse()?, 5353))?);
        }
    }
    Ok(servers)
}

/// Both underlay addresses of a node.
fn addresses(lab: &Lab, node: &str) -> Result<[IpAddr; 2]> {
    Ok([lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?])
}

fn assert_in_turn(what: &str, service: &str, answers: &[String]) -> Result<()> {
    let mut due: Option<usize> = None;
    for (position, answer) in answers.iter().enumerate() {
        let number = answer.strip_prefix(service).and_then(|rest| rest.strip_prefix('.'));
        let number = number.and_then(|text| text.parse::<usize>().ok());
        let number = number.with_context(|| format!("{what}: answer {position} is {answer:?}"))?;
        ensure!(due.is_none_or(|due| due == number), "{what}: out of turn at {position}: {answers:?}");
        due = Some(number % 3 + 1);
    }
    Ok(())
}

#[test]
fn round_robin_goes_in_turn_through_every_node() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        round_robin().underlay(underlay).test(|lab| {
            serve_http(lab, "search", 9200)?;
            let _udp = serve_udp(lab, "search")?;
            let client = lab.host("client");
            for node in NODES {
                for address in addresses(lab, node)? {
                    let answers = ask_tcp(client, SocketAddr::new(address, 9200), 20_000..20_030)?;
                    assert_in_turn(&format!("tcp by {address}, {underlay:?}"), "search", &answers)?;
                    let answers = ask_udp(client, SocketAddr::new(address, 5300), 20_000..20_030)?;
                    assert_in_turn(&format!("udp by {address}, {underlay:?}"), "search", &answers)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_servers_see_the_clients_own_address() -> Result<()> {
    round_robin().client("other").test(|lab| {
        serve_http(lab, "search", 9200)?;
        for client in ["client", "other"] {
            for node in NODES {
                for (address, own) in addresses(lab, node)?.into_iter().zip(addresses(lab, client)?) {
                    let url = format!("http://{}/", SocketAddr::new(address, 9200));
                    for _ in 0..3 {
                        let answer = lab.host(client).curl(&url)?;
                        ensure!(answer.trim_end().ends_with(&format!("sees {own}")), "{url}: {answer}");
                    }
                }
            }
        }
        // Each of three replicas had one request in three of each client, through each of three nodes.
        for number in 1..=3 {
            let server = lab.host(&format!("search.{number}"));
            eventually("the logs are written", Duration::from_secs(2), || {
                let mut counts = BTreeMap::new();
                for line in server.access_log()? {
                    let address = line.split_whitespace().next().unwrap_or_default().to_owned();
                    *counts.entry(address).or_insert(0) += 1;
                }
                for client in ["client", "other"] {
                    for own in addresses(lab, client)? {
                        ensure!(counts.get(&own.to_string()) == Some(&3), "search.{number}: {counts:?}");
                    }
                }
                ensure!(counts.len() == 4, "search.{number} saw others: {counts:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

fn assert_even(what: &str, answers: &[String]) -> Result<()> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.as_str()).or_insert(0_u32) += 1;
    }
    let even = answers.len() as f64 / 3.0;
    ensure!(counts.len() == 3, "{what}: {counts:?}");
    for (name, count) in &counts {
        let off = (f64::from(*count) / even - 1.0).abs();
        ensure!(off <= 0.05, "{what}: {name} is {:.1} % off even: {counts:?}", off * 100.0);
    }
    Ok(())
}

/// Source ports for this many flows.
fn ports(count: u16) -> impl Iterator<Item = u16> + Send + Clone {
    20_000..20_000 + count
}

#[test]
fn hashing_spreads_ten_thousand_udp_flows_evenly() -> Result<()> {
    hashed().test(|lab| {
        let _udp = serve_udp(lab, "hash")?;
        let client = lab.host("client");
        for (node, family) in [("n1", 0), ("n2", 1)] {
            let server = SocketAddr::new(addresses(lab, node)?[family], 5300);
            assert_even(&format!("udp by {server}"), &ask_udp(client, server, ports(10_000))?)?;
        }
        Ok(())
    })
}

#[test]
fn hashing_spreads_ten_thousand_tcp_flows_evenly() -> Result<()> {
    hashed().test(|lab| {
        serve_http(lab, "hash", 80)?;
        let server = SocketAddr::new(addresses(lab, "n3")?[0], 9300);
        assert_even(&format!("tcp by {server}"), &ask_tcp(lab.host("client"), server, ports(10_000))?)
    })
}

/// No node needs to know what another chose.
#[test]
fn hashing_chooses_alike_on_every_node() -> Result<()> {
    hashed().test(|lab| {
        serve_http(lab, "hash", 80)?;
        let _udp = serve_udp(lab, "hash")?;
        let client = lab.host("client");
        for family in 0..2 {
            let mut chosen: Option<[Vec<String>; 2]> = None;
            for node in NODES {
                let address = addresses(lab, node)?[family];
                let tcp = ask_tcp(client, SocketAddr::new(address, 9300), ports(100))?;
                let udp = ask_udp(client, SocketAddr::new(address, 5300), ports(100))?;
                let choice = [tcp, udp];
                if let Some(before) = &chosen {
                    ensure!(*before == choice, "{node} chooses otherwise by {address}");
                }
                chosen = Some(choice);
            }
        }
        Ok(())
    })
}

/// `curl localhost:9200`, on a node.
#[test]
fn the_node_itself_reaches_a_published_port() -> Result<()> {
    round_robin().test(|lab| {
        serve_http(lab, "search", 9200)?;
        let _udp = serve_udp(lab, "search")?;
        for node in NODES {
            let host = lab.host(node);
            let [v4, v6] = addresses(lab, node)?;
            for address in ["127.0.0.1".parse()?, "::1".parse()?, v4, v6] {
                let what = format!("{node} to {address}");
                let server = SocketAddr::new(address, 9200);
                let mut answers = Vec::new();
                for _ in 0..3 {
                    let text = host.curl(&format!("http://{server}/")).context(what.clone())?;
                    let (name, client) = text.trim_end().split_once(" sees ").context("no answer of ours")?;
                    let own = if address.is_ipv4() { v4 } else { v6 };
                    ensure!(client == own.to_string(), "{what}: the server sees {client}, not {own}");
                    answers.push(name.to_owned());
                }
                assert_in_turn(&what, "search", &answers)?;
                // From an unconnected socket the answer must come from where the question went to.
                let answers =
                    ask_udp(host, SocketAddr::new(address, 5300), 20_000..20_006).context(what.clone())?;
                assert_in_turn(&format!("{what}, udp"), "search", &answers)?;
                unconnected(host, SocketAddr::new(address, 5300)).context(what)?;
            }
            // By name: whichever family the resolver likes.
            ensure!(host.curl("http://localhost:9200/")?.starts_with("search."));
            // The other nodes, as any client would.
            for other in NODES.into_iter().filter(|other| *other != node) {
                for address in addresses(lab, other)? {
                    let answer = host.curl(&format!("http://{}/", SocketAddr::new(address, 9200)))?;
                    ensure!(answer.starts_with("search."), "{node} to {other}: {answer}");
                }
            }
        }
        Ok(())
    })
}

fn unconnected(host: &Host, server: SocketAddr) -> Result<()> {
    host.namespace.inside(|| {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"who?", server)?;
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).context("no answer to an unconnected socket")?;
        ensure!(answer[..length].starts_with(b"search."), "not our answer");
        ensure!(from == server, "the answer comes from {from}, the question went to {server}");
        Ok(())
    })?
}

#[test]
fn a_node_without_a_task_answers_as_well() -> Result<()> {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "mh", &["8080:80"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .test(|lab| {
            lab.host("web.1").serve_http(&Web::on(80))?;
            let sum = lab.host("web.1").publish_random_file("file", 50_000_000)?;
            for (node, client) in [("n2", "client"), ("n1", "client"), ("n2", "n2"), ("n1", "n2")] {
                for address in addresses(lab, node)? {
                    let url = format!("http://{}/files/file", SocketAddr::new(address, 8080));
                    let found = lab.host(client).curl_sha256(&url)?;
                    ensure!(found == sum, "{client}: 50 MB of {url} arrived changed");
                }
            }
            Ok(())
        })
}

/// Whatever fits into the tunnel comes back, and of what does not the client is told.
#[test]
fn a_client_learns_what_fits_through_the_tunnel() -> Result<()> {
    for (underlay, mtu) in [(Underlay::V4, 1450), (Underlay::V6, 1430)] {
        for xdp in ["off", "native"] {
            Mesh::new(2)
                .underlay(underlay)
                .option("xdp", json!(xdp))
                .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
                .service("echo", "blue", "10.0.9.2", "mh", &["5300:5353/udp"])
                .backend("echo", "echo.1", "n1", "blue", "10.0.9.11")
                .test(|lab| {
                    let client = lab.host("client");
                    for (address, backend) in
                        addresses(lab, "n2")?.into_iter().zip(["10.0.9.11", "fd00:9::a00:90b"])
                    {
                        let headers = if address.is_ipv4() { 28 } else { 48 };
                        let server = SocketAddr::new(address, 5300);
                        let _echo =
                            UdpEcho::start(lab.host("echo.1"), SocketAddr::new(backend.parse()?, 5353))?;
                        udp_round_trip(client, server, 0..=mtu - headers).context(xdp)?;

                        let too_long = vec![0; 1500 - headers];
                        client.namespace.inside(|| {
                            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                            std::net::UdpSocket::bind((any, 0))?.send_to(&too_long, server)
                        })??;
                        eventually("the client is told", Duration::from_secs(2), || {
                            let route = client.namespace.ip(&format!("route get {address}"))?;
                            ensure!(
                                route.contains(&format!("mtu {mtu}")),
                                "by {address}, xdp {xdp}: {route}"
                            );
                            Ok(())
                        })?;
                        ensure!(lab.node("n2").dropped("too_big")? > 0, "the packet was not counted");
                    }
                    Ok(())
                })?;
        }
    }
    Ok(())
}

#[test]
fn host_mode_answers_where_the_task_runs_alone() -> Result<()> {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("agent", "blue", "10.0.9.2", "rr", &[])
        .port(json!({ "published": 9400, "target": 80, "mode": "host" }))
        .backend("agent", "agent.1", "n1", "blue", "10.0.9.11")
        .backend("agent", "agent.2", "n2", "blue", "10.0.9.12")
        .service("single", "blue", "10.0.9.3", "rr", &[])
        .port(json!({ "published": 9500, "target": 80, "protocol": "tcp", "mode": "host" }))
        .backend("single", "single.1", "n1", "blue", "10.0.9.21")
        .test(|lab| {
            for task in ["agent.1", "agent.2", "single.1"] {
                lab.host(task).serve_http(&Web::on(80))?;
            }
            let client = lab.host("client");
            for family in 0..2 {
                for (node, task) in [("n1", "agent.1"), ("n2", "agent.2")] {
                    let server = SocketAddr::new(addresses(lab, node)?[family], 9400);
                    let answers = ask_tcp(client, server, 20_000..20_010)?;
                    ensure!(answers.iter().all(|name| name == task), "{server}: {answers:?}");
                    let own = lab.host(node).curl("http://localhost:9400/")?;
                    ensure!(own.starts_with(task), "localhost on {node}: {own}");
                }
                let here = SocketAddr::new(addresses(lab, "n1")?[family], 9500);
                ensure!(ask_tcp(client, here, 20_000..20_003)?.iter().all(|name| name == "single.1"));
                let elsewhere = SocketAddr::new(addresses(lab, "n2")?[family], 9500);
                ensure!(refused(client, elsewhere)?, "{elsewhere} should be closed");
            }
            Ok(())
        })
}

/// Whether a connection is refused, at once.
fn refused(host: &Host, server: SocketAddr) -> Result<bool> {
    let outcome = host.namespace.inside(|| TcpStream::connect_timeout(&server, Duration::from_secs(2)))?;
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => bail!("{server}: {error}"),
        Ok(_) => Ok(false),
    }
}

/// What is not published is the node's own business.
#[test]
fn other_traffic_of_the_node_is_untouched() -> Result<()> {
    round_robin().test(|lab| {
        let (client, node) = (lab.host("client"), lab.host("n1"));
        node.serve_http(&Web::on(8088))?;
        node.serve_udp(5399)?;
        for (address, own) in addresses(lab, "n1")?.into_iter().zip(addresses(lab, "client")?) {
            client.ping(address, 3, 1400)?;
            let url = format!("http://{}/", SocketAddr::new(address, 8088));
            ensure!(client.curl(&url)?.trim_end() == format!("n1 sees {own}"));
            let names = ask_udp(client, SocketAddr::new(address, 5399), 20_000..20_003)?;
            ensure!(names.iter().all(|name| name.trim_end() == "n1"), "{names:?}");
            ensure!(refused(client, SocketAddr::new(address, 9201))?, "port 9201 is open");
            // A port is published for its own protocol alone.
            ensure!(refused(client, SocketAddr::new(address, 5300))?, "the UDP port is open for TCP");
            let from_node = node.curl(&url)?;
            ensure!(from_node.trim_end() == format!("n1 sees {address}"), "{from_node}");
        }
        ensure!(node.curl("http://127.0.0.1:8088/")?.trim_end() == "n1 sees 127.0.0.1");
        ensure!(node.curl("http://[::1]:8088/")?.trim_end() == "n1 sees ::1");
        Ok(())
    })
}

/// A client that is not on the nodes' own wire, but behind a router.
#[test]
fn a_client_behind_a_router() -> Result<()> {
    round_robin().client("router").test(|lab| {
        serve_http(lab, "search", 9200)?;
        lab.add_host_behind("router", "far", 1500)?;
        for node in NODES {
            for (address, own) in addresses(lab, node)?.into_iter().zip(FAR) {
                for _ in 0..3 {
                    let url = format!("http://{}/", SocketAddr::new(address, 9200));
                    let answer = lab.host("far").curl(&url)?;
                    ensure!(answer.trim_end().ends_with(&format!("sees {own}")), "{url}: {answer}");
                }
            }
        }
        Ok(())
    })
}

/// XDP is an accelerator: without it tc does the same.
#[test]
fn every_way_to_attach_xdp_does_the_same() -> Result<()> {
    for mode in ["native", "generic", "off"] {
        round_robin().option("xdp", json!(mode)).test(|lab| {
            serve_http(lab, "search", 9200)?;
            for node in NODES {
                let status = lab.node(node).meshctl("status")?;
                let programs = status["programs"].as_array().context("no programs in the status")?;
                let modes: Vec<_> = programs.iter().filter_map(|program| program["mode"].as_str()).collect();
                let xdp: Vec<_> = modes.iter().filter(|mode| mode.starts_with("xdp")).collect();
                let right = if mode == "off" { xdp.is_empty() } else { xdp == [&&*format!("xdp {mode}")] };
                ensure!(right, "{node} with xdp {mode}: {modes:?}");
                for address in addresses(lab, node)? {
                    let server = SocketAddr::new(address, 9200);
                    let answers = ask_tcp(lab.host("client"), server, 20_000..20_030)?;
                    assert_in_turn(&format!("xdp {mode}, by {address}"), "search", &answers)?;
                }
                let sum = lab.host("search.3").publish_random_file("file", 10_000_000)?;
                let found = lab.host("search.1").curl_sha256("http://10.0.9.13:9200/files/file")?;
                ensure!(found == sum, "xdp {mode}: 10 MB between tasks arrived changed");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The nodes' own wire carries the tunnels; ports answer at the addresses of the wire that is listed.
#[test]
fn ports_answer_at_the_listed_interfaces_alone() -> Result<()> {
    round_robin().option("interfaces", json!(["eth1"])).test(|lab| {
        serve_http(lab, "search", 9200)?;
        let client = lab.host("client");
        // A second wire between the client and n1.
        let far = lab.namespace_name("n1");
        client.namespace.ip(&format!("link add eth1 type veth peer name eth1 netns {far}"))?;
        for (host, last) in [("client", 2), ("n1", 1)] {
            let namespace = &lab.host(host).namespace;
            namespace.exec("ethtool -K eth1 tx off")?;
            namespace.ip("link set eth1 up")?;
            namespace.ip(&format!("address add 198.51.100.{last}/24 dev eth1"))?;
            namespace.ip(&format!("address add 2001:db8:1::{last}/64 dev eth1 nodad"))?;
        }
        let listed: [IpAddr; 2] = ["198.51.100.1".parse()?, "2001:db8:1::1".parse()?];
        for address in listed {
            let server = SocketAddr::new(address, 9200);
            eventually("the new interface serves", Duration::from_secs(10), || {
                ensure!(!refused(client, server)?, "{server} is closed");
                Ok(())
            })?;
            let answers = ask_tcp(client, server, 20_000..20_030)?;
            ensure!(NODES.len() == BTreeMap::from_iter(answers.iter().map(|name| (name, ()))).len());
            // By the other wire, too: it is the address that counts.
            let n1 = addresses(lab, "n1")?[usize::from(address.is_ipv6())];
            lab.host("client").namespace.ip(&format!("route replace {address} via {n1} dev eth0"))?;
            ask_tcp(client, server, 21_000..21_003).context("by the other wire")?;
            lab.host("client").namespace.ip(&format!("route delete {address} via {n1} dev eth0"))?;
            let own = lab.host("n1").curl(&format!("http://{server}/"))?;
            ensure!(own.starts_with("search."), "{own}");
        }
        for (unlisted, gateway) in addresses(lab, "n1")?.into_iter().zip(listed) {
            let server = SocketAddr::new(unlisted, 9200);
            ensure!(refused(client, server)?, "{server} is open");
            ensure!(refused(lab.host("n1"), server)?, "{server} is open to the node itself");
            ensure!(refused(lab.host("search.1"), server)?, "{server} is open to a task of the node");
            // The weak host model: an address is the host's on each of its wires.
            lab.host("client").namespace.ip(&format!("route replace {unlisted} via {gateway} dev eth1"))?;
            ensure!(refused(client, server)?, "{server} is open by the listed interface");
            lab.host("client").namespace.ip(&format!("route delete {unlisted} via {gateway} dev eth1"))?;
            let explained = lab.node("n1").meshctl(&format!("explain --from {unlisted} --to {server}"))?;
            ensure!(explained["verdict"] == "passed", "{explained}");
        }
        // Without any listed interface a node serves its own processes, and the mesh goes on.
        for node in NODES {
            for url in ["http://127.0.0.1:9200/", "http://[::1]:9200/"] {
                ensure!(lab.host(node).curl(url)?.starts_with("search."), "{url} on {node}");
            }
        }
        ensure!(
            refused(client, SocketAddr::new(addresses(lab, "n2")?[0], 9200))?,
            "n2 has no listed interface"
        );
        ensure!(lab.host("search.1").curl("http://10.0.9.13:9200/")?.starts_with("search.3 "));
        // Tasks reach the world by the tunnels' wire, and the node at any of its addresses.
        client.serve_http(&Web::on(8089))?;
        lab.host("n1").serve_http(&Web::on(8088))?;
        let [outside, own] = [addresses(lab, "client")?, addresses(lab, "n1")?];
        for ((outside, own), listed) in outside.into_iter().zip(own).zip(listed) {
            let url = format!("http://{}/", SocketAddr::new(outside, 8089));
            ensure!(lab.host("search.1").curl(&url)?.starts_with("client sees "), "{url}");
            for own in [own, listed] {
                let url = format!("http://{}/", SocketAddr::new(own, 8088));
                ensure!(lab.host("search.1").curl(&url)?.starts_with("n1 sees "), "{url}");
            }
        }
        Ok(())
    })
}
