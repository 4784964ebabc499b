//! Tasks and the world outside of their networks.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::lab::{Lab, Mesh, NameServer, Web, ask_tcp, ask_udp, eventually};

fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .internal_network("vault", 4098, &["10.0.10.0/24", "fd00:10::/64"])
        .task("a", "n1", "blue", "10.0.9.11")
        .task("b", "n1", "blue", "10.0.9.12")
        .task("v", "n1", "vault", "10.0.10.11")
        .task("w", "n2", "vault", "10.0.10.12")
}

fn addresses(lab: &Lab, host: &str) -> Result<[IpAddr; 2]> {
    Ok([lab.mesh().address_v4(host)?, lab.mesh().address_v6(host)?])
}

#[test]
fn a_task_reaches_out_under_its_nodes_address() -> Result<()> {
    mesh().test(|lab| {
        let (a, client) = (lab.host("a"), lab.host("client"));
        client.serve_http(&Web::on(80))?;
        let sum = client.publish_random_file("file", 50_000_000)?;
        for (address, node) in addresses(lab, "client")?.into_iter().zip(addresses(lab, "n1")?) {
            a.ping(address, 5, 56)?;
            a.ping(address, 1, 1350)?;
            let web = SocketAddr::new(address, 80);
            let answer = a.curl(&format!("http://{web}/"))?;
            ensure!(answer.trim_end() == format!("client sees {node}"), "{answer}");
            ensure!(a.curl_sha256(&format!("http://{web}/files/file"))? == sum, "50 MB of {web} changed");
        }
        Ok(())
    })
}

/// Two tasks that use the same source ports to the same server do not get in each other's way.
#[test]
fn flows_of_two_tasks_keep_apart() -> Result<()> {
    mesh().test(|lab| {
        let lab = &*lab;
        lab.host("client").serve_http(&Web::on(80))?;
        for address in addresses(lab, "client")? {
            let udp = SocketAddr::new(address, 5353);
            let _server = NameServer::start(lab.host("client"), udp)?;
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let askers = ["a", "b"].map(|task| {
                    scope.spawn(move || {
                        ask_udp(lab.host(task), udp, 20_000..20_500)?;
                        ask_tcp(lab.host(task), SocketAddr::new(address, 80), 20_000..20_100)
                    })
                });
                askers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for outcome in outcomes {
                let answers = outcome.map_err(|_| anyhow::anyhow!("an asker panicked"))??;
                ensure!(answers.len() == 100 && answers.iter().all(|name| name == "client"), "{answers:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn an_internal_network_has_no_way_out() -> Result<()> {
    mesh().test(|lab| {
        let v = lab.host("v");
        lab.host("client").serve_http(&Web::on(80))?;
        lab.host("w").serve_http(&Web::on(80))?;
        // Among themselves all is well.
        ensure!(v.curl("http://10.0.10.12/")?.trim_end() == "w sees 10.0.10.11");
        let interface = v.interface_of("10.0.10.11".parse()?)?;
        ensure!(
            v.namespace.ip("route show default")?.is_empty(),
            "an internal network's task has a default route"
        );
        for address in addresses(lab, "client")?.into_iter().chain(addresses(lab, "n1")?) {
            // Not even with a route of its own making, which the daemon takes away sooner or later.
            let gateway = if address.is_ipv4() { "10.0.10.1" } else { "fd00:10::1" };
            let before = lab.node("n1").dropped("internal")?;
            let mut answered = false;
            eventually("the ping is counted", Duration::from_secs(5), || {
                v.namespace.ip(&format!("route replace default via {gateway} dev {interface}"))?;
                answered |= v.pings(address)?;
                ensure!(
                    lab.node("n1").dropped("internal")? > before,
                    "the ping of {address} was not counted"
                );
                Ok(())
            })?;
            ensure!(!answered, "{address} answers a task of an internal network");
        }
        let dial = "curl -s --max-time 1 http://192.0.2.101/";
        ensure!(v.namespace.exec(dial).is_err(), "{dial} was answered");
        Ok(())
    })
}

/// The nodes, seen from a task: their own servers, and published ports.
#[test]
fn a_task_reaches_nodes_and_published_ports() -> Result<()> {
    mesh()
        .service("web", "blue", "10.0.9.2", "rr", &["8080:80"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.21")
        .backend("web", "web.2", "n2", "blue", "10.0.9.22")
        .test(|lab| {
            for host in ["web.1", "web.2"] {
                lab.host(host).serve_http(&Web::on(80))?;
            }
            for node in ["n1", "n2"] {
                lab.host(node).serve_http(&Web::on(8088))?;
            }
            let a = lab.host("a");
            for node in ["n1", "n2"] {
                for address in addresses(lab, node)? {
                    a.ping(address, 2, 56)?;
                    let own = a.curl(&format!("http://{}/", SocketAddr::new(address, 8088)))?;
                    ensure!(own.starts_with(&format!("{node} sees ")), "{address}: {own}");
                    let answers = ask_tcp(a, SocketAddr::new(address, 8080), 20_000..20_010)?;
                    let names: BTreeSet<_> = answers.iter().map(String::as_str).collect();
                    ensure!(names == BTreeSet::from(["web.1", "web.2"]), "{address}: {answers:?}");
                }
            }
            Ok(())
        })
}
