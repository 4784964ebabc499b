//! The agent of a node: sources → table → plan → apply.

pub mod agent;
pub mod api;
pub mod apply;
pub mod cli;
pub mod config;
mod conversation;
pub mod datapath;
pub mod dns;
pub mod gossip;
mod health;
pub mod links;
pub mod plan;
pub mod problem;
mod replace;
pub mod replica;
#[cfg(test)]
mod scratch;
pub mod spec;
pub mod table;
