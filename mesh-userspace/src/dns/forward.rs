//! Asking the host's resolvers for names that are not the mesh's. What they say is handed on as it is.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    answer::{HEADER, Reaction, refusal},
    random::Random,
    upstreams::Upstreams,
};

/// How long each resolver is waited for. Three of them are given up before a client of the C library asks again (5 s).
const PATIENCE: Duration = Duration::from_millis(1500);
/// How many questions may be under way at once. Each is a socket; and one that comes back to us, by a resolver that asks us
/// itself, goes round no more often than this.
const MOST: usize = 256;
/// Bytes of the longest answer that is taken by UDP; more is asked for by TCP.
const LONGEST_DATAGRAM: usize = 8192;

/// The way to the host's resolvers.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Upstreams,
    under_way: Semaphore,
    random: Random,
}

impl Forwarder {
    /// To the resolvers that a file names.
    pub(super) fn to(resolv_conf: PathBuf) -> Self {
        Self {
            upstreams: Upstreams::of(resolv_conf),
            under_way: Semaphore::new(MOST),
            random: Random::default(),
        }
    }

    /// What the first resolver says that knows an answer, in at most `longest` bytes; nothing where too much is under way,
    /// so that the client asks again.
    pub(super) async fn ask(&self, message: &[u8], by_tcp: bool, longest: u16) -> Option<Vec<u8>> {
        let _permit = self.under_way.try_acquire().ok()?;
        let failure = || match refusal(message, ResponseCode::ServFail) {
            Reaction::Answer(bytes) => Some(bytes),
            _ => None,
        };
        let Some(question) = question(message) else { return failure() };
        let mut last = None;
        for upstream in self.upstreams.addresses() {
            // An identifier of our own, so that nobody who sees one can answer another (RFC 5452).
            let id = (self.random.next() as u16).to_be_bytes();
            let mut asked = message.to_vec();
            asked.splice(..2, id);
            let said = match by_tcp {
                true => timeout(PATIENCE, by_stream(upstream, &asked, id, question)).await,
                false => timeout(PATIENCE, by_datagram(upstream, &asked, id, question)).await,
            };
            match said {
                Ok(Ok(mut answer)) => {
                    answer.splice(..2, message.iter().take(2).copied());
                    // Another may know better than one that fails or refuses.
                    let knows = answer.get(3).is_some_and(|code| !matches!(code & 0xf, 2 | 5));
                    last = Some(answer);
                    if knows {
                        break;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver could not be asked"),
                Err(_) => tracing::debug!(%upstream, "a resolver does not answer"),
            }
        }
        let Some(answer) = last else { return failure() };
        if answer.len() <= usize::from(longest) { Some(answer) } else { Some(truncated(&answer, question)) }
    }
}

/// The question of a message, its name written out: a pointer in it could only lead to itself.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return message.get(HEADER..at + 5),
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
}

/// Whether this is the answer to that question.
fn answers(answer: &[u8], id: [u8; 2], question: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let repeats = answer.get(HEADER..HEADER + question.len());
    // Some leave the question out of a refusal.
    let has_none = answer.get(4..6) == Some(&[0, 0]);
    answer.starts_with(&id)
        && is_response
        && answer.len() >= HEADER
        && (has_none || repeats.is_some_and(|repeated| repeated.eq_ignore_ascii_case(question)))
}

/// An answer that is too long for its client: the client is to ask by TCP.
fn truncated(answer: &[u8], question: &[u8]) -> Vec<u8> {
    let mut short: Vec<u8> = answer.iter().take(4).copied().collect();
    if let Some(flags) = short.get_mut(2) {
        *flags |= 2;
    }
    short.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    short.extend(question);
    short
}

/// From a port that the kernel chooses by chance, which only that resolver's packets come in by.
async fn by_datagram(
    upstream: SocketAddr,
    asked: &[u8],
    id: [u8; 2],
    question: &[u8],
) -> io::Result<Vec<u8>> {
    let any = match upstream {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).filter(|answer| answers(answer, id, question)) {
            // What fills the buffer may have been longer.
            let is_whole = length < LONGEST_DATAGRAM;
            return Ok(if is_whole { answer.to_vec() } else { truncated(answer, question) });
        }
    }
}

async fn by_stream(upstream: SocketAddr, asked: &[u8], id: [u8; 2], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), asked].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match answers(&answer, id, question) {
        true => Ok(answer),
        false => Err(io::Error::other("it answered something else")),
    }
}
