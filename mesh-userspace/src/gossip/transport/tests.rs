//! A transport, and a peer that is played by hand.

use std::time::Duration;

use mesh_cluster::{
    MOST_DATAGRAM, MOST_MESSAGE,
    seal::{Content, Secret},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn ring() -> Ring {
    Ring::new(vec![Secret::new([1; 32])]).unwrap()
}

async fn transport() -> Transport {
    let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
    loop {
        if let Ok(transport) = Transport::bind(here, here, ring()).await {
            return transport;
        }
    }
}

/// A peer that answers hellos when it is told to, and does nothing else.
struct Peer {
    socket: UdpSocket,
    listener: TcpListener,
    sealer: Sealer,
    address: SocketAddr,
}

impl Peer {
    async fn new() -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Somebody else may have the same port for streams.
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let sealer = Sealer::new(address, ring(), Session([7; 16]));
        Self { socket, listener, sealer, address }
    }

    /// Opens what comes, answers what asks, and returns the first message.
    async fn message(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            let (length, _) = self.socket.recv_from(&mut buffer).await.unwrap();
            let outcome = self.sealer.open(monotonic(), &buffer[..length]);
            if let Some((to, answer)) = outcome.send {
                self.socket.send_to(&answer, to).await.unwrap();
            }
            if let Ok(Content::Message { bytes, .. }) = outcome.result {
                return bytes;
            }
        }
    }
}

/// Does something while a transport does its work.
async fn while_it_works<T>(transport: &mut Transport, deed: impl Future<Output = T>) -> T {
    let mut deed = std::pin::pin!(deed);
    let until = Instant::now() + SOON;
    loop {
        tokio::select! {
            done = &mut deed => return done,
            _ = transport.receive() => {}
            () = sleep(Duration::from_millis(20)) => transport.look_after(),
        }
        assert!(Instant::now() < until, "it takes too long");
    }
}

#[tokio::test]
async fn what_waits_for_a_session_has_an_end_and_the_latest_is_sent() {
    let mut transport = transport().await;
    let mut peer = Peer::new().await;
    // Nobody answers there.
    for port in 1..200 {
        for number in 0..100_u8 {
            transport.send(([127, 0, 0, 2], port).into(), vec![number; MOST_DATAGRAM]);
        }
    }
    assert!(transport.datagrams.waiting() <= 1024);
    sleep(Duration::from_millis(2100)).await;
    transport.look_after();
    assert_eq!(transport.datagrams.waiting(), 0, "what is old is forgotten");

    for number in 0..100_u8 {
        transport.send(peer.address, vec![number]);
    }
    let first = while_it_works(&mut transport, peer.message()).await;
    assert_eq!(first, [84], "the oldest were dropped");
    for number in 85..100_u8 {
        assert_eq!(while_it_works(&mut transport, peer.message()).await, [number]);
    }
}

#[tokio::test]
async fn who_does_not_read_its_streams_keeps_nobody_and_little() {
    let mut transport = transport().await;
    let mut peer = Peer::new().await;
    transport.send(peer.address, b"first".to_vec());
    while_it_works(&mut transport, peer.message()).await;
    for _ in 0..200 {
        transport.send_reliably(peer.address, vec![0; MOST_MESSAGE]);
    }
    assert!(transport.outgoing.bytes() <= 33 * MOST_MESSAGE, "{}", transport.outgoing.bytes());
    let (stream, _) = while_it_works(&mut transport, peer.listener.accept()).await.unwrap();
    // It is slow, and others are not.
    let mut other = Peer::new().await;
    transport.send(other.address, b"to another".to_vec());
    assert_eq!(while_it_works(&mut transport, other.message()).await, b"to another");
    transport.send_reliably(other.address, vec![1; 100]);
    let (mut fast, _) = while_it_works(&mut transport, other.listener.accept()).await.unwrap();
    let length = while_it_works(&mut transport, fast.read_u16()).await.unwrap();
    let mut part = vec![0; length.into()];
    while_it_works(&mut transport, fast.read_exact(&mut part)).await.unwrap();
    assert!(other.sealer.open_part(monotonic(), &part).result.is_ok());
    drop(stream);
}

#[tokio::test]
async fn one_bad_part_ends_its_stream_and_no_other() {
    let mut transport = transport().await;
    let mut peer = Peer::new().await;
    transport.send(peer.address, b"first".to_vec());
    while_it_works(&mut transport, peer.message()).await;
    let target = transport.address();
    let part = |peer: &mut Peer, message: &[u8]| {
        let number = peer.sealer.begin();
        let (part, _) = peer.sealer.seal_part(target, number, message, 0).unwrap();
        [&u16::try_from(part.len()).unwrap().to_be_bytes()[..], &part].concat()
    };
    let mut good = TcpStream::connect(target).await.unwrap();
    let mut bad = TcpStream::connect(target).await.unwrap();
    let mut mutated = part(&mut peer, b"mutated");
    mutated[100] ^= 1;
    bad.write_all(&mutated).await.unwrap();
    let end = while_it_works(&mut transport, bad.read(&mut [0; 8])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");

    let sound = part(&mut peer, b"sound");
    for _ in 0..2 {
        good.write_all(&sound).await.unwrap();
    }
    let received = timeout(SOON, transport.receive()).await.unwrap();
    assert_eq!(received, (peer.address, b"sound".to_vec()));
    // The second was the same again.
    let end = while_it_works(&mut transport, good.read(&mut [0; 8])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}
