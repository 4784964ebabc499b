//! Sealing: everything that nodes send one another, so that who has no key of the ring learns nothing and changes nothing
//! (docs/decisions/0021-sealed-gossip.md).
//!
//! - Each start draws a **session**. What is sealed in it is sealed with a key derived from the ring's key and the session,
//!   and its counter is the nonce; so no nonce comes twice, and nothing of it needs to be kept on disk.
//! - The **receiver's session** is authenticated too: what was recorded for an earlier life of a node, or for another node, is
//!   refused. Within a session, a window over the counters refuses what was taken before.
//! - Who does not know the receiver's session asks for it by a **hello**, which changes nothing, and is answered by a
//!   **welcome** of the same length, to the address that is sealed in the hello and not the one that the datagram came from.
//! - Any key of the ring opens. The first seals, but for a peer that has another in use: to this, its own seals, so that
//!   nobody who has a key of the ring is cut off while another comes into use.

mod assembly;
mod cipher;
mod key;
mod limiter;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

pub use assembly::{Assembly, OutOfOrder, Part};
pub use key::{KEY_LENGTH, KeyFault, KeyId, MOST_KEYS, Ring, RingFault, Secret};
pub use window::{WIDTH, Window};
pub use wire::{GREETING, OVERHEAD, PART_OVERHEAD, Session};

use cipher::Cipher;
use limiter::{Answered, Limiter};
use wire::{Header, Kind, PartHeader, Prefix};

use crate::output::{MOST_DATAGRAM, MOST_MESSAGE};

/// The longest datagram that is opened, in bytes: what the longest message becomes.
pub const LONGEST_DATAGRAM: usize = MOST_DATAGRAM + OVERHEAD;
/// The bytes of a message in each part of a stream; as with TLS's records, nobody can make a node keep more before it has
/// shown that it knows a key.
pub const PART: usize = 16 << 10;
/// The longest sealed part, in bytes.
pub const LONGEST_PART: usize = PART + PART_OVERHEAD;

/// How many sessions are followed. Only who has a key can begin one; when there are more, this node begins a new one of its
/// own, so that forgetting them lets nothing in again.
const MOST_SESSIONS: usize = 8192;
/// How many addresses are known.
const MOST_PEERS: usize = 8192;
/// How many hellos may wait for their welcome.
const MOST_GREETINGS: usize = 1024;
/// How long a hello waits for its welcome.
const GREETING_LIFE: Duration = Duration::from_secs(5);
/// How often an address is asked for its session.
const GREET_EVERY: Duration = Duration::from_millis(200);
/// How much is sealed in one session: far from where counters end.
const MOST_SEALED: u64 = 1 << 48;

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// The receiver's session is not known: say hello first.
    #[error("the session of {0} is not known yet")]
    Unknown(SocketAddr),
    /// The message is too long.
    #[error("a message of {0} bytes is too long")]
    Long(usize),
    /// The session is used up: [`Sealer::renew`].
    #[error("the session is used up")]
    Worn,
}

/// Why something was not opened. Whoever sent it is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not laid out as what is sealed.
    #[error("it is no sealed gossip")]
    Malformed,
    /// It was sealed with a key that the ring has not.
    #[error("it is sealed with the key {0}, which this node's keyring does not have")]
    Key(KeyId),
    /// It was not sealed with the key that it names, or not as it is now.
    #[error("it is forged, or was changed on its way")]
    Forged,
    /// This node sealed it itself.
    #[error("it is this node's own")]
    Own,
    /// It was taken before, or is too old to tell.
    #[error("it was taken before")]
    Replayed,
    /// It is for an earlier session of this node, or for another.
    #[error("it is for another session")]
    OtherSession,
    /// Nobody waits for this welcome.
    #[error("nobody waits for this welcome")]
    Unasked,
    /// There are too many sessions to follow: [`Sealer::renew`].
    #[error("there are too many sessions to follow")]
    Full,
}

/// What a datagram had in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing for anybody but the sealer.
    Nothing,
    /// A message.
    Message {
        /// The address that its sender is reached at.
        from: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The session of this address is known now: what waits for it can be sealed.
    Met(SocketAddr),
}

/// What came of something, and a datagram that is to be sent for it, which is never longer than what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<T> {
    /// What was in it.
    pub result: Result<T, Refused>,
    /// What is to be sent, and where.
    pub send: Option<(SocketAddr, Vec<u8>)>,
}

impl<T> Outcome<T> {
    const fn of(content: T) -> Self {
        Self { result: Ok(content), send: None }
    }

