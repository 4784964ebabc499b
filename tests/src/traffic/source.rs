//! The source: live frames of BPF_PROG_TEST_RUN, which leave by an interface as a card's driver would send them.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::{
    code::{Code, Instruction, Operation, Register, Size, When},
    frame::{Flows, Frame, LOWEST_PORT},
    kernel::{self, Keeping, Kind},
};
use crate::lab::Host;

const XDP_ABORTED: i32 = 0;
const XDP_TX: i32 = 3;
/// How many frames the kernel makes before it sends them, and the most that it takes at once: what a card's driver hands over
/// in one poll.
const BATCH: u32 = 64;

/// A source on an interface of a host.
#[derive(Debug)]
pub struct Source<'a> {
    host: &'a Host,
    interface: u32,
    frame: Frame,
    program: OwnedFd,
    /// How many packets it sent.
    count: OwnedFd,
}

impl<'a> Source<'a> {
    /// Makes a source of packets of so many flows.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn new(host: &'a Host, interface: &str, frame: Frame, flows: Flows) -> Result<Self> {
        let count = kernel::map(Keeping::Once, 1)?;
        let program = kernel::load(Kind::Xdp, &program(&frame, flows, count.as_raw_fd()))?;
        let index = host.namespace.inside(|| if_nametoindex(interface))?;
        let interface = index.with_context(|| format!("{} has no interface {interface}", host.name()))?;
        Ok(Self { host, interface, frame, program, count })
    }

    /// Sends so many packets, and then waits until `is_done`, which is asked again and again, for no longer than `patience`.
    /// Says how long it took until then, or until the last was sent if that is never so.
    ///
    /// # Errors
    /// If the kernel refuses, or sent another number.
    pub fn send(
        &self,
        packets: u32,
        patience: Duration,
        mut is_done: impl FnMut() -> Result<bool> + Send,
    ) -> Result<Duration> {
        let before = self.sent()?;
        let took = self.host.namespace.inside(|| -> Result<Duration> {
            let began = Instant::now();
            self.run(packets)?;
            let sent = began.elapsed();
            loop {
                if is_done()? {
                    return Ok(began.elapsed());
                }
                if began.elapsed() > sent + patience {
                    return Ok(sent);
                }
            }
        })??;
        let sent = self.sent()? - before;
        ensure!(sent == u64::from(packets), "the source sent {sent} packets, not {packets}");
        Ok(took)
    }

    fn run(&self, packets: u32) -> Result<()> {
        kernel::run_live(self.program.as_fd(), self.interface, self.frame.bytes(), packets, BATCH)
            .context("cannot send live frames, which takes Linux 5.18 or later")
    }

    /// How many packets it has sent.
    fn sent(&self) -> Result<u64> {
        let mut count = [0];
        kernel::read(self.count.as_fd(), &mut count)?;
        Ok(count[0])
    }
}

/// Counts, writes the headers anew (a frame is used again, with what others did to it), puts the flow's number in, and sends.
fn program(frame: &Frame, flows: Flows, count: i32) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R5, R6};

    let places = frame.places();
    let mut code = Code::default();
    code.load(Size::Word, R2, R1, 0);
    code.load(Size::Word, R3, R1, 4);
    code.copy(R4, R2);
    code.change(Operation::Add, R4, frame.bytes().len() as i32);
    code.leave(When::Greater, R4, R3);
    code.set_value(R5, count);
    code.load(Size::Double, R0, R5, 0);
    code.copy(R6, R0);
    code.change(Operation::Add, R6, 1);
    code.store(Size::Double, R5, 0, R6);
    if let Flows::Some(flows) = flows {
        code.change(Operation::Modulo, R0, flows.max(1) as i32);
    }
    let words = frame.bytes().as_chunks::<8>().0.iter().take(places.end / 8);
    for (offset, word) in (0..).step_by(8).zip(words) {
        code.set_wide(R3, u64::from_le_bytes(*word));
        code.store(Size::Double, R2, offset, R3);
    }
    // The lowest fifteen bits of the flow's number make its port.
    code.copy(R3, R0);
    code.change(Operation::And, R3, i32::from(LOWEST_PORT - 1));
    code.change(Operation::Or, R3, i32::from(LOWEST_PORT));
    code.swap_half(R3);
    code.store(Size::Half, R2, places.port, R3);
    code.change(Operation::ExclusiveOr, R3, 0xffff);
    code.store(Size::Half, R2, places.port_complement, R3);
    // The others make its address.
    code.change(Operation::ShiftRight, R0, 15);
    code.swap_half(R0);
    code.store(Size::Half, R2, places.address, R0);
    code.change(Operation::ExclusiveOr, R0, 0xffff);
    code.store(Size::Half, R2, places.address_complement, R0);
    if let Some(identification) = places.identification {
        code.store(Size::Half, R2, identification, R0);
    }
    code.answer(XDP_TX);
    code.arrive();
    code.answer(XDP_ABORTED);
    code.finish()
}
