//! One flow of the client: it asks, knows who answers, and notices when it breaks.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::{sleep_until, timeout, timeout_at},
};

use super::census::Census;

/// How long a TCP flow waits for an answer before it counts as broken, and any flow for its first.
const PATIENCE: Duration = Duration::from_secs(5);

/// Datagrams in a row that go unanswered when an open UDP flow counts as broken.
const MISSES: u32 = 3;

/// A flow that broke though its backend was alive.
#[derive(Clone, Debug)]
pub struct Break {
    /// By TCP; else by UDP.
    pub is_tcp: bool,
    /// A visitor's, which was to end soon anyway.
    pub is_visitor: bool,
    /// The client's end.
    pub client: SocketAddr,
    /// The backend that it had, if it was ever answered.
    pub backend: Option<String>,
    /// How it broke.
    pub cause: Cause,
    /// How long after the event's beginning.
    pub after: Duration,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.is_tcp { "tcp" } else { "udp" };
        let (client, cause) = (self.client, self.cause.word());
        let backend = self.backend.as_deref().unwrap_or("nobody");
        let who = if self.is_visitor { ", a visitor," } else { "" };
        write!(f, "{protocol} {client}{who} with {backend}: {cause} after {} ms", self.after.as_millis())
    }
}

/// A flow's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// How a flow broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It could not be opened.
    NotOpened,
    /// A RST came.
    Reset,
    /// A FIN came that nobody had asked for.
    Closed,
    /// No answer came, for five seconds by TCP or three times in a row by UDP.
    Silent,
    /// Another backend answered.
    Moved,
}

impl Cause {
    /// In a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotOpened => "not opened",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Moved => "moved",
        }
    }
}

/// What became of a flow since the event began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Live,
    /// It broke, and its backend was alive.
    Broken(Cause),
    /// Its own backend died, and it knew so much later: by a RST or FIN, or by another backend's answer if it is UDP's.
    Bereft(Duration),
}

/// What is known of a flow.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Who answers.
    pub(super) backend: Option<String>,
    /// When the request left that was last answered.
    pub(super) answered: Option<Instant>,
    /// What became of it.
    pub(super) verdict: Verdict,
    /// Nobody asks any more: it has to be opened anew.
    pub(super) over: bool,
    /// When the verdict was given, if it was.
    pub(super) judged: Option<Instant>,
}

/// A flow, shared by the client's thread, which works it, and by whoever judges it.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    state: Mutex<State>,
}

/// The rhythm in which a flow asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    pub(super) first: Instant,
    pub(super) interval: Duration,
    /// After so many requests it ends in good order.
    pub(super) requests: u64,
}

