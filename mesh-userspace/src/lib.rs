//! The agent of a node: sources → table → plan → apply.

pub mod config;
pub mod spec;
pub mod table;
