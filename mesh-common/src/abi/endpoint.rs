//! Networks, and the endpoints of tasks on them.

use super::{Address, pod::pod};

/// The greatest VNI: it has 24 bits (RFC 7348, section 5).
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// An address on a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The endpoint's address.
    pub address: Address,
    /// Its network's VNI.
    pub vni: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where an endpoint is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// The [`NodeIndex`](super::NodeIndex) of the node it is on.
    pub node: u32,
    /// On its own node: the host side of its veth pair. Elsewhere 0.
    pub ifindex: u32,
}

/// A MAC address on a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacKey {
    /// The network's VNI.
    pub vni: u32,
    /// The MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// The endpoint that has a MAC address: how a tunnelled client packet, whose destination is still the published
/// address, names its backend, and the backend before that. Nodes stand here by their [`node_mac`](super::node_mac), on
/// the VNI 0, which no network has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Station {
    /// Its IPv4 address, or `::`.
    pub v4: Address,
    /// Its IPv6 address, or `::`.
    pub v6: Address,
    /// The [`NodeIndex`](super::NodeIndex) of the node it is on.
    pub node: u32,
    /// Flags of the module [`station_flags`].
    pub flags: u32,
}

/// Flags of a [`Station`].
pub mod station_flags {
    /// It drains: flows that its node knows go on, and it takes no other.
    pub const DRAINING: u32 = 1;
}

/// What hangs on an interface whose frames are a task's, or the node's own; keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The only IPv4 address it may send from, or `::`.
    pub v4: Address,
    /// The only global IPv6 address it may send from, or `::`.
    pub v6: Address,
    /// Its network's VNI.
    pub vni: u32,
    /// The only MAC address it may send from.
    pub mac: [u8; 6],
    /// Its network's [gateway's](Network::gateway_mac).
    pub gateway_mac: [u8; 6],
    /// Its network's [MTU](Network::mtu), in bytes.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the tasks of a network see of it; keyed by VNI.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The IPv4 gateway's address, or `::`.
    pub gateway_v4: Address,
    /// The IPv6 gateway's address, or `::`.
    pub gateway_v6: Address,
    /// The gateway's MAC address, which is also every virtual IP's.
    pub gateway_mac: [u8; 6],
    /// Flags of the module [`network_flags`].
    pub flags: u16,
    /// The longest IP packet that fits through the tunnel, in bytes.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
}

/// Flags of a [`Network`].
pub mod network_flags {
    /// No way to the world outside.
    pub const INTERNAL: u16 = 1;
}

/// What the longest-prefix table of subnets is searched by: the VNI's 32 bits, then the address's 128.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubnetKey {
    /// The network's VNI, in network byte order.
    pub vni: [u8; 4],
    /// The address, IPv4 mapped into IPv6, so that a /24 has a prefix of 32 + 96 + 24 bits.
    pub address: [u8; 16],
}

pod!(EndpointKey, Endpoint, MacKey, Station, Attachment, Network, SubnetKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<EndpointKey>(), 16 + 8);
        assert_eq!(size_of::<Endpoint>(), 8 + 8);
        assert_eq!(size_of::<MacKey>(), 4 + 8);
        assert_eq!(size_of::<Station>(), 32 + 8);
        assert_eq!(size_of::<Attachment>(), 32 + 4 + 6 + 6 + 8);
        assert_eq!(size_of::<Network>(), 32 + 8 + 8);
        assert_eq!(size_of::<SubnetKey>(), 20);
    }
}
