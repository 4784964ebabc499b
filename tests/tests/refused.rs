//! What no backend takes is refused at once, or lost in silence where the service is told so.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Host, Lab, Mesh, Web, eventually};
use serde_json::json;

/// Within this, a refusal counts as told at once: a SYN that is lost is sent again after a second.
const AT_ONCE: Duration = Duration::from_millis(900);

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(1200);

const TCP: u16 = 9200;
const UDP: u16 = 5300;

/// Virtual IPs of a service of nobody's, and of a silent one.
const NOBODY: [&str; 2] = ["10.0.9.2", "fd00:9::a00:902"];
const SILENT: [&str; 2] = ["10.0.9.3", "fd00:9::a00:903"];

fn mesh(xdp: &str) -> Mesh {
    Mesh::new(2)
        .option("xdp", json!(xdp))
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("nobody", "blue", NOBODY[0], "mh", &["9200:80", "5300:53/udp"])
        .service("silent", "blue", SILENT[0], "rr", &["9300:80", "5400:53/udp"])
        .on_no_backend("drop")
        .task("caller", "n1", "blue", "10.0.9.99")
}

fn addresses(lab: &Lab, node: &str) -> Result<[IpAddr; 2]> {
    Ok([lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?])
}

fn both(pair: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([pair[0].parse()?, pair[1].parse()?])
}

/// What comes of a connection, and after how long.
fn dial(host: &Host, server: SocketAddr) -> Result<(io::Result<()>, Duration)> {
    host.namespace.inside(|| {
        let start = Instant::now();
        let result = TcpStream::connect_timeout(&server, SILENCE).map(drop);
        (result, start.elapsed())
    })
}

/// What comes of a datagram, and after how long.
fn send(host: &Host, server: SocketAddr) -> Result<(io::Result<()>, Duration)> {
    host.namespace.inside(|| {
        let start = Instant::now();
        let exchange = || {
            let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.set_read_timeout(Some(SILENCE))?;
            socket.connect(server)?;
            socket.send(b"is anybody there?")?;
            socket.recv(&mut [0; 64]).map(drop)
        };
        (exchange(), start.elapsed())
    })
}

fn assert_refused(what: &str, (result, after): (io::Result<()>, Duration)) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} was answered"))?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{what}: {error} after {after:?}");
    ensure!(after < AT_ONCE, "{what} was refused after {after:?}");
    Ok(())
}

fn assert_silence(what: &str, (result, after): (io::Result<()>, Duration)) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} was answered"))?;
    let timed_out = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
    ensure!(timed_out && after >= SILENCE, "{what}: {error} after {after:?}");
    Ok(())
}

