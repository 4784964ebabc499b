//! Whatever comes: chance, and real messages that were changed on the way.

use std::time::Duration;

use mesh_cluster::{Cluster, MOST_DATAGRAM, MOST_MESSAGE, NodeId, Now, Output};
use proptest::prelude::*;

use crate::network::{Network, Weather, address};

/// Messages of every kind, as nodes really sent them.
fn recorded() -> Vec<Vec<u8>> {
    let mut network = Network::mesh(7, 4);
    network.weather = Weather::bad();
    network.record = Some(Vec::new());
    for round in 0..60 {
        network.write(round % 4, &format!("s{}", round % 7), (round % 5 != 0).then_some("{}"));
        let key = mesh_cluster::Key::new(mesh_cluster::Kind::Service, "s1");
        network.call(round % 4, |cluster, now| cluster.confirm(now, vec![key]));
        match round {
            10 => network.nodes[3].side = 1,
            30 => network.nodes[3].side = 0,
            40 => network.call(2, Cluster::leave),
            _ => {}
        }
        network.run(Duration::from_millis(150));
    }
    let clash = network.add();
    network.nodes[clash].identity.name = "n1".to_owned();
    network.start(clash, &[address(0)]);
    network.run(Duration::from_secs(1));
    let mut messages = network.record.take().unwrap();
    messages.sort_by_key(|message| (kind(message), message.len()));
    let kinds: std::collections::BTreeSet<u8> = messages.iter().map(|message| kind(message)).collect();
    assert_eq!(kinds.len(), 17, "not every kind of message was sent: {kinds:?}");
    // Some of each kind, the longest among them.
    let mut some = Vec::new();
    for kind_ in kinds {
        let of: Vec<&Vec<u8>> = messages.iter().filter(|message| kind(message) == kind_).collect();
        some.extend((0..16).map(|at| of[(of.len() - 1) * at / 15].clone()));
    }
    some
}

/// Which variant of a message it is: the byte after the version and the sender's number.
fn kind(message: &[u8]) -> u8 {
    let sender = message.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap();
    message[sender + 2]
}

/// A node with neighbours, outside of any network.
fn node() -> (Cluster, Duration) {
    let mut network = Network::mesh(7, 4);
    network.write(0, "s1", Some("{}"));
    let now = network.now_of(1).monotonic;
    (network.nodes[1].cluster.take().unwrap(), now)
}

/// What a node wants done stays within bounds, whatever it was told.
fn drain(cluster: &mut Cluster) -> usize {
    let mut bytes = 0;
    while let Some(output) = cluster.output() {
        if let Output::Send { message, reliable, .. } = output {
            assert!(message.len() <= if reliable { MOST_MESSAGE } else { MOST_DATAGRAM });
            bytes += message.len();
        }
    }
    bytes
}

fn mutate(message: &mut Vec<u8>, changes: &[(u8, prop::sample::Index, u8)]) {
    for (how, at, byte) in changes {
        if message.is_empty() {
            return;
        }
        let at = at.index(message.len());
        match how % 5 {
            0 => message[at] = *byte,
            1 => message[at] ^= 1 << (byte % 8),
            2 => message.truncate(at + 1),
            3 => message.insert(at, *byte),
            _ => {
                let copy: Vec<u8> = message[at..].iter().take(usize::from(*byte)).copied().collect();
                message.extend(copy);
            }
        }
    }
}

#[test]
fn no_message_makes_a_node_panic_or_grow() {
    let recorded = recorded();
    let change = (any::<u8>(), any::<prop::sample::Index>(), any::<u8>());
    let changed = (any::<prop::sample::Index>(), prop::collection::vec(change, 0..6));
    let strategy = prop::collection::vec(changed, 1..40);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |messages| {
            let (mut cluster, mut at) = node();
            for (which, changes) in &messages {
                let mut message = which.get(&recorded).clone();
                mutate(&mut message, changes);
                at += Duration::from_millis(50);
                let now = Now { monotonic: at, wall: 1_770_000_100_000 };
                cluster.receive(now, address(0), &message);
                prop_assert!(drain(&mut cluster) < 8 << 20);
                cluster.tick(now);
                prop_assert!(drain(&mut cluster) < 8 << 20);
                cluster.applied(now, cluster.version());
                prop_assert!(cluster.members().len() < 200);
            }
            // It still does its work.
            let write = mesh_cluster::Write {
                key: mesh_cluster::Key::new(mesh_cluster::Kind::Service, "after"),
                value: Some("{}".into()),
            };
            cluster.write(Now { monotonic: at, wall: 1_770_000_100_000 }, vec![write]).unwrap();
            Ok(())
        })
        .unwrap();
}

proptest! {
    #[test]
    fn chance_is_no_message(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1300), 1..20)) {
        let (mut cluster, at) = node();
        drain(&mut cluster);
        let before = (cluster.store().digest().root(), cluster.living());
        for mut message in messages {
            let now = Now { monotonic: at, wall: 1_770_000_100_000 };
            cluster.receive(now, address(0), &message);
            // With what a message begins with, too.
            message.splice(0..0, [1, 0]);
            cluster.receive(now, address(0), &message);
        }
        prop_assert_eq!(before, (cluster.store().digest().root(), cluster.living()));
    }
}

#[test]
fn a_flood_of_members_is_bounded() {
    let (mut cluster, at) = node();
    let now = Now { monotonic: at, wall: 1_770_000_100_000 };
    let start = std::time::Instant::now();
    // As many as welcomes of three thousand each could tell of.
    for round in 0..8_u64 {
        let identities = (0..3000_u32).map(|number| {
            let id = NodeId(1_000_000 + round * 3000 + u64::from(number));
            let address = std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + number), 7946));
            (id, 1_u64, 0_u32, false, format!("flood{round}-{number}"), address)
        });
        let others: Vec<_> = identities.collect();
        let peer = others[0].clone();
        // A welcome, by its variant.
        let bytes = postcard::to_allocvec(&(1_u8, peer.0, 2_u8, &peer, &others, 3000_u32)).unwrap();
        cluster.receive(now, address(0), &bytes);
        drain(&mut cluster);
    }
    assert!(cluster.members().len() > 10_000, "the flood was not understood: {}", cluster.members().len());
    assert!(cluster.members().len() <= 16_390, "{}", cluster.members().len());
    println!("{} members in {:?}", cluster.members().len(), start.elapsed());
}
