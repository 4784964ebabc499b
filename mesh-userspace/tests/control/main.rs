//! The API over a real socket, and `meshctl` as a process, with an agent that only pretends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod backends;
mod explain;
mod fake;
mod flows;
mod keys;
mod meshctl;
mod socket;
