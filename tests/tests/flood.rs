//! A flood of new flows from sources that are not the sender's, beside live ones: those stay, and memory stays bounded.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{HashMap, Map, MapData};
use etherparse::PacketBuilder;
use mesh_common::abi::{Flow, FlowKey, capacity, flow_flags};
use mesh_tests::lab::{Lab, Mesh, RawSocket, TcpEcho, UdpEcho};

/// Segments and datagrams of the flood, and how long it lasts at most.
const FLOOD: usize = 320_000;
const AT_MOST: Duration = Duration::from_secs(25);

/// How long an answer of a live flow may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After how long a datagram is sent again: the flood fills queues and its servers' buffers, where any datagram may be lost.
const AGAIN: Duration = Duration::from_millis(500);

const VIP: &str = "10.0.9.2";
const TASKS: [(&str, &str, &str); 4] = [
    ("hash.1", "n1", "10.0.9.11"),
    ("hash.2", "n2", "10.0.9.12"),
    ("turn.1", "n1", "10.0.9.21"),
    ("turn.2", "n2", "10.0.9.22"),
];

fn mesh() -> Mesh {
    let mesh = Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24"])
        .service("hash", "blue", VIP, "mh", &["80:7000", "53:7000/udp"])
        .service("turn", "blue", "10.0.9.3", "rr", &["81:7000", "54:7000/udp"]);
    let with_tasks = TASKS.into_iter().fold(mesh, |mesh, (task, node, address)| {
        let (service, _) = task.split_once('.').unwrap_or_default();
        mesh.backend(service, task, node, "blue", address)
    });
    with_tasks.task("caller", "n1", "blue", "10.0.9.99")
}

