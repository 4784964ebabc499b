//! What is too long for a tunnel: senders are told, and connections begin so that it does not come to that.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use mesh_tests::lab::{
    FAR, FARTHER, Host, Lab, Mesh, RawSocket, TcpEcho, UdpEcho, Underlay, eventually, tcp_round_trip,
    udp_round_trip,
};
use serde_json::json;

/// How much each transfer sends in each direction.
const BYTES: usize = 20_000_000;

const ECHO: [&str; 2] = ["10.0.9.11", "fd00:9::a00:90b"];

/// A task on n1, reached by n2 in a tunnel and by n1 without one.
fn mesh(underlay: Underlay, way_back: &str) -> Mesh {
    Mesh::new(2)
        .underlay(underlay)
        .option("return", json!(way_back))
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("echo", "blue", "10.0.9.2", "mh", &["7000:7007", "5300:5353/udp"])
        .backend("echo", "echo.1", "n1", "blue", "10.0.9.11")
}

/// Bytes of the longest IP packet in a tunnel over an underlay of 1500 bytes.
fn inside(underlay: Underlay) -> usize {
    match underlay {
        Underlay::V4 => 1450,
        Underlay::V6 => 1430,
    }
}

/// Bytes of the headers of an IP packet and of TCP, or of UDP.
fn headers(address: IpAddr) -> (usize, usize) {
    if address.is_ipv4() { (20, 8) } else { (40, 8) }
}

fn echoes(lab: &Lab) -> Result<(Vec<TcpEcho>, Vec<UdpEcho>)> {
    let host = lab.host("echo.1");
    let mut echoes = (vec![], vec![]);
    for address in ECHO {
        host.interface_of(address.parse()?)?;
        echoes.0.push(TcpEcho::start(host, SocketAddr::new(address.parse()?, 7007))?);
        echoes.1.push(UdpEcho::start(host, SocketAddr::new(address.parse()?, 5353))?);
    }
    Ok(echoes)
}

/// Both addresses of a node.
fn addresses(lab: &Lab, node: &str) -> Result<[IpAddr; 2]> {
    Ok([lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?])
}

/// Makes a host deaf and dumb to ICMP errors, as a firewall does that means well; neighbours are found as before.
fn block_errors(host: &Host) -> Result<()> {
    host.namespace.exec("nft add table inet errors")?;
    for hook in ["input", "forward", "output"] {
        let nft = |rest: &str| host.namespace.exec(&format!("nft add {rest}"));
        nft(&format!("chain inet errors {hook} {{ type filter hook {hook} priority 0 ; }}"))?;
        nft(&format!("rule inet errors {hook} meta l4proto icmp counter drop"))?;
        nft(&format!("rule inet errors {hook} icmpv6 type < 128 counter drop"))?;
    }
    Ok(())
}

fn let_errors_through(host: &Host) -> Result<()> {
    host.namespace.exec("nft delete table inet errors").map(drop)
}

/// What a host has learnt that a path takes, in bytes.
fn learnt(host: &Host, address: IpAddr) -> Result<Option<usize>> {
    let route = host.namespace.ip(&format!("-json route get {address}"))?;
    let route: serde_json::Value = serde_json::from_str(&route)?;
    let metrics = &route[0]["metrics"];
    let mtu = metrics.as_array().into_iter().flatten().find_map(|metric| metric["mtu"].as_u64());
    Ok(mtu.and_then(|mtu| usize::try_from(mtu).ok()))
}

/// Forgets it.
fn forget(host: &Host) -> Result<()> {
    host.namespace.ip("-4 route flush cache")?;
    host.namespace.ip("-6 route flush cache").map(drop)
}

/// Sends a datagram that is not to be fragmented, and does not wait for an answer.
fn send(host: &Host, server: SocketAddr, length: usize) -> Result<()> {
    host.namespace.inside(|| -> Result<()> {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        UdpSocket::bind((any, 0))?.send_to(&vec![0; length], server)?;
        Ok(())
    })?
}

