//! Somebody on the nodes' network who has no key of the cluster, or one no longer: learns nothing, changes nothing, and costs
//! bounded memory.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use mesh_cluster::seal::{Ring, Sealer, Secret, Session};
use mesh_tests::lab::{Host, Lab, Mesh, RawSocket, Underlay, eventually};

const PORT: u16 = 7946;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const SOON: Duration = Duration::from_secs(10);
/// What a daemon may grow by under an attack, in KiB: buffers of sockets and streams, and what the allocator keeps.
const MOST_GROWTH: u64 = 32 << 10;

fn mesh() -> Mesh {
    Mesh::new(3)
        .cluster()
        .network("blue", 4097, &["10.0.9.0/24"])
        .service("quarterly-ledger", "blue", "10.0.9.2", "mh", &["9200:9200"])
        .backend("quarterly-ledger", "ledger.1", "n1", "blue", "10.0.9.11")
}

/// A task of `web` on each node.
fn with_tasks(underlay: Underlay) -> Mesh {
    let mesh = Mesh::new(3).underlay(underlay).cluster().network("blue", 4097, &["10.0.9.0/24"]).service(
        "web",
        "blue",
        "10.0.9.2",
        "mh",
        &["9200:80"],
    );
    (1..).zip(NODES).fold(mesh, |mesh, (number, node)| {
        mesh.backend("web", &format!("web.{number}"), node, "blue", &format!("10.0.9.1{number}"))
    })
}

fn key(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

/// The key that the lab's nodes begin with.
fn first_key() -> Secret {
    key(b'a')
}

fn keyring(lab: &Lab, node: &str) -> Result<String> {
    Ok(fs::read_to_string(lab.directory().join(node).join("keyring"))?)
}

/// Installs a key on one node, and waits until each has it.
fn spread(lab: &Lab, node: &str, key: &Secret) -> Result<()> {
    let text = key.reveal();
    lab.node(node).meshctl_text(&format!("keys install {}", &*text))?;
    for node in NODES {
        eventually("the key is on every node", SOON, || {
            ensure!(keyring(lab, node)?.contains(&*text), "{node} has not got it");
            Ok(())
        })?;
    }
    Ok(())
}

/// What each node has of the cluster: its keyring, and its store on the disk.
fn state(lab: &Lab) -> Result<BTreeMap<&'static str, (String, Vec<u8>)>> {
    let of = |node| {
        let log = lab.directory().join(node).join(format!("state/{node}.cluster/store.log"));
        Ok((node, (keyring(lab, node)?, fs::read(&log).with_context(|| log.display().to_string())?)))
    };
    NODES.into_iter().map(of).collect()
}

/// The state, once it stays as it is.
fn quiet_state(lab: &Lab) -> Result<BTreeMap<&'static str, (String, Vec<u8>)>> {
    eventually("the cluster is quiet", SOON, || {
        let before = state(lab)?;
        thread::sleep(Duration::from_secs(1));
        ensure!(before == state(lab)?, "something is still written");
        Ok(before)
    })
}

/// The resident memory of a process, in KiB.
fn memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What passes a node's cable to and from the port of gossip.
struct Tap(RawSocket);

/// What was seen: every frame, and the datagrams and bytes of streams in them.
#[derive(Default)]
struct Seen {
    frames: Vec<Vec<u8>>,
    datagrams: Vec<Vec<u8>>,
    /// The bytes of each stream, by its two ends.
    streams: BTreeMap<(u16, u16), Vec<u8>>,
}

impl Tap {
    fn on(lab: &Lab, node: &str) -> Result<Self> {
        RawSocket::open(lab.host(node), "eth0").map(Self)
    }

    /// Listens while something is done.
    fn during(&self, deed: impl FnOnce() -> Result<()>) -> Result<Seen> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let listener = scope.spawn(|| {
                let mut seen = Seen::default();
                while !is_over.load(Ordering::Relaxed) {
                    if let Some(frame) = self.0.receive(Duration::from_millis(50), |_| true)? {
                        seen.take(&frame);
                    }
                }
                Ok(seen)
            });
            let done = deed();
            is_over.store(true, Ordering::Relaxed);
            let seen: Result<Seen> = listener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done.and(seen)
        })
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        match packet.transport {
            Some(TransportSlice::Udp(udp)) if udp.source_port() == PORT || udp.destination_port() == PORT => {
                self.datagrams.push(udp.payload().to_vec());
            }
            Some(TransportSlice::Tcp(tcp)) if tcp.source_port() == PORT || tcp.destination_port() == PORT => {
                let ends = (tcp.source_port(), tcp.destination_port());
                self.streams.entry(ends).or_default().extend(tcp.payload());
            }
            _ => return,
        }
        self.frames.push(frame.to_vec());
    }

    fn has(&self, what: &[u8]) -> bool {
        let is_in = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        self.frames.iter().any(|frame| is_in(frame)) || self.streams.values().any(|bytes| is_in(bytes))
    }
}

