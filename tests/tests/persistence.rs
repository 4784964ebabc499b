//! Clients that come back to the backend that they had, through any node, though the ring has changed; and a service whose
//! backends all drain.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Call, Greeter, Lab, Mesh, Web};

/// How long a session lasts.
const SECONDS: u32 = 4;

const NODES: [&str; 2] = ["n1", "n2"];

/// Tasks of `web` on two nodes, published as port 9200.
fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "mh", &["9200:80"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .backend("web", "web.2", "n2", "blue", "10.0.9.12")
}

/// Who answers the client at a node's port, each time by a connection of its own.
fn who(lab: &Lab, node: &str, times: usize) -> Result<Vec<String>> {
    let at = SocketAddr::new(lab.mesh().address_v4(node)?, 9200);
    let mut names = Vec::new();
    for _ in 0..times {
        let answer = lab.host("client").curl(&format!("http://{at}/"))?;
        let (name, _) = answer.trim_end().split_once(" sees ").context("no answer of ours")?;
        names.push(name.to_owned());
    }
    Ok(names)
}

fn set_weight(lab: &Lab, backend: &str, weight: u16) -> Result<()> {
    for node in NODES {
        lab.node(node).meshctl_text(&format!("backends weight web {backend} {weight}"))?;
    }
    Ok(())
}

#[test]
fn a_client_comes_back_to_the_backend_that_it_had() -> Result<()> {
    mesh().persistent(SECONDS).test(|lab| {
        for task in ["web.1", "web.2"] {
            lab.host(task).serve_http(&Web::on(80))?;
        }
        let first = who(lab, "n1", 12)?;
        let had = first.first().context("nobody answered")?.clone();
        ensure!(first.iter().all(|name| *name == had), "one client, one backend: {first:?}");
        let other = if had == "web.1" { "web.2" } else { "web.1" };
        // All slots are the other's now; new connections of this client still go where its session is.
        set_weight(lab, &had, 0)?;
        let again = who(lab, "n1", 12)?;
        ensure!(again.iter().all(|name| *name == had), "{had} had the client: {again:?}");
        thread::sleep(Duration::from_secs(u64::from(SECONDS) + 2));
        let after = who(lab, "n1", 12)?;
        ensure!(after.iter().all(|name| name == other), "the session is over: {after:?}");
        Ok(())
    })
}

#[test]
fn a_service_that_drains_refuses_at_once_and_keeps_what_lives() -> Result<()> {
    mesh().test(|lab| {
        let mut servers = Vec::new();
        for (task, address) in [("web.1", "10.0.9.11:80"), ("web.2", "10.0.9.12:80")] {
            servers.push(Greeter::start(lab.host(task), address.parse()?)?);
        }
        let at = |node: &str| Ok::<_, anyhow::Error>(SocketAddr::new(lab.mesh().address_v4(node)?, 9200));
        let mut calls = Vec::new();
        for _ in 0..8 {
            for node in NODES {
                calls.push(Call::dial(lab.host("client"), at(node)?)?);
            }
        }
        for backend in ["web.1", "web.2"] {
            set_weight(lab, backend, 0)?;
        }
        calls.iter_mut().try_for_each(Call::talk)?;
        for node in NODES {
            let refused = Call::dial(lab.host("client"), at(node)?);
            let error = format!("{:#}", refused.err().context("a service that drains took a connection")?);
            ensure!(error.contains("refused"), "{error}");
        }
        calls.iter_mut().try_for_each(Call::talk)
    })
}
