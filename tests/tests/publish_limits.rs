//! Where a published port answers, and for whom: at an address, at an interface, on some nodes, for some clients, and at
//! addresses that are routed to several nodes.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Host, Lab, Mesh, Underlay, Web};
use serde_json::json;

/// Two nodes and a task of a service on each, reached by whatever ports are added.
fn mesh() -> Mesh {
    Mesh::new(2)
        .client("other")
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "mh", &[])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .backend("web", "web.2", "n2", "blue", "10.0.9.12")
}

fn serve(lab: &Lab, tasks: &[&str]) -> Result<()> {
    tasks.iter().try_for_each(|task| lab.host(task).serve_http(&Web::on(80)))
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("no address: {text}"))
}

/// What answers at an address: its name, and the client that it sees; none if the connection is refused at once.
fn ask(host: &Host, at: IpAddr, port: u16) -> Result<Option<(String, String)>> {
    let url = format!("http://{}/", SocketAddr::new(at, port));
    match host.curl(&url) {
        Ok(answer) => {
            let (name, client) = answer.trim_end().split_once(" sees ").context("no answer of ours")?;
            Ok(Some((name.to_owned(), client.to_owned())))
        }
        Err(error) if format!("{error:#}").contains("onnect") => Ok(None),
        Err(error) => Err(error),
    }
}

/// That a task of a service answers, often enough for both of two to have had a turn; or that nobody does.
fn answers(host: &Host, at: IpAddr, port: u16, service: Option<&str>) -> Result<()> {
    let what = format!("{} asks {}", host.name(), SocketAddr::new(at, port));
    let Some(service) = service else {
        let answer = ask(host, at, port).context(what.clone())?;
        ensure!(answer.is_none(), "{what}: answered by {answer:?}");
        return Ok(());
    };
    for _ in 0..8 {
        let (name, _) = ask(host, at, port).context(what.clone())?.context(what.clone())?;
        ensure!(name.split('.').next() == Some(service), "{what}: answered by {name}");
    }
    Ok(())
}

/// Two services share a port of a node that has two addresses, and each answers at its own: from outside, and from the
/// node itself, where localhost is neither.
#[test]
fn a_port_at_one_address_alone() -> Result<()> {
    for return_path in ["tunnel", "direct"] {
        mesh()
            .option("return", json!(return_path))
            .port(json!("192.0.2.1:9200:80"))
            .port(json!("[2001:db8::1]:9200:80"))
            .port(json!("9300:80"))
            .service("second", "blue", "10.0.9.3", "rr", &["192.0.2.201:9200:80", "127.0.0.1:9400:80"])
            .backend("second", "second.1", "n1", "blue", "10.0.9.21")
            .backend("second", "second.2", "n2", "blue", "10.0.9.22")
            .test(|lab| {
                serve(lab, &["web.1", "web.2", "second.1", "second.2"])?;
                lab.host("n1").namespace.ip("address add 192.0.2.201/24 dev eth0")?;
                lab.node_mut("n1").reload()?;
                let hosts = ["client", "n1", "n2"];
                for host in hosts.map(|name| lab.host(name)) {
                    for (at, service) in
                        [("192.0.2.1", "web"), ("2001:db8::1", "web"), ("192.0.2.201", "second")]
                    {
                        answers(host, address(at)?, 9200, Some(service)).context(return_path)?;
                        // What is on every address is there as well.
                        answers(host, address(at)?, 9300, Some("web")).context(return_path)?;
                    }
                    for at in ["192.0.2.2", "2001:db8::2"] {
                        answers(host, address(at)?, 9200, None).context(return_path)?;
                        answers(host, address(at)?, 9300, Some("web")).context(return_path)?;
                    }
                }
                let n1 = lab.host("n1");
                for at in ["127.0.0.1", "::1"] {
                    answers(n1, address(at)?, 9200, None)?;
                    answers(n1, address(at)?, 9300, Some("web"))?;
                }
                // And what is for a node's own processes is for them alone.
                for node in ["n1", "n2"] {
                    answers(lab.host(node), address("127.0.0.1")?, 9400, Some("second"))?;
                    answers(lab.host(node), address("127.0.0.2")?, 9400, None)?;
                }
                answers(lab.host("client"), address("192.0.2.1")?, 9400, None)?;
                answers(n1, address("192.0.2.1")?, 9400, None)
            })?;
    }
    Ok(())
}

