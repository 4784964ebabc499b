//! Tasks of one network speak to each other, on one node and between two, whatever the underlay.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{PacketHeaders, TransportHeader};
use mesh_tests::lab::{
    Host, Lab, Mesh, RawSocket, TcpEcho, Transfer, UdpEcho, Underlay, Web, ask_udp, mac_of, tcp_round_trip,
    udp_round_trip,
};

const BLUE: [&str; 2] = ["10.0.9.0/24", "fd00:9::/64"];
/// IPv4 and IPv6 addresses of the tasks.
const B: [&str; 2] = ["10.0.9.12", "fd00:9::a00:90c"];
const C: [&str; 2] = ["10.0.9.13", "fd00:9::a00:90d"];

/// The tasks a and c on n1, b on n2.
fn mesh(underlay: Underlay) -> Mesh {
    Mesh::new(2)
        .underlay(underlay)
        .network("blue", 4097, &BLUE)
        .task("a", "n1", "blue", "10.0.9.11")
        .task("b", "n2", "blue", "10.0.9.12")
        .task("c", "n1", "blue", "10.0.9.13")
}

/// Bytes of the longest IP packet in a network over this underlay, of 1500 bytes itself.
fn network_mtu(underlay: Underlay) -> usize {
    match underlay {
        Underlay::V4 => 1450,
        Underlay::V6 => 1430,
    }
}

/// What an IP packet of this length holds after its IP and UDP or ICMP echo headers.
fn payload(mtu: usize, address: IpAddr) -> usize {
    mtu - if address.is_ipv4() { 28 } else { 48 }
}

fn both_families(pair: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([pair[0].parse()?, pair[1].parse()?])
}

fn every_kind_of_traffic(underlay: Underlay) -> Result<()> {
    mesh(underlay).test(|lab| {
        let a = lab.host("a");
        for (name, addresses) in [("b", B), ("c", C)] {
            let server = lab.host(name);
            server.serve_http(&Web::on(80))?;
            let sum = server.publish_random_file("file", 50_000_000)?;
            for address in both_families(addresses)? {
                let fits = payload(network_mtu(underlay), address);
                a.ping(address, 5, 0)?;
                a.ping(address, 5, fits)?;
                ensure!(a.ping(address, 1, fits + 1).is_err(), "a ping longer than the MTU was answered");
                let web = SocketAddr::new(address, 80);
                ensure!(a.curl(&format!("http://{web}/"))?.starts_with(&format!("{name} sees ")));
                let found = a.curl_sha256(&format!("http://{web}/files/file"))?;
                ensure!(found == sum, "50 MB from {web} arrived changed");
                let echo = SocketAddr::new(address, 7);
                let _echo = UdpEcho::start(server, echo)?;
                udp_round_trip(a, echo, 0..=fits)?;
                let server_port = SocketAddr::new(address, 9000);
                let transfer = Transfer::start(a, server_port, server, server_port)?;
                transfer.progress()?;
                transfer.finish()?;
            }
        }
        Ok(())
    })
}

#[test]
fn over_an_ipv4_underlay() -> Result<()> {
    every_kind_of_traffic(Underlay::V4)
}

#[test]
fn over_an_ipv6_underlay() -> Result<()> {
    every_kind_of_traffic(Underlay::V6)
}

#[test]
fn with_jumbo_frames() -> Result<()> {
    mesh(Underlay::V4).mtu(9000).test(|lab| {
        for address in both_families(B)? {
            lab.host("a").ping(address, 3, payload(8950, address))?;
            let echo = SocketAddr::new(address, 7);
            let _echo = UdpEcho::start(lab.host("b"), echo)?;
            udp_round_trip(lab.host("a"), echo, 8000..=payload(8950, address))?;
        }
        Ok(())
    })
}

#[test]
fn a_gateway_without_names_answers_ping_and_nothing_else() -> Result<()> {
    mesh(Underlay::V4).option("dns", false.into()).test(|lab| {
        let a = lab.host("a");
        for gateway in both_families(["10.0.9.1", "fd00:9::1"])? {
            a.ping(gateway, 3, 56)?;
        }
        let before = lab.node("n1").dropped("gateway")?;
        let url = "http://10.0.9.1/";
        ensure!(a.namespace.exec(&format!("curl -s --max-time 1 {url}")).is_err(), "{url} was answered");
        ensure!(lab.node("n1").dropped("gateway")? > before, "the packets for the gateway were not counted");
        Ok(())
    })
}

