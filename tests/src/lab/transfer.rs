//! A long TCP transfer that something is done to in its middle.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{eventually, host::Host};

const CHUNK: usize = 16 * 1024;

/// Numbered chunks on their way from a client to a server, which checks each byte.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    client: JoinHandle<Result<u64>>,
    server: JoinHandle<Result<Summary>>,
}

/// What a transfer was.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Bytes that arrived, each of them right.
    pub bytes: u64,
    /// The longest time in which nothing arrived.
    pub longest_stall: Duration,
}

impl Transfer {
    /// Starts a transfer from `client`, which dials `dialled`, to `server`, which listens on `listening`; and
    /// waits until bytes arrive.
    ///
    /// # Errors
    /// If the connection does not come about.
    pub fn start(client: &Host, dialled: SocketAddr, server: &Host, listening: SocketAddr) -> Result<Self> {
        let listener = server.namespace.inside(|| TcpListener::bind(listening))?;
        let listener = listener.with_context(|| format!("{} cannot listen on {listening}", server.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let server = thread::spawn(move || receive(listener, &counter));
        let connect = || TcpStream::connect_timeout(&dialled, Duration::from_secs(5));
        let stream = client.namespace.inside(connect)?;
        let stream = stream.with_context(|| format!("{} cannot connect to {dialled}", client.name()))?;
        let stopped = Arc::clone(&stop);
        let client = thread::spawn(move || send(stream, &stopped));
        let transfer = Self { stop, received, client, server };
        transfer.progress().context("the transfer does not begin")?;
        Ok(transfer)
    }

    /// Waits until another megabyte has arrived.
    ///
    /// # Errors
    /// If it does not within five seconds.
    pub fn progress(&self) -> Result<()> {
        let before = self.received.load(Ordering::Relaxed);
        eventually("the transfer goes on", Duration::from_secs(5), || {
            let now = self.received.load(Ordering::Relaxed);
            ensure!(now > before + 1_000_000, "{} bytes after {before}", now - before);
            Ok(())
        })
    }

    /// Ends the transfer and tells how it went.
    ///
    /// # Errors
    /// If a byte was lost or wrong, or the connection broke.
    pub fn finish(self) -> Result<Summary> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.client.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")?;
        let summary =
            self.server.join().map_err(|_| anyhow!("the receiver panicked"))?.context("receiving")?;
        ensure!(summary.bytes == sent, "{sent} bytes were sent, {} arrived", summary.bytes);
        Ok(summary)
    }
}

/// The chunk of a number: eight bytes that name their own place, again and again.
fn fill(chunk: &mut [u8], number: u64) {
    for (word, bytes) in (number << 16..).zip(chunk.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut chunk = vec![0; CHUNK];
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        fill(&mut chunk, number);
        stream.write_all(&chunk)?;
        number += 1;
        // About 16 MB a second: several at once are to leave some of the machine to what is tested.
        thread::sleep(Duration::from_millis(1));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver closes when it has everything, so that a reset would be noticed here.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut rest = [0; 1];
    ensure!(stream.read(&mut rest)? == 0, "the receiver spoke");
    Ok(number * CHUNK as u64)
}

fn receive(listener: TcpListener, received: &AtomicU64) -> Result<Summary> {
    let (mut stream, _) = listener.accept()?;
    // The next transfer may listen here.
    drop(listener);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut bytes, mut longest_stall, mut last) = (0, Duration::ZERO, Instant::now());
    for number in 0.. {
        fill(&mut expected, number);
        let mut filled = 0;
        while filled < CHUNK {
            match stream.read(&mut chunk[filled..]) {
                Ok(0) if filled == 0 => return Ok(Summary { bytes, longest_stall }),
                Ok(0) => bail!("it ended in the middle of chunk {number}"),
                Ok(length) => {
                    longest_stall = longest_stall.max(last.elapsed());
                    last = Instant::now();
                    filled += length;
                    received.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("after {bytes} bytes")),
            }
        }
        ensure!(chunk == expected, "chunk {number} arrived changed");
        bytes += CHUNK as u64;
    }
    bail!("the numbers ran out")
}
