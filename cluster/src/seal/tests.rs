//! Sealers that speak to one another, and an attacker between them who has no key.

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn key(byte: u8) -> Secret {
    Secret::new([byte; KEY_LENGTH])
}

fn ring(keys: &[u8]) -> Ring {
    Ring::new(keys.iter().map(|byte| key(*byte)).collect()).unwrap()
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 7946))
}

/// The sealer of a node, in its `life`-th life.
fn sealer(number: u8, life: u8, keys: &[u8]) -> Sealer {
    Sealer::new(
        address(number),
        ring(keys),
        Session([number, life, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]),
    )
}

/// Has `a` ask `b`, at `now`; returns whether it knows it then.
fn meet(now: Duration, a: &mut Sealer, b: &mut Sealer) -> bool {
    let Some(hello) = a.hello(now, b.me) else { return false };
    let Some((to, welcome)) = b.open(now, &hello).send else { return false };
    assert_eq!(to, a.me);
    assert!(welcome.len() <= hello.len(), "an answer is not longer than the question");
    a.open(now, &welcome).result == Ok(Content::Met(b.me))
}

fn pair() -> (Sealer, Sealer) {
    let (mut a, mut b) = (sealer(1, 1, &[1]), sealer(2, 1, &[1]));
    assert!(meet(NOW, &mut a, &mut b));
    (a, b)
}

fn message(from: u8, bytes: &[u8]) -> Content {
    Content::Message { from: address(from), bytes: bytes.to_vec() }
}

/// What a sealer knows, as far as it is of consequence.
fn state(sealer: &Sealer) -> String {
    let mut peers: Vec<_> = sealer.peers.iter().map(|(address, peer)| (*address, peer.session)).collect();
    peers.sort_unstable();
    let mut seen: Vec<_> =
        sealer.seen.iter().map(|(session, seen)| (*session, &seen.datagrams, &seen.parts)).collect();
    seen.sort_unstable_by_key(|(session, ..)| *session);
    format!("{peers:?} {seen:?} {:?}", sealer.greetings)
}

#[test]
fn who_was_met_can_be_written_to_and_answers_at_once() {
    let (mut a, mut b) = (sealer(1, 1, &[1]), sealer(2, 1, &[1]));
    assert_eq!(a.seal(address(2), b"x"), Err(SealFault::Unknown(address(2))));
    assert!(meet(NOW, &mut a, &mut b));
    assert!(!b.knows(address(1)), "a hello changes nothing");
    let sealed = a.seal(address(2), b"hello").unwrap();
    assert_eq!(sealed.len(), 5 + OVERHEAD);
    assert_eq!(b.open(NOW, &sealed), Outcome { result: Ok(message(1, b"hello")), send: None });
    let answer = b.seal(address(1), b"").unwrap();
    assert_eq!(a.open(NOW, &answer).result, Ok(message(2, b"")));
}

#[test]
fn messages_have_an_end() {
    let (mut a, mut b) = pair();
    let longest = a.seal(address(2), &[7; 1200]).unwrap();
    assert_eq!(longest.len(), LONGEST_DATAGRAM);
    assert_eq!(b.open(NOW, &longest).result, Ok(message(1, &[7; 1200])));
    assert_eq!(a.seal(address(2), &[7; 1201]), Err(SealFault::Long(1201)));
    let number = a.begin();
    let long = vec![7; MOST_MESSAGE + 1];
    assert_eq!(a.seal_part(address(2), number, &long, 0), Err(SealFault::Long(long.len())));
}

#[test]
fn a_datagram_counts_once() {
    let (mut a, mut b) = pair();
    let sealed: Vec<_> = (0..5).map(|number| a.seal(address(2), &[number]).unwrap()).collect();
    for index in [3, 0, 4, 1, 2] {
        assert_eq!(b.open(NOW, &sealed[index]).result, Ok(message(1, &[index as u8])));
        assert_eq!(b.open(NOW, &sealed[index]).result, Err(Refused::Replayed));
    }
}

#[test]
fn what_was_recorded_for_another_life_or_another_node_is_refused() {
    let (mut a, mut b) = pair();
    let mut c = sealer(3, 1, &[1]);
    let recorded = a.seal(address(2), b"old").unwrap();
    b.open(NOW, &recorded).result.unwrap();

    let mut again = sealer(2, 2, &[1]);
    let before = state(&again);
    let outcome = again.open(NOW, &recorded);
    assert_eq!(outcome.result, Err(Refused::OtherSession));
    assert!(outcome.send.is_none(), "it was shorter than a question");
    assert_eq!(state(&again), before);
    assert_eq!(c.open(NOW, &recorded).result, Err(Refused::OtherSession));
    assert_eq!(a.open(NOW, &recorded).result, Err(Refused::Own));
}

