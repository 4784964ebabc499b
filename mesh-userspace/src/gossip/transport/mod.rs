//! What carries gossip: datagrams, and streams for what is longer than one, both sealed.

mod admission;
mod datagrams;
mod incoming;
mod outgoing;
mod refusals;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_cluster::seal::{Outcome, Part, Refused, Ring, Sealer, Session};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{chance, monotonic};

use datagrams::Datagrams;
use outgoing::Outgoing;
use refusals::Refusals;

/// How many messages of streams may wait for the driver.
const MOST_RECEIVED: usize = 64;

/// How many bytes of datagrams may wait for the driver: what thousands of nodes may have to say at once, and some of a flood.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A message that has come: the gossip address of its sender, and its bytes.
pub(super) type Received = (SocketAddr, Vec<u8>);

/// What all that send and receive share.
struct Wire {
    socket: UdpSocket,
    sealer: Mutex<Sealer>,
    refusals: Mutex<Refusals>,
    /// Told when the session of an address has become known.
    met: Notify,
}

impl Wire {
    /// The sealer. It is never left in the middle of something.
    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram now or never; returns whether the system has room for it.
    fn throw(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        let is_v6 = self.socket.local_addr().is_ok_and(|local| local.is_ipv6());
        let to = match to.ip() {
            // A socket of IPv6 reaches IPv4 by mapped addresses (RFC 4291, section 2.5.5.2).
            IpAddr::V4(address) if is_v6 => SocketAddr::new(address.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        match self.socket.try_send_to(datagram, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // What cannot be sent is as good as lost on its way, and the protocol expects that.
            _ => true,
        }
    }

    /// Asks an address for its session, unless that was done a moment ago.
    fn hello(&self, to: SocketAddr) {
        let hello = self.sealer().hello(monotonic(), to);
        if let Some(hello) = hello {
            self.throw(to, &hello);
        }
    }

    /// Opens a part of a stream that came from an address.
    fn open_part(&self, from: SocketAddr, bytes: &[u8]) -> Result<Part, Refused> {
        let outcome = self.sealer().open_part(monotonic(), bytes);
        self.settle(from, outcome)
    }

    /// Sends what is to be sent for something that came, and counts what was refused.
    fn settle<T>(&self, from: SocketAddr, outcome: Outcome<T>) -> Result<T, Refused> {
        if let Some((to, datagram)) = &outcome.send {
            self.throw(*to, datagram);
        }
        outcome.result.inspect_err(|refused| {
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).note(
                monotonic(),
                canonical(from),
                *refused,
            );
        })
    }
}

/// The sockets of a node, and what waits to be sent.
pub(super) struct Transport {
    wire: Arc<Wire>,
    datagrams: Datagrams,
    outgoing: Outgoing,
    received: mpsc::Receiver<Received>,
    accepting: JoinHandle<()>,
}

impl Transport {
    /// Listens. `me` is the address that others reach this node at.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn bind(listen: SocketAddr, me: SocketAddr, ring: Ring) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen).await?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            // Whoever may not have more than the system's limit has that.
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(io::Error::from)?;
        }
        // With port 0 the system chooses: one for both.
        let port = socket.local_addr()?.port();
        let listener = TcpListener::bind(SocketAddr::new(listen.ip(), port)).await?;
        let me = SocketAddr::new(me.ip(), if me.port() == 0 { port } else { me.port() });
        let sealer = Sealer::new(me, ring, session()?);
        let wire = Arc::new(Wire {
            socket,
            sealer: Mutex::new(sealer),
            refusals: Mutex::default(),
            met: Notify::new(),
        });
        let (sender, received) = mpsc::channel(MOST_RECEIVED);
        let accepting = tokio::spawn(incoming::accept(Arc::clone(&wire), listener, sender));
        Ok(Self {
            datagrams: Datagrams::new(Arc::clone(&wire)),
            outgoing: Outgoing::new(Arc::clone(&wire), listen.ip()),
            wire,
            received,
            accepting,
        })
    }

    /// The address that this node is reached at.
    pub(super) fn address(&self) -> SocketAddr {
        self.wire.sealer().address()
    }

    /// Seals and opens with another ring from now on.
    pub(super) fn set_ring(&self, ring: Ring) {
        self.wire.sealer().set_ring(ring);
    }

    /// Sends a message in a datagram; the oldest that waits is dropped where there are too many.
    pub(super) fn send(&mut self, to: SocketAddr, message: Vec<u8>) {
        self.datagrams.send(to, message);
    }

    /// Sends a message by a stream; it is dropped where too much waits.
    pub(super) fn send_reliably(&mut self, to: SocketAddr, message: Vec<u8>) {
        self.outgoing.send(to, message);
    }

    /// The next message that comes. Nothing is lost where this is dropped before it is done.
    pub(super) async fn receive(&mut self) -> Received {
        loop {
            tokio::select! {
                received = self.datagrams.receive() => if let Some(received) = received {
                    return received;
                },
                Some(received) = self.received.recv() => return received,
            }
        }
    }

    /// Asks an address for its session, and with it for the key that it has in use.
    pub(super) fn hello(&self, to: SocketAddr) {
        self.wire.hello(to);
    }

    /// The key that whoever is reached at an address had in use when it was heard of last.
    pub(super) fn in_use_of(&self, address: SocketAddr) -> Option<mesh_cluster::seal::KeyId> {
        self.wire.sealer().in_use_of(address)
    }

    /// What was refused of late, as a problem.
    pub(super) fn refused(&self) -> Option<String> {
        self.wire.refusals.lock().unwrap_or_else(PoisonError::into_inner).told(monotonic())
    }

    /// Begins a new session where one is due.
    pub(super) fn look_after(&mut self) {
        self.datagrams.look_after();
        self.outgoing.look_after();
        let mut sealer = self.wire.sealer();
        if sealer.is_worn() {
            match session() {
                Ok(fresh) => sealer.renew(fresh),
                Err(error) => {
                    tracing::error!(%error, "gossip cannot begin a new session: no chance to be had");
                }
            }
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An address as people know it, where a socket of IPv6 has it mapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn session() -> io::Result<Session> {
    chance().map(Session)
}