/// Numbers that look like chance, and are the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or_default()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A datagram that means nothing: in every second round one that looks as if it were sealed with a key.
    fn noise(&mut self, round: usize, key: &Secret) -> Result<Vec<u8>> {
        let length = self.below(1400);
        let mut noise = self.bytes(length);
        if round.is_multiple_of(2) && noise.len() > 10 {
            noise[0] = 1;
            noise[1] = 1 + (round / 2 % 4) as u8;
            let id = u64::from_str_radix(&key.id().to_string(), 16)?;
            noise[2..10].copy_from_slice(&id.to_be_bytes());
        }
        Ok(noise)
    }
}

/// The attacker: a host on the nodes' network, with a socket at the port of gossip.
struct Attacker<'a> {
    host: &'a Host,
    own: SocketAddr,
    target: SocketAddr,
    socket: UdpSocket,
    chance: Chance,
}

impl<'a> Attacker<'a> {
    fn new(lab: &'a Lab, target: &str) -> Result<Self> {
        let host = lab.host("client");
        let own = SocketAddr::new(lab.mesh().address("client")?, PORT);
        let socket = host.namespace.inside(|| UdpSocket::bind(own))??;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let target = SocketAddr::new(lab.mesh().address(target)?, PORT);
        Ok(Self { host, own, target, socket, chance: Chance(0x9e37_79b9_7f4a_7c15) })
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        match self.socket.send_to(datagram, self.target) {
            // Whoever sends faster than its own queue takes is no stronger for it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = self.host.namespace.inside(|| TcpStream::connect_timeout(&self.target, SOON))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Whether the target says anything to it.
    fn is_answered(&self) -> Result<bool> {
        let mut buffer = [0; 2048];
        match self.socket.recv_from(&mut buffer) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A hello as a node would say it that has this key, and is reached at the attacker's address.
    fn hello(&mut self, key: Secret) -> Result<Vec<u8>> {
        let session = Session(self.chance.bytes(16).try_into().unwrap_or_default());
        let mut sealer = Sealer::new(self.own, Ring::new(vec![key])?, session);
        sealer.hello(Duration::from_secs(1), self.target).context("a fresh sealer asks")
    }

    /// A copy with something about it changed.
    fn mutated(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        match self.chance.below(4) {
            0 => bytes.truncate(self.chance.below(original.len())),
            1 => {
                let more = self.chance.below(64) + 1;
                bytes.extend(self.chance.bytes(more));
            }
            _ => {
                let place = self.chance.below(bytes.len());
                let with = 1 << self.chance.below(8);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= with;
                }
            }
        }
        bytes
    }

    /// How many of its connections the target holds.
    fn held(&self, lab: &Lab) -> Result<usize> {
        let words = format!("ss -Htn state established sport = :{PORT} dst {}", self.own.ip());
        Ok(lab.host("n1").namespace.exec(&words)?.lines().count())
    }
}

/// How long the other side lets a stream live, up to a time.
fn lifetime(stream: &mut TcpStream, most: Duration) -> Result<Duration> {
    let began = Instant::now();
    stream.set_read_timeout(Some(most))?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Ok(_) => bail!("a stream was answered"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("the stream was not closed"),
    }
    Ok(began.elapsed())
}

#[test]
fn who_listens_learns_no_name_and_no_key() -> Result<()> {
    mesh().test(|lab| {
        spread(lab, "n1", &key(7))?;
        let (fresh, marker) = (key(8), b"this-is-not-sealed");
        let tap = Tap::on(lab, "n2")?;
        let other: IpAddr = lab.mesh().address("n1")?;
        let seen = tap.during(|| {
            spread(lab, "n2", &fresh)?;
            lab.node("n1")
                .meshctl_text("services create acquisition-plan --network blue --publish 9300:80")?;
            thread::sleep(Duration::from_secs(2));
            // Who could not read this would not have seen anything else either.
            let sent = lab
                .host("n2")
                .namespace
                .inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(marker, SocketAddr::new(other, PORT)))??;
            ensure!(sent == marker.len());
            thread::sleep(Duration::from_millis(200));
            Ok(())
        })?;
        ensure!(seen.has(marker), "the tap did not see what was sent in the open");
        ensure!(seen.datagrams.len() > 20, "{} datagrams are no gossip", seen.datagrams.len());
        let text = fresh.reveal();
        for secret in [
            text.as_bytes(),
            &[8; 32],
            b"\"secret\"",
            b"in_use",
            fresh.id().to_string().as_bytes(),
            b"quarterly-ledger",
            b"acquisition-plan",
            b"ledger.1",
            b"blue",
        ] {
            ensure!(!seen.has(secret), "{:?} was to be read on the wire", String::from_utf8_lossy(secret));
        }
        for node in NODES {
            ensure!(!lab.node(node).log_text()?.contains(&*text), "the log of {node} has the key");
            let told = lab.node(node).meshctl("keys ls")?.to_string();
            ensure!(told.contains(&fresh.id().to_string()) && !told.contains(&*text), "{told}");
        }
        Ok(())
    })
}

#[test]
fn who_has_no_key_changes_nothing_and_is_not_answered() -> Result<()> {
    mesh().test(|lab| {
        for byte in 10..20 {
            spread(lab, "n2", &key(byte))?;
        }
        // What an attacker can record: gossip by datagrams, and by streams, for a node that has lost its store asks for all of it.
        let tap = Tap::on(lab, "n1")?;
        let store = lab.directory().join("n1/state/n1.cluster/store.log");
        let recorded = tap.during(|| {
            lab.node_mut("n1").stop()?;
            fs::remove_file(&store)?;
            lab.node_mut("n1").start()?;
            eventually("the store is back", SOON, || {
                let text = fs::read_to_string(&store)?;
                ensure!((10..20).all(|byte| text.contains(&*key(byte).reveal())), "something is missing");
                Ok(())
            })?;
            spread(lab, "n2", &key(20))
        })?;
        let streamed: usize = recorded.streams.values().map(Vec::len).sum();
        ensure!(streamed > 1200, "{streamed} bytes are no stream");
        let daemon = lab.node_mut("n1").daemon()?.id();
        ensure!(recorded.datagrams.len() > 20, "{} datagrams are no gossip", recorded.datagrams.len());
        let before = quiet_state(lab)?;
        let memory_before = memory(daemon)?;
        let began = Instant::now();

        let mut attacker = Attacker::new(lab, "n1")?;
        // Noise, some of which looks like gossip that is sealed with the right key.
        for round in 0..20_000 {
            let noise = attacker.chance.noise(round, &first_key())?;
            attacker.send(&noise)?;
        }
        // Another key.
        for byte in 200..250 {
            let hello = attacker.hello(key(byte))?;
            attacker.send(&hello)?;
        }
        // What was recorded, as it was and with changes.
        for datagram in &recorded.datagrams {
            for _ in 0..10 {
                attacker.send(datagram)?;
                let mutated = attacker.mutated(datagram);
                attacker.send(&mutated)?;
            }
        }
        ensure!(!attacker.is_answered()?, "somebody without a key was answered");
        for bytes in recorded.streams.values().filter(|bytes| !bytes.is_empty()) {
            let mut stream = attacker.connect()?;
            // It may be closed in the middle.
            let _ = stream.write_all(bytes);
            ensure!(lifetime(&mut stream, SOON)? < Duration::from_secs(6), "a recorded stream was kept");
        }

        ensure!(state(lab)? == before, "an attacker has changed what the nodes have");
        let grown = memory(daemon)?.saturating_sub(memory_before);
        ensure!(grown < MOST_GROWTH, "the daemon has grown by {grown} KiB");
        // And the cluster works as before.
        spread(lab, "n3", &key(21))?;
        ensure!(began.elapsed() < Duration::from_secs(120), "the attack took {:?}", began.elapsed());
        Ok(())
    })
}

#[test]
fn streams_that_are_slow_or_too_long_or_too_many_cost_little() -> Result<()> {
    mesh().test(|lab| {
        let daemon = lab.node_mut("n1").daemon()?.id();
        spread(lab, "n1", &key(7))?;
        let before = quiet_state(lab)?;
        let memory_before = memory(daemon)?;
        let mut attacker = Attacker::new(lab, "n1")?;

        // Lengths that no part has: closed at once.
        for length in [0_u16, 1, 100, 20_000, u16::MAX] {
            let mut stream = attacker.connect()?;
            stream.write_all(&length.to_be_bytes())?;
            let lived = lifetime(&mut stream, SOON)?;
            ensure!(lived < Duration::from_secs(1), "a part of {length} bytes was waited for, {lived:?}");
        }
        // A part that is whole and not sealed.
        let mut stream = attacker.connect()?;
        stream.write_all(&1000_u16.to_be_bytes())?;
        stream.write_all(&attacker.chance.bytes(1000))?;
        ensure!(lifetime(&mut stream, SOON)? < Duration::from_secs(1), "noise was waited behind");
        // A byte now and then: not for long.
        let mut stream = attacker.connect()?;
        let began = Instant::now();
        stream.write_all(&16_000_u16.to_be_bytes())?;
        let closed = eventually("a slow stream is closed", SOON, || {
            thread::sleep(Duration::from_millis(100));
            match stream.write_all(&[0]) {
                Ok(()) => bail!("it is open"),
                Err(_) => Ok(began.elapsed()),
            }
        })?;
        ensure!(closed < Duration::from_secs(7), "{closed:?}");

        // Many that begin a part as long as one may be, and send all but its last byte.
        let mut streams = Vec::new();
        let part = attacker.chance.bytes(15_999);
        for _ in 0..500 {
            let mut stream = attacker.connect()?;
            stream.write_all(&16_000_u16.to_be_bytes())?;
            // It may have had to go already.
            let _ = stream.write_all(&part);
            streams.push(stream);
        }
        let held = attacker.held(lab)?;
        ensure!(held <= 16, "{held} streams of one address are held");
        let grown = memory(daemon)?.saturating_sub(memory_before);
        ensure!(grown < MOST_GROWTH, "the daemon has grown by {grown} KiB");
        ensure!(state(lab)? == before, "an attacker has changed what the nodes have");

        // While one floods it with connections, the cluster works.
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // One that is refused is a connection, too.
                    let _ = attacker.connect().map(|mut stream| stream.write_all(&[0; 600]));
                    count += 1;
                }
                count
            });
            let outcome = spread(lab, "n2", &key(9)).and_then(|()| spread(lab, "n1", &key(10)));
            is_over.store(true, Ordering::Relaxed);
            let count: u32 = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome?;
            ensure!(count > 10, "{count} connections are no flood");
            Ok(())
        })?;
        drop(streams);
        eventually("they are gone", SOON, || {
            ensure!(attacker.held(lab)? == 0, "some are held");
            Ok(())
        })
    })
}

