//! The agent of a node: sources → table → plan → apply.

pub mod agent;
pub mod apply;
pub mod datapath;
pub mod links;
pub mod plan;
pub mod problem;
pub mod table;

#[cfg(test)]
mod scratch;
