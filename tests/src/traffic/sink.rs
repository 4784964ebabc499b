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
    code::{Code, Instruction, MAP_LOOKUP_ELEM, Operation, Register, Size, When},
    frame::MARK,
    kernel::{self, Keeping, Kind},
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

/// What came to a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// All packets.
    pub all: u64,
    /// Those of the source that look as they should.
    pub expected: u64,
}

/// A sink on an interface; without it, packets pass again.
#[derive(Debug)]
pub struct Sink {
    counts: OwnedFd,
    processors: usize,
    _hold: Hold,
}

/// What keeps a program where it hangs.
#[derive(Debug)]
enum Hold {
    Xdp { _link: OwnedFd },
    Tc(Classifier),
}

impl Sink {
    /// Takes packets where the driver hands them over, before the kernel makes buffers of them.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn at_xdp(host: &Host, interface: &str, expected: Expected) -> Result<Self> {
        let (counts, program) = load(Kind::Xdp, expected)?;
        let link = attach(host, interface, &program)?;
        Ok(Self { counts, processors: processors()?, _hold: Hold::Xdp { _link: link } })
    }

    /// Takes packets at the first hook where they are kernel buffers (tc ingress).
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub fn at_tc(host: &Host, interface: &str, expected: Expected) -> Result<Self> {
        let (counts, program) = load(Kind::Tc, expected)?;
        let classifier = Classifier::attach(host, interface, &program)?;
        Ok(Self { counts, processors: processors()?, _hold: Hold::Tc(classifier) })
    }

    /// What came so far.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arrivals(&self) -> Result<Arrivals> {
        let mut values = vec![0; 2 * self.processors];
        kernel::read(self.counts.as_fd(), &mut values)?;
        let pairs = values.as_chunks::<2>().0.iter();
        Ok(pairs.fold(Arrivals::default(), |sum, [all, expected]| Arrivals {
            all: sum.all + all,
            expected: sum.expected + expected,
        }))
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

fn processors() -> Result<usize> {
    aya::util::nr_cpus()
        .map_err(|(file, error)| anyhow::anyhow!("cannot count the processors by {file}: {error}"))
}

fn load(kind: Kind, expected: Expected) -> Result<(OwnedFd, OwnedFd)> {
    let counts = kernel::map(Keeping::PerProcessor, 2)?;
    let program = kernel::load(kind, &program(kind, expected, counts.as_raw_fd()))?;
    Ok((counts, program))
}

/// Counts each packet, and once more what is of the expected length and kind and ends with the mark; drops all.
fn program(kind: Kind, expected: Expected, counts: i32) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R6, R7, R10};

    // Where the context has the packet's beginning and end.
    let ((data, data_end), answer) = match kind {
        Kind::Xdp => ((0, 4), XDP_DROP),
        Kind::Tc => ((76, 80), TC_ACT_SHOT),
    };
    let mut code = Code::default();
    code.load(Size::Word, R6, R1, data);
    code.load(Size::Word, R7, R1, data_end);
    code.store_value(Size::Word, R10, -4, 0);
    code.set_map(R1, counts);
    code.copy(R2, R10);
    code.change(Operation::Add, R2, -4);
    code.call(MAP_LOOKUP_ELEM);
    code.leave_if(When::Equal, R0, 0);
    count(&mut code, 0);
    code.copy(R2, R6);
    code.change(Operation::Add, R2, expected.length as i32);
    code.leave(When::Greater, R2, R7);
    code.leave(When::Greater, R7, R2);
    code.load(Size::Byte, R3, R6, if expected.is_v4 { 23 } else { 20 });
    code.leave_if(When::NotEqual, R3, i32::from(expected.protocol));
    code.load(Size::Double, R3, R6, expected.length as i16 - 8);
    code.set_wide(R4, MARK);
    code.leave(When::NotEqual, R3, R4);
    count(&mut code, 8);
    code.arrive();
    code.answer(answer);
    return code.finish();

    /// Adds one to a number behind `R0`, which is this processor's own.
    fn count(code: &mut Code, offset: i16) {
        code.load(Size::Double, R1, R0, offset);
        code.change(Operation::Add, R1, 1);
        code.store(Size::Double, R0, offset, R1);
    }
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
