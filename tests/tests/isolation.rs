//! No packet passes between networks, whatever a task or a stranger on the underlay puts together.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use etherparse::{IpNumber, PacketBuilder};
use mesh_common::abi::{Address, ForwardingAddress, node_mac};
use mesh_tests::lab::{Host, Lab, Mesh, RawSocket, Underlay, Web, eventually, mac_of, reachable_tcp};

const BLUE: u32 = 4097;
const GREEN: u32 = 4098;
const VXLAN_PORT: u16 = 4789;

/// What each forged packet carries, to be known by wherever it turns up.
const MARK: &[u8] = b"this should not be here";

/// Blue and green have each a task on both nodes, and a service.
fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", BLUE, &["10.0.9.0/24", "fd00:9::/64"])
        .network("green", GREEN, &["10.0.10.0/24", "fd00:10::/64"])
        .service("blue", "blue", "10.0.9.2", "rr", &[])
        .backend("blue", "b1", "n1", "blue", "10.0.9.11")
        .backend("blue", "b2", "n2", "blue", "10.0.9.12")
        .task("g1", "n1", "green", "10.0.10.11")
        .task("g2", "n2", "green", "10.0.10.12")
}

/// The MAC address of the endpoint with this IPv4 address.
fn mac(address: &str) -> Result<[u8; 6]> {
    parse_mac(&mac_of(address.parse()?))
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(bytes)
}

fn udp_frame(from: ([u8; 6], &str), to: ([u8; 6], &str), port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(from.0, to.0);
    let packet = match (from.1.parse()?, to.1.parse()?) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("two families in one packet"),
    };
    let mut frame = Vec::new();
    packet.udp(7777, port).write(&mut frame, payload)?;
    Ok(frame)
}

fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], inner].concat()
}

/// A marked datagram from one task to another, as it would be inside a tunnel.
fn marked(from: &str, to: &str) -> Result<Vec<u8>> {
    udp_frame((mac(from)?, from), (mac(to)?, to), 9, MARK)
}

fn holds_mark(frame: &[u8]) -> bool {
    // Who receives a datagram that nobody listens for sends it back in an error, which is not what was sent.
    let protocol = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23).copied(),
        Some([0x86, 0xdd]) => frame.get(20).copied(),
        _ => None,
    };
    let is_error = [IpNumber::ICMP, IpNumber::IPV6_ICMP].iter().any(|icmp| protocol == Some(icmp.0));
    !is_error && frame.windows(MARK.len()).any(|window| window == MARK)
}

/// Listens in every task but the sender and tells where the mark is seen after `send`.
fn sightings(lab: &Lab, sender: &str, send: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let tasks = [("b1", "10.0.9.11"), ("b2", "10.0.9.12"), ("g1", "10.0.10.11"), ("g2", "10.0.10.12")];
    let mut ears = Vec::new();
    for (task, address) in tasks.into_iter().filter(|(task, _)| *task != sender) {
        let interface = lab.host(task).interface_of(address.parse()?)?;
        ears.push((task, RawSocket::open(lab.host(task), &interface)?));
    }
    send()?;
    thread::sleep(Duration::from_millis(200));
    let mut seen = Vec::new();
    for (task, ear) in ears {
        if ear.receive(Duration::from_millis(50), holds_mark)?.is_some() {
            seen.push(task.to_owned());
        }
    }
    Ok(seen)
}

/// Sends, checks that it was seen nowhere, and that a node counted it under this reason at least so often.
fn lost(
    lab: &Lab,
    what: &str,
    sender: &str,
    counted: (&str, &str, u64),
    send: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (node, reason, packets) = counted;
    let before = lab.node(node).drops()?;
    let seen = sightings(lab, sender, send)?;
    ensure!(seen.is_empty(), "{what}: it was seen in {seen:?}");
    eventually(what, Duration::from_secs(2), || {
        let after = lab.node(node).drops()?;
        let count = |drops: &std::collections::BTreeMap<String, u64>| drops.get(reason).copied().unwrap_or(0);
        let difference = count(&after) - count(&before);
        ensure!(
            difference >= packets,
            "{node} counted {difference} of {packets} as {reason}; all: {after:?}"
        );
        Ok(())
    })
}

