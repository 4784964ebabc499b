//! The way that a task's answer takes back to its client: through the node that the client asked, or straight.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mesh_tests::lab::{Lab, Mesh, RawSocket, TcpEcho, UdpEcho, Underlay, udp_round_trip};
use serde_json::json;

/// A task on n1 alone.
fn mesh(underlay: Underlay, way_back: &str) -> Mesh {
    Mesh::new(2)
        .underlay(underlay)
        .option("return", json!(way_back))
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("echo", "blue", "10.0.9.2", "mh", &["7000:7007", "5300:5353/udp"])
        .backend("echo", "echo.1", "n1", "blue", "10.0.9.11")
}

/// The MAC address of a node's interface on the underlay.
fn mac(lab: &Lab, node: &str) -> Result<String> {
    let text = lab.host(node).namespace.ip("-json link show eth0")?;
    let list: serde_json::Value = serde_json::from_str(&text)?;
    Ok(list[0]["address"].as_str().context("eth0 has no MAC address")?.to_owned())
}

/// The MAC address that the next packet from a published port comes from, and how many hops it has left.
fn comes_from(ear: &RawSocket, published: SocketAddr) -> Result<(String, u8)> {
    let of = |frame: &[u8]| {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, hops) = match sliced.net? {
            NetSlice::Ipv4(ip) => (IpAddr::from(ip.header().source_addr()), ip.header().ttl()),
            NetSlice::Ipv6(ip) => (IpAddr::from(ip.header().source_addr()), ip.header().hop_limit()),
            NetSlice::Arp(_) => return None,
        };
        let port = match sliced.transport? {
            TransportSlice::Tcp(tcp) => tcp.source_port(),
            TransportSlice::Udp(udp) => udp.source_port(),
            _ => return None,
        };
        let mac: Vec<String> = frame[6..12].iter().map(|byte| format!("{byte:02x}")).collect();
        (SocketAddr::new(source, port) == published).then(|| (mac.join(":"), hops))
    };
    let frame = ear.receive(Duration::from_secs(2), |frame| of(frame).is_some())?;
    frame.and_then(|frame| of(&frame)).with_context(|| format!("no answer from {published}"))
}

/// Asks n2 for the task on n1, and looks at whom the answers come from: the address is always the one that was asked.
fn answers_come_from(way_back: &str, sender: &str) -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay, way_back).test(|lab| {
            let (client, task) = (lab.host("client"), lab.host("echo.1"));
            let mut echoes = (vec![], vec![]);
            for address in ["10.0.9.11", "fd00:9::a00:90b"] {
                task.interface_of(address.parse()?)?;
                echoes.0.push(TcpEcho::start(task, SocketAddr::new(address.parse()?, 7007))?);
                echoes.1.push(UdpEcho::start(task, SocketAddr::new(address.parse()?, 5353))?);
            }
            let right = mac(lab, sender)?;
            for address in [lab.mesh().address_v4("n2")?, lab.mesh().address_v6("n2")?] {
                let ear = RawSocket::open(client, "eth0")?;
                let server = SocketAddr::new(address, 5300);
                udp_round_trip(client, server, 0..=9)?;
                let (from, hops) = comes_from(&ear, server)?;
                ensure!(from == right, "{way_back}, {underlay:?}: {server} answers from {from}, not {right}");
                // The node of the task is a router, and no other on the way is.
                ensure!(hops == 63, "{way_back}, {underlay:?}: {hops} hops left in the answer of {server}");

                let server = SocketAddr::new(address, 7000);
                let ear = RawSocket::open(client, "eth0")?;
                let mut stream = client.namespace.inside(|| TcpStream::connect(server))??;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                for _ in 0..3 {
                    stream.write_all(b"anybody?")?;
                    stream.read_exact(&mut [0; 8])?;
                    let (from, _) = comes_from(&ear, server)?;
                    ensure!(
                        from == right,
                        "{way_back}, {underlay:?}: {server} answers from {from}, not {right}"
                    );
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn answers_return_through_the_node_that_was_asked() -> Result<()> {
    answers_come_from("tunnel", "n2")
}

#[test]
fn answers_leave_straight_from_the_node_of_the_task() -> Result<()> {
    answers_come_from("direct", "n1")
}