/// A transfer by each family and each node, whose segments fit into a path of so many bytes.
fn transfers(lab: &Lab, client: &str, longest: usize) -> Result<()> {
    for node in ["n2", "n1"] {
        for address in addresses(lab, node)? {
            let (ip, _) = headers(address);
            let segment = tcp_round_trip(lab.host(client), SocketAddr::new(address, 7000), BYTES)
                .with_context(|| format!("{client} by {node}"))?;
            let largest = longest - ip - 20;
            ensure!(segment as usize <= largest, "{segment} bytes in a segment to {address}, not {largest}");
        }
    }
    Ok(())
}

/// Datagrams up to what the tunnel takes arrive by both nodes, and of one byte more the client is told, or not.
fn datagrams(lab: &Lab, longest: usize, is_told: bool) -> Result<()> {
    let client = lab.host("client");
    for (address, other) in addresses(lab, "n2")?.into_iter().zip(addresses(lab, "n1")?) {
        let (ip, udp) = headers(address);
        let fits = longest - ip - udp;
        udp_round_trip(client, SocketAddr::new(address, 5300), fits - 9..=fits)?;
        udp_round_trip(client, SocketAddr::new(other, 5300), fits - 9..=fits)?;
        let before = lab.node("n2").dropped("too_big")?;
        send(client, SocketAddr::new(address, 5300), fits + 1)?;
        eventually("the packet is counted", Duration::from_secs(2), || {
            ensure!(lab.node("n2").dropped("too_big")? == before + 1, "it is not");
            Ok(())
        })?;
        if is_told {
            eventually("the client is told", Duration::from_secs(2), || {
                let learnt = learnt(client, address)?;
                ensure!(learnt == Some(longest), "it believes in {learnt:?} for {address}");
                Ok(())
            })?;
        } else {
            let learnt = learnt(client, address)?;
            ensure!(learnt.is_none(), "errors are dropped, and yet the client learnt of {learnt:?}");
        }
    }
    Ok(())
}

/// A client and an underlay of 1500 bytes, nothing to be fragmented.
fn everything_arrives(underlay: Underlay, way_back: &str, offload: bool) -> Result<()> {
    mesh(underlay, way_back).test(|lab| {
        if offload {
            for host in ["n1", "n2", "client"] {
                lab.offload(host)?;
            }
        }
        let _echoes = echoes(lab)?;
        let client = lab.host("client");
        block_errors(client)?;
        transfers(lab, "client", inside(underlay)).context("errors are dropped")?;
        datagrams(lab, inside(underlay), false).context("errors are dropped")?;
        let_errors_through(client)?;
        forget(client)?;
        transfers(lab, "client", inside(underlay)).context("errors arrive")?;
        datagrams(lab, inside(underlay), true).context("errors arrive")?;
        // What is known of the path now holds for connections, too.
        transfers(lab, "client", inside(underlay)).context("errors have arrived")
    })
}

#[test]
fn everything_arrives_by_the_tunnel() -> Result<()> {
    [Underlay::V4, Underlay::V6]
        .into_iter()
        .try_for_each(|underlay| everything_arrives(underlay, "tunnel", false))
}

#[test]
fn everything_arrives_straight() -> Result<()> {
    [Underlay::V4, Underlay::V6]
        .into_iter()
        .try_for_each(|underlay| everything_arrives(underlay, "direct", false))
}

/// With network cards that cut long segments, and kernels that put short ones together.
#[test]
fn everything_arrives_with_long_segments() -> Result<()> {
    everything_arrives(Underlay::V4, "tunnel", true)?;
    everything_arrives(Underlay::V6, "direct", true)
}

/// The maximum segment size of the first packet on an interface that opens or accepts a connection.
fn announced(ear: &RawSocket, is_answer: bool) -> Result<u16> {
    let of = |frame: &[u8]| {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        match sliced.transport? {
            TransportSlice::Tcp(tcp) if tcp.syn() && tcp.ack() == is_answer => {
                tcp.options_iterator().flatten().find_map(|option| match option {
                    TcpOptionElement::MaximumSegmentSize(size) => Some(size),
                    _ => None,
                })
            }
            _ => None,
        }
    };
    let frame = ear.receive(Duration::from_secs(2), |frame| of(frame).is_some())?;
    frame.and_then(|frame| of(&frame)).context("no connection was begun")
}

