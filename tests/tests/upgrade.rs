//! A new daemon takes over the data plane of an earlier one, also one whose tables are laid out otherwise: no packet is lost.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mesh_tests::lab::{Host, Lab, Mesh, Namespace, Stream, Transfer, other_meshd_path};
use serde_json::Value;

/// Datagrams a second of each stream.
const RATE: u32 = 2000;
/// The ports that new flows come from, one after another: of those that the kernel gives to no other socket.
const PORTS: [Range<u16>; 2] = [10_000..21_000, 21_000..32_000];
/// The pause between two new flows.
const BETWEEN: Duration = Duration::from_millis(5);
/// The same where they are masqueraded: there are 4,533 ports for them, and of those eight are tried.
const BETWEEN_MASQUERADED: Duration = Duration::from_millis(200);
/// Live connections that say nothing while the daemon is replaced.
const IDLE: usize = 200;

fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "mh", &["9000:9000", "9001:9001", "5000:5000/udp"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .service("turns", "blue", "10.0.9.3", "rr", &["5001:5001/udp"])
        .backend("turns", "turns.1", "n1", "blue", "10.0.9.12")
        .task("a", "n2", "blue", "10.0.9.21")
        .task("b", "n1", "blue", "10.0.9.22")
}

fn at(text: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(text.parse()?, port))
}