fn task_socket(lab: &Lab, task: &str, address: &str) -> Result<RawSocket> {
    let host = lab.host(task);
    RawSocket::open(host, &host.interface_of(address.parse()?)?)
}

#[test]
fn marks_are_seen_where_they_may_go() -> Result<()> {
    mesh().test(|lab| {
        let green = task_socket(lab, "g1", "10.0.10.11")?;
        let frame = marked("10.0.10.11", "10.0.10.12")?;
        let seen = sightings(lab, "g1", || green.send(&frame))?;
        ensure!(seen == ["g2"], "a lawful packet of g1 to g2 was seen in {seen:?}");
        Ok(())
    })
}

/// What a host finds: addresses that answer ping, or a connection to one of a few ports.
fn scan(host: &Host, addresses: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for ports in [[80, 22], [443, 4789]] {
        let servers: Vec<_> =
            addresses.iter().flat_map(|&ip| ports.map(|port| SocketAddr::new(ip, port))).collect();
        found.extend(reachable_tcp(host, &servers, Duration::from_millis(700))?.iter().map(SocketAddr::ip));
    }
    // All at once: most of them wait in vain.
    let answers: Vec<_> = thread::scope(|scope| {
        let pings: Vec<_> = addresses.iter().map(|&ip| (ip, scope.spawn(move || host.pings(ip)))).collect();
        pings.into_iter().map(|(ip, ping)| (ip, ping.join())).collect()
    });
    for (address, answer) in answers {
        if matches!(answer, Ok(Ok(true))) {
            found.push(address);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn subnet(third: u8) -> Vec<IpAddr> {
    let v4 = (1..255).map(move |last| IpAddr::from(Ipv4Addr::new(10, 0, third, last)));
    let v6 = [1, 2, 11, 12].map(|last| {
        // The network's number is written in the same digits in both families.
        let text = format!("fd00:{third}::a00:{:x}", u16::from_be_bytes([third, last]));
        text.parse().map(IpAddr::V6)
    });
    let gateway: Result<Ipv6Addr, _> = format!("fd00:{third}::1").parse();
    v4.chain(v6.into_iter().flatten()).chain(gateway.map(IpAddr::V6)).collect()
}

#[test]
fn a_scan_finds_the_own_network_and_no_other() -> Result<()> {
    mesh().test(|lab| {
        for task in ["b1", "b2", "g1", "g2"] {
            lab.host(task).serve_http(&Web::on(80))?;
        }
        let (blue, green) = (lab.host("b1"), lab.host("g1"));
        // The scan does find what may be found: gateways, the virtual IP, both tasks, in both families.
        let own = scan(blue, &subnet(9))?;
        let mut expected: Vec<IpAddr> = Vec::new();
        for text in ["10.0.9.1", "10.0.9.2", "10.0.9.11", "10.0.9.12"] {
            expected.push(text.parse()?);
        }
        for text in ["fd00:9::1", "fd00:9::a00:902", "fd00:9::a00:90b", "fd00:9::a00:90c"] {
            expected.push(text.parse()?);
        }
        expected.sort();
        ensure!(own == expected, "blue finds {own:?} of itself");

        let found = scan(green, &subnet(9))?;
        ensure!(found.is_empty(), "green finds {found:?} of blue through its gateway");
        // As if the other network were on its own wire.
        let interface = green.interface_of("10.0.10.11".parse()?)?;
        green.namespace.ip(&format!("route add 10.0.9.0/24 dev {interface}"))?;
        green.namespace.ip(&format!("route add fd00:9::/64 dev {interface}"))?;
        let found = scan(green, &subnet(9))?;
        ensure!(found.is_empty(), "green finds {found:?} of blue on its own wire");
        // With the address of one of them.
        green.namespace.ip(&format!("address add 10.0.9.11/24 dev {interface}"))?;
        green.namespace.ip(&format!("address add fd00:9::a00:90b/64 dev {interface} nodad"))?;
        let others: Vec<_> = subnet(9)
            .into_iter()
            .filter(|ip| !ip.to_string().ends_with(".11") && !ip.to_string().ends_with("90b"))
            .collect();
        let found = scan(green, &others)?;
        ensure!(found.is_empty(), "green finds {found:?} of blue under a blue task's address");
        Ok(())
    })
}

#[test]
fn forged_sources_of_a_task_are_dropped_and_counted() -> Result<()> {
    mesh().test(|lab| {
        let socket = task_socket(lab, "g1", "10.0.10.11")?;
        let (own, gateway) = (mac("10.0.10.11")?, mac("10.0.10.1")?);
        let (blue, peer) = (mac("10.0.9.12")?, mac("10.0.10.12")?);
        let frames = [
            ("another task's address", udp_frame((own, "10.0.10.12"), (peer, "10.0.10.12"), 9, MARK)?),
            ("another network's address", udp_frame((own, "10.0.9.11"), (blue, "10.0.9.12"), 9, MARK)?),
            (
                "another network's, by the gateway",
                udp_frame((own, "10.0.9.11"), (gateway, "10.0.9.12"), 9, MARK)?,
            ),
            ("another task's MAC address", udp_frame((peer, "10.0.10.11"), (peer, "10.0.10.12"), 9, MARK)?),
            (
                "another network's MAC address",
                udp_frame((blue, "10.0.10.11"), (peer, "10.0.10.12"), 9, MARK)?,
            ),
            ("the gateway's MAC address", udp_frame((gateway, "10.0.10.11"), (peer, "10.0.10.12"), 9, MARK)?),
            (
                "another task's address, IPv6",
                udp_frame((own, "fd00:10::99"), (peer, "fd00:10::a00:a0c"), 9, MARK)?,
            ),
            (
                "another network's, IPv6",
                udp_frame((own, "fd00:9::a00:90b"), (blue, "fd00:9::a00:90c"), 9, MARK)?,
            ),
        ];
        for (what, frame) in frames {
            lost(lab, what, "g1", ("n1", "source_forged", 3), || {
                (0..3).try_for_each(|_| socket.send(&frame))
            })?;
        }
        Ok(())
    })
}

#[test]
fn another_networks_mac_address_leads_nowhere() -> Result<()> {
    mesh().test(|lab| {
        let socket = task_socket(lab, "g1", "10.0.10.11")?;
        let own = mac("10.0.10.11")?;
        for (target, address) in
            [("10.0.9.12", "10.0.9.12"), ("10.0.9.11", "10.0.9.11"), ("10.0.9.12", "10.0.10.99")]
        {
            let frame = udp_frame((own, "10.0.10.11"), (mac(target)?, address), 9, MARK)?;
            let seen = sightings(lab, "g1", || (0..3).try_for_each(|_| socket.send(&frame)))?;
            ensure!(seen.is_empty(), "{address} at the MAC address of {target}: seen in {seen:?}");
        }
        Ok(())
    })
}

#[test]
fn tunnel_packets_of_a_task_are_dropped_and_counted() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh().underlay(underlay).test(|lab| {
            let socket = task_socket(lab, "g1", "10.0.10.11")?;
            let (own, gateway) = (mac("10.0.10.11")?, mac("10.0.10.1")?);
            // From a task's node, to which the other node listens, into blue.
            let tunnelled = vxlan(BLUE, &marked("10.0.9.11", "10.0.9.12")?);
            let to = |node: IpAddr| {
                let source = if node.is_ipv4() { "10.0.10.11" } else { "fd00:10::a00:a0b" };
                udp_frame((own, source), (gateway, &node.to_string()), VXLAN_PORT, &tunnelled)
            };
            for node in ["n1", "n2"] {
                let frame = to(lab.mesh().address(node)?)?;
                let counted = ("n1", "tunnel_forged", 3);
                lost(lab, node, "g1", counted, || (0..3).try_for_each(|_| socket.send(&frame)))?;
                // A node's other address is no way round.
                for address in [lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?] {
                    let frame = to(address)?;
                    let seen = sightings(lab, "g1", || (0..3).try_for_each(|_| socket.send(&frame)))?;
                    ensure!(seen.is_empty(), "by {address}: seen in {seen:?}");
                }
            }
            // To another task, whose node might open it once more.
            let to = (mac("10.0.10.12")?, "10.0.10.12");
            let frame = udp_frame((own, "10.0.10.11"), to, VXLAN_PORT, &vxlan(GREEN, &tunnelled))?;
            let seen = sightings(lab, "g1", || socket.send(&frame))?;
            ensure!(seen.iter().all(|task| task == "g2"), "a tunnel in a tunnel was opened twice: {seen:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Headers in front of the UDP header are no way round.
#[test]
fn disguised_tunnel_packets_of_a_task_arrive_nowhere() -> Result<()> {
    mesh().test(|lab| {
        let socket = task_socket(lab, "g1", "10.0.10.11")?;
        let (own, gateway) = (mac("10.0.10.11")?, mac("10.0.10.1")?);
        let tunnelled = vxlan(BLUE, &marked("10.0.9.11", "10.0.9.12")?);
        let mut plain = Vec::new();
        PacketBuilder::ethernet2(own, gateway)
            .ipv4([10, 0, 10, 11], [192, 0, 2, 2], 64)
            .udp(7777, VXLAN_PORT)
            .write(&mut plain, &tunnelled)?;

        // Four no-operations as IP options.
        let mut options = plain.clone();
        options.splice(34..34, [1; 4]);
        options[14] = 0x46;
        let length = u16::try_from(options.len() - 14)?;
        options[16..18].copy_from_slice(&length.to_be_bytes());
        rewrite_checksum(&mut options[14..38]);

        // The first fragment of two, whose second never comes; and the second alone.
        let mut first = plain.clone();
        first[20] = 0x20;
        rewrite_checksum(&mut first[14..34]);
        let mut second = plain.clone();
        second[21] = 0x01;
        rewrite_checksum(&mut second[14..34]);

        // A destination option of padding before the UDP header (RFC 8200, section 4.6).
        let udp = &plain[34..];
        let extended = [&[IpNumber::UDP.0, 0, 1, 4, 0, 0, 0, 0], udp].concat();
        let mut extension = Vec::new();
        PacketBuilder::ethernet2(own, gateway)
            .ipv6(
                "fd00:10::a00:a0b".parse::<Ipv6Addr>()?.octets(),
                "2001:db8::2".parse::<Ipv6Addr>()?.octets(),
                64,
            )
            .write(&mut extension, IpNumber::IPV6_DESTINATION_OPTIONS, &extended)?;

        // In a tunnel of another kind.
        let mut ipip = Vec::new();
        PacketBuilder::ethernet2(own, gateway).ipv4([10, 0, 10, 11], [192, 0, 2, 2], 64).write(
            &mut ipip,
            IpNumber::IPV4,
            &plain[14..],
        )?;

        for (what, frame) in [
            ("IP options", options),
            ("first fragment", first),
            ("second fragment", second),
            ("IPv6 destination options", extension),
            ("IP in IP", ipip),
        ] {
            let seen = sightings(lab, "g1", || (0..3).try_for_each(|_| socket.send(&frame)))?;
            ensure!(seen.is_empty(), "{what}: seen in {seen:?}");
        }
        Ok(())
    })
}

/// Writes an IPv4 header's checksum anew.
fn rewrite_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn tunnel_packets_of_strangers_are_dropped_and_counted() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh().underlay(underlay).test(|lab| {
            let client = lab.host("client");
            let tunnelled = vxlan(BLUE, &marked("10.0.9.11", "10.0.9.12")?);
            let send = |address: IpAddr| -> Result<()> {
                client.namespace.inside(|| {
                    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                    let socket = UdpSocket::bind((any, 0))?;
                    // A refusal of the packet before is an error of the next: it is as good as a drop.
                    for _ in 0..5 {
                        let _ = socket.send_to(&tunnelled, (address, VXLAN_PORT));
                    }
                    Ok(())
                })?
            };
            let node = lab.mesh().address("n2")?;
            lost(lab, "a stranger", "client", ("n2", "not_a_peer", 5), || send(node))?;
            for address in [lab.mesh().address_v4("n2")?, lab.mesh().address_v6("n2")?] {
                let seen = sightings(lab, "client", || send(address))?;
                ensure!(seen.is_empty(), "a stranger's, by {address}: seen in {seen:?}");
            }
            // The daemon's log names a reason the first time, and says no more of it.
            let told = eventually("the log names the reason", Duration::from_secs(10), || {
                let told = lab.node("n2").log_text()?.matches("reason=\"not_a_peer\"").count();
                ensure!(told > 0, "not a word of not_a_peer");
                Ok(told)
            })?;
            ensure!(told <= thread::available_parallelism()?.get(), "{told} lines of it");
            Ok(())
        })?;
    }
    Ok(())
}

/// The MAC address of a host's interface on the underlay.
fn link(lab: &Lab, host: &str) -> Result<[u8; 6]> {
    let text = lab.host(host).namespace.ip("-json link show eth0")?;
    let list: serde_json::Value = serde_json::from_str(&text)?;
    parse_mac(list[0]["address"].as_str().unwrap_or_default())
}

/// The frame in which a node says that the flow of a client's lives with a backend.
fn forwarding_address(backend: &str) -> Result<Vec<u8>> {
    let word = ForwardingAddress {
        client: "192.0.2.101".parse::<IpAddr>()?.into(),
        published: "192.0.2.2".parse::<IpAddr>()?.into(),
        backend: backend.parse::<IpAddr>()?.into(),
        client_port: 7777_u16.to_be_bytes(),
        port: 5300_u16.to_be_bytes(),
        protocol: IpNumber::UDP.0,
        reserved: [0; 3],
    };
    let addresses = [word.client, word.published, word.backend].map(Address::octets).concat();
    let ports = [word.client_port, word.port].concat();
    let [a, b] = ForwardingAddress::ETHER_TYPE.to_be_bytes();
    let header = [&[2, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 2], &[a, b][..]].concat();
    Ok([&header[..], &addresses, &ports, &[word.protocol, 0, 0, 0]].concat())
}

/// What nodes pass on and tell each other, put together by somebody else, or by one of them beyond its rights.
#[test]
fn errands_and_words_of_nodes_cannot_be_forged() -> Result<()> {
    let mesh = mesh().service("asked", "blue", "10.0.9.3", "mh", &["5300:9/udp"]).backend(
        "asked",
        "b3",
        "n2",
        "blue",
        "10.0.9.13",
    );
    mesh.test(|lab| {
        let client = lab.host("client");
        let wire = RawSocket::open(client, "eth0")?;
        let (from, to) = (link(lab, "client")?, link(lab, "n2")?);
        let send = |source: &str, payload: &[u8]| -> Result<()> {
            let frame = udp_frame((from, source), (to, "192.0.2.2"), VXLAN_PORT, payload)?;
            (0..2).try_for_each(|_| wire.send(&frame))
        };
        // 192.0.2.1 is n1, 192.0.2.101 the client itself.
        let (peer, stranger) = ("192.0.2.1", "192.0.2.101");
        let request = |before: [u8; 6], backend: [u8; 6], port: u16| {
            udp_frame((before, "192.0.2.101"), (backend, "192.0.2.2"), port, MARK)
        };
        let errand = |number: u8, inner: &[u8]| {
            let mut bytes = vxlan(BLUE, inner);
            bytes[7] = number;
            bytes
        };
        let (backend, foreign) = (mac("10.0.9.13")?, mac("10.0.10.12")?);
        let n1 = node_mac(Address::from_v4([192, 0, 2, 1]));
        let answer = |port: u16| {
            let mut frame = udp_frame((n1, "192.0.2.2"), (n1, "192.0.2.101"), 7777, MARK)?;
            // To the address that answers to clients have, from a port of the node's.
            frame[..6].copy_from_slice(&[2, 0, 0x4d, 0x45, 0x53, 0x48]);
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            frame[40..42].fill(0);
            anyhow::Ok(frame)
        };

        for (what, source, payload, reason) in [
            ("a stranger's request", stranger, vxlan(BLUE, &request(n1, backend, 5300)?), "not_a_peer"),
            ("a stranger's errand", stranger, errand(1, &request(n1, backend, 5300)?), "not_a_peer"),
            ("a stranger's answer", stranger, vxlan(BLUE, &answer(5300)?), "not_a_peer"),
            ("a stranger's word", stranger, vxlan(BLUE, &forwarding_address("10.0.9.11")?), "not_a_peer"),
            ("an errand of no node", peer, errand(1, &request(foreign, backend, 5300)?), "not_a_peer"),
            ("for what is not published", peer, errand(0xff, &request(n1, backend, 5301)?), "not_published"),
            (
                "to another network's task",
                peer,
                errand(0xff, &request(n1, foreign, 5300)?),
                "no_such_endpoint",
            ),
            ("an answer from no published port", peer, vxlan(BLUE, &answer(5301)?), "return_forged"),
            (
                "of another node's backend",
                peer,
                vxlan(BLUE, &forwarding_address("10.0.9.13")?),
                "peer_forged",
            ),
            (
                "of another network's",
                peer,
                vxlan(BLUE, &forwarding_address("10.0.10.11")?),
                "no_such_endpoint",
            ),
            (
                "of a network that is none",
                peer,
                vxlan(999, &forwarding_address("10.0.9.11")?),
                "unknown_network",
            ),
            ("cut short", peer, vxlan(BLUE, &forwarding_address("10.0.9.11")?[..60]), "malformed"),
        ] {
            lost(lab, what, "client", ("n2", reason, 2), || send(source, &payload))?;
        }
        // What is put together in the same way, and lawful.
        let (ear, interface) = (lab.host("b3"), lab.host("b3").interface_of("10.0.9.13".parse()?)?);
        let ear = RawSocket::open(ear, &interface)?;
        send(peer, &errand(0xff, &request(n1, backend, 5300)?))?;
        ensure!(
            ear.receive(Duration::from_secs(2), holds_mark)?.is_some(),
            "a lawful errand is not delivered"
        );
        let before = lab.node("n2").drops()?;
        send(peer, &vxlan(BLUE, &forwarding_address("10.0.9.11")?))?;
        thread::sleep(Duration::from_millis(200));
        let after = lab.node("n2").drops()?;
        ensure!(before == after, "a lawful word is dropped: {before:?} became {after:?}");
        Ok(())
    })
}

/// Who can send as a node has that node's rights, and no more.
#[test]
fn a_node_speaks_for_its_own_tasks_alone() -> Result<()> {
    mesh().test(|lab| {
        let client = lab.host("client");
        let wire = RawSocket::open(client, "eth0")?;
        let (from, to) = (link(lab, "client")?, link(lab, "n2")?);
        let outer = |payload: &[u8]| udp_frame((from, "192.0.2.1"), (to, "192.0.2.2"), VXLAN_PORT, payload);
        let twice = |frame: Vec<u8>| (0..2).try_for_each(|_| wire.send(&frame));

        let lawful = outer(&vxlan(BLUE, &marked("10.0.9.11", "10.0.9.12")?))?;
        let seen = sightings(lab, "client", || twice(lawful))?;
        ensure!(seen == ["b2"], "as n1 for its own task b1: seen in {seen:?}");

        let unknown = outer(&vxlan(999, &marked("10.0.9.11", "10.0.9.12")?))?;
        lost(lab, "an unknown VNI", "client", ("n2", "unknown_network", 2), || twice(unknown))?;
        let crossed = outer(&vxlan(GREEN, &marked("10.0.9.11", "10.0.9.12")?))?;
        // What is for no endpoint of the network can only be a client's, for a published port.
        lost(lab, "blue under green's VNI", "client", ("n2", "not_published", 2), || twice(crossed))?;
        let own = outer(&vxlan(
            GREEN,
            &udp_frame((mac("10.0.10.12")?, "10.0.10.12"), (mac("10.0.10.12")?, "10.0.10.12"), 9, MARK)?,
        ))?;
        lost(lab, "as n1 for a task of n2", "client", ("n2", "peer_forged", 2), || twice(own))?;
        let short = outer(&vxlan(BLUE, &marked("10.0.9.11", "10.0.9.12")?[..20]))?;
        lost(lab, "cut short", "client", ("n2", "malformed", 2), || twice(short))
    })
}
