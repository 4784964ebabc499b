//! A stream of numbered datagrams at a steady rate, answered one by one, that something is done to in its middle.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::host::Host;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// A client that sends numbered datagrams, a server that sends each back, and the count of what arrives of both.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    client: JoinHandle<Result<Vec<u64>>>,
    server: JoinHandle<Result<Vec<u64>>>,
}

/// What a stream was.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// How many datagrams were sent.
    pub sent: u64,
    /// The numbers of those that did not reach the server.
    pub lost_there: Vec<u64>,
    /// The numbers of those that reached it, but whose answers did not reach the client.
    pub lost_back: Vec<u64>,
}

impl Stream {
    /// Starts a stream of so many datagrams a second from `client`, which dials `dialled`, to `server`, which listens on
    /// `listening`.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(
        client: &Host,
        dialled: SocketAddr,
        server: &Host,
        listening: SocketAddr,
        rate: u32,
    ) -> Result<Self> {
        let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let answering = server.namespace.inside(|| socket(listening))??;
        let any: IpAddr = if dialled.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let asking = client.namespace.inside(|| -> Result<UdpSocket> {
            let socket = socket(SocketAddr::new(any, 0))?;
            socket.connect(dialled)?;
            Ok(socket)
        })??;
        let over = Arc::clone(&end);
        let server = thread::spawn(move || {
            numbers(&over, || {
                let mut datagram = [0; 8];
                let (_, from) = answering.recv_from(&mut datagram)?;
                answering.send_to(&datagram, from)?;
                Ok(u64::from_be_bytes(datagram))
            })
        });
        let receiving = asking.try_clone()?;
        let over = Arc::clone(&end);
        let client = thread::spawn(move || {
            numbers(&over, || {
                let mut datagram = [0; 8];
                receiving.recv(&mut datagram)?;
                Ok(u64::from_be_bytes(datagram))
            })
        });
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let began = Instant::now();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                asking.send(&u64::to_be_bytes(number)).with_context(|| format!("sending number {number}"))?;
                number += 1;
                let due = began + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate));
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(number)
        });
        Ok(Self { stop, end, sender, client, server })
    }

    /// Ends the stream and tells what was lost of it.
    ///
    /// # Errors
    /// If a socket failed: an ICMP error about a datagram is one.
    pub fn finish(self) -> Result<Delivery> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")?;
        thread::sleep(PATIENCE);
        self.end.store(true, Ordering::Relaxed);
        let there = self.server.join().map_err(|_| anyhow!("the server panicked"))?.context("answering")?;
        let back = self.client.join().map_err(|_| anyhow!("the client panicked"))?.context("receiving")?;
        let [there, back] = [there, back].map(|numbers| {
            let mut arrived = vec![false; usize::try_from(sent).unwrap_or(usize::MAX)];
            for number in numbers {
                if let Some(arrived) = usize::try_from(number).ok().and_then(|number| arrived.get_mut(number))
                {
                    *arrived = true;
                }
            }
            arrived
        });
        let numbered = || (0..).zip(there.iter().zip(&back));
        let delivery = Delivery {
            sent,
            lost_there: numbered().filter(|(_, (there, _))| !**there).map(|(number, _)| number).collect(),
            lost_back: numbered()
                .filter(|(_, (there, back))| **there && !**back)
                .map(|(number, _)| number)
                .collect(),
        };
        ensure!(sent > 0, "nothing was sent");
        Ok(delivery)
    }
}

/// A socket with room for what comes while its thread waits for its turn.
fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    setsockopt(&socket, sockopt::RcvBufForce, &8_000_000)?;
    Ok(socket)
}

/// Collects numbers until it is over.
fn numbers(end: &AtomicBool, mut next: impl FnMut() -> std::io::Result<u64>) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    while !end.load(Ordering::Relaxed) {
        match next() {
            Ok(number) => numbers.push(number),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(numbers)
}
