//! The source: live frames of BPF_PROG_TEST_RUN, which leave by an interface as a card's driver would send them.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::{
    code::{Code, Instruction, KTIME_GET_NS, Operation, Register, Size, When},
    frame::{Flows, Frame, LOWEST_PORT},
    kernel::{self, Kind},
    sink::Sink,
};
use crate::lab::Host;

const XDP_ABORTED: i32 = 0;
const XDP_TX: i32 = 3;
/// How many frames the kernel makes before it sends them, and the most that it takes at once: what a card's driver hands over
/// in one poll.
const BATCH: u32 = 64;
/// How long a sink is given for what is late.
const PATIENCE: Duration = Duration::from_millis(100);

/// A source on an interface of a host.
#[derive(Debug)]
pub struct Source<'a> {
    host: &'a Host,
    interface: u32,
    frame: Frame,
    program: OwnedFd,
    state: OwnedFd,
}

/// What came of packets that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// How many the source sent.
    pub sent: u64,
    /// How many of them the sink counted.
    pub arrived: u64,
    /// Nanoseconds from the moment when the first was made until the last had arrived; or until the last was made, if some did
    /// not arrive. What the kernel does before and after, to have the source run at all, is not in it.
    pub nanoseconds: u64,
}

/// What a source keeps: the numbers of a map's value, in their order.
#[derive(Clone, Copy)]
enum State {
    /// How many packets it made.
    Made,
    /// The number of the packet before which the time is noted, and the time.
    First,
    FirstTime,
    /// The number of another one, and the time before it.
    Last,
    LastTime,
}

const STATE: usize = State::LastTime as usize + 1;

impl State {
    const fn offset(self) -> i16 {
        8 * self as i16
    }
}

impl<'a> Source<'a> {
    /// Makes a source of packets of so many flows.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn new(host: &'a Host, interface: &str, frame: Frame, flows: Flows) -> Result<Self> {
        let state = kernel::map(STATE as u32)?;
        let program = kernel::load(Kind::Xdp, &program(&frame, flows, state.as_raw_fd()))?;
        let index = host.namespace.inside(|| if_nametoindex(interface))?;
        let interface = index.with_context(|| format!("{} has no interface {interface}", host.name()))?;
        Ok(Self { host, interface, frame, program, state })
    }

    /// Sends so many packets, and waits a little for those that the sink has not counted yet.
    ///
    /// # Errors
    /// If the kernel refuses, or sent another number.
    pub fn send(&self, packets: u32, sink: &Sink) -> Result<Sending> {
        let wanted = u64::from(packets);
        let before = sink.expect_more(wanted)?;
        let mut state = self.state()?;
        let made = state[State::Made as usize];
        state[State::First as usize] = made;
        state[State::Last as usize] = (made + wanted).saturating_sub(1);
        kernel::write(self.state.as_fd(), &state)?;
        let run = self.host.namespace.inside(|| {
            kernel::run_live(self.program.as_fd(), self.interface, self.frame.bytes(), packets, BATCH)
        })?;
        run.context("cannot send live frames, which takes Linux 5.18 or later")?;
        let sent = Instant::now();
        while sink.count()? - before < wanted && sent.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        let state = self.state()?;
        let sent = state[State::Made as usize] - made;
        ensure!(sent == wanted, "the source sent {sent} packets, not {wanted}");
        let arrived = sink.count()? - before;
        let end = sink.reached()?.unwrap_or(state[State::LastTime as usize]);
        let nanoseconds = end.saturating_sub(state[State::FirstTime as usize]);
        Ok(Sending { sent, arrived, nanoseconds })
    }

    fn state(&self) -> Result<[u64; STATE]> {
        let mut state = [0; STATE];
        kernel::read(self.state.as_fd(), &mut state)?;
        Ok(state)
    }
}

/// Counts, writes the headers anew (a frame is used again, with what others did to it), puts the flow's number in, and sends.
fn program(frame: &Frame, flows: Flows, state: i32) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R6, R7, R8};

    let places = frame.places();
    let mut code = Code::default();
    code.copy(R6, R1);
    code.set_value(R7, state);
    code.load(Size::Double, R8, R7, State::Made.offset());
    code.copy(R1, R8);
    code.change(Operation::Add, R1, 1);
    code.store(Size::Double, R7, State::Made.offset(), R1);
    for (number, time) in [(State::First, State::FirstTime), (State::Last, State::LastTime)] {
        code.load(Size::Double, R1, R7, number.offset());
        code.leave(When::NotEqual, R8, R1);
        code.call(KTIME_GET_NS);
        code.store(Size::Double, R7, time.offset(), R0);
        code.arrive();
    }
    code.load(Size::Word, R2, R6, 0);
    code.load(Size::Word, R3, R6, 4);
    code.copy(R1, R2);
    code.change(Operation::Add, R1, frame.bytes().len() as i32);
    code.leave(When::Greater, R1, R3);
    if let Flows::Some(flows) = flows {
        code.change(Operation::Modulo, R8, flows.max(1) as i32);
    }
    let words = frame.bytes().as_chunks::<8>().0.iter().take(places.end / 8);
    for (offset, word) in (0..).step_by(8).zip(words) {
        code.set_wide(R3, u64::from_le_bytes(*word));
        code.store(Size::Double, R2, offset, R3);
    }
    // The lowest fifteen bits of the flow's number make its port.
    code.copy(R3, R8);
    code.change(Operation::And, R3, i32::from(LOWEST_PORT - 1));
    code.change(Operation::Or, R3, i32::from(LOWEST_PORT));
    code.swap_half(R3);
    code.store(Size::Half, R2, places.port, R3);
    code.change(Operation::ExclusiveOr, R3, 0xffff);
    code.store(Size::Half, R2, places.port_complement, R3);
    // The others make its address.
    code.change(Operation::ShiftRight, R8, 15);
    code.swap_half(R8);
    code.store(Size::Half, R2, places.address, R8);
    code.change(Operation::ExclusiveOr, R8, 0xffff);
    code.store(Size::Half, R2, places.address_complement, R8);
    if let Some(identification) = places.identification {
        code.store(Size::Half, R2, identification, R8);
    }
    code.answer(XDP_TX);
    code.arrive();
    code.answer(XDP_ABORTED);
    code.finish()
}