#[test]
fn a_removed_key_opens_nothing_any_more() -> Result<()> {
    mesh().test(|lab| {
        let (old, new) = (first_key(), key(20));
        let mut attacker = Attacker::new(lab, "n1")?;
        let hello = attacker.hello(old.clone())?;
        attacker.send(&hello)?;
        ensure!(attacker.is_answered()?, "who has the key is answered; else the rest shows nothing");
        let tap = Tap::on(lab, "n1")?;
        let recorded = tap.during(|| spread(lab, "n2", &new))?;

        lab.node("n1").meshctl_text(&format!("keys use {}", new.id()))?;
        let refused = lab.node("n1").meshctl_output(&format!("keys remove {}", new.id()))?;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(1) && told.contains("is in use on this node; put another"),
            "{told}"
        );
        // Also from another node, and as soon as one may.
        eventually("it may be removed", SOON, || {
            lab.node("n3").meshctl_text(&format!("keys remove {}", old.id())).map(drop)
        })?;
        for node in NODES {
            eventually("the old key is gone", SOON, || {
                ensure!(!keyring(lab, node)?.contains(&*old.reveal()), "{node} has it");
                Ok(())
            })?;
        }
        let before = quiet_state(lab)?;
        for _ in 0..10 {
            let hello = attacker.hello(old.clone())?;
            attacker.send(&hello)?;
        }
        for datagram in &recorded.datagrams {
            attacker.send(datagram)?;
        }
        ensure!(!attacker.is_answered()?, "who has a removed key was answered");
        ensure!(state(lab)? == before, "who has a removed key has changed something");
        spread(lab, "n2", &key(21))
    })
}

