//! Datagrams: sealed and sent at once, or kept for a moment until the receiver's session is known or the system has room.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mesh_cluster::seal::{Content, LONGEST_DATAGRAM, SealFault};

use super::{Received, Wire};
use crate::gossip::monotonic;

/// How many datagrams wait for one receiver's session, and how many for all.
const MOST_OF_ONE: usize = 16;
const MOST_WAITING: usize = 1024;
/// How long they wait: what is older is of no use to the protocol.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many datagrams wait for room.
const MOST_UNSENT: usize = 256;

/// What sends and receives datagrams.
pub(super) struct Datagrams {
    wire: Arc<Wire>,
    buffer: Vec<u8>,
    waiting: HashMap<SocketAddr, VecDeque<(Duration, Vec<u8>)>>,
    /// How many wait in all.
    count: usize,
    unsent: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Datagrams {
    pub(super) fn new(wire: Arc<Wire>) -> Self {
        Self {
            wire,
            // One byte more than the longest, so that what is too long is not taken for it.
            buffer: vec![0; LONGEST_DATAGRAM + 1],
            waiting: HashMap::new(),
            count: 0,
            unsent: VecDeque::new(),
        }
    }

    /// How many datagrams wait for a session.
    #[cfg(test)]
    pub(super) const fn waiting(&self) -> usize {
        self.count
    }

    pub(super) fn send(&mut self, to: SocketAddr, message: Vec<u8>) {
        let sealed = self.wire.sealer().seal(to, &message);
        match sealed {
            Ok(datagram) => self.throw(to, datagram),
            Err(SealFault::Unknown(_)) => self.wait(to, message),
            // A session that is used up is replaced before the next one.
            Err(fault) => tracing::debug!(%to, %fault, "a datagram was not sent"),
        }
    }

    fn throw(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        if self.unsent.is_empty() && self.wire.throw(to, &datagram) {
            return;
        }
        if self.unsent.len() >= MOST_UNSENT {
            self.unsent.pop_front();
        }
        self.unsent.push_back((to, datagram));
    }

    fn wait(&mut self, to: SocketAddr, message: Vec<u8>) {
        let now = monotonic();
        let queue = self.waiting.entry(to).or_default();
        if queue.len() >= MOST_OF_ONE {
            queue.pop_front();
            self.count -= 1;
        }
        if self.count < MOST_WAITING {
            queue.push_back((now, message));
            self.count += 1;
        }
        self.wire.hello(to);
    }

    /// A datagram that has come, or none if what came was for the transport alone.
    pub(super) async fn receive(&mut self) -> Option<Received> {
        let room = async {
            if self.unsent.is_empty() {
                std::future::pending().await
            } else {
                self.wire.socket.writable().await
            }
        };
        let (length, from) = tokio::select! {
            // An error is one of sending, such as that nobody listens there.
            received = self.wire.socket.recv_from(&mut self.buffer) => received.ok()?,
            _ = room => {
                while let Some((to, datagram)) = self.unsent.pop_front() {
                    if !self.wire.throw(to, &datagram) {
                        self.unsent.push_front((to, datagram));
                        break;
                    }
                }
                return None;
            }
        };
        let bytes = self.buffer.get(..length).unwrap_or_default();
        let outcome = self.wire.sealer().open(monotonic(), bytes);
        match self.wire.settle(from, outcome) {
            Ok(Content::Message { from, bytes }) => Some((from, bytes)),
            Ok(Content::Met(address)) => {
                self.wire.met.notify_waiters();
                self.met(address);
                None
            }
            Ok(Content::Nothing) | Err(_) => None,
        }
    }

    fn met(&mut self, address: SocketAddr) {
        let waited = self.waiting.remove(&address).unwrap_or_default();
        self.count -= waited.len();
        for (_, message) in waited {
            self.send(address, message);
        }
    }

    /// Asks again where something waits, and forgets what has waited for too long.
    pub(super) fn look_after(&mut self) {
        let now = monotonic();
        let mut known = Vec::new();
        self.waiting.retain(|address, queue| {
            while queue.front().is_some_and(|(since, _)| now.saturating_sub(*since) > PATIENCE) {
                queue.pop_front();
                self.count -= 1;
            }
            // A datagram of its own may have made it known.
            if self.wire.sealer().knows(*address) {
                known.push(*address);
            } else if !queue.is_empty() {
                self.wire.hello(*address);
            }
            !queue.is_empty()
        });
        for address in known {
            self.met(address);
        }
    }
}
