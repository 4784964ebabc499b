//! The cluster's store as this node's table: entries of the store are objects of the specification, and what cannot be beside
//! something older is set aside.
//!
//! Nothing here has a socket or a clock. [`Objects`] reads a store, [`settle`] makes a table of it, the same on every node;
//! [`writes`] is the way back, [`Published`] keeps what a node's file has asked for, and [`gone`] tells who is not there.

mod entry;
mod health;
mod liveness;
mod publish;
mod reading;
mod settle;
#[cfg(test)]
mod tests;
mod writes;

pub use entry::{NodeEntry, Object, Objects, Presence, Read};
pub use health::Reports;
pub use liveness::{GRACE, RESTART, gone, restarts};
pub use publish::{Publication, Published};
pub use settle::{Settled, settle};
pub use writes::{amendments, changes, network, node, service, writes};
