//! Flows: what was decided for a connection, kept where both of its directions pass.

// The flow as this version lays it out, whichever type that is: see `layout`.
use super::{Address, Flow as Laid, VNI_MAX, pod::pod};

/// Whose conversations a flow key belongs to: the upper eight bits of its scope.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Packets on a network, as its endpoints see them.
    Network = 0,
    /// Clients' packets to published ports on the node that delivers them, with the backend's VNI.
    Published = 1,
    /// Clients' packets to published ports on the node that they enter by.
    Entry = 2,
    /// Answers from the outside world to masqueraded tasks.
    Outside = 3,
    /// Clients' packets to published ports that live on another node than the ring says, with the backend's VNI: a
    /// [`ForwardingAddress`] that was left here.
    Moved = 4,
    /// Clients of a service with persistence on the node of the backend that they come back to, without the client's port
    /// and with the backend's VNI.
    Session = 5,
}

/// One direction of a conversation, as its packets look before they are translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The packet's source.
    pub source: Address,
    /// The packet's destination.
    pub destination: Address,
    /// The source port, or the identifier of an ICMP echo request.
    pub source_port: [u8; 2],
    /// The destination port, or the identifier of an ICMP echo reply.
    pub destination_port: [u8; 2],
    /// A [`Space`] in the upper eight bits, a VNI (or 0) below.
    pub scope: u32,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl FlowKey {
    /// A scope from its two parts.
    #[inline(always)]
    #[must_use]
    pub const fn scope(space: Space, vni: u32) -> u32 {
        (space as u32) << 24 | vni
    }
}

/// What becomes of a flow's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The source that its packets leave with.
    pub source: Address,
    /// The destination that its packets leave with.
    pub destination: Address,
    /// The source port that its packets leave with.
    pub source_port: [u8; 2],
    /// The destination port that its packets leave with.
    pub destination_port: [u8; 2],
    /// The backend that was chosen, or 0: entry 0 of the table of backends is never used.
    pub backend: u32,
    /// Where a reply leaves the mesh: the [`NodeIndex`](super::NodeIndex) of the entry node, or 0.
    pub node: u32,
    /// Flags of the module [`flow_flags`].
    pub flags: u32,
    /// When a packet last passed, in seconds of the kernel's monotonic clock.
    pub seen: u64,
    /// The service's number, or 0.
    pub service: u32,
    /// For answers from outside, the network that they go to; for a session, the seconds that it lasts. For a client's packets
    /// on the node that delivers them, the interface of their task, by which the short way finds it: 0 if they must go
    /// the longer one. Otherwise 0.
    pub vni: u32,
}

impl Laid {
    /// The key of the other direction of the flow with this key; none for what an entry node remembers, which sees one
    /// direction alone.
    #[inline(always)]
    #[must_use]
    pub fn back_key(&self, key: &FlowKey) -> Option<FlowKey> {
        self.back_scope(key).map(|scope| self.back_key_in(scope, key.protocol))
    }

    /// The scope of the other direction of the flow with this key; none likewise.
    #[inline(always)]
    #[must_use]
    pub const fn back_scope(&self, key: &FlowKey) -> Option<u32> {
        let (space, vni) = (key.scope >> 24, key.scope & VNI_MAX);
        Some(if space == Space::Published as u32 {
            FlowKey::scope(Space::Network, vni)
        } else if space == Space::Outside as u32 {
            FlowKey::scope(Space::Network, self.vni)
        } else if space != Space::Network as u32 {
            return None;
        } else if self.flags & flow_flags::ROUTE != 0 {
            FlowKey::scope(Space::Outside, 0)
        } else if self.flags & flow_flags::REPLY != 0 && self.node != 0 {
            FlowKey::scope(Space::Published, vni)
        } else {
            FlowKey::scope(Space::Network, vni)
        })
    }

    /// The key of the other direction, given its scope: its packets look as this one's become, turned round.
    #[inline(always)]
    #[must_use]
    pub const fn back_key_in(&self, scope: u32, protocol: u8) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            scope,
            protocol,
            reserved: [0; 7],
        }
    }
}

/// Flags of a [`Flow`].
pub mod flow_flags {
    /// This is the direction of the answers.
    pub const REPLY: u32 = 1;
    /// The packet leaves for the outside world, by the node's routes.
    pub const ROUTE: u32 = 2;
    /// A FIN has passed in this direction.
    pub const FIN: u32 = 4;
    /// A RST has passed in this direction.
    pub const RST: u32 = 8;
    /// Nothing proves yet that there is somebody at the other end: the flow gives way when too many such wait.
    pub const NEW: u32 = 16;
    /// An answer has passed, in this direction of the answers.
    pub const ANSWERED: u32 = 32;
}

/// For how long a UDP flow is one after its last packet, in seconds: what RFC 4787 (section 4.3, REQ-5) asks of a NAT
/// at least.
pub const UDP_IDLE: u64 = 120;

/// What one node tells another by a tunnel of its network: a flow lives with a backend of mine, although it is yours that
/// the ring names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ForwardingAddress {
    /// The client's address.
    pub client: Address,
    /// The published address.
    pub published: Address,
    /// The backend's address in its network.
    pub backend: Address,
    /// The client's port.
    pub client_port: [u8; 2],
    /// The published port.
    pub port: [u8; 2],
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl ForwardingAddress {
    /// The EtherType of the frame that it travels in: one that IEEE 802 leaves to local use.
    pub const ETHER_TYPE: u16 = 0x88b5;
}

pod!(FlowKey, Flow, ForwardingAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<FlowKey>(), 32 + 4 + 4 + 8);
        assert_eq!(size_of::<Flow>(), 32 + 4 + 12 + 8 + 8);
        assert_eq!(size_of::<ForwardingAddress>(), 3 * 16 + 8);
    }

    #[test]
    fn the_other_direction_is_found_in_each_space() {
        let address = |last| Address::from_v4([10, 0, 9, last]);
        let key = |space, vni| FlowKey { scope: FlowKey::scope(space, vni), ..FlowKey::default() };
        let flow = Flow { source: address(1), destination: address(2), ..Flow::default() };
        let scope = |key: FlowKey, flow: Flow| flow.back_key(&key).map(|key| key.scope);
        let network = FlowKey::scope(Space::Network, 7);
        assert_eq!(scope(key(Space::Published, 7), Flow { node: 2, ..flow }), Some(network));
        let reply = Flow { node: 2, flags: flow_flags::REPLY, ..flow };
        assert_eq!(scope(key(Space::Network, 7), reply), Some(FlowKey::scope(Space::Published, 7)));
        let masqueraded = Flow { flags: flow_flags::ROUTE, ..flow };
        assert_eq!(scope(key(Space::Network, 7), masqueraded), Some(FlowKey::scope(Space::Outside, 0)));
        let answer = Flow { flags: flow_flags::REPLY, vni: 7, ..flow };
        assert_eq!(scope(key(Space::Outside, 0), answer), Some(network));
        assert_eq!(scope(key(Space::Entry, 0), flow), None);
    }
}
