//! From the table and the facts of a node to everything that the node should be: pure, and the same for the
//! same input.

mod aliases;
mod earlier;
mod endpoints;
mod facts;
mod gateways;
mod links;
mod natural;
mod nodes;
mod programs;
pub mod ring;
mod rings;
mod services;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod weights;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::OrdMap;
use ipnet::IpNet;
use mesh_common::abi::{
    Address, Attachment, EndpointKey, Local, MacKey, Network, Scheduler, ServiceKey, TargetKey, Uplink,
    capacity, settings_flags,
};

pub use earlier::Earlier;
pub use facts::{GateFacts, Interface, LocalAddress, NodeFacts, NodeRoute};
pub use gateways::{GatewayLink, Resolvers, gateway_interface};
pub use links::{EndpointLink, GateLink, GateSource, Links, host_interface};
pub use programs::Hook;
pub use rings::ring_of;

use crate::{
    apply::SubnetPrefix,
    problem::Problem,
    table::{Continuity, Options, ReturnPath, Table},
};
use aliases::Aliases;
use ring::{BackendId, Ring};

/// The seed of every flow hash and of every ring. One for all clusters, until a cluster can agree on its own.
pub const SEED: u64 = 0x6d65_7368;

/// Everything that a node should be: the contents of its maps, its links and where programs hang. Nodes and
/// backends stand by their identity; [`lower`](crate::apply::lower) gives them their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What holds for this node.
    pub settings: PlannedSettings,
    /// The nodes by underlay address, this one included.
    pub nodes: BTreeMap<IpAddr, PlannedNode>,
    /// The addresses that packets come to this node for.
    pub locals: BTreeMap<Address, Local>,
    /// The interfaces to the outside world, by index.
    pub uplinks: BTreeMap<u32, Uplink>,
    /// The networks by VNI.
    pub networks: BTreeMap<u32, Network>,
    /// The networks' subnets, with how many of an address's last bits tell their hosts apart.
    pub subnets: BTreeMap<SubnetPrefix, u32>,
    /// The endpoints of all nodes.
    pub endpoints: OrdMap<EndpointKey, PlannedEndpoint>,
    /// The endpoints of all nodes by MAC address.
    pub stations: OrdMap<MacKey, PlannedStation>,
    /// What hangs on the host sides of this node's attached endpoints, by interface index.
    pub attachments: BTreeMap<u32, Attachment>,
    /// The backends of all services.
    pub backends: OrdMap<BackendId, PlannedBackend>,
    /// Virtual IPs and published ports.
    pub services: OrdMap<ServiceKey, PlannedService>,
    /// The ports at which tasks answer clients.
    pub targets: BTreeSet<TargetKey>,
    /// The links that this node should have.
    pub links: Links,
    /// Where this node's tasks ask for names.
    pub resolvers: BTreeMap<String, Resolvers>,
    /// What hangs on which interface.
    pub hooks: BTreeMap<u32, Hook>,
    /// What keeps the plan from being whole, and how to mend it.
    pub problems: Vec<Problem>,
}

/// What holds for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedSettings {
    /// The node's underlay address.
    pub address: IpAddr,
    /// The interface index of the eBPF side of the node's own veth pair; 0 while there is none.
    pub host_ifindex: u32,
    /// The MAC address of `mesh0`; zero while there is none.
    pub host_mac: [u8; 6],
    /// The UDP port of the tunnels.
    pub vxlan_port: u16,
    /// One packet in this many is traced; 0 for none.
    pub trace_every: u32,
    /// Flags of [`settings_flags`].
    pub flags: u32,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    /// Whether it is another than this one.
    pub peer: bool,
    /// The interface that the route to it leaves by; 0 while there is none.
    pub ifindex: u32,
    /// Bytes of the longest outer IP packet that the route takes.
    pub mtu: u32,
}

/// An endpoint of any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedEndpoint {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its node's underlay address.
    pub node: IpAddr,
    /// The host side of its veth pair; 0 elsewhere than on its own node, and while it is not attached.
    pub ifindex: u32,
}

/// The endpoint that has a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedStation {
    /// Its IPv4 address, or `::`.
    pub v4: Address,
    /// Its IPv6 address, or `::`.
    pub v6: Address,
    /// Its node's underlay address.
    pub node: IpAddr,
    /// Its weight is 0: it takes no new flow.
    pub draining: bool,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedBackend {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its node's underlay address.
    pub node: IpAddr,
}

