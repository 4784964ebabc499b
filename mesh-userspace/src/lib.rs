//! The agent of a node: sources → table → plan → apply.

pub mod links;
pub mod table;
