//! Packets by the million, and their count: a source and a sink that are eBPF programs of a few instructions each, so that
//! what lies between them is what is measured.

mod code;
mod frame;
mod kernel;
mod reflector;
mod sink;
mod source;

pub use self::{
    frame::{Aim, Flows, Frame},
    reflector::{Reflection, Reflector},
    sink::{Expected, Sink},
    source::{Sending, Source},
};
