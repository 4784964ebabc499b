//! Nodes of one process that gossip over loopback, with a directory of its own each.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use mesh_cluster::{Kind, MemberState};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::*;
use crate::{agent::testing::Directory, spec::Origin};

const SOON: Duration = Duration::from_secs(10);

fn key(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

/// A node, which applies whatever it is told.
struct Node {
    handle: Handle,
    agent: JoinHandle<()>,
}

impl Node {
    async fn start(directory: &Path, name: &str, port: u16, join: &[&Self]) -> Self {
        Self::try_start(directory, name, port, join.iter().map(|node| node.address()).collect())
            .await
            .unwrap()
    }

    async fn try_start(
        directory: &Path,
        name: &str,
        port: u16,
        join: Vec<SocketAddr>,
    ) -> Result<Self, StartError> {
        let place = SocketAddr::from(([127, 0, 0, 1], port));
        Self::start_at(directory, name, place, place, join).await
    }

    async fn start_at(
        directory: &Path,
        name: &str,
        listen: SocketAddr,
        address: SocketAddr,
        join: Vec<SocketAddr>,
    ) -> Result<Self, StartError> {
        let keyring = directory.join(format!("{name}.keyring"));
        if !keyring.exists() {
            keyring::write(&keyring, &Ring::new(vec![key(1)]).unwrap()).unwrap();
        }
        let ring = read_keyring(&keyring, &Origin::default()).unwrap();
        let settings = Settings {
            listen,
            address,
            join,
            keyring,
            ring,
            state_dir: directory.join("state"),
            name: name.to_owned(),
            protocol: mesh_cluster::Settings::default(),
        };
        let handle = loop {
            match start(settings.clone()).await {
                // The port that the system chose for datagrams was taken for streams.
                Err(StartError::Listen { .. }) if listen.port() == 0 => {}
                started => break started?,
            }
        };
        let mut followed = handle.clone();
        let agent = tokio::spawn(async move {
            while followed.changed().await {
                let version = followed.snapshot().version;
                followed.applied(version).await;
            }
        });
        Ok(Self { handle, agent })
    }

    fn address(&self) -> SocketAddr {
        self.handle.address()
    }

    fn has(&self, name: &str) -> Option<Arc<str>> {
        self.handle.snapshot().store.value(&Key::new(Kind::Service, name)).cloned()
    }

    async fn write(&self, name: &str, value: &str) -> Result<Written, WriteError> {
        let write = Write { key: Key::new(Kind::Service, name), value: Some(value.into()) };
        self.handle.write(vec![write]).await
    }

    fn living(&self) -> usize {
        self.handle.snapshot().members.iter().filter(|member| member.state == MemberState::Alive).count()
    }

    fn problems(&self) -> Vec<String> {
        self.handle.snapshot().problems.iter().map(ToString::to_string).collect()
    }

    async fn keys(&self) -> Vec<(KeyId, bool)> {
        self.handle.keys().await.iter().map(|key| (key.id, key.in_use)).collect()
    }

    /// Ends it as a crash does: nobody is told. Returns when its sockets are closed.
    async fn kill(self) {
        let address = self.address();
        let Self { mut handle, agent } = self;
        agent.abort();
        let _ = agent.await;
        let snapshot = handle.snapshot.clone();
        handle.snapshot = watch::channel(handle.snapshot()).1;
        drop(handle);
        let mut snapshot = snapshot;
        while snapshot.changed().await.is_ok() {}
        until("its port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn three(directory: &Path) -> [Node; 3] {
    let a = Node::start(directory, "a", 0, &[]).await;
    let b = Node::start(directory, "b", 0, &[&a]).await;
    let c = Node::start(directory, "c", 0, &[&b]).await;
    until("three live", || [&a, &b, &c].iter().all(|node| node.living() == 3)).await;
    [a, b, c]
}

fn digests_are_equal(nodes: &[Node]) -> bool {
    let mut roots = nodes.iter().map(|node| node.handle.snapshot().store.digest().root());
    let first = roots.next();
    roots.all(|root| Some(root) == first)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_one_node_is_on_every_other_and_confirmed() {
    let directory = Directory::new();
    let nodes = three(directory.path()).await;
    nodes[1].write("web", "{}").await.unwrap();
    assert_eq!(nodes[1].has("web").as_deref(), Some("{}"), "who wrote it sees it at once");
    nodes[1].handle.write(vec![]).await.unwrap();
    nodes[1].handle.confirm(vec![Key::new(Kind::Service, "web")], SOON).await.unwrap();
    // Who has confirmed it has published it before.
    assert!(nodes.iter().all(|node| node.has("web").is_some()));
    let [a, b, c] = nodes;
    c.kill().await;
    a.write("late", "{}").await.unwrap();
    until("the dead are noticed", || a.living() == 2 && b.living() == 2).await;
    a.handle.confirm(vec![Key::new(Kind::Service, "late")], SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_go_by_streams() {
    let directory = Directory::new();
    let nodes = three(directory.path()).await;
    let long = format!("\"{}\"", "x".repeat(60_000));
    for number in 0..40 {
        nodes[0].write(&format!("s{number}"), &long).await.unwrap();
    }
    until("all have all", || digests_are_equal(&nodes)).await;
    let d = Node::start(directory.path(), "d", 0, &[&nodes[2]]).await;
    until("who comes late gets all", || {
        (0..40).all(|number| d.has(&format!("s{number}")).as_deref() == Some(&*long))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_may_be_killed_and_what_was_acknowledged_stays() {
    let directory = Directory::new();
    let nodes = three(directory.path()).await;
    for number in 0..20 {
        nodes[number % 3].write(&format!("s{number}"), "1").await.unwrap();
    }
    let ports = nodes.each_ref().map(|node| node.address().port());
    for name in ["a", "b", "c"] {
        let noted = directory.path().join(format!("state/{name}.cluster/members.json"));
        until("members are noted", || {
            fs::read_to_string(&noted).is_ok_and(|text| text.contains("127.0.0.1"))
        })
        .await;
    }
    // At once, whatever has reached whom.
    for node in nodes {
        node.kill().await;
    }
    let mut again = Vec::new();
    for (name, port) in ["a", "b", "c"].into_iter().zip(ports) {
        // Nobody is told to join anybody: they know one another.
        again.push(Node::start(directory.path(), name, port, &[]).await);
    }
    until("three live again", || again.iter().all(|node| node.living() == 3)).await;
    until("all have all", || digests_are_equal(&again)).await;
    for number in 0..20 {
        assert_eq!(again[0].has(&format!("s{number}")).as_deref(), Some("1"), "s{number}");
    }
    assert_eq!(again[0].problems(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_directory_comes_back_from_the_others() {
    let directory = Directory::new();
    let [a, b, c] = three(directory.path()).await;
    a.write("web", "1").await.unwrap();
    until("all have it", || c.has("web").is_some()).await;
    let port = c.address().port();
    c.kill().await;
    fs::remove_dir_all(directory.path().join("state/c.cluster")).unwrap();
    let c = Node::start(directory.path(), "c", port, &[&a]).await;
    until("it is back", || c.has("web").is_some() && [&a, &b, &c].iter().all(|node| node.living() == 3))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_log_is_kept_aside_and_comes_back_from_the_others() {
    let directory = Directory::new();
    let [a, b, c] = three(directory.path()).await;
    for number in 0..5 {
        a.write(&format!("s{number}"), "1").await.unwrap();
    }
    until("all have it", || c.has("s4").is_some()).await;
    let port = c.address().port();
    c.kill().await;
    let log = directory.path().join("state/c.cluster/store.log");
    let mut bytes = fs::read(&log).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 0x20;
    fs::write(&log, &bytes).unwrap();
    let c = Node::start(directory.path(), "c", port, &[&b]).await;
    let told = c.problems();
    assert!(told[0].contains("store.log was not whole") && told[0].contains("store.log.broken"), "{told:?}");
    until("it is back", || (0..5).all(|number| c.has(&format!("s{number}")).is_some())).await;
    a.write("more", "1").await.unwrap();
    until("it goes on", || c.has("more").is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_gone_at_once() {
    let directory = Directory::new();
    let [a, b, c] = three(directory.path()).await;
    c.handle.leave().await;
    until("it has left", || a.living() == 2 && b.living() == 2).await;
    let left = a.handle.snapshot().members.iter().find(|member| member.identity.name == "c").cloned();
    assert!(left.is_none_or(|member| member.state == MemberState::Left));
    assert!(matches!(c.write("x", "1").await, Err(WriteError::Ended)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_is_told_and_the_cluster_goes_on() {
    let directory = Directory::new();
    let [a, b, _c] = three(directory.path()).await;
    a.write("before", "1").await.unwrap();
    // Every write goes to a device that is always full.
    let log = directory.path().join("state/a.cluster/store.log");
    let saved = fs::read(&log).unwrap();
    let place = directory.path().join("state/a.cluster");
    fs::rename(&place, directory.path().join("away")).unwrap();
    fs::write(&place, "").unwrap();
    // What is open goes on; what is to be written anew does not. So it has to be written anew.
    let mut refused = None;
    for number in 0..3000 {
        if let Err(error) = a.write(&format!("s{}", number % 3), "1").await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("it was never written anew").to_string();
    assert!(refused.contains("the disk refused to keep it"), "{refused}");
    assert!(a.problems().iter().any(|told| told.contains("Free or mend the disk")), "{:?}", a.problems());
    b.write("elsewhere", "1").await.unwrap();
    until("others are heard", || a.has("elsewhere").is_some()).await;

    fs::remove_file(&place).unwrap();
    fs::rename(directory.path().join("away"), &place).unwrap();
    until("it is tried again", || a.problems().is_empty()).await;
    a.write("after", "1").await.unwrap();
    let (_, loaded) = log::Log::open(&log);
    assert_ne!(fs::read(&log).unwrap(), saved);
    for name in ["before", "elsewhere", "after"] {
        assert!(loaded.store.value(&Key::new(Kind::Service, name)).is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_an_interruption() {
    let directory = Directory::new();
    let nodes = three(directory.path()).await;
    let (old, new) = (key(1).id(), key(2).id());
    let writing = nodes[2].handle.clone();
    let writer = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        for number in 0.. {
            let name = Key::new(Kind::Service, "w");
            let began = Instant::now();
            let write = Write { key: name.clone(), value: Some(number.to_string().into()) };
            if writing.write(vec![write]).await.is_err() {
                break;
            }
            writing.confirm(vec![name], SOON).await.unwrap();
            slowest = slowest.max(began.elapsed());
            if number > 50 {
                break;
            }
        }
        slowest
    });
    assert_eq!(nodes[0].handle.install_key(key(2)).await.unwrap(), new);
    // At once: nobody has to wait until all have it.
    nodes[0].handle.use_key(new).await.unwrap();
    until("all have the new one in use", || {
        nodes.iter().all(|node| {
            let store = node.handle.snapshot().store.clone();
            store.value(&keys::entry_key(new)).is_some_and(|value| value.contains("true"))
        })
    })
    .await;
    for node in &nodes {
        assert_eq!(node.keys().await, [(new, true), (old, false)]);
    }
    let error = nodes[1].handle.remove_key(new).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the key {new} is in use on this node"));
    nodes[1].handle.remove_key(old).await.unwrap();
    for (node, name) in nodes.iter().zip(["a", "b", "c"]) {
        let file = directory.path().join(format!("{name}.keyring"));
        until("the old one is gone", || {
            fs::read_to_string(&file).is_ok_and(|text| !text.contains(&*key(1).reveal()))
        })
        .await;
        assert!(fs::read_to_string(&file).unwrap().contains(&*key(2).reveal()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(node.keys().await, [(new, true)]);
        assert_eq!(node.living(), 3);
    }
    let known = nodes[0].handle.keys().await[0].known;
    assert_eq!(known, Some((3, 3)));
    let slowest = writer.await.unwrap();
    assert!(slowest < Duration::from_secs(2), "a write was not confirmed for {slowest:?}");
    assert!(matches!(nodes[0].handle.remove_key(old).await, Err(KeyError::Missing(id)) if id == old));
    // Nobody is shown a key.
    let shown = format!("{:?}", nodes[0].handle.snapshot());
    assert!(!shown.contains(&*key(2).reveal()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_during_a_rotation_comes_back_while_its_key_is_there() {
    let directory = Directory::new();
    let [a, b, c] = three(directory.path()).await;
    let port = c.address().port();
    c.kill().await;
    a.handle.install_key(key(2)).await.unwrap();
    a.handle.use_key(key(2).id()).await.unwrap();
    until("both have it in use", || {
        b.handle
            .snapshot()
            .store
            .value(&keys::entry_key(key(2).id()))
            .is_some_and(|value| value.contains("true"))
    })
    .await;
    let c = Node::start(directory.path(), "c", port, &[]).await;
    until("it is back", || [&a, &b, &c].iter().all(|node| node.living() == 3)).await;
    let file = directory.path().join("c.keyring");
    until("it has the new key", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains(&*key(2).reveal()))
    })
    .await;
    assert_eq!(c.keys().await[0], (key(2).id(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_was_edited_while_its_node_was_down_counts() {
    let directory = Directory::new();
    let [a, b, c] = three(directory.path()).await;
    let port = c.address().port();
    c.kill().await;
    keyring::write(&directory.path().join("c.keyring"), &Ring::new(vec![key(2), key(1)]).unwrap()).unwrap();
    let c = Node::start(directory.path(), "c", port, &[&a]).await;
    let file = directory.path().join("b.keyring");
    until("others have it in use", || {
        read_keyring(&file, &Origin::default()).is_ok_and(|ring| ring.in_use() == key(2).id())
    })
    .await;
    until("all live", || [&a, &b, &c].iter().all(|node| node.living() == 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_key_stays_outside_and_both_sides_say_so() {
    let directory = Directory::new();
    let [a, b, _c] = three(directory.path()).await;
    keyring::write(&directory.path().join("x.keyring"), &Ring::new(vec![key(9)]).unwrap()).unwrap();
    let x = Node::start(directory.path(), "x", 0, &[&a, &b]).await;
    x.write("intruder", "1").await.unwrap();
    until("it is told", || {
        a.problems()
            .iter()
            .any(|told| told.contains("sealed with a key that this node's keyring does not have"))
    })
    .await;
    assert_eq!((x.living(), a.living()), (1, 3));
    assert!(a.has("intruder").is_none());
    assert!(!a.handle.snapshot().members.iter().any(|member| member.identity.name == "x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_told() {
    let directory = Directory::new();
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let Err(error) = Node::try_start(directory.path(), "a", port, Vec::new()).await else {
        panic!("it started");
    };
    assert!(error.to_string().contains(&format!("127.0.0.1:{port} (`cluster.listen`)")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_ipv6_and_by_both_at_once() {
    let directory = Directory::new();
    let place = |text: &str| text.parse::<SocketAddr>().unwrap();
    let start = async |name, listen: &str, address: &str, join| {
        Node::start_at(directory.path(), name, place(listen), place(address), join).await.unwrap()
    };
    // Sockets of IPv6 reach the one by an address of IPv4, and the other by one of IPv6.
    for (one, other) in
        [(("[::1]:0", "[::1]:0"), ("[::1]:0", "[::1]:0")), (("[::]:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0"))]
    {
        let a = start("a", one.0, one.1, vec![]).await;
        assert_eq!(a.address().ip(), place(one.1).ip());
        let b = start("b", other.0, other.1, vec![a.address()]).await;
        until("both live", || a.living() == 2 && b.living() == 2).await;
        let long = format!("\"{}\"", "x".repeat(5000));
        b.write("web", &long).await.unwrap();
        until("it goes by a stream", || a.has("web").as_deref() == Some(&*long)).await;
        a.write("more", &long).await.unwrap();
        until("and back", || b.has("more").is_some()).await;
        a.kill().await;
        b.kill().await;
        fs::remove_dir_all(directory.path().join("state")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_and_told() {
    let (directory, other) = (Directory::new(), Directory::new());
    let [a, b, _c] = three(directory.path()).await;
    let double = Node::start(other.path(), "a", 0, &[&b]).await;
    until("it is told", || double.problems().iter().any(|told| told.contains("refuses this node"))).await;
    assert_eq!(double.living(), 1);
    assert_eq!(b.living(), 3);
    let known = b.handle.snapshot().members.iter().find(|member| member.identity.name == "a").cloned();
    assert_eq!(known.unwrap().identity.address, a.address());
}
