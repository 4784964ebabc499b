//! Names for tasks: the gateway of each network answers, by what its tasks may see.

mod answer;
mod forward;
mod meaning;
mod names;
mod random;
mod resolv_conf;
mod server;
mod stream;
mod upstreams;

#[cfg(test)]
mod tests;

pub use answer::{Asker, NEGATIVE_TTL, Reaction, TTL, react};
pub use names::Names;
pub(crate) use resolv_conf::ResolvConfs;
pub(crate) use server::{Gateway, Server};
