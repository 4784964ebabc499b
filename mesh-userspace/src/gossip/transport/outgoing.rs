//! Streams to others: one to each, opened when there is something to send, and closed when there is nothing for a while.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_cluster::{MOST_MESSAGE, seal::LONGEST_PART};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::Wire;

/// How many messages wait for one receiver.
const MOST_OF_ONE: usize = 32;
/// How many bytes wait in all.
const MOST_BYTES: usize = 64 << 20;
/// How long a connection may take, the receiver's session included.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a message may take.
const MESSAGE: Duration = Duration::from_secs(30);
/// How long a stream is kept open for the next message.
const SILENCE: Duration = Duration::from_secs(15);
/// How long to wait for a session before asking again.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The streams that this node has opened.
pub(super) struct Outgoing {
    wire: Arc<Wire>,
    /// Where they come from.
    local: IpAddr,
    queues: HashMap<SocketAddr, Queue>,
    /// How many bytes wait.
    bytes: Arc<AtomicUsize>,
}

struct Queue {
    messages: mpsc::Sender<Waiting>,
    task: JoinHandle<()>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message that is counted for as long as it waits.
struct Waiting {
    message: Vec<u8>,
    bytes: Arc<AtomicUsize>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.message.len(), Ordering::Relaxed);
    }
}

impl Outgoing {
    pub(super) fn new(wire: Arc<Wire>, local: IpAddr) -> Self {
        Self { wire, local, queues: HashMap::new(), bytes: Arc::default() }
    }

    /// How many bytes wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn send(&mut self, to: SocketAddr, message: Vec<u8>) {
        let length = message.len();
        if length > MOST_MESSAGE || self.bytes.load(Ordering::Relaxed) + length > MOST_BYTES {
            tracing::debug!(%to, length, "a message is dropped: too long, or too much waits");
            return;
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let waiting = Waiting { message, bytes: Arc::clone(&self.bytes) };
        let unsent = match self.queues.get(&to) {
            Some(queue) => queue.messages.try_send(waiting),
            None => Err(mpsc::error::TrySendError::Closed(waiting)),
        };
        match unsent {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!(%to, "a message is dropped: too many wait");
            }
            // There was no stream, or it has just ended for want of messages.
            Err(mpsc::error::TrySendError::Closed(waiting)) => {
                let (messages, queue) = mpsc::channel(MOST_OF_ONE);
                // The channel is empty and open.
                let _ = messages.try_send(waiting);
                let stream = Stream { wire: Arc::clone(&self.wire), local: self.local, to, open: None };
                self.queues.insert(to, Queue { messages, task: tokio::spawn(stream.run(queue)) });
            }
        }
    }

    /// Forgets the streams that have ended.
    pub(super) fn look_after(&mut self) {
        self.queues.retain(|_, queue| !queue.task.is_finished());
    }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("it did not tell its session")]
    Unknown,
    #[error("it cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the stream broke: {0}")]
    Broken(io::Error),
    #[error("it took too long")]
    Slow,
    #[error(transparent)]
    Seal(#[from] mesh_cluster::seal::SealFault),
}

struct Stream {
    wire: Arc<Wire>,
    local: IpAddr,
    to: SocketAddr,
    open: Option<TcpStream>,
}

impl Stream {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        loop {
            match timeout(SILENCE, queue.recv()).await {
                Ok(Some(waiting)) => {
                    if let Err(why) = self.send(&waiting.message).await {
                        tracing::debug!(to = %self.to, %why, "a message was not sent by a stream");
                        self.open = None;
                        // Who cannot be reached is not waited for with every message.
                        while queue.try_recv().is_ok() {}
                    }
                }
                Ok(None) => return,
                // What comes at this very moment is still sent.
                Err(_) => queue.close(),
            }
        }
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), Unsent> {
        let was_open = self.open.as_ref().is_some_and(is_open);
        if !was_open {
            self.open = Some(self.connect().await?);
        }
        match self.write(message).await {
            // The other may have closed it at just that moment, or begun a new life.
            Err(Unsent::Broken(_)) if was_open => {
                self.open = Some(self.connect().await?);
                self.write(message).await
            }
            other => other,
        }
    }

    async fn connect(&self) -> Result<TcpStream, Unsent> {
        let until = Instant::now() + CONNECT;
        while !self.wire.sealer().knows(self.to) {
            if Instant::now() >= until {
                return Err(Unsent::Unknown);
            }
            let met = self.wire.met.notified();
            self.wire.hello(self.to);
            // Somebody has met somebody, or it is time to ask again.
            let _ = timeout(ASK_EVERY, met).await;
        }
        let socket = if self.to.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() };
        let socket = socket.map_err(Unsent::Connect)?;
        if !self.local.is_unspecified() && self.local.is_ipv6() == self.to.is_ipv6() {
            socket.bind(SocketAddr::new(self.local, 0)).map_err(Unsent::Connect)?;
        }
        let stream = timeout_at(until, socket.connect(self.to)).await.map_err(|_| Unsent::Slow)?;
        let stream = stream.map_err(Unsent::Connect)?;
        // A message is written in whole parts, and its end is not to wait for an acknowledgement.
        stream.set_nodelay(true).map_err(Unsent::Connect)?;
        Ok(stream)
    }

    async fn write(&mut self, message: &[u8]) -> Result<(), Unsent> {
        let until = Instant::now() + MESSAGE;
        let Some(stream) = &mut self.open else { return Ok(()) };
        let number = self.wire.sealer().begin();
        let mut offset = 0;
        let mut bytes = Vec::with_capacity(LONGEST_PART + 2);
        loop {
            let (part, next) = self.wire.sealer().seal_part(self.to, number, message, offset)?;
            bytes.clear();
            bytes.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(part);
            let written = timeout_at(until, stream.write_all(&bytes)).await.map_err(|_| Unsent::Slow)?;
            written.map_err(Unsent::Broken)?;
            offset = next;
            if offset >= message.len() {
                return Ok(());
            }
        }
    }
}

/// Whether the other side has not closed a stream. It never sends anything by it.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