#[test]
fn who_writes_to_an_earlier_life_learns_of_the_next_one() {
    let (mut a, _) = pair();
    let mut again = sealer(2, 2, &[1]);
    let stale = a.seal(address(2), b"more than eight bytes").unwrap();
    let later = NOW + GREET_EVERY;
    let (to, question) = again.open(later, &stale).send.unwrap();
    assert_eq!(to, address(1));
    // The other asks in turn, because it knows another session of that address.
    let (to, question) = a.open(later, &question).send.unwrap();
    assert_eq!(to, address(2));
    let (_, welcome) = again.open(later, &question).send.unwrap();
    assert_eq!(a.open(later, &welcome).result, Ok(Content::Met(address(2))));
    let sealed = a.seal(address(2), b"now").unwrap();
    assert_eq!(again.open(NOW, &sealed).result, Ok(message(1, b"now")));
}

#[test]
fn hellos_and_welcomes_that_were_recorded_change_nothing() {
    let (mut a, mut b) = (sealer(1, 1, &[1]), sealer(2, 1, &[1]));
    let hello = a.hello(NOW, address(2)).unwrap();
    let (_, welcome) = b.open(NOW, &hello).send.unwrap();
    a.open(NOW, &welcome).result.unwrap();
    let sealed = b.seal(address(1), b"x");
    assert!(sealed.is_err(), "a hello is no reason to know somebody");

    let (before_a, before_b) = (state(&a), state(&b));
    assert_eq!(a.open(NOW, &welcome).result, Err(Refused::Unasked));
    assert_eq!(state(&a), before_a);
    for _ in 0..100 {
        assert!(b.open(NOW, &hello).send.is_none(), "each is answered once");
    }
    let another = a.hello(NOW + GREET_EVERY, address(2)).unwrap();
    assert!(b.open(NOW, &another).send.is_some(), "whatever was repeated before");
    assert!(b.open(NOW + GREET_EVERY * 100, &hello).send.is_none());
    assert_eq!(state(&b), before_b);

    // In another life of the asker, an old welcome is for another session.
    let mut again = sealer(1, 2, &[1]);
    again.hello(NOW, address(2)).unwrap();
    assert_eq!(again.open(NOW, &welcome).result, Err(Refused::OtherSession));
}

#[test]
fn two_that_know_earlier_lives_of_each_other_meet_again() {
    let (mut a, mut b) = pair();
    let first = a.seal(address(2), b"x").unwrap();
    b.open(NOW, &first).result.unwrap();
    a.renew(Session([8; 16]));
    b.renew(Session([9; 16]));
    // Each rejects what the other sends, asks, and is asked.
    let mut now = NOW + GREET_EVERY;
    let mut wire = vec![a.seal(address(2), &[1; 20]).unwrap(), b.seal(address(1), &[2; 20]).unwrap()];
    for _ in 0..20 {
        for datagram in std::mem::take(&mut wire) {
            for sealer in [&mut a, &mut b] {
                wire.extend(sealer.open(now, &datagram).send.map(|(_, bytes)| bytes));
            }
        }
        now += GREET_EVERY;
        wire.push(a.seal(address(2), &[1; 20]).unwrap());
        wire.push(b.seal(address(1), &[2; 20]).unwrap());
    }
    let sealed = a.seal(address(2), b"there").unwrap();
    assert_eq!(b.open(now, &sealed).result, Ok(message(1, b"there")));
    let sealed = b.seal(address(1), b"back").unwrap();
    assert_eq!(a.open(now, &sealed).result, Ok(message(2, b"back")));
}

#[test]
fn without_the_key_nothing_is_opened_and_nobody_is_answered() {
    let (mut a, mut b) = pair();
    let mut stranger = sealer(9, 1, &[2]);
    let sealed = a.seal(address(2), b"secret").unwrap();
    assert_eq!(stranger.open(NOW, &sealed).result, Err(Refused::Key(key(1).id())));
    let hello = stranger.hello(NOW, address(2)).unwrap();
    let outcome = b.open(NOW, &hello);
    assert_eq!(outcome, Outcome { result: Err(Refused::Key(key(2).id())), send: None });
}

#[test]
fn a_key_comes_into_use_without_cutting_anybody_off() {
    let (mut a, mut b) = pair();
    let exchange = |a: &mut Sealer, b: &mut Sealer| {
        let (from, to) = (a.me, b.me);
        let sealed = a.seal(to, b"m").unwrap();
        let opened = b.open(NOW, &sealed).result;
        assert_eq!(opened, Ok(Content::Message { from, bytes: b"m".to_vec() }));
        Header::read(&sealed).unwrap().0.key
    };
    exchange(&mut a, &mut b);
    exchange(&mut b, &mut a);
    // One has the new key in use already; the other has never heard of it.
    a.set_ring(ring(&[2, 1]));
    assert_eq!(exchange(&mut a, &mut b), key(1).id());
    assert_eq!(exchange(&mut b, &mut a), key(1).id());
    // The other follows.
    b.set_ring(ring(&[2, 1]));
    assert_eq!(exchange(&mut b, &mut a), key(2).id());
    assert_eq!(exchange(&mut a, &mut b), key(2).id());
    // The old one is removed on one side, then on the other.
    a.set_ring(ring(&[2]));
    assert_eq!(exchange(&mut b, &mut a), key(2).id());
    assert_eq!(exchange(&mut a, &mut b), key(2).id());
    b.set_ring(ring(&[2]));
    assert_eq!(exchange(&mut b, &mut a), key(2).id());
}