#[test]
fn a_port_on_some_nodes_or_at_an_interface() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh()
            .underlay(underlay)
            .port(json!({ "published": 9300, "target": 80, "nodes": ["n1"] }))
            .port(json!({ "published": 9301, "target": 80, "interface": "eth0", "nodes": ["n2"] }))
            .test(|lab| {
                serve(lab, &["web.1", "web.2"])?;
                lab.host("n2").namespace.ip("address add 203.0.113.2/32 dev lo")?;
                lab.node_mut("n2").reload()?;
                lab.host("client").namespace.ip("route add 203.0.113.2/32 via 192.0.2.2")?;
                for (node, number) in [("n1", 1), ("n2", 2)] {
                    let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
                    for at in addresses {
                        let at = address(&at)?;
                        let (first, second) =
                            if node == "n1" { (Some("web"), None) } else { (None, Some("web")) };
                        for host in [lab.host("client"), lab.host(node)] {
                            answers(host, at, 9300, first)?;
                            answers(host, at, 9301, second)?;
                        }
                    }
                }
                answers(lab.host("n1"), address("127.0.0.1")?, 9300, Some("web"))?;
                answers(lab.host("n2"), address("127.0.0.1")?, 9301, None)?;
                answers(lab.host("client"), address("203.0.113.2")?, 9301, None)
            })?;
    }
    Ok(())
}

#[test]
fn a_port_for_some_clients() -> Result<()> {
    for xdp in ["off", "native"] {
        mesh()
            .option("xdp", json!(xdp))
            .port(json!({
                "published": 9200,
                "target": 80,
                "sources": ["192.0.2.101", "2001:db8::101", "10.0.9.31/32"],
            }))
            .task("friend", "n1", "blue", "10.0.9.31")
            .task("stranger", "n1", "blue", "10.0.9.32")
            .test(|lab| {
                serve(lab, &["web.1", "web.2"])?;
                let own = ["192.0.2.1", "2001:db8::1"].map(address);
                for at in own {
                    let at = at?;
                    // The client's addresses end in 101, the other's in 102.
                    answers(lab.host("client"), at, 9200, Some("web"))?;
                    let before = lab.node("n1").dropped("not_allowed")?;
                    answers(lab.host("other"), at, 9200, None)?;
                    ensure!(lab.node("n1").dropped("not_allowed")? > before, "the packet was not counted");
                    // The node's own processes always may.
                    answers(lab.host("n1"), at, 9200, Some("web"))?;
                }
                answers(lab.host("n1"), address("127.0.0.1")?, 9200, Some("web"))?;
                answers(lab.host("friend"), address("192.0.2.1")?, 9200, Some("web"))?;
                answers(lab.host("stranger"), address("192.0.2.1")?, 9200, None)?;
                // The same is foretold.
                let told = lab.node("n1").meshctl("explain --from 192.0.2.102:4000 --to 192.0.2.1:9200")?;
                ensure!(told["verdict"] == "dropped", "{told}");
                let told = lab.node("n1").meshctl("explain --from 192.0.2.101:4000 --to 192.0.2.1:9200")?;
                ensure!(told["verdict"] == "delivered", "{told}");
                Ok(())
            })?;
    }
    Ok(())
}

/// Whichever node the world routes an address to answers there, for its service and no other, and answers ping.
#[test]
fn an_address_that_is_routed_to_several_nodes() -> Result<()> {
    let external = ["198.51.100.7", "2001:db8:a::7"];
    for (underlay, xdp) in [(Underlay::V4, "off"), (Underlay::V4, "native"), (Underlay::V6, "off")] {
        mesh()
            .underlay(underlay)
            .option("xdp", json!(xdp))
            .port(json!("9200:80"))
            .external(&external)
            .service("second", "blue", "10.0.9.3", "rr", &["9300:80"])
            .backend("second", "second.1", "n2", "blue", "10.0.9.21")
            .test(|lab| {
                serve(lab, &["web.1", "web.2", "second.1"])?;
                let client = lab.host("client");
                for node in ["n1", "n2"] {
                    let by = [lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?];
                    let own = [lab.mesh().address_v4("client")?, lab.mesh().address_v6("client")?];
                    for ((at, by), own) in external.iter().zip(by).zip(own) {
                        client.namespace.ip(&format!("route replace {at} via {by}"))?;
                        let at = address(at)?;
                        for _ in 0..8 {
                            let answer = ask(client, at, 9200)?;
                            let (name, seen) = answer.with_context(|| format!("{at} by {node}"))?;
                            ensure!(name.starts_with("web."), "{at} by {node}: {name}");
                            ensure!(seen == own.to_string(), "{at} by {node}: it sees {seen}");
                        }
                        ensure!(client.pings(at)?, "{at} by {node} answers no ping");
                        // No other service's port is there; it is still on the nodes' own addresses.
                        let before = lab.node(node).dropped("not_published")?;
                        answers(client, at, 9300, None)?;
                        ensure!(lab.node(node).dropped("not_published")? > before, "it was not counted");
                        answers(client, by, 9300, Some("second"))?;
                        answers(client, by, 9200, Some("web"))?;
                        // The node's own processes and its tasks find it there too.
                        answers(lab.host(node), at, 9200, Some("web"))?;
                    }
                    for at in external {
                        let task = if node == "n1" { "web.1" } else { "second.1" };
                        answers(lab.host(task), address(at)?, 9200, Some("web"))?;
                    }
                }
                Ok(())
            })?;
    }
    Ok(())
}
