//! The agent of a node: sources → table → plan → apply.


#[cfg(test)]

pub mod config;
pub mod datapath;
pub mod links;
mod scratch;
pub mod spec;
pub mod table;
