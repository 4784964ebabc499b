//! What the tests of the pipeline share, the one against the kernel's programs too.

pub mod random;
pub mod traffic;
pub mod world;
