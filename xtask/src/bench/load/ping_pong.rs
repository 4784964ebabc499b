//! Round trips of one datagram after the other.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::Host;

use super::{percentile, pin};

/// Bytes of each datagram.
const PAYLOAD: usize = 64;
/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// What the round trips of a while took.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct PingPong {
    /// In microseconds.
    pub(in crate::bench) median: f64,
    /// In microseconds: one of a hundred takes longer.
    pub(in crate::bench) p99: f64,
    pub(in crate::bench) lost: usize,
}

impl PingPong {
    /// Sends a datagram, waits for it to come back, and so on for a while.
    pub(in crate::bench) fn run(from: &Host, to: SocketAddr, lasting: Duration) -> Result<Self> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let rounds = from.namespace.inside(|| -> Result<(Vec<f64>, usize)> {
            pin(0)?;
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let (mut times, mut lost) = (Vec::new(), 0);
            let mut datagram = [0; PAYLOAD];
            let began = Instant::now();
            while began.elapsed() < lasting {
                let sent = Instant::now();
                socket.send(&datagram)?;
                match socket.recv(&mut datagram) {
                    Ok(_) => times.push(sent.elapsed().as_secs_f64() * 1e6),
                    Err(_) => lost += 1,
                }
            }
            Ok((times, lost))
        })?;
        let (mut times, lost) = rounds.with_context(|| format!("{} asks {to}", from.name()))?;
        times.sort_by(f64::total_cmp);
        ensure!(!times.is_empty(), "{to} sends nothing back to {}", from.name());
        let at = |share| percentile(&times, share).unwrap_or_default();
        Ok(Self { median: at(0.5), p99: at(0.99), lost })
    }
}

/// A server that sends each datagram back, on the second processor.
pub(in crate::bench) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens on an address of a host.
    pub(in crate::bench) fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let socket = host.namespace.inside(|| UdpSocket::bind(address))?;
        let socket = socket.with_context(|| format!("{} cannot bind {address}", host.name()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // Where it runs is no matter of life and death.
            let _ = pin(1);
            let mut datagram = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
                // Who asked and went needs no answer.
                let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), client);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
