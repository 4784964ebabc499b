//! What nodes say to one another. Whatever comes is read without trust: what cannot be read is no message.

use std::net::SocketAddr;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};

use crate::{
    output::MOST_MESSAGE,
    peer::Peer,
    stamp::{NodeId, Stamp},
    store::{Entry, Key},
};

/// The first byte of each message.
const VERSION: u8 = 1;
/// More than what stands around the entries or keys of a message, in bytes.
pub(crate) const OVERHEAD: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The failure detector's own.
    Swim(Vec<u8>),
    /// "I want to be a member with you", also to who is held for dead.
    Hello {
        peer: Peer,
        /// As whom the other is held for dead.
        held: Option<Peer>,
        /// How many live where it is; who is alone wants to be told of everybody.
        living: u32,
    },
    /// "You are a member with me", and with these of so many.
    Welcome { peer: Peer, others: Vec<Peer>, living: u32 },
    /// "You are held for dead as this one; be somebody greater, and say hello to me again."
    Stale { held: Peer, by: SocketAddr },
    /// "You may not be a member."
    Refused { by: String, why: String },
    /// "You are suspected, at this number of the failure detector's; deny it."
    Suspected { peer: Peer, number: u16, by: Peer },
    /// "I leave."
    Farewell { peer: Peer },
    /// Entries, since they are new or were asked for.
    Entries {
        horizon: Stamp,
        entries: Vec<(Key, Entry)>,
        /// There is more than one answer may have.
        more: bool,
    },
    /// The sums of a store and over its members.
    Root { horizon: Stamp, root: u128, members: u64 },
    /// The sums over members, in parts.
    Members { sums: Vec<u64> },
    /// Who lives of these parts and who does not, how many live in all, and whether the same is to be answered.
    Peers { parts: u64, living: Vec<Peer>, dead: Vec<Peer>, count: u32, answer: bool },
    /// "Mine has the same."
    Same,
    /// The sums of its parts.
    Parts { horizon: Stamp, parts: Vec<u128> },
    /// The keys of parts that differ.
    Keys { horizon: Stamp, parts: Vec<Part> },
    /// "Give me these."
    Want { keys: Vec<Key> },
    /// "Have you applied these?"
    Ask { id: u64, chunk: u32, wants: Vec<(Key, Stamp)> },
    /// "I have."
    Applied { id: u64, chunk: u32 },
}

/// The keys of a part of the store, all that are greater than `after` and not greater than `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) index: u8,
    pub(crate) after: Option<Key>,
    pub(crate) until: Option<Key>,
    pub(crate) keys: Vec<(Key, Stamp)>,
}

/// Writes a message; nothing if it would be longer than any may be.
pub(crate) fn encode(from: NodeId, message: &Message) -> Option<Vec<u8>> {
    let bytes = postcard::to_extend(&(VERSION, from, message), Vec::new()).ok()?;
    (bytes.len() <= MOST_MESSAGE).then_some(bytes)
}

/// Reads a message, and who says that it sent it.
pub(crate) fn decode(bytes: &[u8]) -> Option<(NodeId, Message)> {
    if bytes.len() > MOST_MESSAGE || bytes.first() != Some(&VERSION) {
        return None;
    }
    let ((_, from, message), rest) = postcard::take_from_bytes::<(u8, NodeId, Message)>(bytes).ok()?;
    rest.is_empty().then_some((from, message))
}

/// How long something is when it is written.
pub(crate) fn length<T: Serialize>(value: &T) -> usize {
    postcard::serialize_with_flavor(value, Size::default()).unwrap_or(usize::MAX)
}

/// Cuts into slices that are at most so long, each of which has one at least.
pub(crate) fn slices<T: Serialize>(all: impl IntoIterator<Item = T>, most: usize) -> Vec<Vec<T>> {
    let mut slices: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for one in all {
        let length = length(&one);
        match slices.last_mut().filter(|_| length <= room) {
            Some(slice) => slice.push(one),
            None => {
                slices.push(vec![one]);
                room = most;
            }
        }
        room = room.saturating_sub(length);
    }
    slices
}
