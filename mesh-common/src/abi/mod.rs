//! The keys and values of the kernel maps: what the agent writes and the programs read.
//!
//! Every type is `repr(C)` without implicit padding, so its bytes may be a map's key. Ports and MAC addresses
//! are in network byte order, as byte arrays; all other integers are in the machine's order.

mod address;
mod allowance;
mod arrival;
mod endpoint;
mod fast;
mod flow;
mod fragment;
pub mod layout;
mod node;
mod observe;
#[cfg(any(feature = "other-layout", feature = "other-layout-before"))]
mod other_flow;
pub(crate) mod pod;
mod ports;
mod service;
mod settings;
mod socket;

pub use address::{Address, Family};
pub use allowance::Allowance;
pub use arrival::Arrival;
pub use endpoint::{
    Attachment, Endpoint, EndpointKey, MacKey, Network, Station, SubnetKey, VNI_MAX, network_flags,
    station_flags,
};
pub use fast::{Exit, FastService, OuterHeader};
#[cfg(not(feature = "other-layout"))]
pub use flow::Flow;
pub use flow::{FlowKey, ForwardingAddress, Space, UDP_IDLE, flow_flags};
pub use fragment::{FRAGMENTS_LIFETIME, FragmentKey, Fragments, Handover, Held};
pub use node::{Local, Node, NodeIndex, Uplink, local_flags, node_mac};
pub use observe::{Counter, Hook, Outcome, Shortage, TRACE_BYTES, Trace};
#[cfg(feature = "other-layout")]
pub use other_flow::OtherFlow as Flow;
pub use pod::Pod;
pub use ports::{PORT_WORDS, port_bit};
pub use service::{
    AllowedKey, Backend, BackendIndex, Scheduler, Service, ServiceKey, Slot, TargetKey, service_flags,
};
pub(crate) use service::{VNI_PRESENT, inside_tunnel};
pub use settings::{
    HOST_ALIAS_V4, HOST_ALIAS_V6, HOST_ALIASES, HOST_ALIASES_V4, HOST_ALIASES_V6, MASQUERADE_PORTS, Settings,
    host_alias, settings_flags,
};
pub use socket::{Dialled, DialledKey};

/// The entries of each kernel map.
pub mod capacity {
    /// Services' keys: virtual IPs and published ports.
    pub const SERVICES: u32 = 1 << 16;
    /// Published ports by each address that they answer at, for the fast path: a power of two, with room enough that few find
    /// the entries taken which they may stand in.
    pub const FAST_SERVICES: u32 = 1 << 17;
    /// Ways by which answers left, on each processor: a power of two.
    pub const EXITS: u32 = 1 << 10;
    /// Ports of the networks' tasks that answer clients.
    pub const TARGETS: u32 = 1 << 16;
    /// Slots of all rings, eight bytes each: as many as the object itself asks for. The agent makes the map as great as
    /// its services need.
    pub const SLOTS: u32 = 1 << 18;
    /// The most slots that the agent makes room for.
    pub const SLOTS_MOST: u32 = 1 << 25;
    /// Backends. Slots have 21 bits for each.
    pub const BACKENDS: u32 = 1 << 17;
    /// Endpoints of all nodes, by address; and by MAC address as many.
    pub const ENDPOINTS: u32 = 1 << 17;
    /// Endpoints of this node.
    pub const LOCAL_ENDPOINTS: u32 = 1 << 12;
    /// Networks.
    pub const NETWORKS: u32 = 1 << 12;
    /// Subnets of all networks.
    pub const SUBNETS: u32 = 1 << 13;
    /// Nodes.
    pub const NODES: u32 = if cfg!(feature = "other-layout") { 1 << 11 } else { 1 << 10 };
    /// Ranges of clients that may ask for services which not everybody may.
    pub const ALLOWED: u32 = 1 << 16;
    /// Addresses of this node.
    pub const LOCALS: u32 = 1 << 12;
    /// Interfaces of this node that lead outside.
    pub const UPLINKS: u32 = 1 << 8;
    /// Directions of flows.
    pub const FLOWS: u32 = if cfg!(feature = "other-layout") { 1 << 17 } else { 1 << 18 };
    /// Flows that have not proved themselves: with both directions of each, they take a quarter of the flows' table at most.
    pub const NEW_FLOWS: u32 = 1 << 15;
    /// Datagrams in fragments.
    pub const FRAGMENTS: u32 = 1 << 14;
    /// Fragments that wait for their first, two kilobytes for each.
    pub const HELD: u32 = 1 << 10;
    /// Sockets of this node that speak to published ports.
    pub const DIALLED: u32 = 1 << 14;
    /// Bytes of the ring of traces.
    pub const TRACES: u32 = 1 << 18;
}
