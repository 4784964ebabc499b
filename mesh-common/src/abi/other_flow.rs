//! Flows in another layout, by which the tests upgrade and downgrade a running node: other fields' places, and more bytes.

use super::{Address, flow::Flow, pod::pod};

/// What becomes of a flow's packets, as [`Flow`] says it, laid out otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherFlow {
    /// When a packet last passed, in seconds of the kernel's monotonic clock.
    pub seen: u64,
    /// Flags of the module [`flow_flags`](super::flow_flags).
    pub flags: u32,
    /// Where a reply leaves the mesh: the [`NodeIndex`](super::NodeIndex) of the entry node, or 0.
    pub node: u32,
    /// The backend that was chosen, or 0.
    pub backend: u32,
    /// The service's number, or 0.
    pub service: u32,
    /// For answers from outside, the network that they go to; otherwise 0.
    pub vni: u32,
    /// The destination port that its packets leave with.
    pub destination_port: [u8; 2],
    /// The source port that its packets leave with.
    pub source_port: [u8; 2],
    /// The destination that its packets leave with.
    pub destination: Address,
    /// The source that its packets leave with.
    pub source: Address,
    /// Zero.
    pub room: [u64; 3],
}

pod!(OtherFlow);

impl From<Flow> for OtherFlow {
    #[inline(always)]
    fn from(flow: Flow) -> Self {
        let Flow {
            source,
            destination,
            source_port,
            destination_port,
            backend,
            node,
            flags,
            seen,
            service,
            vni,
        } = flow;
        Self {
            source,
            destination,
            source_port,
            destination_port,
            backend,
            node,
            flags,
            seen,
            service,
            vni,
            room: [0; 3],
        }
    }
}

impl From<OtherFlow> for Flow {
    #[inline(always)]
    fn from(flow: OtherFlow) -> Self {
        let OtherFlow {
            source,
            destination,
            source_port,
            destination_port,
            backend,
            node,
            flags,
            seen,
            service,
            vni,
            room: _,
        } = flow;
        Self { source, destination, source_port, destination_port, backend, node, flags, seen, service, vni }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding_and_nothing_lost_on_the_way_there_and_back() {
        assert_eq!(size_of::<OtherFlow>(), 8 + 5 * 4 + 4 + 32 + 24);
        let flow = Flow {
            source: Address([1, 2]),
            destination: Address([3, 4]),
            source_port: [5, 6],
            destination_port: [7, 8],
            backend: 9,
            node: 10,
            flags: 11,
            seen: 12,
            service: 13,
            vni: 14,
        };
        assert_eq!(Flow::from(OtherFlow::from(flow)), flow);
    }
}
