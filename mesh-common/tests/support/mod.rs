//! What the tests of the pipeline share, the one against the kernel's programs too.

#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod random;
pub(crate) mod traffic;
pub(crate) mod world;
