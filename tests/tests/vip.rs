//! Virtual IPs: a service's address inside its network.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Lab, Mesh, NameServer, Web, ask_tcp, ask_udp};

/// The virtual IPs of the services `turn` (rr) and `hash` (mh), and of `lone`, which has one backend.
const TURN: [&str; 2] = ["10.0.9.2", "fd00:9::a00:902"];
const HASH: [&str; 2] = ["10.0.9.3", "fd00:9::a00:903"];
const LONE: [&str; 2] = ["10.0.9.4", "fd00:9::a00:904"];

fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .network("green", 4098, &["10.0.10.0/24", "fd00:10::/64"])
        .service("turn", "blue", TURN[0], "rr", &[])
        .backend("turn", "turn.1", "n1", "blue", "10.0.9.11")
        .backend("turn", "turn.2", "n2", "blue", "10.0.9.12")
        .service("hash", "blue", HASH[0], "mh", &[])
        .backend("hash", "hash.1", "n1", "blue", "10.0.9.21")
        .backend("hash", "hash.2", "n2", "blue", "10.0.9.22")
        .service("lone", "blue", LONE[0], "mh", &[])
        .backend("lone", "lone.1", "n2", "blue", "10.0.9.31")
        .service("nobody", "blue", "10.0.9.5", "rr", &[])
        .task("caller", "n1", "blue", "10.0.9.99")
        .task("stranger", "n1", "green", "10.0.10.99")
}

const TASKS: [&str; 5] = ["turn.1", "turn.2", "hash.1", "hash.2", "lone.1"];

fn families(pair: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([pair[0].parse()?, pair[1].parse()?])
}

fn serve(lab: &Lab, port: u16) -> Result<()> {
    TASKS.into_iter().try_for_each(|task| lab.host(task).serve_http(&Web::on(port)))
}

fn distinct(answers: &[String]) -> BTreeSet<&str> {
    answers.iter().map(String::as_str).collect()
}

#[test]
fn it_answers_ping() -> Result<()> {
    mesh().test(|lab| {
        for vip in TURN.into_iter().chain(HASH).chain(LONE) {
            for host in ["caller", "turn.1", "lone.1"] {
                lab.host(host).ping(vip.parse()?, 3, 56)?;
                lab.host(host).ping(vip.parse()?, 1, 1400)?;
            }
        }
        Ok(())
    })
}

#[test]
fn any_tcp_port_reaches_the_backends() -> Result<()> {
    mesh().test(|lab| {
        let caller = lab.host("caller");
        // No port is declared anywhere.
        for port in [80, 31_337] {
            for task in TASKS {
                lab.host(task).stop_servers()?;
            }
            serve(lab, port)?;
            for vip in families(TURN)? {
                let answers = ask_tcp(caller, SocketAddr::new(vip, port), 20_000..20_010)?;
                let alternates = answers.windows(2).all(|pair| pair[0] != pair[1]);
                ensure!(alternates && distinct(&answers).len() == 2, "{vip}:{port}: {answers:?}");
            }
            for vip in families(HASH)? {
                let server = SocketAddr::new(vip, port);
                let answers = ask_tcp(caller, server, 20_000..20_200)?;
                for name in ["hash.1", "hash.2"] {
                    let count = answers.iter().filter(|answer| *answer == name).count();
                    ensure!(count >= 60, "{server}: {name} has {count} of 200 flows");
                }
                ensure!(ask_tcp(caller, server, 20_000..20_200)? == answers, "{server}: not the same again");
            }
            for vip in families(LONE)? {
                let answer = caller.curl(&format!("http://{}/", SocketAddr::new(vip, port)))?;
                let own = if vip.is_ipv4() { "10.0.9.99" } else { "fd00:9::a00:963" };
                ensure!(answer.trim_end() == format!("lone.1 sees {own}"), "{answer}");
            }
        }
        Ok(())
    })
}

#[test]
fn any_udp_port_reaches_the_backends() -> Result<()> {
    mesh().test(|lab| {
        let backends =
            [("turn.1", "10.0.9.11", "fd00:9::a00:90b"), ("turn.2", "10.0.9.12", "fd00:9::a00:90c")];
        for port in [53, 4000] {
            let mut servers = Vec::new();
            for (task, v4, v6) in backends {
                for address in [v4, v6] {
                    let address = SocketAddr::new(address.parse()?, port);
                    servers.push(NameServer::start(lab.host(task), address)?);
                }
            }
            for vip in families(TURN)? {
                let answers = ask_udp(lab.host("caller"), SocketAddr::new(vip, port), 20_000..20_010)?;
                let alternates = answers.windows(2).all(|pair| pair[0] != pair[1]);
                ensure!(alternates && distinct(&answers).len() == 2, "{vip}:{port}: {answers:?}");
            }
        }
        Ok(())
    })
}

/// A task that calls its own service reaches any replica, itself included.
#[test]
fn a_task_reaches_itself_by_its_services_address() -> Result<()> {
    mesh().test(|lab| {
        serve(lab, 80)?;
        for (v4_or_v6, vip) in families(LONE)?.into_iter().enumerate() {
            let lone = lab.host("lone.1");
            for _ in 0..5 {
                let answer = lone.curl(&format!("http://{}/", SocketAddr::new(vip, 80)))?;
                ensure!(answer.starts_with("lone.1 sees "), "{answer}");
            }
            let turn = families(TURN)?[v4_or_v6];
            for task in ["turn.1", "turn.2"] {
                let answers = ask_tcp(lab.host(task), SocketAddr::new(turn, 80), 20_000..20_010)?;
                ensure!(distinct(&answers).len() == 2, "{task} by {turn}: {answers:?}");
            }
        }
        // A long one, too.
        let sum = lab.host("lone.1").publish_random_file("file", 20_000_000)?;
        ensure!(lab.host("lone.1").curl_sha256("http://10.0.9.4/files/file")? == sum, "the file changed");
        Ok(())
    })
}

#[test]
fn a_closed_port_is_refused_at_once() -> Result<()> {
    mesh().test(|lab| {
        for vip in families(TURN)? {
            let server = SocketAddr::new(vip, 81);
            let dial = || TcpStream::connect_timeout(&server, Duration::from_secs(2));
            let error = lab.host("caller").namespace.inside(dial)?.err().context("port 81 is open")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{server}: {error}");
        }
        Ok(())
    })
}

#[test]
fn another_network_does_not_reach_it() -> Result<()> {
    mesh().test(|lab| {
        serve(lab, 80)?;
        for vip in TURN.into_iter().chain(HASH) {
            ensure!(!lab.host("stranger").pings(vip.parse()?)?, "{vip} answers another network's ping");
        }
        let dial = "curl -s --max-time 1 http://10.0.9.2/";
        ensure!(lab.host("stranger").namespace.exec(dial).is_err(), "{dial} was answered");
        Ok(())
    })
}

#[test]
fn a_service_without_backends_is_counted() -> Result<()> {
    mesh().test(|lab| {
        let before = lab.node("n1").dropped("no_backend")?;
        ensure!(lab.host("caller").namespace.exec("curl -s --max-time 1 http://10.0.9.5/").is_err());
        ensure!(lab.node("n1").dropped("no_backend")? > before, "the packets were not counted");
        Ok(())
    })
}
