//! The agent of a node: sources → table → plan → apply.

pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod links;
#[cfg(test)]
mod scratch;
pub mod spec;
pub mod table;
