//! A client that asks without a pause, each time by a new flow, and notes who answers: it sees when a change holds.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{host::Host, sockets::any};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// The source ports: those of clients, less those that a server of the lab may have.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// A question, and who answered it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// When it was sent.
    pub asked: Instant,
    /// The answer's text.
    pub answer: Option<String>,
}

impl Probe {
    /// Whether this server answered.
    #[must_use]
    pub fn is_answered_by(&self, name: &str) -> bool {
        self.answer.as_deref() == Some(name)
    }
}

/// Asks a UDP server again and again until it is dropped.
#[derive(Debug)]
pub struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Prober {
    /// Begins to ask a server, once in each interval, and from each port once: fifty thousand times.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(client: &Host, server: SocketAddr, interval: Duration) -> Result<Self> {
        let (probes, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::clone(&probes), Arc::clone(&stop));
        let namespace = client.namespace.reopen()?;
        let work = move || namespace.inside(|| ask(server, interval, &told, &stopped))?;
        let thread = thread::Builder::new().name("prober".into()).spawn(work)?;
        Ok(Self { probes, stop, thread: Some(thread) })
    }

    /// What was asked at a time or later, in its order; who is to answer may do so later than this.
    ///
    /// # Errors
    /// If the client had to give up.
    pub fn since(&mut self, time: Instant) -> Result<Vec<Probe>> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = probes.partition_point(|probe| probe.asked < time);
        Ok(probes.get(first..).unwrap_or_default().to_vec())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What kept it from asking was told by `since`, if anybody asked.
            let _ = thread.join();
        }
    }
}

fn ask(server: SocketAddr, interval: Duration, probes: &Mutex<Vec<Probe>>, stop: &AtomicBool) -> Result<()> {
    let lock = || probes.lock().unwrap_or_else(PoisonError::into_inner);
    let mut waiting: VecDeque<(usize, Instant, UdpSocket)> = VecDeque::new();
    let mut turn = Instant::now();
    let mut ports = PORTS;
    while !stop.load(Ordering::Relaxed) {
        let port = ports.next().context("the client has no port left that it has not asked from")?;
        let socket = UdpSocket::bind(any(server, port));
        let socket = socket.with_context(|| format!("the client cannot bind port {port}"))?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        let asked = Instant::now();
        // Refused is as good as lost.
        let _ = socket.send(b"who?");
        let number = lock().len();
        lock().push(Probe { asked, answer: None });
        waiting.push_back((number, asked, socket));
        // A client that was late does not catch up by a burst.
        turn = (turn + interval).max(asked);
        hear(&mut waiting, turn, |number, answer| {
            if let Some(probe) = lock().get_mut(number) {
                probe.answer = Some(answer);
            }
        })?;
    }
    Ok(())
}

/// Hears answers until a time.
fn hear(
    waiting: &mut VecDeque<(usize, Instant, UdpSocket)>,
    until: Instant,
    mut answered: impl FnMut(usize, String),
) -> Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled: Vec<_> =
            waiting.iter().map(|(_, _, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                let mut answer = [0; 512];
                waiting.retain(|(number, _, socket)| match socket.recv(&mut answer) {
                    Ok(length) => {
                        let text = answer.get(..length).unwrap_or_default();
                        answered(*number, String::from_utf8_lossy(text).into_owned());
                        false
                    }
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                });
            }
            Err(error) => return Err(error).context("the client cannot wait for answers"),
        }
        if until <= Instant::now() {
            waiting.retain(|(_, asked, _)| asked.elapsed() < PATIENCE);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hears_who_answers_each_question() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let probes = Arc::new(Mutex::new(Vec::new()));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| ask(address, Duration::from_millis(1), &probes, &stop));
            let mut question = [0; 16];
            for answer in ["one", "two"] {
                let (_, client) = server.recv_from(&mut question).unwrap();
                server.send_to(answer.as_bytes(), client).unwrap();
            }
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
            client.join().unwrap().unwrap();
        });
        let probes = probes.lock().unwrap();
        let answers: Vec<_> = probes.iter().take(2).map(|probe| probe.answer.as_deref()).collect();
        assert_eq!(answers, [Some("one"), Some("two")]);
        assert!(probes.len() > 2 && probes[2].answer.is_none());
    }
}
