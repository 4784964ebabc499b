//! What the whole-system tests share: a mesh in network namespaces, tools to work it, a measure of what breaks when it
//! changes, and one of what it costs to forward a packet.

pub mod bpf;
pub mod director;
pub mod disruption;
pub mod lab;
pub mod traffic;
