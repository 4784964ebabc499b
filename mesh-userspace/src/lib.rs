//! The agent of a node: sources → table → plan → apply.

pub mod api;
pub mod cli;
pub mod table;
