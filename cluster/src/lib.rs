//! How nodes find one another and agree on one table: membership, and a store that every node has whole.
//!
//! **No I/O, no clock and no chance of its own.** What happens is told by calls, with the time; what is to be sent and what
//! has changed is asked for after each. The same calls with the same seed give the same answers, so that thousands of nodes
//! can be simulated, and any history played again.

pub mod cluster;
mod confirm;
mod exchange;
mod forget;
mod join;
pub mod member;
mod message;
mod outbox;
pub mod output;
mod peer;
mod roll;
mod rumours;
pub mod seal;
pub mod settings;
pub mod stamp;
pub mod store;
mod swim;

pub use cluster::Cluster;
pub use member::{Identity, Member, MemberState};
pub use output::{MOST_DATAGRAM, MOST_MESSAGE, Output};
pub use settings::Settings;
pub use stamp::{Clock, NodeId, Now, Stamp};
pub use store::{Digest, Entry, Key, Kind, Store, Write};