#[test]
fn who_comes_back_with_an_older_key_is_met_by_that() {
    let (mut a, mut late) = (sealer(1, 1, &[2, 1]), sealer(2, 1, &[1]));
    assert!(!meet(NOW, &mut a, &mut late), "the key in use is tried first");
    assert!(meet(NOW + GREET_EVERY, &mut a, &mut late));
    let sealed = a.seal(address(2), b"x").unwrap();
    assert_eq!(late.open(NOW, &sealed).result, Ok(message(1, b"x")));
    assert!(meet(NOW, &mut late, &mut a));
}

#[test]
fn a_removed_key_opens_nothing_any_more() {
    let (mut a, mut b) = pair();
    let sealed = a.seal(address(2), b"before").unwrap();
    b.open(NOW, &sealed).result.unwrap();
    let later = a.seal(address(2), b"after").unwrap();
    b.set_ring(ring(&[2]));
    let before = state(&b);
    let outcome = b.open(NOW, &later);
    assert_eq!(outcome, Outcome { result: Err(Refused::Key(key(1).id())), send: None });
    assert_eq!(state(&b), before);
}

#[test]
fn a_streams_message_comes_in_parts() {
    let (mut a, mut b) = pair();
    let sent: Vec<u8> = (0..PART * 2 + 5).map(|index| index as u8).collect();
    let number = a.begin();
    let (mut offset, mut parts) = (0, Vec::new());
    while offset < sent.len() {
        let (part, next) = a.seal_part(address(2), number, &sent, offset).unwrap();
        assert!(part.len() <= LONGEST_PART);
        (offset, _) = (next, parts.push(part));
    }
    assert_eq!(parts.len(), 3);
    assert_eq!(b.open(NOW, &parts[2]).result, Err(Refused::Malformed), "a part is no datagram");
    let mut assembly = Assembly::default();
    let mut received = None;
    for part in &parts {
        let part = b.open_part(NOW, part).result.unwrap();
        received = assembly.add(part).unwrap();
    }
    assert_eq!(received, Some((address(1), sent)));
    assert_eq!(b.open_part(NOW, &parts[0]).result, Err(Refused::Replayed));
    let datagram = a.seal(address(2), b"x").unwrap();
    assert_eq!(b.open_part(NOW, &datagram).result, Err(Refused::Malformed), "a datagram is no part");
}

#[test]
fn memory_has_an_end_and_forgetting_lets_nothing_in() {
    let mut b = sealer(2, 1, &[1]);
    let session = b.session;
    let mut first = None;
    for number in 0..=MOST_SESSIONS as u32 {
        let mut life = Session::default();
        life.0[..4].copy_from_slice(&(number + 1).to_be_bytes());
        let mut a = Sealer::new(address(1), ring(&[1]), life);
        a.know(address(2), Peer { session, in_use: key(1).id(), sealed_with: key(1).id(), heard: NOW });
        let sealed = a.seal(address(2), b"x").unwrap();
        let result = b.open(NOW, &sealed).result;
        if (number as usize) < MOST_SESSIONS {
            assert_eq!(result, Ok(message(1, b"x")));
        } else {
            assert_eq!(result, Err(Refused::Full));
        }
        first.get_or_insert(sealed);
    }
    assert!(b.is_worn());
    b.renew(Session([9; 16]));
    assert!(!b.is_worn());
    assert!(b.seen.is_empty());
    assert_eq!(b.open(NOW, &first.unwrap()).result, Err(Refused::OtherSession));

    let mut full = sealer(1, 1, &[1]);
    for number in 0..=MOST_PEERS {
        let peer = Peer {
            session: Session([1; 16]),
            in_use: key(1).id(),
            sealed_with: key(1).id(),
            heard: Duration::from_secs(number as u64),
        };
        full.know(SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 1)), peer);
    }
    assert_eq!(full.peers.len(), MOST_PEERS);
    assert!(!full.knows(SocketAddr::from(([10, 0, 0, 0], 1))), "who was heard of longest ago is forgotten");
}

