//! The paths that packets take through the programs: which program, what it must make of the packet, and where packets come
//! from.

use anyhow::{Result, ensure};
use mesh_tests::bpf::{self, Ran};

use super::{
    frame::Frame,
    stage::{DELIVERING, ENTRY, Stage},
};

/// A program on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) struct Site {
    pub(in crate::bench) node: &'static str,
    pub(in crate::bench) program: &'static str,
}

const EMPTY_XDP: &str = "an empty XDP program";
const EMPTY_TC: &str = "an empty tc program";

impl Site {
    /// The programs of the mesh that packets are run through.
    pub(in crate::bench) const PROGRAMS: [&str; 3] = ["underlay_xdp", "underlay_tc", "endpoint_tc"];
    /// What each path is compared with.
    pub(in crate::bench) const CONTROLS: [Self; 2] =
        [Self { node: ENTRY, program: EMPTY_XDP }, Self { node: ENTRY, program: EMPTY_TC }];

    /// From the wire, before there is a socket buffer, at the node that clients enter by.
    pub(in crate::bench) const ENTRY_XDP: Self = Self { node: ENTRY, program: "underlay_xdp" };
    /// From the wire, at the node that clients enter by.
    pub(in crate::bench) const ENTRY_TC: Self = Self { node: ENTRY, program: "underlay_tc" };
    /// From a task there.
    pub(in crate::bench) const ENTRY_TASK: Self = Self { node: ENTRY, program: "endpoint_tc" };
    /// From the wire, before there is a socket buffer, at the backends' node.
    pub(in crate::bench) const DELIVERING_XDP: Self = Self { node: DELIVERING, program: "underlay_xdp" };
    /// From the wire, at the backends' node.
    pub(in crate::bench) const DELIVERING_TC: Self = Self { node: DELIVERING, program: "underlay_tc" };
    /// From a backend.
    pub(in crate::bench) const DELIVERING_TASK: Self = Self { node: DELIVERING, program: "endpoint_tc" };

    /// Which of the controls it is, if it is one.
    pub(in crate::bench) fn control(self) -> Option<usize> {
        Self::CONTROLS.iter().position(|control| control.program == self.program)
    }

    /// Which of the controls it is compared with.
    pub(in crate::bench) fn baseline(self) -> usize {
        usize::from(!self.is_xdp())
    }

    /// The empty program at the same hook of the same node, and what it makes of any packet.
    pub(in crate::bench) fn empty(self) -> (Self, Wanted) {
        let (program, wanted) =
            if self.is_xdp() { (EMPTY_XDP, Wanted::XDP_PASS) } else { (EMPTY_TC, Wanted::TC_OK) };
        (Self { program, ..self }, wanted)
    }

    /// Whether it sees packets before there is a socket buffer.
    pub(in crate::bench) fn is_xdp(self) -> bool {
        self.program.ends_with("_xdp") || self.program == EMPTY_XDP
    }

    /// What the kernel hands the program beside the packet.
    pub(in crate::bench) fn context(self, frame: &Frame) -> Vec<u8> {
        if self.is_xdp() {
            bpf::xdp_context(frame.bytes.len(), frame.interface)
        } else {
            bpf::skb_context(frame.interface, frame.interface, false)
        }
    }
}

/// What a program must make of a packet: one that is lost, or left to another program, would measure another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) struct Wanted {
    /// What the program returns.
    pub(in crate::bench) code: u32,
    /// By how many bytes the packet grows.
    pub(in crate::bench) growth: isize,
}

impl Wanted {
    /// `XDP_PASS`, as it came.
    pub(in crate::bench) const XDP_PASS: Self = Self { code: 2, growth: 0 };
    /// `TC_ACT_OK`, as it came: what an empty program makes of a packet.
    pub(in crate::bench) const TC_OK: Self = Self { code: 0, growth: 0 };
    /// `TC_ACT_UNSPEC`, as it came: others may have something to say.
    pub(in crate::bench) const TC_UNSPEC: Self = Self { code: u32::MAX, growth: 0 };
    /// `XDP_TX`.
    pub(in crate::bench) const fn xdp_tx(growth: isize) -> Self {
        Self { code: 3, growth }
    }
    /// `TC_ACT_REDIRECT`: to a task, or out by the underlay.
    pub(in crate::bench) const fn tc_redirect(growth: isize) -> Self {
        Self { code: 7, growth }
    }

    /// Whether that is what the program did.
    pub(in crate::bench) fn check(self, before: &[u8], ran: Ran) -> Result<()> {
        let growth = ran.length as isize - before.len() as isize;
        ensure!(
            (ran.code, growth) == (self.code, self.growth),
            "the program returned {} and the packet grew by {growth} bytes, instead of {} and {}",
            ran.code,
            self.code,
            self.growth
        );
        Ok(())
    }
}

/// Makes packets of flows that nobody has seen, from the so-manieth on.
pub(in crate::bench) type Newcomers = Box<dyn Fn(&Stage, u32, u32) -> Result<Vec<Frame>>>;

/// Where a path's packets come from.
pub(in crate::bench) enum Supply {
    /// One for each flow.
    Known(Vec<Frame>),
    /// Another flow each time.
    New(Newcomers),
}

/// A path.
pub(in crate::bench) struct Path {
    /// Its row in the table.
    pub(in crate::bench) name: String,
    pub(in crate::bench) site: Site,
    pub(in crate::bench) wanted: Wanted,
    pub(in crate::bench) supply: Supply,
}

impl Path {
    /// Of flows that were seen before, or of which nothing is remembered.
    pub(in crate::bench) fn known(
        name: impl Into<String>,
        site: Site,
        wanted: Wanted,
        frames: Vec<Frame>,
    ) -> Self {
        Self { name: name.into(), site, wanted, supply: Supply::Known(frames) }
    }

    /// Of flows that begin.
    pub(in crate::bench) fn new(
        name: impl Into<String>,
        site: Site,
        wanted: Wanted,
        newcomers: impl Fn(&Stage, u32, u32) -> Result<Vec<Frame>> + 'static,
    ) -> Self {
        Self { name: name.into(), site, wanted, supply: Supply::New(Box::new(newcomers)) }
    }
}