/// By every way to a published port and to a virtual IP: from outside by XDP and by tc, from a task, from the node itself.
#[test]
fn without_backends_a_port_refuses_at_once() -> Result<()> {
    for xdp in ["native", "generic", "off"] {
        mesh(xdp).test(|lab| {
            let before = lab.node("n1").dropped("no_backend")?;
            let mut asked = 0;
            let mut refused = |from: &str, address: IpAddr| -> Result<()> {
                let host = lab.host(from);
                let what = |protocol| format!("{protocol} from {from} to {address} with XDP {xdp}");
                assert_refused(&what("tcp"), dial(host, SocketAddr::new(address, TCP))?)?;
                assert_refused(&what("udp"), send(host, SocketAddr::new(address, UDP))?)?;
                // The node's own processes are refused by its kernel: they are sent to services that have backends.
                asked += if from == "n1" { 0 } else { 2 };
                Ok(())
            };
            for address in addresses(lab, "n1")? {
                refused("client", address)?;
                refused("n1", address)?;
                refused("caller", address)?;
            }
            for address in ["127.0.0.1", "::1"] {
                refused("n1", address.parse()?)?;
            }
            for vip in both(NOBODY)? {
                refused("caller", vip)?;
            }
            // Each packet once, by whichever hook.
            let counted = lab.node("n1").dropped("no_backend")? - before;
            ensure!(counted == asked, "{counted} packets were counted, and {asked} refused");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_silent_service_says_nothing() -> Result<()> {
    mesh("auto").test(|lab| {
        let before = lab.node("n1").dropped("no_backend")?;
        for address in addresses(lab, "n1")? {
            let client = lab.host("client");
            assert_silence(&format!("tcp to {address}"), dial(client, SocketAddr::new(address, 9300))?)?;
            assert_silence(&format!("udp to {address}"), send(client, SocketAddr::new(address, 5400))?)?;
        }
        for vip in both(SILENT)? {
            let caller = lab.host("caller");
            assert_silence(&format!("tcp to {vip}"), dial(caller, SocketAddr::new(vip, 80))?)?;
            assert_silence(&format!("udp to {vip}"), send(caller, SocketAddr::new(vip, 53))?)?;
        }
        let counted = lab.node("n1").dropped("no_backend")? - before;
        ensure!(counted >= 8, "{counted} packets were counted as without a backend");
        Ok(())
    })
}

/// Refusals are made by programs that no agent has to be there for.
#[test]
fn without_an_agent_refusals_go_on() -> Result<()> {
    mesh("auto").test(|lab| {
        lab.node_mut("n1").stop()?;
        let ask = |lab: &Lab| -> Result<()> {
            for address in addresses(lab, "n1")? {
                for from in ["client", "caller"] {
                    assert_refused(from, dial(lab.host(from), SocketAddr::new(address, TCP))?)?;
                    assert_refused(from, send(lab.host(from), SocketAddr::new(address, UDP))?)?;
                }
            }
            Ok(())
        };
        ask(lab)?;
        lab.node_mut("n1").start()?;
        ask(lab)
    })
}

/// A connection ends with the task that it was with, and a new one goes to another.
#[test]
fn a_connection_to_a_task_that_is_removed_breaks_at_once() -> Result<()> {
    const VIP: [&str; 2] = ["10.0.9.4", "fd00:9::a00:904"];
    for scheduler in ["mh", "rr"] {
        let mesh = mesh("auto")
            .service("pair", "blue", VIP[0], scheduler, &[])
            .backend("pair", "pair.1", "n1", "blue", "10.0.9.21")
            .backend("pair", "pair.2", "n2", "blue", "10.0.9.22");
        mesh.test(|lab| {
            for task in ["pair.1", "pair.2"] {
                lab.host(task).serve_http(&Web::on(80))?;
            }
            let mut connections = Vec::new();
            for vip in both(VIP)? {
                let server = SocketAddr::new(vip, 80);
                for _ in 0..8 {
                    let dial = || TcpStream::connect_timeout(&server, Duration::from_secs(2));
                    let connection = lab.host("caller").namespace.inside(dial)??;
                    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
                    connections.push(connection);
                }
            }
            lab.reconfigure(|mesh| mesh.endpoints.retain(|endpoint| endpoint.name != "pair.2"))?;
            eventually("pair.2 is gone", Duration::from_secs(5), || {
                let backends = lab.node("n1").meshctl("backends ls pair")?;
                ensure!(backends.as_array().is_some_and(|all| all.len() == 1), "{backends}");
                Ok(())
            })?;
            let (mut broken, mut whole) = (0, 0);
            for mut connection in connections {
                let start = Instant::now();
                let mut answer = [0; 16];
                let ask = connection.write_all(b"GET / HTTP/1.0\r\n\r\n");
                match ask.and_then(|()| connection.read(&mut answer)) {
                    Ok(length) if length > 0 => whole += 1,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                        let after = start.elapsed();
                        ensure!(after < AT_ONCE, "{scheduler}: reset after {after:?}");
                        broken += 1;
                    }
                    other => anyhow::bail!("{scheduler}: {other:?} after {:?}", start.elapsed()),
                }
            }
            ensure!(broken > 0 && whole > 0, "{scheduler}: {broken} broken, {whole} whole");
            for vip in both(VIP)? {
                for _ in 0..6 {
                    let answer = lab.host("caller").curl(&format!("http://{}/", SocketAddr::new(vip, 80)))?;
                    ensure!(answer.starts_with("pair.1 sees "), "{answer}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
