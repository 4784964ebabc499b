//! Every path of the pipeline, in both families inside and outside, from the first node to the last.
//!
//! What comes out is read by another implementation (etherparse), which holds every length and checksum to what it must
//! be.

mod errors;
mod fragments;
mod limits;
mod mesh;
mod message;
mod mss;
mod neighbours;
mod newcomers;
mod outside;
mod overlay;
mod persistence;
mod publish_limits;
mod published;
#[path = "../support/random.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod random;
mod refused;
mod second_chance;
mod unserved;
mod vip;