/// Everything that is under way while daemons come and go.
struct Traffic {
    streams: Vec<(&'static str, Stream)>,
    transfers: Vec<(&'static str, Transfer)>,
    openers: Vec<(&'static str, JoinHandle<Result<usize>>)>,
    /// Set when the openers are to end.
    stop: Arc<AtomicBool>,
    idle: Vec<(TcpStream, TcpStream)>,
}

impl Traffic {
    fn start(lab: &Lab) -> Result<Self> {
        let (client, web, turns) = (lab.host("client"), lab.host("web.1"), lab.host("turns.1"));
        let (a, b) = (lab.host("a"), lab.host("b"));
        let stream = |from: &Host, dialled: &str, port, to: &Host, listening: &str, on| {
            Stream::start(from, at(dialled, port)?, to, at(listening, on)?, RATE)
        };
        let streams = vec![
            (
                "published, through the task's node",
                stream(client, "192.0.2.1", 5000, web, "10.0.9.11", 5000)?,
            ),
            ("published in turns, through the other node", {
                stream(client, "192.0.2.2", 5001, turns, "10.0.9.12", 5001)?
            }),
            ("task to task", stream(a, "10.0.9.22", 5002, b, "10.0.9.22", 5002)?),
            ("virtual IP", stream(b, "fd00:9::a00:902", 5003, web, "fd00:9::a00:90b", 5003)?),
            ("outside", stream(b, "192.0.2.101", 5004, client, "192.0.2.101", 5004)?),
        ];
        let transfer = |from: &Host, dialled: &str, port, to: &Host, listening: &str| {
            Transfer::start(from, at(dialled, port)?, to, at(listening, port)?)
        };
        let transfers = vec![
            ("published, through the other node", transfer(client, "192.0.2.2", 9000, web, "10.0.9.11")?),
            ("virtual IP", transfer(a, "10.0.9.2", 7000, web, "10.0.9.11")?),
            ("from the node", transfer(lab.host("n1"), "127.0.0.1", 9000, web, "10.0.9.11")?),
        ];
        // A flow that opens while some programs are replaced and others are not is the hardest to carry over.
        let stop = Arc::new(AtomicBool::new(false));
        let opener = |from: &Host, to: SocketAddr, ports: Range<u16>, pause: Duration| -> Result<_> {
            let (namespace, stop) = (Namespace::open(from.namespace.name())?, Arc::clone(&stop));
            Ok(thread::spawn(move || namespace.inside(|| open_flows(to, ports, pause, &stop))?))
        };
        let [low, high] = PORTS;
        let openers = vec![
            ("new flows to a published port", opener(client, at("192.0.2.1", 5000)?, low.clone(), BETWEEN)?),
            (
                "new flows through the other node",
                opener(client, at("192.0.2.2", 5000)?, high.clone(), BETWEEN)?,
            ),
            ("new flows to a virtual IP", opener(b, at("fd00:9::a00:902", 5003)?, low, BETWEEN)?),
            ("new flows to the outside", opener(b, at("192.0.2.101", 5004)?, high, BETWEEN_MASQUERADED)?),
        ];
        Ok(Self { streams, transfers, openers, stop, idle: idle(lab, IDLE)? })
    }

    /// Ends everything; fails if anything was lost.
    fn finish(self) -> Result<()> {
        for (number, pair) in self.idle.into_iter().enumerate() {
            speak(pair).with_context(|| format!("idle connection {number}"))?;
        }
        let mut faults = Vec::new();
        self.stop.store(true, Ordering::Relaxed);
        for (what, opener) in self.openers {
            match opener.join().map_err(|_| anyhow!("the thread panicked"))? {
                Ok(count) => println!("{what}: {count}"),
                Err(error) => faults.push(format!("{what}: {error:#}")),
            }
        }
        for (what, stream) in self.streams {
            let delivery = stream.finish().with_context(|| format!("stream: {what}"))?;
            println!("{what}: {} sent", delivery.sent);
            if !delivery.lost_there.is_empty() || !delivery.lost_back.is_empty() {
                faults.push(format!("{what}: {delivery:?}"));
            }
        }
        for (what, transfer) in self.transfers {
            let summary = transfer.finish().with_context(|| format!("transfer: {what}"))?;
            println!("{what}: {summary:?}");
            if summary.longest_stall > Duration::from_secs(1) {
                faults.push(format!("{what} stood still: {summary:?}"));
            }
        }
        ensure!(faults.is_empty(), "lost:\n{}", faults.join("\n"));
        Ok(())
    }
}

/// Opens one flow after another, until it is told to stop, and says how many; fails at the first without an answer.
fn open_flows(to: SocketAddr, ports: Range<u16>, pause: Duration, stop: &AtomicBool) -> Result<usize> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let mut count = 0;
    for port in ports {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let socket = UdpSocket::bind(SocketAddr::new(any, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(to)?;
        // Twice, so that the second finds what the first has opened.
        for word in 1..=2_u64 {
            let mut answer = [0; 8];
            socket.send(&u64::MAX.wrapping_sub(word).to_be_bytes())?;
            socket.recv(&mut answer).with_context(|| format!("no answer to word {word} from port {port}"))?;
        }
        count += 1;
        thread::sleep(pause);
    }
    Ok(count)
}

/// Connections of a client through both nodes to one task, and their other ends.
fn idle(lab: &Lab, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let listening = at("10.0.9.11", 9001)?;
    let listener = lab.host("web.1").namespace.inside(|| TcpListener::bind(listening))??;
    let nodes = [at("192.0.2.1", 9001)?, at("192.0.2.2", 9001)?];
    lab.host("client").namespace.inside(|| {
        (0..count)
            .zip(nodes.into_iter().cycle())
            .map(|(_, node)| {
                let client = TcpStream::connect_timeout(&node, Duration::from_secs(5))?;
                let (server, _) = listener.accept()?;
                Ok((client, server))
            })
            .collect()
    })?
}

/// Says something in both directions of a connection.
fn speak((mut client, mut server): (TcpStream, TcpStream)) -> Result<()> {
    let mut word = [0; 4];
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    client.write_all(b"ping")?;
    server.read_exact(&mut word).context("the task does not hear the client")?;
    server.write_all(b"pong")?;
    client.read_exact(&mut word).context("the client does not hear the task")?;
    Ok(())
}

/// Replaces both nodes' daemons one after the other, each as a crash and a start; while neither runs, traffic goes on.
fn replace(lab: &mut Lab, program: Option<&Path>) -> Result<()> {
    for node in ["n1", "n2"] {
        let node = lab.node_mut(node);
        node.kill()?;
        thread::sleep(Duration::from_millis(200));
        node.install(program.map(Path::to_owned));
        node.start()?;
    }
    Ok(())
}

#[test]
fn no_packet_is_lost_while_the_daemon_is_killed_and_started() -> Result<()> {
    mesh().test(|lab| {
        let traffic = Traffic::start(lab)?;
        for _ in 0..4 {
            replace(lab, None)?;
        }
        traffic.finish()
    })
}

/// The maps that a node has pinned, without their layouts.
fn pinned_maps(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for pin in lab.node(node).pins()? {
        let parts: Vec<_> =
            pin.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
        match &parts[..] {
            [_, directory] if directory == "links" => {}
            [pin, directory] if directory == "maps" => {
                names.push(pin.split('-').next().unwrap_or_default().to_owned());
            }
            _ => bail!("{} is left pinned on {node}", pin.display()),
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn no_packet_is_lost_while_tables_are_laid_out_otherwise_and_back() -> Result<()> {
    mesh().test(|lab| {
        let maps = pinned_maps(lab, "n1")?;
        let traffic = Traffic::start(lab)?;
        for (program, version) in [("other-layout", 2), ("other-layout-before", 1), ("other-layout", 2)] {
            replace(lab, Some(&other_meshd_path(program)?))?;
            for node in ["n1", "n2"] {
                let pin = lab.node(node).map_pin("FLOWS")?.display().to_string();
                ensure!(pin.contains(&format!("/maps/FLOWS-v{version}-")), "{program}: {pin}");
                ensure!(pinned_maps(lab, node)? == maps, "on {node}: {:?}", lab.node(node).pins()?);
                let log = lab.node(node).log_text()?;
                let told = log.lines().rfind(|line| line.contains("took over the data plane"));
                println!("{node}: {told:?}");
                ensure!(told.is_some_and(|line| line.contains("FLOWS")), "{log}");
                ensure!(!log.contains("flows could not be carried over"), "{log}");
                let status: Value = lab.node(node).meshctl("status")?;
                ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");
            }
        }
        traffic.finish()
    })
}