#[test]
fn a_task_on_two_networks() -> Result<()> {
    mesh(Underlay::V4)
        .network("green", 4098, &["10.0.10.0/24"])
        .task("g", "n2", "green", "10.0.10.12")
        .endpoint("a-green", "n1", "green", "10.0.10.11", "a")
        .test(|lab| {
            lab.host("b").serve_http(&Web::on(80))?;
            lab.host("g").serve_http(&Web::on(80))?;
            let a = lab.host("a");
            ensure!(a.interface_of("10.0.9.11".parse()?)? != a.interface_of("10.0.10.11".parse()?)?);
            ensure!(a.curl("http://10.0.9.12/")?.trim_end() == "b sees 10.0.9.11");
            ensure!(a.curl("http://10.0.10.12/")?.trim_end() == "g sees 10.0.10.11");
            a.ping("fd00:9::a00:90c".parse()?, 1, 56)?;
            // One task on both does not join them.
            ensure!(!lab.host("g").pings("10.0.9.12".parse()?)?, "green reached blue");
            ensure!(!lab.host("g").pings("10.0.9.11".parse()?)?, "green reached a on blue");
            Ok(())
        })
}

/// An ICMP error with the MTU, in place of what does not fit.
#[test]
fn a_packet_too_big_is_answered_with_the_mtu() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay).test(|lab| {
            let own = "10.0.9.11".parse()?;
            let before = lab.node("n1").dropped("too_big")?;
            // The daemon would set it right again at once.
            lab.node_mut("n1").stop()?;
            let (a, mtu) = (lab.host("a"), network_mtu(underlay));
            // The task believes in a longer MTU than there is.
            let interface = a.interface_of(own)?;
            let host_side = lab.host_side("a", own, "n1")?;
            lab.host("n1").namespace.ip(&format!("link set {host_side} mtu 1500"))?;
            a.namespace.ip(&format!("link set {interface} mtu 1500"))?;
            for address in both_families(B)? {
                let words = format!("ping -n -M do -c 1 -W 2 -s {} {address}", payload(1500, address));
                let mut words = words.split_whitespace();
                let mut ping = a.namespace.command(words.next().context("no command")?)?;
                let output = mesh_tests::lab::output(ping.args(words))?;
                let said = String::from_utf8_lossy(&output.stdout);
                let wanted = if address.is_ipv4() { "Frag needed" } else { "Packet too big" };
                ensure!(said.contains(wanted) && said.contains(&mtu.to_string()), "{address}: {said}");
                // Having learnt, the kernel keeps to it.
                a.ping(address, 1, payload(mtu, address))?;
            }
            lab.node_mut("n1").start()?;
            let counted = lab.node("n1").dropped("too_big")? - before;
            ensure!(counted >= 2, "{counted} packets were counted as too big");
            Ok(())
        })?;
    }
    Ok(())
}

/// A tunnel packet as it was on the wire.
struct Tunnelled {
    outer_ttl: u8,
    outer_ecn: u8,
    source_port: u16,
    vni: u32,
    inner: Vec<u8>,
}

impl Tunnelled {
    fn parse(frame: &[u8]) -> Option<Self> {
        let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let (outer_ttl, traffic_class) = match headers.net? {
            etherparse::NetHeaders::Ipv4(ip, _) => (ip.time_to_live, frame[15]),
            etherparse::NetHeaders::Ipv6(ip, _) => (ip.hop_limit, frame[14] << 4 | frame[15] >> 4),
            etherparse::NetHeaders::Arp(_) => return None,
        };
        let Some(TransportHeader::Udp(udp)) = headers.transport else { return None };
        let (vxlan, inner) = headers.payload.slice().split_at_checked(8)?;
        (udp.destination_port == 4789 && vxlan[0] == 0x08).then(|| Self {
            outer_ttl,
            outer_ecn: traffic_class & 3,
            source_port: udp.source_port,
            vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
            inner: inner.to_vec(),
        })
    }
}

fn caught(lab: &Lab, wire: &RawSocket, wanted: impl Fn(&Tunnelled) -> bool) -> Result<Tunnelled> {
    let is_it = |frame: &[u8]| Tunnelled::parse(frame).is_some_and(|tunnelled| wanted(&tunnelled));
    let frame = wire.receive(Duration::from_secs(2), is_it)?;
    let frame = frame.with_context(|| format!("no such tunnel packet was seen in {}", lab.prefix()))?;
    Tunnelled::parse(&frame).context("the frame changed")
}