/// A virtual IP or a published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    /// The name of the service that it is of.
    pub name: String,
    /// The port of the backends, or 0 to keep the one that the client used.
    pub target_port: u16,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// The clients that may ask; empty for each.
    pub sources: Vec<IpNet>,
    /// What no backend takes is lost without an answer.
    pub silent: bool,
    /// For how many seconds a client comes back to the backend that it had, or 0.
    pub persistent: u32,
    /// Each of its backends drains: it takes no new flow.
    pub draining: bool,
    /// The ring that it is chosen from.
    pub ring: Arc<Ring>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The table has no such node.
    #[error(
        "This node, {node}, is not among the nodes of the configuration. Add it under `nodes:`, or name an entry \
         with --node{}.",
        known_nodes(.known)
    )]
    UnknownNode {
        /// The name that this node goes by.
        node: String,
        /// The nodes that there are.
        known: Vec<String>,
    },
}

fn known_nodes(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) }
}

/// How many slots the kernel's table should have for the rings of these services: room for them, for those that change
/// meanwhile (a changed ring goes beside the old one), and for a good many more.
#[must_use]
pub fn slots_for(table: &Table) -> u32 {
    let wanted = services::slots(table);
    let with_headroom = wanted.saturating_add(wanted / 4).next_multiple_of(u64::from(capacity::SLOTS));
    u32::try_from(with_headroom).unwrap_or(u32::MAX).clamp(capacity::SLOTS, capacity::SLOTS_MOST)
}

/// Plans what `node` should be, given the desired state and what is true of the node at the moment. What is kept of the
/// `earlier` plan spares work where nothing has changed.
///
/// # Errors
/// When the table does not have the node.
pub fn plan(table: &Table, node: &str, facts: &NodeFacts, earlier: &mut Earlier) -> Result<Plan, PlanError> {
    let Some(this) = table.nodes.get(node) else {
        return Err(PlanError::UnknownNode {
            node: node.to_owned(),
            known: table.nodes.keys().cloned().collect(),
        });
    };
    let mut problems = Vec::new();
    let underlay = nodes::underlay(table, node, this, facts, &mut problems);
    let networks = nodes::networks(table, &underlay);
    let aliases = Aliases::of(table);
    let mut great = earlier.follow(table, node, facts, &aliases);
    let ours = earlier.ours(table);
    let gateways = gateways::gateways(table, &ours, &networks);
    gateways::add_to(&mut great.endpoints, &gateways, facts, this.address);
    let links = links::links(table, &ours, this, facts, &networks);
    let mut attachments = endpoints::attachments(table, &ours, facts, &networks);
    attachments.extend(gateways::attachments(&gateways, facts));
    Ok(Plan {
        settings: PlannedSettings {
            address: this.address,
            host_ifindex: facts.gate.map_or(0, |gate| gate.host_ifindex),
            host_mac: facts.gate.map_or([0; 6], |gate| gate.mesh0_mac),
            vxlan_port: table.options.vxlan_port,
            trace_every: 0,
            flags: flags(&table.options),
        },
        hooks: programs::hooks(table, node, facts, &underlay.uplinks, &gateways),
        nodes: underlay.nodes,
        locals: nodes::locals(table, facts, &great.services, &aliases),
        uplinks: underlay.uplinks,
        networks,
        subnets: nodes::subnets(table),
        endpoints: great.endpoints,
        stations: great.stations,
        attachments,
        backends: great.backends,
        services: great.services,
        targets: great.targets,
        resolvers: gateways::resolvers(table, &ours, &gateways),
        links: Links { gateways: gateways::links(&gateways), ..links },
        problems,
    })
}

fn flags(options: &Options) -> u32 {
    let returning = match options.r#return {
        ReturnPath::Tunnel => 0,
        ReturnPath::Direct => settings_flags::RETURN_DIRECT,
    };
    let alone = settings_flags::NO_SECOND_CHANCE;
    returning
        | match options.continuity {
            Continuity::SecondChance => 0,
            Continuity::Node => alone,
            Continuity::EntryCache => alone | settings_flags::FORGETFUL | settings_flags::ENTRY_CACHE,
            Continuity::None => alone | settings_flags::FORGETFUL,
        }
}