    const fn refused(refused: Refused) -> Self {
        Self { result: Err(refused), send: None }
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
struct Peer {
    session: Session,
    /// The key that it has in use.
    in_use: KeyId,
    /// The key that it sealed with last.
    sealed_with: KeyId,
    heard: Duration,
}

/// What was seen of a session.
struct Seen {
    datagrams: Window,
    parts: Window,
    ciphers: Vec<(KeyId, Cipher)>,
}

/// Seals and opens, for one node.
pub struct Sealer {
    me: SocketAddr,
    ring: Ring,
    session: Session,
    counter: u64,
    /// This session's, one for each key of the ring.
    ciphers: Vec<(KeyId, Cipher)>,
    peers: HashMap<SocketAddr, Peer>,
    seen: HashMap<Session, Seen>,
    /// The hellos that wait for their welcome, by their counter: to whom, and since when.
    greetings: BTreeMap<u64, (SocketAddr, Duration)>,
    asked: Limiter,
    answered: Answered,
    is_full: bool,
}

impl Sealer {
    /// A sealer for the node that is reached at `me`. `session` must be drawn by good chance at each start.
    #[must_use]
    pub fn new(me: SocketAddr, ring: Ring, session: Session) -> Self {
        let mut sealer = Self {
            me,
            ring,
            session,
            counter: 0,
            ciphers: Vec::new(),
            peers: HashMap::new(),
            seen: HashMap::new(),
            greetings: BTreeMap::new(),
            asked: Limiter::new(GREET_EVERY),
            answered: Answered::new(GREETING_LIFE),
            is_full: false,
        };
        sealer.derive();
        sealer
    }

    /// The address that this node is reached at.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.me
    }

    /// The ring.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Takes another ring. What is sealed with a key that it has not is refused from now on.
    pub fn set_ring(&mut self, ring: Ring) {
        self.ring = ring;
        let ring = &self.ring;
        for seen in self.seen.values_mut() {
            seen.ciphers.retain(|(key, _)| ring.get(*key).is_some());
        }
        self.derive();
    }

    /// Whether a new session is due.
    #[must_use]
    pub const fn is_worn(&self) -> bool {
        self.is_full || self.counter >= MOST_SEALED
    }

    /// Begins a new session, which must be drawn by good chance: everything sealed for the one before is refused.
    pub fn renew(&mut self, session: Session) {
        self.session = session;
        self.counter = 0;
        self.seen.clear();
        self.greetings.clear();
        self.is_full = false;
        self.derive();
    }

    fn derive(&mut self) {
        let session = self.session;
        self.ciphers = self.ring.keys().map(|key| (key.id(), Cipher::new(key, session))).collect();
    }

    /// Whether the session of an address is known.
    #[must_use]
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.peers.contains_key(&address)
    }

    /// The key that whoever is reached at an address had in use when it was heard of last.
    #[must_use]
    pub fn in_use_of(&self, address: SocketAddr) -> Option<KeyId> {
        self.peers.get(&address).map(|peer| peer.in_use)
    }

    /// Asks an address for its session; none if it was asked a moment ago. Each time another key of the ring is tried, the
    /// one in use first.
    pub fn hello(&mut self, now: Duration, to: SocketAddr) -> Option<Vec<u8>> {
        let turn = self.asked.allow(now, to)?;
        while self.greetings.len() >= MOST_GREETINGS
            || self
                .greetings
                .first_key_value()
                .is_some_and(|(_, (_, at))| now.saturating_sub(*at) > GREETING_LIFE)
        {
            self.greetings.pop_first();
        }
        let keys = self.ring.ids().len();
        let key = self.ring.ids().nth(turn as usize % keys.max(1))?;
        let (counter, sealed) =
            self.seal_with(key, Kind::Hello, Session::default(), |into| into.extend([0; 8])).ok()?;
        self.greetings.insert(counter, (to, now));
        Some(sealed)
    }

    /// Seals a message as a datagram.
    ///
    /// # Errors
    /// The session of the receiver is not known, the message is longer than a datagram takes, or the session is used up.
    pub fn seal(&mut self, to: SocketAddr, message: &[u8]) -> Result<Vec<u8>, SealFault> {
        if message.len() + OVERHEAD > LONGEST_DATAGRAM {
            return Err(SealFault::Long(message.len()));
        }
        self.seal_for(to, Kind::Datagram, |into| into.extend_from_slice(message))
    }

    /// A number for a message whose parts are sealed next.
    pub const fn begin(&mut self) -> u64 {
        let number = self.counter;
        self.counter = number.saturating_add(1);
        number
    }