/// Does something while a client floods nodes with noise, so many datagrams a second to each of them; returns how many it sent to
/// each.
fn while_flooded(
    lab: &mut Lab,
    nodes: &[&str],
    rate: u32,
    deed: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<u64> {
    let mut attacker = Attacker::new(lab, "n1")?;
    let noise: Vec<Vec<u8>> =
        (0..1000).map(|round| attacker.chance.noise(round, &first_key())).collect::<Result<_>>()?;
    let socket = attacker.socket;
    let addresses = nodes.iter().map(|node| Ok(SocketAddr::new(lab.mesh().address(node)?, PORT)));
    let targets: Vec<SocketAddr> = addresses.collect::<Result<_>>()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let began = Instant::now();
            let mut rounds = 0;
            for datagram in noise.iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                for target in &targets {
                    // Whoever sends faster than its own queue takes is no stronger for it.
                    let _ = socket.send_to(datagram, target);
                }
                rounds += 1;
                let due = Duration::from_secs(rounds) / rate;
                if due > began.elapsed() + Duration::from_millis(2) {
                    thread::sleep(Duration::from_millis(2));
                }
            }
            rounds
        });
        let done = deed(lab);
        is_over.store(true, Ordering::Relaxed);
        let rounds = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.map(|()| rounds)
    })
}

