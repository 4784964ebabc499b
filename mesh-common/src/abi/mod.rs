//! The keys and values of the kernel maps: what the agent writes and the programs read.
//!
//! Every type is `repr(C)` without implicit padding, so its bytes may be a map's key. Ports and MAC addresses
//! are in network byte order, as byte arrays; all other integers are in the machine's order.

mod address;
mod endpoint;
mod flow;
mod node;
mod pod;
mod service;
mod settings;

pub use address::{Address, Family};
pub use endpoint::{
    Attachment, Endpoint, EndpointKey, LocalMac, MacKey, Network, SubnetKey, VNI_MAX, network_flags,
};
pub use flow::{Flow, FlowKey, Space, flow_flags};
pub use node::{Node, NodeIndex, Uplink};
pub use pod::Pod;
pub use service::{Backend, BackendIndex, Scheduler, Service, ServiceKey, Slot};
pub use settings::{HOST_ALIAS_V4, HOST_ALIAS_V6, MASQUERADE_PORTS, Settings, settings_flags};

/// Changes whenever the layout or the meaning of a map changes, so that an agent never takes over maps of
/// another layout.
pub const LAYOUT_VERSION: u32 = 1;