#[test]
fn tunnel_headers_are_as_the_standard_says() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay).test(|lab| {
            let (a, wire) = (lab.host("a"), RawSocket::open(lab.host("n2"), "eth0")?);
            // ECN-capable inside (RFC 3168: 2) is ECN-capable outside (RFC 6040).
            a.namespace.exec("ping -n -c 1 -W 2 -Q 2 10.0.9.12")?;
            let packet = caught(lab, &wire, |packet| packet.outer_ecn == 2)?;
            ensure!(packet.vni == 4097, "VNI {}", packet.vni);
            ensure!(packet.outer_ttl == 64, "outer TTL {}", packet.outer_ttl);
            let macs = format!("{:02x?}", &packet.inner[..12]);
            let b = mac_of("10.0.9.12".parse()?).replace(':', ", ");
            let own = mac_of("10.0.9.11".parse()?).replace(':', ", ");
            ensure!(macs == format!("[{b}, {own}]"), "inner MAC addresses {macs}");

            // Flows have source ports of their own, and each keeps its.
            let echo = SocketAddr::new("10.0.9.12".parse()?, 7);
            let _echo = UdpEcho::start(lab.host("b"), echo)?;
            let mut ports = BTreeSet::new();
            for port in 20_000..20_032 {
                let mut of_flow = BTreeSet::new();
                for _ in 0..2 {
                    ask_udp(a, echo, std::iter::once(port))?;
                    let from_port =
                        |packet: &Tunnelled| packet.inner.get(34..36) == Some(&port.to_be_bytes());
                    of_flow.insert(caught(lab, &wire, from_port)?.source_port);
                }
                ensure!(of_flow.len() == 1, "one flow used the source ports {of_flow:?}");
                ports.extend(of_flow);
            }
            ensure!(ports.len() >= 24, "32 flows share {} source ports", ports.len());
            ensure!(ports.iter().all(|&port| port >= 49152), "source ports outside 49152–65535: {ports:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Where the wire's card can cut a long segment to pieces itself, it is handed whole ones, in their tunnel.
#[test]
fn long_segments_stay_whole_up_to_the_wire() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay).test(|lab| {
            for node in ["n1", "n2"] {
                lab.offload(node)?;
            }
            let b = lab.host("b");
            b.serve_http(&Web::on(80))?;
            let sum = b.publish_random_file("file", 20_000_000)?;
            let wire = RawSocket::open(lab.host("n2"), "eth0")?;
            for address in both_families(B)? {
                let web = SocketAddr::new(address, 80);
                let found = lab.host("a").curl_sha256(&format!("http://{web}/files/file"))?;
                ensure!(found == sum, "20 MB from {web} arrived changed");
                let is_whole = |frame: &[u8]| frame.len() > 10_000 && Tunnelled::parse(frame).is_some();
                let whole = wire.receive(Duration::from_secs(2), is_whole)?;
                ensure!(
                    whole.is_some(),
                    "{web}: no tunnel packet longer than 10,000 bytes was handed to the wire"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What comes in tunnels is merged, where the interface merges at all, and arrives as it was: at a task, through a virtual IP,
/// and at both ends of a published port.
#[test]
fn segments_in_tunnels_are_merged() -> Result<()> {
    const BYTES: usize = 20_000_000;
    for underlay in [Underlay::V4, Underlay::V6] {
        let mesh = mesh(underlay).service("echo", "blue", "10.0.9.2", "mh", &["7000:7007"]).backend(
            "echo",
            "echo.1",
            "n2",
            "blue",
            "10.0.9.22",
        );
        mesh.test(|lab| {
            let (a, echo, client) = (lab.host("a"), lab.host("echo.1"), lab.host("client"));
            let mut echoes = vec![];
            for address in both_families(["10.0.9.22", "fd00:9::a00:916"])? {
                echo.interface_of(address)?;
                echoes.push(TcpEcho::start(echo, SocketAddr::new(address, 7007))?);
            }
            let received = || -> Result<usize> {
                let text = echo.namespace.exec("cat /proc/net/snmp")?;
                let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
                let (names, values) = lines.next().zip(lines.next()).context("no line of TCP")?;
                let mut fields = names.split_whitespace().zip(values.split_whitespace());
                let (_, segments) = fields.find(|(name, _)| *name == "InSegs").context("no InSegs")?;
                Ok(segments.parse()?)
            };
            let roads = || -> Result<Vec<(&Host, SocketAddr)>> {
                let tasks = both_families(["10.0.9.22", "fd00:9::a00:916"])?;
                let vips = both_families(["10.0.9.2", "fd00:9::a00:902"])?;
                let entries = [lab.mesh().address_v4("n1")?, lab.mesh().address_v6("n1")?];
                let inside = tasks.into_iter().chain(vips).map(|address| (a, SocketAddr::new(address, 7007)));
                Ok(inside.chain(entries.map(|address| (client, SocketAddr::new(address, 7000)))).collect())
            };
            // What the test would find if nothing was merged: the wire carries no more than 1500 bytes at once.
            for (is_merged, gro) in [(false, "off"), (true, "on")] {
                for node in ["n1", "n2", "client"] {
                    lab.host(node).namespace.exec(&format!("ethtool -K eth0 gro {gro}"))?;
                }
                for (from, to) in roads()? {
                    let before = received()?;
                    tcp_round_trip(from, to, BYTES).with_context(|| format!("gro {gro}"))?;
                    let segments = received()? - before;
                    let fewest = BYTES / network_mtu(underlay);
                    ensure!(
                        if is_merged { segments < fewest / 2 } else { segments > fewest },
                        "{} to {to}, gro {gro}: {segments} segments of {BYTES} bytes",
                        from.name()
                    );
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A network that has grown by another subnet of each family: each has its gateway, and all of them are one network.
#[test]
fn a_network_with_several_subnets_of_a_family() -> Result<()> {
    let subnets = ["10.0.9.0/24", "10.0.10.0/25", "fd00:9::/64", "fd00:a::/80"];
    for internal in [false, true] {
        let mesh = Mesh::new(2);
        let mesh = if internal {
            mesh.internal_network("blue", 4097, &subnets)
        } else {
            mesh.network("blue", 4097, &subnets)
        };
        let mesh = mesh
            .network("alpha", 4098, &["10.0.11.0/24"])
            .task("old", "n1", "blue", "10.0.9.11")
            .task("new", "n2", "blue", "10.0.10.12")
            .task("here", "n1", "blue", "10.0.10.13")
            // Its default route leads through another network.
            .task("both", "n2", "blue", "10.0.9.14")
            .endpoint("both-alpha", "n2", "alpha", "10.0.11.14", "both")
            .service("web", "blue", "10.0.10.2", "rr", &[])
            .backend("web", "web.1", "n1", "blue", "10.0.9.15");
        mesh.test(|lab| {
            lab.host("web.1").serve_http(&Web::on(80))?;
            let all =
                [("old", "10.0.9.11"), ("new", "10.0.10.12"), ("here", "10.0.10.13"), ("both", "10.0.9.14")];
            for (from, own) in all {
                let host = lab.host(from);
                for (_, to) in all.iter().filter(|(name, _)| *name != from) {
                    let [.., a, b, c, d] = to.parse::<std::net::Ipv4Addr>()?.octets();
                    host.ping(to.parse()?, 2, 56).with_context(|| format!("{from} to {to}"))?;
                    let derived = format!("fd00:9::{a:x}{b:02x}:{c:x}{d:02x}");
                    host.ping(derived.parse()?, 2, 56).with_context(|| format!("{from} to {derived}"))?;
                }
                for gateway in ["10.0.9.1", "10.0.10.1", "fd00:9::1", "fd00:a::1"] {
                    host.ping(gateway.parse()?, 1, 56).with_context(|| format!("{from} to {gateway}"))?;
                }
                ensure!(!host.pings("10.0.10.99".parse()?)?, "nobody has this address");
                let answer = host.curl("http://10.0.10.2/")?;
                ensure!(answer.trim_end() == format!("web.1 sees {own}"), "{from}: {answer}");
            }
            // A task of the second subnet has the way to the world that the first one's have.
            for task in ["old", "new", "here"] {
                let reached = lab.host(task).pings("192.0.2.101".parse()?)?;
                ensure!(reached != internal, "{task} of a network that is internal={internal}: {reached}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
