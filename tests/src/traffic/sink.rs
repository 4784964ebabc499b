//! The sink: it takes every packet that comes to an interface, and counts those of a source.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
};

use super::{
    code::{Code, Instruction, KTIME_GET_NS, Operation, Register, Size, When},
    frame::MARK,
    kernel::{self, Kind},
};
use crate::lab::{Host, Namespace};

const XDP_DROP: i32 = 1;
const TC_ACT_SHOT: i32 = 2;

/// What the packets of a source look like when they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the frame, from the destination's MAC address on.
    pub length: usize,
    /// Whether the outer header is of IPv4.
    pub is_v4: bool,
    /// What the outer header says of what follows: 17 for UDP, 4 and 41 for IP.
    pub protocol: u8,
}

/// A sink on an interface; without it, packets pass again.
#[derive(Debug)]
pub struct Sink {
    state: OwnedFd,
    _hold: Hold,
}

/// What a sink keeps: the numbers of a map's value, in their order.
#[derive(Clone, Copy)]
enum State {
    /// How many packets of a source came, as expected.
    Count,
    /// The count at which the time is noted, and the time.
    Goal,
    Reached,
}

const STATE: usize = State::Reached as usize + 1;

impl State {
    const fn offset(self) -> i16 {
        8 * self as i16
    }
}

/// What keeps a program where it hangs.
#[derive(Debug)]
enum Hold {
    Xdp { _link: OwnedFd },
    Tc { _classifier: Classifier },
}

impl Sink {
    /// Takes packets where the driver hands them over, before the kernel makes buffers of them.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn at_xdp(host: &Host, interface: &str, expected: Expected) -> Result<Self> {
        let (state, program) = load(Kind::Xdp, expected)?;
        let link = attach(host, interface, &program)?;
        Ok(Self { state, _hold: Hold::Xdp { _link: link } })
    }

    /// Takes packets at the first hook where they are kernel buffers (tc ingress).
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn at_tc(host: &Host, interface: &str, expected: Expected) -> Result<Self> {
        let (state, program) = load(Kind::Tc, expected)?;
        let classifier = Classifier::attach(host, interface, &program)?;
        Ok(Self { state, _hold: Hold::Tc { _classifier: classifier } })
    }

    /// How many packets of a source came so far that looked as expected.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn count(&self) -> Result<u64> {
        Ok(self.numbers()?[State::Count as usize])
    }

    /// Notes the time when so many more have come, and tells how many came before.
    pub(super) fn expect_more(&self, packets: u64) -> Result<u64> {
        let count = self.count()?;
        kernel::write(self.state.as_fd(), &[count, count + packets, 0])?;
        Ok(count)
    }

    /// The time when as many had come as were expected, in nanoseconds since the machine started.
    pub(super) fn reached(&self) -> Result<Option<u64>> {
        Ok(Some(self.numbers()?[State::Reached as usize]).filter(|time| *time != 0))
    }

    fn numbers(&self) -> Result<[u64; STATE]> {
        let mut numbers = [0; STATE];
        kernel::read(self.state.as_fd(), &mut numbers)?;
        Ok(numbers)
    }
}

/// Hangs an XDP program on an interface of a host.
pub(super) fn attach(host: &Host, interface: &str, program: &OwnedFd) -> Result<OwnedFd> {
    let link = host.namespace.inside(|| {
        let index = if_nametoindex(interface)?;
        kernel::attach_xdp(program.as_fd(), index)
    })?;
    link.with_context(|| format!("no program can hang on {interface} of {}", host.name()))
}

fn load(kind: Kind, expected: Expected) -> Result<(OwnedFd, OwnedFd)> {
    let state = kernel::map(STATE as u32)?;
    let program = kernel::load(kind, &program(kind, expected, state.as_raw_fd()))?;
    Ok((state, program))
}

/// Counts what is of the expected length and kind and ends with the mark; drops all.
fn program(kind: Kind, expected: Expected, state: i32) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R6};

    // Where the context has the packet's beginning and end.
    let ((data, data_end), answer) = match kind {
        Kind::Xdp => ((0, 4), XDP_DROP),
        Kind::Tc => ((76, 80), TC_ACT_SHOT),
    };
    let mut code = Code::default();
    code.load(Size::Word, R2, R1, data);
    code.load(Size::Word, R3, R1, data_end);
    code.copy(R4, R2);
    code.change(Operation::Add, R4, expected.length as i32);
    code.leave(When::Greater, R4, R3);
    code.leave(When::Greater, R3, R4);
    code.load(Size::Byte, R3, R2, if expected.is_v4 { 23 } else { 20 });
    code.leave_if(When::NotEqual, R3, i32::from(expected.protocol));
    code.load(Size::Double, R3, R2, expected.length as i16 - 8);
    code.set_wide(R4, MARK);
    code.leave(When::NotEqual, R3, R4);
    // Packets may come by several processors at once.
    code.set_value(R6, state);
    code.set(R1, 1);
    code.fetch_add(R6, State::Count.offset(), R1);
    code.change(Operation::Add, R1, 1);
    code.load(Size::Double, R2, R6, State::Goal.offset());
    code.leave(When::NotEqual, R1, R2);
    code.call(KTIME_GET_NS);
    code.store(Size::Double, R6, State::Reached.offset(), R0);
    code.arrive();
    code.answer(answer);
    code.finish()
}

/// A classifier of tc, by which a program hangs on an interface also where the kernel has no tcx.
#[derive(Debug)]
struct Classifier {
    namespace: Namespace,
    interface: String,
    directory: PathBuf,
}

impl Classifier {
    fn attach(host: &Host, interface: &str, program: &OwnedFd) -> Result<Self> {
        let directory = host.directory().join("sink");
        let pinned = Mounted::new(&directory)?;
        let path = directory.join("sink");
        kernel::pin(program.as_fd(), &path)?;
        let namespace = &host.namespace;
        namespace.exec(&format!("tc qdisc replace dev {interface} clsact"))?;
        let namespace_again = Namespace::open(namespace.name())?;
        let classifier = Self {
            namespace: namespace_again,
            interface: interface.to_owned(),
            directory: directory.clone(),
        };
        let path = path.display();
        namespace
            .exec(&format!("tc filter add dev {interface} ingress bpf direct-action object-pinned {path}"))?;
        drop(pinned);
        Ok(classifier)
    }
}

impl Drop for Classifier {
    fn drop(&mut self) {
        // The lab's end takes away what stays now.
        let _ = self.namespace.exec(&format!("tc qdisc delete dev {} clsact", self.interface));
        let _ = fs::remove_dir(&self.directory);
    }
}

/// A bpffs for as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(directory: &'a Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // The lab's end takes away what stays now.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}