/// How many messages a node says that it has refused of late.
fn refused(lab: &Lab, node: &str) -> Result<u64> {
    let status = lab.node(node).meshctl("status")?;
    let messages = status["problems"].as_array().into_iter().flatten();
    let told = messages.filter_map(|problem| problem["message"].as_str());
    let told = told.filter(|told| told.starts_with("Messages were refused: "));
    Ok(told.flat_map(str::split_whitespace).filter_map(|word| word.parse::<u64>().ok()).sum())
}

/// While the others are flooded, a node that dies is out of every ring in time, and nobody who lives is taken for dead.
fn deaths_are_noticed_in_a_flood(underlay: Underlay) -> Result<()> {
    /// Datagrams a second to each node, and how long before and after the death.
    const RATE: u32 = 20_000;
    const AROUND: Duration = Duration::from_secs(4);
    with_tasks(underlay).test(|lab| {
        let others = ["n1", "n2"];
        for node in NODES {
            lab.see(&NODES, node, &["alive"], SOON)?;
        }
        let began = Instant::now();
        let sent = while_flooded(lab, &others, RATE, |lab| {
            thread::sleep(AROUND);
            for (node, other) in NODES.into_iter().flat_map(|node| NODES.map(|other| (node, other))) {
                ensure!(!lab.has_buried(node, other)?, "{node} took {other} for dead, which was not");
            }
            lab.node_mut("n3").kill()?;
            lab.carrier("n3", false)?;
            let start = Instant::now();
            lab.without(&others, "web", "web.3", Duration::from_secs(3))?;
            println!(
                "n3 was dead, and its backend out of every ring, after {:?} of a flood",
                start.elapsed()
            );
            lab.see(&others, "n3", &["dead"], Duration::from_secs(1))?;
            thread::sleep(AROUND);
            for (node, other) in [("n1", "n2"), ("n2", "n1")] {
                ensure!(!lab.has_buried(node, other)?, "{node} took {other} for dead, which was not");
                lab.see(&[node], other, &["alive", "suspect"], Duration::ZERO)?;
                ensure!(lab.has_buried(node, "n3")?, "the log of {node} does not tell of a death");
                let refused = refused(lab, node)?;
                ensure!(refused > u64::from(RATE), "{node} has refused {refused} of the flood");
            }
            Ok(())
        })?;
        let took = began.elapsed();
        println!("{sent} datagrams to each in {took:?}");
        ensure!(sent as f64 / took.as_secs_f64() > f64::from(RATE) / 4.0, "{sent} datagrams are no flood");
        lab.carrier("n3", true)?;
        lab.node_mut("n3").start()?;
        for node in NODES {
            lab.see(&NODES, node, &["alive"], SOON)?;
        }
        Ok(())
    })
}

#[test]
fn a_death_in_a_flood_is_noticed_and_nobody_else_is_taken_for_dead() -> Result<()> {
    deaths_are_noticed_in_a_flood(Underlay::V4)
}

#[test]
fn a_death_in_a_flood_is_noticed_over_ipv6() -> Result<()> {
    deaths_are_noticed_in_a_flood(Underlay::V6)
}
