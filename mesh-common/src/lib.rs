//! The packet pipeline of the mesh, and what kernel and user space agree on.
//!
//! The same source is compiled into the eBPF programs and into native tests, so nothing here allocates, panics
//! or knows of aya or tokio.

#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod abi;
pub mod checksum;
pub mod hash;
#[cfg(feature = "std")]
pub mod native;
pub mod packet;
pub mod pipeline;
pub mod reason;
pub mod tables;
pub mod verdict;
pub mod wire;

pub use packet::Packet;
pub use reason::Reason;
pub use tables::{Hop, Route, Tables};
pub use verdict::{Refusal, Verdict};
