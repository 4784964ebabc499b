//! What the whole-system tests share: a mesh in network namespaces, tools to work it, and a measure of what breaks when it
//! changes.

pub mod bpf;
pub mod disruption;
pub mod lab;