    /// Seals the part of a message that begins at `offset`; returns it and where the next one begins.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_part(
        &mut self,
        to: SocketAddr,
        number: u64,
        message: &[u8],
        offset: usize,
    ) -> Result<(Vec<u8>, usize), SealFault> {
        let long = SealFault::Long(message.len());
        let next = message.len().min(offset + PART);
        let part = message.get(offset..next).ok_or(long)?;
        if message.len() > MOST_MESSAGE {
            return Err(long);
        }
        let header = PartHeader {
            message: number,
            offset: u32::try_from(offset).map_err(|_| long)?,
            length: u32::try_from(message.len()).map_err(|_| long)?,
        };
        let sealed = self.seal_for(to, Kind::Part, |into| {
            header.write(into);
            into.extend_from_slice(part);
        })?;
        Ok((sealed, next))
    }

    fn seal_for(
        &mut self,
        to: SocketAddr,
        kind: Kind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<u8>, SealFault> {
        let peer = *self.peers.get(&to).ok_or(SealFault::Unknown(to))?;
        let key = self.key_for(peer.in_use, peer.sealed_with);
        Ok(self.seal_with(key, kind, peer.session, write)?.1)
    }

    /// The key to seal with for somebody who has this one in use, and sealed with that one.
    fn key_for(&self, in_use: KeyId, sealed_with: KeyId) -> KeyId {
        [in_use, sealed_with]
            .into_iter()
            .find(|key| self.ring.get(*key).is_some())
            .unwrap_or(self.ring.in_use())
    }

    fn seal_with(
        &mut self,
        key: KeyId,
        kind: Kind,
        receiver: Session,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(u64, Vec<u8>), SealFault> {
        if self.counter >= MOST_SEALED {
            return Err(SealFault::Worn);
        }
        let counter = self.begin();
        let header = Header { kind, key, sender: self.session, receiver, counter };
        let mut bytes = header.write().to_vec();
        Prefix { address: self.me, in_use: self.ring.in_use() }.write(&mut bytes);
        write(&mut bytes);
        let cipher = self.ciphers.iter().find(|(id, _)| *id == key);
        match cipher {
            Some((_, cipher)) if cipher.seal(counter, &mut bytes) => Ok((counter, bytes)),
            _ => Err(SealFault::Long(bytes.len())),
        }
    }

    /// Opens a datagram. Whatever it is, nothing but the session of an address, and what was seen of one, is changed by it;
    /// and that only by what is fresh, for this session, and sealed with a key of the ring.
    pub fn open(&mut self, now: Duration, bytes: &[u8]) -> Outcome<Content> {
        if bytes.len() > LONGEST_DATAGRAM {
            return Outcome::refused(Refused::Malformed);
        }
        let unsealed = match self.unseal(bytes) {
            Ok(unsealed) => unsealed,
            Err(refused) => return Outcome::refused(refused),
        };
        match unsealed.header.kind {
            Kind::Hello => self.greeted(now, &unsealed),
            Kind::Welcome => self.welcomed(now, &unsealed),
            Kind::Datagram => {
                let from = unsealed.prefix.address;
                let Outcome { result, send } = self.take(now, unsealed, bytes.len());
                Outcome { result: result.map(|bytes| Content::Message { from, bytes }), send }
            }
            Kind::Part => Outcome::refused(Refused::Malformed),
        }
    }

    /// Opens a part of a stream. Where it is refused, the stream is to be closed.
    pub fn open_part(&mut self, now: Duration, bytes: &[u8]) -> Outcome<Part> {
        let unsealed = match self.unseal(bytes) {
            Ok(unsealed) if unsealed.header.kind == Kind::Part => unsealed,
            Ok(_) => return Outcome::refused(Refused::Malformed),
            Err(refused) => return Outcome::refused(refused),
        };
        let (from, session) = (unsealed.prefix.address, unsealed.header.sender);
        let Outcome { result, send } = self.take(now, unsealed, bytes.len());
        let part = result.and_then(|rest| {
            let (header, bytes) = PartHeader::read(&rest).ok_or(Refused::Malformed)?;
            Ok(Part { from, session, header, bytes: bytes.to_vec() })
        });
        Outcome { result: part, send }
    }

    fn unseal(&self, bytes: &[u8]) -> Result<Unsealed, Refused> {
        let (header, raw, sealed) = Header::read(bytes).ok_or(Refused::Malformed)?;
        if header.sender == self.session {
            return Err(Refused::Own);
        }
        let key = self.ring.get(header.key).ok_or(Refused::Key(header.key))?;
        let seen = self.seen.get(&header.sender);
        let known = seen.and_then(|seen| seen.ciphers.iter().find(|(id, _)| *id == header.key));
        let (opened, fresh) = match known {
            Some((_, cipher)) => (cipher.open(header.counter, raw, sealed), None),
            None => {
                let cipher = Cipher::new(key, header.sender);
                (cipher.open(header.counter, raw, sealed), Some(cipher))
            }
        };
        let opened = opened.ok_or(Refused::Forged)?;
        let (prefix, rest) = Prefix::read(&opened).ok_or(Refused::Malformed)?;
        let rest = rest.to_vec();
        Ok(Unsealed { header, prefix, rest, fresh })
    }

    /// Answers a hello: with a welcome, or, where another session is known of the address, by asking it in turn, because the
    /// hello may have been recorded long ago.
    fn greeted(&mut self, now: Duration, hello: &Unsealed) -> Outcome<Content> {
        let (from, sender) = (hello.prefix.address, hello.header.sender);
        if hello.header.receiver != Session::default() || wire::number(&hello.rest).is_none() {
            return Outcome::refused(Refused::Malformed);
        }
        let mut outcome = Outcome::of(Content::Nothing);
        let is_other = self.peers.get(&from).is_some_and(|peer| peer.session != sender);
        // Two that only asked each other in turn would go on with that forever.
        let is_asked = self
            .greetings
            .values()
            .any(|(asked, at)| *asked == from && now.saturating_sub(*at) < GREETING_LIFE);
        if is_other
            && !is_asked
            && let Some(question) = self.hello(now, from)
        {
            outcome.send = Some((from, question));
        } else if self.answered.allow(now, sender, hello.header.counter) {
            let key = self.key_for(hello.prefix.in_use, hello.header.key);
            let echo = hello.header.counter;
            let welcome = self.seal_with(key, Kind::Welcome, sender, |into| into.extend(echo.to_be_bytes()));
            outcome.send = welcome.ok().map(|(_, welcome)| (from, welcome));
        }
        outcome
    }

    fn welcomed(&mut self, now: Duration, welcome: &Unsealed) -> Outcome<Content> {
        let Some(echo) = wire::number(&welcome.rest) else { return Outcome::refused(Refused::Malformed) };
        if welcome.header.receiver != self.session {
            return Outcome::refused(Refused::OtherSession);
        }
        let Some((asked, _)) = self.greetings.remove(&echo) else {
            return Outcome::refused(Refused::Unasked);
        };
        let peer = welcome.peer(now);
        self.know(asked, peer);
        self.know(welcome.prefix.address, peer);
        Outcome::of(Content::Met(asked))
    }

    /// What something has in it that is for this session and fresh, and notes that it was taken. Where its sender does not know
    /// that this is another session, or was known by another, it is asked for its own, which tells it ours.
    fn take(&mut self, now: Duration, unsealed: Unsealed, came: usize) -> Outcome<Vec<u8>> {
        let from = unsealed.prefix.address;
        let peer = unsealed.peer(now);
        if unsealed.header.receiver != self.session {
            return Outcome { result: Err(Refused::OtherSession), send: self.question(now, from, came) };
        }
        if self.seen.len() >= MOST_SESSIONS && !self.seen.contains_key(&peer.session) {
            self.is_full = true;
            return Outcome::refused(Refused::Full);
        }
        let seen = self.seen.entry(peer.session).or_insert_with(Seen::new);
        let window = if unsealed.header.kind == Kind::Part { &mut seen.parts } else { &mut seen.datagrams };
        if !window.take(unsealed.header.counter) {
            return Outcome::refused(Refused::Replayed);
        }
        if let Some(cipher) = unsealed.fresh {
            seen.ciphers.push((unsealed.header.key, cipher));
        }
        let is_other = match self.peers.get_mut(&from) {
            Some(known) if known.session == peer.session => {
                *known = peer;
                false
            }
            Some(_) => true,
            None => {
                self.know(from, peer);
                false
            }
        };
        let send = if is_other { self.question(now, from, came) } else { None };
        Outcome { result: Ok(unsealed.rest), send }
    }

    /// A hello in answer to something, if that was not shorter.
    fn question(&mut self, now: Duration, to: SocketAddr, came: usize) -> Option<(SocketAddr, Vec<u8>)> {
        if came < GREETING {
            return None;
        }
        self.hello(now, to).map(|hello| (to, hello))
    }

    fn know(&mut self, address: SocketAddr, peer: Peer) {
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&address) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard).map(|(address, _)| *address);
            oldest.map(|oldest| self.peers.remove(&oldest));
        }
        self.peers.insert(address, peer);
    }
}

impl Seen {
    fn new() -> Self {
        Self { datagrams: Window::default(), parts: Window::default(), ciphers: Vec::new() }
    }
}

/// What was opened, and was sealed with a key of the ring.
struct Unsealed {
    header: Header,
    prefix: Prefix,
    rest: Vec<u8>,
    /// The cipher, if it had to be made.
    fresh: Option<Cipher>,
}

impl Unsealed {
    const fn peer(&self, now: Duration) -> Peer {
        Peer {
            session: self.header.sender,
            in_use: self.prefix.in_use,
            sealed_with: self.header.key,
            heard: now,
        }
    }
}
