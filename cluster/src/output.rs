//! What a node's protocol wants done, and tells.

use std::net::SocketAddr;

use crate::stamp::TooFarAhead;

/// The longest datagram before it is sealed, in bytes: fits the smallest links that are in use, with what sealing adds.
pub const MOST_DATAGRAM: usize = 1200;
/// The longest message by a stream, in bytes.
pub const MOST_MESSAGE: usize = 1 << 20;

/// What is to be done, or has come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message. Nothing is lost for good if it does not arrive.
    Send {
        /// To the gossip address of a node.
        to: SocketAddr,
        /// At most [`MOST_MESSAGE`] bytes if `reliable`, else [`MOST_DATAGRAM`].
        message: Vec<u8>,
        /// By a stream; else in one datagram.
        reliable: bool,
    },
    /// The store or the members have changed.
    Changed,
    /// How far a [`confirm`](crate::Cluster::confirm) has come; told whenever it has come further.
    Confirmed {
        /// What `confirm` returned.
        id: u64,
        /// The names of the living nodes that have not applied it yet, in order. When there is none, nothing more is told.
        missing: Vec<String>,
    },
    /// This node may not join. It goes on asking, since a clash may end.
    Refused {
        /// The name of the node that says so.
        by: String,
        /// Which clash there is, and how it is mended: a sentence.
        why: String,
    },
    /// Something that others have is not taken, because its stamp is too far ahead of this node's clock. Told again for as
    /// long as it is offered.
    NotTaken(TooFarAhead),
}
