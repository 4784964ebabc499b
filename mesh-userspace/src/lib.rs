//! The agent of a node: sources → table → plan → apply.

pub mod datapath;
pub mod links;
pub mod table;

#[cfg(test)]
mod scratch;
