//! Short connections, several at a time: connect, ask, read the answer to its end, close.
//!
//! The server closes after its answer, as HTTP/1.0 has it, and the client answers that with a reset. So each connection has all
//! that a real one has, and neither side remembers it afterwards (TIME_WAIT), which would bound the rate by the number of ports
//! in place of what is measured.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::Host;
use nix::{
    errno::Errno,
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt},
    },
};

use super::{Busy, percentile, pin};

const REQUEST: [u8; 64] = [b'?'; 64];
const ANSWER: [u8; 256] = [b'!'; 256];

/// How long a connection may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one waits for events at most.
const PAUSE: u8 = 100;
/// Events that are fetched at once.
const EVENTS: usize = 128;

/// What a while of connections came to.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Visits {
    pub(in crate::bench) per_second: f64,
    /// In microseconds, from the call of connect(2) to the end of the answer.
    pub(in crate::bench) median: f64,
    /// In microseconds: one of a hundred takes longer.
    pub(in crate::bench) p99: f64,
    /// Microseconds that the machine's processors worked for each connection: client, path and server.
    pub(in crate::bench) work: f64,
    /// Those that were refused, reset, or not finished in time.
    pub(in crate::bench) failed: usize,
}

impl Visits {
    /// Keeps so many connections going for a while, by one thread on the first processor.
    pub(in crate::bench) fn run(
        from: &Host,
        to: SocketAddr,
        at_once: usize,
        lasting: Duration,
    ) -> Result<Self> {
        from.namespace.inside(|| {
            pin(0)?;
            let busy = Busy::begin()?;
            let mut crowd = Crowd::new(to)?;
            let began = Instant::now();
            for _ in 0..at_once {
                crowd.open()?;
            }
            while began.elapsed() < lasting {
                crowd.turn()?;
            }
            let elapsed = began.elapsed().as_secs_f64();
            let busy = busy.seconds()?;
            let Crowd { mut times, failed, .. } = crowd;
            times.sort_by(f64::total_cmp);
            ensure!(!times.is_empty(), "{} comes to no end of a connection to {to}", from.name());
            let at = |share| percentile(&times, share).unwrap_or_default();
            Ok(Self {
                per_second: times.len() as f64 / elapsed,
                median: at(0.5),
                p99: at(0.99),
                work: busy * 1e6 / times.len() as f64,
                failed,
            })
        })?
    }
}

/// The connections that a client has open.
struct Crowd {
    to: SocketAddr,
    epoll: Epoll,
    open: HashMap<RawFd, Visit>,
    /// What each that ended well took, in microseconds.
    times: Vec<f64>,
    failed: usize,
    looked: Instant,
}

struct Visit {
    stream: TcpStream,
    began: Instant,
    has_asked: bool,
    received: usize,
}

/// Where a connection is.
enum Stage {
    Going,
    Done,
    Failed,
}

impl Crowd {
    fn new(to: SocketAddr) -> Result<Self> {
        Ok(Self {
            to,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            open: HashMap::new(),
            times: Vec::new(),
            failed: 0,
            looked: Instant::now(),
        })
    }

    fn open(&mut self) -> Result<()> {
        let family = if self.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let began = Instant::now();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None)?;
        // Its end is a reset.
        setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(self.to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", self.to)),
        }
        let descriptor = socket.as_raw_fd();
        let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(wanted, descriptor as u64))?;
        let visit = Visit { stream: TcpStream::from(socket), began, has_asked: false, received: 0 };
        self.open.insert(descriptor, visit);
        Ok(())
    }

    /// Goes on with whatever can go on.
    fn turn(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, PAUSE)?;
        for event in events.iter().take(count) {
            let descriptor = event.data() as RawFd;
            let Some(visit) = self.open.get_mut(&descriptor) else { continue };
            match visit.go_on(event.events()) {
                Stage::Going => continue,
                Stage::Done => self.times.push(visit.began.elapsed().as_secs_f64() * 1e6),
                Stage::Failed => self.failed += 1,
            }
            self.open.remove(&descriptor);
            self.open()?;
        }
        if self.looked.elapsed() > PATIENCE / 10 {
            self.looked = Instant::now();
            let before = self.open.len();
            self.open.retain(|_, visit| visit.began.elapsed() < PATIENCE);
            for _ in self.open.len()..before {
                self.failed += 1;
                self.open()?;
            }
        }
        Ok(())
    }
}

impl Visit {
    fn go_on(&mut self, events: EpollFlags) -> Stage {
        if !self.has_asked && events.contains(EpollFlags::EPOLLOUT) {
            if !matches!(self.stream.write(&REQUEST), Ok(written) if written == REQUEST.len()) {
                return Stage::Failed;
            }
            self.has_asked = true;
        }
        let mut bytes = [0; 2 * ANSWER.len()];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) if self.received == ANSWER.len() => return Stage::Done,
                Ok(0) => return Stage::Failed,
                Ok(received) => self.received += received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Stage::Going,
                // It is not yet connected.
                Err(error) if error.kind() == ErrorKind::NotConnected && !self.has_asked => {
                    return Stage::Going;
                }
                Err(_) => return Stage::Failed,
            }
        }
    }
}

/// A server of such connections: one thread, on the second processor.
pub(in crate::bench) struct Connections {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Connections {
    /// Listens on an address of a host.
    pub(in crate::bench) fn serve(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.namespace.inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("{} cannot listen on {address}", host.name()))?;
        // As many may wait as the system lets: the standard library asks for 128.
        // SAFETY: plain numbers; the descriptor is open.
        ensure!(unsafe { libc::listen(listener.as_raw_fd(), 4096) } == 0, "cannot listen on {address}");
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // Where it runs is no matter of life and death.
            let _ = pin(1);
            if let Err(error) = answer(&listener, &stopped) {
                eprintln!("The server on {address} ended: {error:#}");
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(listener: &TcpListener, stopped: &AtomicBool) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let door = listener.as_raw_fd();
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, door as u64))?;
    let mut open = HashMap::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    while !stopped.load(Ordering::Relaxed) {
        let count = match epoll.wait(&mut events, PAUSE) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        for event in events.iter().take(count) {
            let descriptor = event.data() as RawFd;
            if descriptor != door {
                // Its end closes it, whatever became of it: the client knows what it lacks.
                if let Some(stream) = open.remove(&descriptor) {
                    attend(stream);
                }
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                let descriptor = stream.as_raw_fd();
                epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, descriptor as u64))?;
                open.insert(descriptor, stream);
            }
        }
    }
    Ok(())
}

/// Reads the request, which is there, answers it and closes.
fn attend(mut stream: TcpStream) {
    let mut request = [0; 2 * REQUEST.len()];
    if matches!(stream.read(&mut request), Ok(length) if length == REQUEST.len()) {
        let _ = stream.write(&ANSWER);
    }
}
