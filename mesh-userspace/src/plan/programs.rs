//! Where each program hangs.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::abi::Uplink;

use super::NodeFacts;
use crate::table::{Table, XdpMode};

/// A program of the eBPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// tc ingress on the host side of a task's veth pair.
    Endpoint,
    /// tc ingress on the eBPF side of the node's own veth pair.
    Host,
    /// tc ingress on an interface to the outside world.
    Underlay,
    /// XDP on such an interface.
    UnderlayXdp(XdpHook),
}

/// How the XDP program is attached: [`XdpMode`] without its `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpHook {
    /// By the driver where it can; it is no fault where it cannot.
    Auto,
    /// By the driver.
    Native,
    /// By the kernel's generic hook.
    Generic,
}

/// A program and the interface that it hangs on. The socket programs are not listed: they always hang on the
/// root of the cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// The interface's index.
    pub ifindex: u32,
    /// The program.
    pub program: Program,
}

pub(super) fn hooks(
    table: &Table,
    node: &str,
    facts: &NodeFacts,
    uplinks: &BTreeMap<u32, Uplink>,
) -> BTreeSet<Hook> {
    let xdp = match table.options.xdp {
        XdpMode::Auto => Some(XdpHook::Auto),
        XdpMode::Native => Some(XdpHook::Native),
        XdpMode::Generic => Some(XdpHook::Generic),
        XdpMode::Off => None,
    };
    let on_uplink = |ifindex: u32| {
        let tc = Hook { ifindex, program: Program::Underlay };
        let xdp = xdp.map(|mode| Hook { ifindex, program: Program::UnderlayXdp(mode) });
        std::iter::once(tc).chain(xdp)
    };
    let ours = |name: &str| table.endpoints.get(name).is_some_and(|endpoint| endpoint.node == node);
    let endpoints = facts.attached.iter().filter(|(name, _)| ours(name));
    let endpoints = endpoints.map(|(_, ifindex)| Hook { ifindex: *ifindex, program: Program::Endpoint });
    let host = facts.gate.map(|gate| Hook { ifindex: gate.host_ifindex, program: Program::Host });
    uplinks.keys().copied().flat_map(on_uplink).chain(endpoints).chain(host).collect()
}
