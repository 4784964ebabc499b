//! Where each program hangs.

use std::collections::BTreeMap;

use mesh_common::abi::Uplink;

use super::{
    NodeFacts,
    gateways::{self, Gateway},
};
use crate::table::{Table, XdpMode};

/// What hangs on an interface. The socket programs are not listed: they always hang on the root of the control
/// groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `endpoint_tc`, on the host side of a task's veth pair.
    Endpoint,
    /// `host_tc`, on the eBPF side of the node's own veth pair.
    Host,
    /// `underlay_tc`, and `underlay_xdp` in this way, on an interface to the outside world.
    Underlay(XdpMode),
}

pub(super) fn hooks(
    table: &Table,
    node: &str,
    facts: &NodeFacts,
    uplinks: &BTreeMap<u32, Uplink>,
    gateways: &[Gateway<'_>],
) -> BTreeMap<u32, Hook> {
    let ours = |name: &str| table.endpoints.get(name).is_some_and(|endpoint| endpoint.node == node);
    let underlay = uplinks.keys().map(|ifindex| (*ifindex, Hook::Underlay(xdp_mode(table, facts, *ifindex))));
    let endpoints = facts.attached.iter().filter(|(name, _)| ours(name));
    let endpoints = endpoints.map(|(_, ifindex)| (*ifindex, Hook::Endpoint));
    let gateways = gateways::attachments(gateways, facts).map(|(ifindex, _)| (ifindex, Hook::Endpoint));
    let host = facts.gate.map(|gate| (gate.host_ifindex, Hook::Host));
    underlay.chain(endpoints).chain(gateways).chain(host).collect()
}

/// The way to attach XDP to an interface. What XDP sends back out of a veth device (`XDP_TX`) arrives only if its peer runs an
/// XDP program in the driver; of what is redirected to one, also if the peer aggregates (GRO). The peer lies in another
/// namespace where nothing can be known of it; so XDP on veth is for those who ask for it by name (docs/decisions/0003).
fn xdp_mode(table: &Table, facts: &NodeFacts, ifindex: u32) -> XdpMode {
    match (table.options.xdp, facts.interface(ifindex)) {
        (XdpMode::Auto, Some(interface)) if interface.kind == "veth" => XdpMode::Off,
        (mode, _) => mode,
    }
}