/// A task that announces more than the tunnel takes, and a client that believes in 1500 bytes, to each of whom nobody tells
/// anything.
#[test]
fn the_segment_size_is_lowered_in_both_directions() -> Result<()> {
    for (underlay, way_back) in [(Underlay::V4, "tunnel"), (Underlay::V6, "direct")] {
        mesh(underlay, way_back).test(|lab| {
            let _echoes = echoes(lab)?;
            let (task, client) = (lab.host("echo.1"), lab.host("client"));
            block_errors(client)?;
            block_errors(task)?;
            let interface = task.interface_of(ECHO[0].parse()?)?;
            for (address, backend) in addresses(lab, "n2")?.into_iter().zip(["10.0.9.1", "fd00:9::1"]) {
                let own = if address.is_ipv4() {
                    lab.mesh().address_v4("client")?
                } else {
                    lab.mesh().address_v6("client")?
                };
                task.namespace.ip(&format!("route add {own} via {backend} dev {interface} advmss 1460"))?;
                let (ip, _) = headers(address);
                let right = (inside(underlay) - ip - 20) as u16;
                let at_task = RawSocket::open(task, &interface)?;
                let at_client = RawSocket::open(client, "eth0")?;
                tcp_round_trip(client, SocketAddr::new(address, 7000), BYTES)?;
                let asked = announced(&at_task, false)?;
                ensure!(asked == right, "the task is told {asked} by {address}, not {right}");
                let answered = announced(&at_client, true)?;
                ensure!(answered == right, "the client is told {answered} by {address}, not {right}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A client whose own link takes less than the tunnel does: its connections begin so, whoever drops errors.
#[test]
fn a_client_with_a_narrow_link() -> Result<()> {
    for (underlay, way_back, mtu) in [(Underlay::V4, "tunnel", 1280), (Underlay::V6, "direct", 1400)] {
        mesh(underlay, way_back).client("router").test(|lab| {
            lab.add_host_behind("router", "far", mtu)?;
            lab.host("far").namespace.ip(&format!("link set eth0 mtu {mtu}"))?;
            let _echoes = echoes(lab)?;
            block_errors(lab.host("router"))?;
            block_errors(lab.host("far"))?;
            transfers(lab, "far", mtu as usize)?;
            ensure!(learnt(lab.host("far"), FAR[0].parse()?)?.is_none());
            Ok(())
        })?;
    }
    Ok(())
}

/// A narrow link between two routers, of which neither end knows: each learns by the errors of the router on its side,
/// the task through whichever node they reach.
#[test]
fn a_narrow_link_on_the_way() -> Result<()> {
    for (underlay, way_back, mtu) in [
        (Underlay::V4, "tunnel", 1280),
        (Underlay::V4, "direct", 1400),
        (Underlay::V6, "tunnel", 1400),
        (Underlay::V6, "direct", 1280),
    ] {
        mesh(underlay, way_back).client("router").test(|lab| {
            lab.add_host_behind("router", "second", mtu)?;
            lab.add_host_behind_both("router", "second", "far", mtu)?;
            let _echoes = echoes(lab)?;
            let (far, task) = (lab.host("far"), lab.host("echo.1"));
            for node in ["n2", "n1"] {
                for (address, own) in addresses(lab, node)?.into_iter().zip(FARTHER) {
                    forget(far)?;
                    forget(task)?;
                    tcp_round_trip(far, SocketAddr::new(address, 7000), BYTES).context(node)?;
                    // Both were told, the one by its router and the other through the mesh.
                    let known = [learnt(far, address)?, learnt(task, own.parse()?)?];
                    ensure!(known == [Some(mtu as usize); 2], "by {address}: {known:?}, not {mtu}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
