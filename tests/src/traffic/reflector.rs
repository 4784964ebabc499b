//! The least that a program can do to hand a packet on: it leaves untouched, by the interface it came by or by another.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use super::{
    code::{Code, Instruction, REDIRECT, Register},
    kernel::{self, Kind},
    sink::attach,
};
use crate::lab::Host;

const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflection<'a> {
    /// On to the kernel.
    Pass,
    /// Out by the interface they came by (`XDP_TX`).
    Back,
    /// Out by another interface of the same host (`XDP_REDIRECT`).
    To(&'a str),
}

/// An XDP program on an interface, which hands each packet on as long as this lives.
#[derive(Debug)]
pub struct Reflector {
    _link: OwnedFd,
}

impl Reflector {
    /// Hangs it on an interface.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn new(host: &Host, interface: &str, reflection: Reflection<'_>) -> Result<Self> {
        let program = match reflection {
            Reflection::Pass => constant(XDP_PASS),
            Reflection::Back => constant(XDP_TX),
            Reflection::To(other) => {
                let index = host.namespace.inside(|| if_nametoindex(other))?;
                redirection(index.with_context(|| format!("{} has no interface {other}", host.name()))?)
            }
        };
        let program = kernel::load(Kind::Xdp, &program)?;
        Ok(Self { _link: attach(host, interface, &program)? })
    }
}

fn constant(answer: i32) -> Vec<Instruction> {
    let mut code = Code::default();
    code.answer(answer);
    code.finish()
}

fn redirection(interface: u32) -> Vec<Instruction> {
    let mut code = Code::default();
    code.set(Register::R1, interface.cast_signed());
    code.set(Register::R2, 0);
    code.call(REDIRECT);
    code.exit();
    code.finish()
}