#[test]
fn a_session_ends_before_its_counter() {
    let (mut a, _) = pair();
    a.counter = MOST_SEALED;
    assert!(a.is_worn());
    assert_eq!(a.seal(address(2), b"x"), Err(SealFault::Worn));
    a.renew(Session([3; 16]));
    assert!(a.seal(address(2), b"x").is_ok());
}

/// What an attacker does to something that was recorded.
#[derive(Clone, Debug)]
enum Deed {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Lengthen(Vec<u8>),
    Splice(prop::sample::Index, prop::sample::Index),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1_u8..).prop_map(|(place, with)| Deed::Flip(place, with)),
        1 => any::<prop::sample::Index>().prop_map(Deed::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Deed::Lengthen),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(other, at)| Deed::Splice(other, at)),
    ]
}

fn recorded() -> (Sealer, Vec<Vec<u8>>) {
    let (mut a, mut b) = pair();
    let number = a.begin();
    let mut datagrams = vec![
        a.hello(NOW + GREET_EVERY, address(2)).unwrap(),
        a.seal(address(2), b"one datagram, of some length").unwrap(),
        a.seal(address(2), b"").unwrap(),
        a.seal(address(2), &[3; 1200]).unwrap(),
        a.seal_part(address(2), number, &[4; 100], 0).unwrap().0,
    ];
    datagrams.push(b.open(NOW + GREET_EVERY, &datagrams[0]).send.unwrap().1);
    (b, datagrams)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Anything at all is refused, answered by nothing, and changes nothing.
    #[test]
    fn noise_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..1500), version in any::<bool>(), kind in 0_u8..6, known in any::<bool>()) {
        let (_, mut b) = pair();
        let mut bytes = bytes;
        if version && bytes.len() > 10 {
            bytes[0] = 1;
            bytes[1] = kind;
            if known {
                bytes[2..10].copy_from_slice(&key(1).id().0.to_be_bytes());
            }
        }
        let before = state(&b);
        let outcome = b.open(NOW, &bytes);
        prop_assert!(outcome.result.is_err());
        prop_assert_eq!(outcome.send, None);
        let outcome = b.open_part(NOW, &bytes);
        prop_assert!(outcome.result.is_err());
        prop_assert_eq!(outcome.send, None);
        prop_assert_eq!(state(&b), before);
    }

    /// What was changed on its way, however little, is refused, answered by nothing, and changes nothing.
    #[test]
    fn what_was_changed_changes_nothing(which in any::<prop::sample::Index>(), deed in deed()) {
        let (mut b, datagrams) = recorded();
        let original = which.get(&datagrams);
        let mut bytes = original.clone();
        match deed {
            Deed::Flip(place, with) => {
                let place = place.index(bytes.len());
                bytes[place] ^= with;
            }
            Deed::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Deed::Lengthen(more) => bytes.extend(more),
            Deed::Splice(other, at) => {
                let at = at.index(bytes.len());
                let other = other.get(&datagrams);
                bytes.truncate(at);
                bytes.extend(other.get(at..).unwrap_or_default());
            }
        }
        prop_assume!(!datagrams.contains(&bytes));
        let before = state(&b);
        for _ in 0..2 {
            let outcome = b.open(NOW + GREET_EVERY * 2, &bytes);
            prop_assert!(outcome.result.is_err());
            prop_assert_eq!(outcome.send, None);
            let outcome = b.open_part(NOW + GREET_EVERY * 2, &bytes);
            prop_assert!(outcome.result.is_err());
            prop_assert_eq!(outcome.send, None);
        }
        prop_assert_eq!(state(&b), before);
    }

    /// In whatever order and however often datagrams come, from whichever life, each of this life's is taken once and nothing else.
    #[test]
    fn each_counts_once_in_any_order(
        lives in prop::collection::vec(any::<bool>(), 1..60),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..300),
    ) {
        let mut b = sealer(2, 1, &[1]);
        let (mut a, mut earlier) = (sealer(1, 1, &[1]), sealer(3, 1, &[1]));
        let mut old = sealer(2, 0, &[1]);
        prop_assert!(meet(NOW, &mut a, &mut b));
        prop_assert!(meet(NOW, &mut earlier, &mut old));
        let sealed: Vec<(bool, Vec<u8>)> = lives
            .iter()
            .enumerate()
            .map(|(index, current)| {
                let sender = if *current { &mut a } else { &mut earlier };
                (*current, sender.seal(address(2), &index.to_be_bytes()).unwrap())
            })
            .collect();
        let mut taken = std::collections::BTreeSet::new();
        for index in order {
            let index = index.index(sealed.len());
            let (current, datagram) = &sealed[index];
            let result = b.open(NOW, datagram).result;
            if *current && taken.insert(index) {
                prop_assert_eq!(result, Ok(message(1, &index.to_be_bytes())));
            } else {
                prop_assert!(result.is_err());
            }
        }
    }
}
