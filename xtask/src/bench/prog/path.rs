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
pub(super) struct Site {
    pub(super) node: &'static str,
    pub(super) program: &'static str,
}

const EMPTY_XDP: &str = "an empty XDP program";
const EMPTY_TC: &str = "an empty tc program";

impl Site {
    /// The programs of the mesh that packets are run through.
    pub(super) const PROGRAMS: [&str; 3] = ["underlay_xdp", "underlay_tc", "endpoint_tc"];
    /// What each path is compared with.
    pub(super) const CONTROLS: [Self; 2] =
        [Self { node: ENTRY, program: EMPTY_XDP }, Self { node: ENTRY, program: EMPTY_TC }];

    /// From the wire, before there is a socket buffer, at the node that clients enter by.
    pub(super) const ENTRY_XDP: Self = Self { node: ENTRY, program: "underlay_xdp" };
    /// From the wire, at the node that clients enter by.
    pub(super) const ENTRY_TC: Self = Self { node: ENTRY, program: "underlay_tc" };
    /// From a task there.
    pub(super) const ENTRY_TASK: Self = Self { node: ENTRY, program: "endpoint_tc" };
    /// From the wire, before there is a socket buffer, at the backends' node.
    pub(super) const DELIVERING_XDP: Self = Self { node: DELIVERING, program: "underlay_xdp" };
    /// From the wire, at the backends' node.
    pub(super) const DELIVERING_TC: Self = Self { node: DELIVERING, program: "underlay_tc" };
    /// From a backend.
    pub(super) const DELIVERING_TASK: Self = Self { node: DELIVERING, program: "endpoint_tc" };

    /// Which of the controls it is, if it is one.
    pub(super) fn control(self) -> Option<usize> {
        Self::CONTROLS.iter().position(|control| *control == self)
    }

    /// Which of the controls it is compared with.
    pub(super) fn baseline(self) -> usize {
        usize::from(!self.is_xdp())
    }

    /// Whether it sees packets before there is a socket buffer.
    pub(super) fn is_xdp(self) -> bool {
        self.program.ends_with("_xdp") || self.program == EMPTY_XDP
    }

    /// What the kernel hands the program beside the packet.
    pub(super) fn context(self, frame: &Frame) -> Vec<u8> {
        if self.is_xdp() {
            bpf::xdp_context(frame.bytes.len(), frame.interface)
        } else {
            bpf::skb_context(frame.interface, frame.interface, false)
        }
    }
}

/// What a program must make of a packet: one that is lost, or left to another program, would measure another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What the program returns.
    pub(super) code: u32,
    /// By how many bytes the packet grows.
    pub(super) growth: isize,
}

impl Wanted {
    /// `XDP_PASS`, as it came.
    pub(super) const XDP_PASS: Self = Self { code: 2, growth: 0 };
    /// `TC_ACT_UNSPEC`, as it came: others may have something to say.
    pub(super) const TC_UNSPEC: Self = Self { code: u32::MAX, growth: 0 };
    /// `XDP_TX`.
    pub(super) const fn xdp_tx(growth: isize) -> Self {
        Self { code: 3, growth }
    }
    /// `TC_ACT_REDIRECT`: to a task, or out by the underlay.
    pub(super) const fn tc_redirect(growth: isize) -> Self {
        Self { code: 7, growth }
    }

    /// Whether that is what the program did.
    pub(super) fn check(self, before: &[u8], ran: Ran) -> Result<()> {
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
pub(super) type Newcomers = Box<dyn Fn(&Stage, u32, u32) -> Result<Vec<Frame>>>;

/// Where a path's packets come from.
pub(super) enum Supply {
    /// One for each flow.
    Known(Vec<Frame>),
    /// Another flow each time.
    New(Newcomers),
}

/// A path.
pub(super) struct Path {
    /// Its row in the table.
    pub(super) name: String,
    pub(super) site: Site,
    pub(super) wanted: Wanted,
    pub(super) supply: Supply,
}

impl Path {
    /// Of flows that were seen before, or of which nothing is remembered.
    pub(super) fn known(name: impl Into<String>, site: Site, wanted: Wanted, frames: Vec<Frame>) -> Self {
        Self { name: name.into(), site, wanted, supply: Supply::Known(frames) }
    }

    /// Of flows that begin.
    pub(super) fn new(
        name: impl Into<String>,
        site: Site,
        wanted: Wanted,
        newcomers: impl Fn(&Stage, u32, u32) -> Result<Vec<Frame>> + 'static,
    ) -> Self {
        Self { name: name.into(), site, wanted, supply: Supply::New(Box::new(newcomers)) }
    }
}
