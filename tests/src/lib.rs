//! What the whole-system tests share: a mesh in network namespaces, and tools to work it.

pub mod lab;
