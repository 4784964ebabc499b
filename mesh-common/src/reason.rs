//! Every way to lose a packet, by name.

/// Why a packet was dropped: the index of its counter, the label of its metric and what `meshctl drops` says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A header is cut short, or a length field lies.
    Malformed = 0,
    /// A frame from an interface that is no endpoint's.
    NotAttached,
    /// A task sent from a MAC or IP address that is not its own.
    SourceForged,
    /// A task sent to the mesh's own tunnel port.
    TunnelForged,
    /// A tunnel packet from an address that is no node's.
    NotAPeer,
    /// A tunnel packet for a network that does not exist.
    UnknownNetwork,
    /// A tunnel packet whose inner source does not live on the node that sent it.
    PeerForged,
    /// An address of the network that no endpoint has.
    NoSuchEndpoint,
    /// Multicast or broadcast, which the mesh does not carry.
    Multicast,
    /// A protocol that the mesh does not carry (neither ARP, IPv4 nor IPv6).
    UnknownProtocol,
    /// The network is internal and the destination is not on it.
    Internal,
    /// The service has no backend for this packet's family.
    NoBackend,
    /// A packet of no known connection, to a service whose scheduler counts.
    NoFlow,
    /// A fragment, or of a protocol without ports, where a port is needed to tell the flow by.
    Portless,
    /// The hop limit ran out.
    HopLimit,
    /// Longer than the path allows; the sender was told.
    TooBig,
    /// No route or no address of the right family to reach the destination.
    NoRoute,
    /// No masquerading port was free.
    NoPort,
    /// The outer header carried a congestion mark that the inner one cannot take (RFC 6040).
    Congestion,
    /// The kernel refused room in the packet.
    NoRoom,
    /// A tunnelled answer for a client that this node did not send.
    ReturnForged,
    /// A tunnelled request to a port that is not published, or one to an external address where it is not.
    NotPublished,
    /// Sent to a network's gateway, which answers ping and nothing else.
    Gateway,
    /// A client of none of the ranges that may ask for the published port.
    NotAllowed,
    /// The endpoint at a known flow's other end is gone.
    BackendGone,
}

impl Reason {
    /// Each reason, in the order of its number.
    pub const ALL: [Self; 25] = [
        Self::Malformed,
        Self::NotAttached,
        Self::SourceForged,
        Self::TunnelForged,
        Self::NotAPeer,
        Self::UnknownNetwork,
        Self::PeerForged,
        Self::NoSuchEndpoint,
        Self::Multicast,
        Self::UnknownProtocol,
        Self::Internal,
        Self::NoBackend,
        Self::NoFlow,
        Self::Portless,
        Self::HopLimit,
        Self::TooBig,
        Self::NoRoute,
        Self::NoPort,
        Self::Congestion,
        Self::NoRoom,
        Self::ReturnForged,
        Self::NotPublished,
        Self::Gateway,
        Self::NotAllowed,
        Self::BackendGone,
    ];

    /// The label of its metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotAttached => "not_attached",
            Self::SourceForged => "source_forged",
            Self::TunnelForged => "tunnel_forged",
            Self::NotAPeer => "not_a_peer",
            Self::UnknownNetwork => "unknown_network",
            Self::PeerForged => "peer_forged",
            Self::NoSuchEndpoint => "no_such_endpoint",
            Self::Multicast => "multicast",
            Self::UnknownProtocol => "unknown_protocol",
            Self::Internal => "internal",
            Self::NoBackend => "no_backend",
            Self::NoFlow => "no_flow",
            Self::Portless => "portless",
            Self::HopLimit => "hop_limit",
            Self::TooBig => "too_big",
            Self::NoRoute => "no_route",
            Self::NoPort => "no_port",
            Self::Congestion => "congestion",
            Self::NoRoom => "no_room",
            Self::ReturnForged => "return_forged",
            Self::NotPublished => "not_published",
            Self::Gateway => "gateway",
            Self::NotAllowed => "not_allowed",
            Self::BackendGone => "backend_gone",
        }
    }

    /// What it means, as a sentence for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "a header was cut short, or a length field lied",
            Self::NotAttached => "the frame came from an interface that is no endpoint's",
            Self::SourceForged => "a task sent from a MAC or IP address that is not its own",
            Self::TunnelForged => "a task sent to the mesh's own tunnel port",
            Self::NotAPeer => "a tunnel packet came from an address that is no node's",
            Self::UnknownNetwork => "a tunnel packet named a network that does not exist",
            Self::PeerForged => "a tunnel packet's inner source does not live on the node that sent it",
            Self::NoSuchEndpoint => "no endpoint has this address of the network",
            Self::Multicast => "multicast and broadcast are not carried",
            Self::UnknownProtocol => "neither ARP, IPv4 nor IPv6",
            Self::Internal => "the network is internal, and the destination is not on it",
            Self::NoBackend => "the service has no backend of this address family",
            Self::NoFlow => "mid-connection, but of no known connection",
            Self::Portless => "a fragment, or of a protocol without ports, where a port is needed",
            Self::HopLimit => "the hop limit ran out",
            Self::TooBig => "longer than the path allows; the sender was told",
            Self::NoRoute => "no route, or no address of this family, to reach the destination",
            Self::NoPort => "no masquerading port was free",
            Self::Congestion => "the outer congestion mark does not fit the inner header (RFC 6040)",
            Self::NoRoom => "the kernel refused room in the packet",
            Self::ReturnForged => "a tunnelled answer for a client that this node did not send",
            Self::NotPublished => {
                "a request through a tunnel, or to an external address, for a port that is not published there"
            }
            Self::Gateway => "the gateway answers ping and nothing else",
            Self::NotAllowed => "the client is of none of the ranges that may ask for the published port",
            Self::BackendGone => "the other end of a known connection is gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_distinct_and_in_order() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
        }
    }
}
