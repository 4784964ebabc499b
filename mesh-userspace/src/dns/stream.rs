//! Questions by TCP (RFC 7766): within bounds of time and number, whatever a client does.

use std::{cell::RefCell, collections::HashMap, io, net::IpAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    answer::{Asker, Reaction, react},
    server::Shared,
};

/// How many connections a gateway has at once.
const MOST: usize = 128;
/// How many of them one client has.
const MOST_OF_ONE: usize = 16;
/// How long a client may take for a whole question, or to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many questions a connection is good for.
const MOST_QUESTIONS: usize = 1000;
/// Bytes of the longest question.
const LONGEST_QUESTION: u16 = 4096;
/// The pause after the kernel refused a connection, for want of something.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections each client has.
type Clients = Rc<RefCell<HashMap<IpAddr, usize>>>;

/// Answers every connection, until it is aborted, and they with it.
pub(super) async fn answer(listener: TcpListener, network: Rc<str>, shared: Rc<Shared>) {
    let mut connections = JoinSet::new();
    let clients = Clients::default();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok((stream, client)) => (stream, client.ip()),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Some(place) = Seat::take(&clients, client).filter(|_| connections.len() < MOST) else { continue };
        let (network, shared) = (Rc::clone(&network), Rc::clone(&shared));
        connections.spawn_local(async move {
            if let Err(error) = converse(stream, client, &network, &shared).await {
                tracing::debug!(%client, %error, "a client's connection ended");
            }
            drop(place);
        });
    }
}

/// A client's right to one connection.
struct Seat {
    clients: Clients,
    client: IpAddr,
}

impl Seat {
    fn take(clients: &Clients, client: IpAddr) -> Option<Self> {
        let mut counts = clients.borrow_mut();
        let count = counts.entry(client).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self { clients: Rc::clone(clients), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.clients.borrow_mut();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Answers one question after the other.
async fn converse(mut stream: TcpStream, client: IpAddr, network: &str, shared: &Shared) -> io::Result<()> {
    for _ in 0..MOST_QUESTIONS {
        let Some(message) = timeout(PATIENCE, read(&mut stream)).await?? else { return Ok(()) };
        let asker = Asker { network, client, by_tcp: true };
        let reaction = react(&message, asker, &shared.names.load(), shared.random.next());
        let answer = match reaction {
            Reaction::Answer(answer) => Some(answer),
            Reaction::Forward { longest } => shared.forwarder.ask(&message, true, longest).await,
            Reaction::Silence => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// The next question; none where the client has no more.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LONGEST_QUESTION {
        return Err(io::Error::other("its question is too long"));
    }
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