impl Flow {
    pub(super) fn new(protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Self {
        let state =
            State { backend: None, answered: None, verdict: Verdict::Live, over: false, judged: None };
        Self { protocol, local, remote, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the flow and asks until it is over.
    pub(super) async fn live(&self, rhythm: Rhythm, census: &Census) {
        let verdict = match self.protocol {
            Protocol::Tcp => self.live_by_tcp(rhythm, census).await,
            Protocol::Udp => self.live_by_udp(rhythm, census).await,
        };
        let mut state = self.state();
        state.verdict = verdict;
        state.over = true;
        state.judged = Some(Instant::now());
    }

    async fn live_by_tcp(&self, rhythm: Rhythm, census: &Census) -> Verdict {
        sleep_until(rhythm.first.into()).await;
        let Ok(Ok(stream)) = timeout(PATIENCE, self.connect()).await else {
            return Verdict::Broken(Cause::NotOpened);
        };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(128, reader);
        let mut line = String::new();
        for number in 0..rhythm.requests {
            let sent = Instant::now();
            line.clear();
            let answer = async {
                writer.write_all(format!("{number}\n").as_bytes()).await?;
                reader.read_line(&mut line).await
            };
            let answer = timeout(PATIENCE, answer).await;
            let cause = match answer {
                Err(_) => Some(Cause::Silent),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Some(Cause::Reset),
                Ok(Err(_) | Ok(0)) => Some(Cause::Closed),
                Ok(Ok(_)) => match parsed(&line) {
                    Some((backend, answered)) if answered == number && self.is_of(backend) => {
                        self.note(backend, sent);
                        None
                    }
                    _ => Some(Cause::Moved),
                },
            };
            if let Some(cause) = cause {
                return self.ended(cause, sent, census);
            }
            sleep_until((sent + rhythm.interval).into()).await;
        }
        let asked = Instant::now();
        let farewell = async {
            writer.shutdown().await?;
            reader.read_line(&mut line).await
        };
        match timeout(PATIENCE, farewell).await {
            Ok(Ok(0)) => Verdict::Live,
            Ok(Ok(_)) => self.ended(Cause::Moved, asked, census),
            Ok(Err(_)) => self.ended(Cause::Reset, asked, census),
            Err(_) => self.ended(Cause::Silent, asked, census),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(self.local)?;
        let stream = socket.connect(self.remote).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn live_by_udp(&self, rhythm: Rhythm, census: &Census) -> Verdict {
        sleep_until(rhythm.first.into()).await;
        let Ok(socket) = UdpSocket::bind(self.local).await else { return Verdict::Broken(Cause::NotOpened) };
        if socket.connect(self.remote).await.is_err() {
            return Verdict::Broken(Cause::NotOpened);
        }
        let opened = Instant::now();
        let mut first_missed = None;
        let mut misses = 0;
        let mut datagram = [0; 128];
        for number in 0..rhythm.requests {
            let sent = Instant::now();
            // An ICMP error about an earlier datagram is told here; the datagram counts as missed then.
            let _ = socket.send(number.to_string().as_bytes()).await;
            let mut answered = false;
            let until = (sent + rhythm.interval).into();
            while let Ok(received) = timeout_at(until, socket.recv(&mut datagram)).await {
                let Ok(length) = received else { continue };
                let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
                let Some((backend, to)) = parsed(&text) else { continue };
                if !self.is_of(backend) {
                    // What a task said before it died may come late.
                    if census.death(backend).is_some() {
                        continue;
                    }
                    let since = first_missed.unwrap_or(sent);
                    let verdict = self.ended(Cause::Moved, since, census);
                    if !matches!(verdict, Verdict::Bereft(_)) {
                        return verdict;
                    }
                    let mut state = self.state();
                    state.verdict = verdict;
                    state.judged = Some(Instant::now());
                    state.backend = None;
                }
                if to == number {
                    self.note(backend, sent);
                    answered = true;
                }
            }
            // Where this client itself does not keep time, nobody else is to blame.
            let is_late = sent.elapsed() > rhythm.interval + rhythm.interval / 2;
            if answered {
                (first_missed, misses) = (None, 0);
            } else if !is_late {
                first_missed.get_or_insert(sent);
                misses += 1;
            }
            // A first answer has as long as a TCP handshake: a node that is not ready yet may lose what opens a flow.
            let is_open = self.state().backend.is_some();
            if is_open && misses == MISSES || !is_open && opened.elapsed() > PATIENCE {
                return self.ended(Cause::Silent, first_missed.unwrap_or(sent), census);
            }
        }
        Verdict::Live
    }

    fn is_of(&self, backend: &str) -> bool {
        self.state().backend.as_deref().is_none_or(|own| own == backend)
    }

    fn note(&self, backend: &str, sent: Instant) {
        let mut state = self.state();
        state.backend.get_or_insert_with(|| backend.to_owned());
        state.answered = Some(sent);
    }

    /// What to make of it that a request which left at `asked` did not get its answer.
    fn ended(&self, cause: Cause, asked: Instant, census: &Census) -> Verdict {
        let Some(own) = self.state().backend.clone() else { return Verdict::Broken(Cause::NotOpened) };
        match census.death(&own) {
            None => Verdict::Broken(cause),
            // The mesh can answer for the dead only when it was told of them.
            Some(death) => {
                let begun = death.told.map_or(asked, |told| told.max(asked));
                Verdict::Bereft(Instant::now().saturating_duration_since(begun))
            }
        }
    }
}

/// An answer: who gave it, and to which request.
fn parsed(text: &str) -> Option<(&str, u64)> {
    let (backend, number) = text.trim_end().split_once(' ')?;
    Some((backend, number.parse().ok()?))
}
