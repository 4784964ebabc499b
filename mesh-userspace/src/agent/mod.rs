//! The agent of a node: keeps the kernel as the plan wants it.

mod flows;
pub mod state;

pub use state::State;
