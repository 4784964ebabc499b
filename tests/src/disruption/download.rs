//! A long download from one of the service's tasks, each byte checked, and the longest time in which nothing came.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::net::TcpSocket;

use super::stage::{CLIENT, PUBLISHED_DOWNLOADS, Stage, ends};
use crate::lab::{Namespace, eventually};

/// A download that stalls for so long has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running download.
#[derive(Debug)]
pub struct Download {
    /// The task that it comes from.
    pub backend: String,
    /// The router's choice of an entry node when it began.
    pub entry: String,
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// How far a download has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes that came, each of them right.
    pub bytes: u64,
    /// The longest time between two pieces of it, up to now.
    pub longest_gap: Duration,
    last: Instant,
}

impl Download {
    /// Starts a download from a port of the client's, by IPv4 or IPv6.
    ///
    /// # Errors
    /// If the connection does not come about.
    pub fn start(stage: &Stage<'_>, is_v6: bool, port: u16) -> Result<Self> {
        let (local, remote) = ends(is_v6, port, PUBLISHED_DOWNLOADS);
        let namespace = Namespace::open(&stage.namespace_name(CLIENT))?;
        let stream = namespace.inside(|| connect(local, remote))?;
        let stream = stream.with_context(|| format!("{CLIENT} cannot connect to {remote}"))?;
        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let mut name = String::new();
        reader.read_line(&mut name)?;
        let entry = stage.entry_of(local, remote)?;
        let progress = Progress { bytes: 0, longest_gap: Duration::ZERO, last: Instant::now() };
        let progress = Arc::new(Mutex::new(progress));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&progress), Arc::clone(&stop));
        let thread = thread::spawn(move || receive(reader, &shared, &stopped));
        Ok(Self { backend: name.trim_end().to_owned(), entry, progress, stop, thread: Some(thread) })
    }

    /// Waits until another megabyte has come.
    ///
    /// # Errors
    /// If it does not within five seconds.
    pub fn progress(&self) -> Result<Progress> {
        let before = self.now().bytes;
        eventually("the download goes on", Duration::from_secs(5), || {
            let now = self.now();
            ensure!(now.bytes > before + 1_000_000, "{} bytes after {before}", now.bytes - before);
            Ok(now)
        })
    }

    /// Ends the download and tells how it went.
    ///
    /// # Errors
    /// If a byte was wrong, or the connection broke.
    pub fn finish(mut self) -> Result<Progress> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended already")?;
        thread.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(self.now())
    }

    fn now(&self) -> Progress {
        *lock(&self.progress)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects from a port of one's own choice, which the standard library does not offer.
fn connect(local: SocketAddr, remote: SocketAddr) -> Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async {
        let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(local)?;
        tokio::time::timeout(Duration::from_secs(5), socket.connect(remote)).await?
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn receive(mut reader: BufReader<TcpStream>, progress: &Mutex<Progress>, stop: &AtomicBool) -> Result<()> {
    let mut piece = [0; 16 * 1024];
    let mut place = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let length = reader.read(&mut piece).with_context(|| format!("after {place} bytes"))?;
        ensure!(length > 0, "it ended after {place} bytes");
        for (byte, at) in piece.iter().take(length).zip(place..) {
            ensure!(*byte == byte_at(at), "byte {at} arrived changed");
        }
        place += length as u64;
        let now = Instant::now();
        let mut progress = lock(progress);
        progress.bytes = place;
        progress.longest_gap = progress.longest_gap.max(now - progress.last);
        progress.last = now;
    }
    Ok(())
}

/// The byte at a place of every download: the places' numbers in eight bytes each, one after the other.
#[must_use]
pub(super) const fn byte_at(place: u64) -> u8 {
    (place / 8).to_be_bytes()[(place % 8) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_eight_bytes_name_their_place() {
        let bytes: Vec<_> = (0..24).map(byte_at).collect();
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(byte_at(8 * 0x0102 + 6), 1);
    }
}