/// A live flow, whose other end sends back what it gets.
enum Live {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Live {
    fn exchange(&mut self, message: u64) -> Result<()> {
        let sent = message.to_be_bytes();
        let mut got = [0; 8];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&sent)?;
                stream.read_exact(&mut got)?;
            }
            Self::Udp(socket) => {
                let start = Instant::now();
                // What was sent twice may be answered twice.
                while got != sent {
                    ensure!(start.elapsed() < PATIENCE, "no answer, however often it was asked for");
                    socket.send(&sent)?;
                    match socket.recv(&mut got) {
                        Ok(length) => ensure!(length == sent.len(), "an answer of another length"),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        ensure!(got == sent, "the answer is {got:?}, not {sent:?}");
        Ok(())
    }
}

/// Opens flows of a host's, as many by TCP and by UDP as is said, and has each speak twice.
fn open(lab: &Lab, host: &str, server: (&str, u16, usize), udp: (u16, usize)) -> Result<Vec<(String, Live)>> {
    let (address, port, count) = server;
    let address = address.parse()?;
    let mut flows = lab.host(host).namespace.inside(|| -> Result<Vec<_>> {
        let mut flows = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            flows.push((format!("{host} to {address}:{port}"), Live::Tcp(stream)));
        }
        for _ in 0..udp.1 {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((address, udp.0))?;
            socket.set_read_timeout(Some(AGAIN))?;
            flows.push((format!("{host} to {address}:{}/udp", udp.0), Live::Udp(socket)));
        }
        Ok(flows)
    })??;
    for round in 0..2 {
        exchange(&mut flows, round)?;
    }
    Ok(flows)
}

fn exchange(flows: &mut [(String, Live)], round: u64) -> Result<()> {
    for (number, (name, flow)) in flows.iter_mut().enumerate() {
        flow.exchange(round << 32 | number as u64)
            .with_context(|| format!("{name}, number {number}, broke in round {round}"))?;
    }
    Ok(())
}

/// Sends the flood from the client to a node: SYNs, and one datagram in eight, each from another source. The number sent.
fn flood(socket: &RawSocket, macs: [[u8; 6]; 2], node: Ipv4Addr) -> Result<usize> {
    let start = Instant::now();
    let mut sent = 0;
    while sent < FLOOD && start.elapsed() < AT_MOST {
        let [a, b] = ((sent % 65_536) as u16).to_be_bytes();
        // 198.18.0.0/15 is for measurements such as this one (RFC 2544, appendix C.2.2).
        let source = [198, 18 + (sent / 65_536 % 2) as u8, a, b];
        let port = 1024 + (sent / 131_072) as u16;
        let to = PacketBuilder::ethernet2(macs[0], macs[1]).ipv4(source, node.octets(), 64);
        let mut frame = Vec::with_capacity(64);
        match sent % 8 {
            0 => to.udp(port, 53).write(&mut frame, b"who?")?,
            n if n % 2 == 0 => to.tcp(port, 81, sent as u32, 65_535).syn().write(&mut frame, &[])?,
            _ => to.tcp(port, 80, sent as u32, 65_535).syn().write(&mut frame, &[])?,
        }
        match socket.send(&frame) {
            Ok(()) => sent += 1,
            // The queue is full: the nodes have work to do.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(sent)
}

/// The MAC address of a host's interface on the underlay.
fn mac(lab: &Lab, host: &str) -> Result<[u8; 6]> {
    let text = lab.host(host).namespace.ip("-brief link show eth0")?;
    let word = text.split_whitespace().nth(2).with_context(|| format!("no MAC address in {text}"))?;
    let bytes = word.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().map_err(|_| anyhow!("{word} is no MAC address"))
}

/// Bytes that the kernel says each of a node's maps takes.
fn memory(lab: &Lab, node: &str) -> Result<BTreeMap<String, u64>> {
    let mut memory = BTreeMap::new();
    for pin in lab.node(node).pins()? {
        // Links are pinned beside them, and have no such line.
        let Ok(map) = MapData::from_pin(&pin) else { continue };
        let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        let Some(bytes) = facts.lines().find_map(|line| line.strip_prefix("memlock:")) else { continue };
        let name = pin.file_name().context("a pin without a name")?.to_string_lossy();
        // Behind the map's name stands its layout.
        let (name, _) = name.split_once('-').unwrap_or((&name, ""));
        memory.insert(name.to_owned(), bytes.trim().parse()?);
    }
    ensure!(memory.contains_key("FLOWS"), "{node} has no map FLOWS");
    Ok(memory)
}

/// Kilobytes of the kernel's slabs.
fn slab() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).context("no slabs")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The directions of flows that a node knows, and how many flows are new.
fn flows(lab: &Lab, node: &str) -> Result<(usize, usize)> {
    const FLAGS: usize = std::mem::offset_of!(Flow, flags);
    type Key = [u8; size_of::<FlowKey>()];
    type Value = [u8; size_of::<Flow>()];
    let map = Map::LruHashMap(MapData::from_pin(lab.node(node).map_pin("FLOWS")?)?);
    let map = HashMap::<_, Key, Value>::try_from(map)?;
    let (mut all, mut new) = (0, 0);
    for entry in &map {
        // What goes while one looks is not there.
        let Ok((_, value)) = entry else { continue };
        let mut flags = [0; 4];
        flags.copy_from_slice(&value[FLAGS..FLAGS + 4]);
        all += 1;
        new += usize::from(u32::from_ne_bytes(flags) & flow_flags::NEW != 0);
    }
    Ok((all, new))
}

#[test]
fn a_flood_of_new_flows_breaks_none_that_lives() -> Result<()> {
    mesh().test(|lab| {
        let client = lab.mesh().address_v4("client")?;
        let node = lab.mesh().address_v4("n1")?;
        let mut servers = Vec::new();
        let mut udp_servers = Vec::new();
        for (task, _, address) in TASKS {
            let address = SocketAddr::new(address.parse()?, 7000);
            servers.push(TcpEcho::start(lab.host(task), address)?);
            udp_servers.push(UdpEcho::start(lab.host(task), address)?);
        }
        let outside = SocketAddr::new(client, 7000);
        servers.push(TcpEcho::start(lab.host("client"), outside)?);
        udp_servers.push(UdpEcho::start(lab.host("client"), outside)?);
        // Answers to sources that nobody has end at the client, which does not forward.
        for node in ["n1", "n2"] {
            lab.host(node).namespace.ip(&format!("route add 198.18.0.0/15 via {client}"))?;
        }

        let mut live = open(lab, "client", (&node.to_string(), 80, 400), (53, 40))?;
        live.extend(open(lab, "client", (&node.to_string(), 81, 300), (54, 40))?);
        live.extend(open(lab, "caller", (VIP, 7000, 200), (7000, 40))?);
        live.extend(open(lab, "caller", (&client.to_string(), 7000, 100), (7000, 40))?);
        ensure!(live.iter().filter(|(_, flow)| matches!(flow, Live::Tcp(_))).count() == 1000);

        let before = ["n1", "n2"].map(|node| memory(lab, node));
        let slab_before = slab()?;
        let (known, new) = flows(lab, "n1")?;
        println!("before: n1 knows {known} directions of flows, {new} flows are new, slabs {slab_before} kB");
        ensure!(new == 0, "{new} of the live flows have not proved themselves");

        let socket = RawSocket::open(lab.host("client"), "eth0")?;
        let macs = [mac(lab, "client")?, mac(lab, "n1")?];
        let std::net::IpAddr::V4(to) = node else { unreachable!("asked for IPv4") };
        let mut rounds = 2;
        let sent = thread::scope(|scope| -> Result<usize> {
            let flooding = scope.spawn(|| flood(&socket, macs, to));
            while !flooding.is_finished() {
                exchange(&mut live, rounds)?;
                rounds += 1;
            }
            flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        exchange(&mut live, rounds)?;

        println!("{sent} new flows while {} live ones spoke {} times each", live.len(), rounds - 1);
        // With fewer, the table of flows would have had room for all of them.
        ensure!(sent > capacity::FLOWS as usize, "only {sent} packets were sent in {AT_MOST:?}");
        for (node, before) in ["n1", "n2"].into_iter().zip(before) {
            let (before, after) = (before?, memory(lab, node)?);
            let (all, new) = flows(lab, node)?;
            let sum = |maps: &BTreeMap<String, u64>| maps.values().sum::<u64>() / 1024;
            println!(
                "{node}: {all} directions of flows, {new} flows are new; maps {} kB before, {} kB after",
                sum(&before),
                sum(&after)
            );
            ensure!(before == after, "{node}: the maps took {before:?}, and take {after:?}");
            ensure!(new <= capacity::NEW_FLOWS as usize, "{node}: {new} flows are new");
            ensure!(all <= capacity::FLOWS as usize / 2, "{node} keeps {all} directions of flows");
            let stats = lab.node(node).meshctl("stats")?;
            let maps = stats["maps"].as_array().context("stats without maps")?;
            let queue = maps.iter().find(|map| map["name"] == "NEW_FLOWS").context("no NEW_FLOWS")?;
            ensure!(queue["lost"].as_u64() > Some(0), "{node} counts no new flow that gave way: {queue}");
        }
        let slab_after = slab()?;
        println!("slabs {slab_after} kB after");
        ensure!(slab_after < slab_before + 200_000, "the slabs grew by {} kB", slab_after - slab_before);

        let text = lab.node("n1").meshctl_text("flows ls --limit 0 --protocol tcp")?;
        ensure!(text.contains(", new"), "none of {} flows is shown as new", text.lines().count());
        // Whoever comes now finds everything as it was.
        open(lab, "client", (&node.to_string(), 80, 10), (53, 10))?;
        open(lab, "client", (&node.to_string(), 81, 10), (54, 10))?;
        open(lab, "caller", (VIP, 7000, 10), (7000, 10))?;
        open(lab, "caller", (&client.to_string(), 7000, 10), (7000, 10))?;
        drop(live);
        Ok(())
    })
}
