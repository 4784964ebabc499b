//! Flows in another layout, by which the tests upgrade and downgrade a running node. It has as many bytes, so that
//! nothing but the version tells the two apart.

use super::{Address, flow::Flow, layout::LayOut, pod::pod};

/// What becomes of a flow's packets, as [`Flow`] says it, laid out otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherFlow {
    /// When a packet last passed, in seconds of the kernel's monotonic clock.
    pub seen: u64,
    /// The service's number, or 0.
    pub service: u32,
    /// For answers from outside, the network that they go to; otherwise 0.
    pub vni: u32,
    /// Where a reply leaves the mesh: the [`NodeIndex`](super::NodeIndex) of the entry node, or 0.
    pub node: u32,
    /// Flags of the module [`flow_flags`](super::flow_flags).
    pub flags: u32,
    /// The source port that its packets leave with.
    pub source_port: [u8; 2],
    /// The destination port that its packets leave with.
    pub destination_port: [u8; 2],
    /// The backend that was chosen, or 0.
    pub backend: u32,
    /// The destination that its packets leave with.
    pub destination: Address,
    /// The source that its packets leave with.
    pub source: Address,
}

pod!(OtherFlow);

impl LayOut<OtherFlow> for Flow {
    #[inline(always)]
    fn lay_out(&self, place: &mut OtherFlow) {
        place.source = self.source;
        place.destination = self.destination;
        place.source_port = self.source_port;
        place.destination_port = self.destination_port;
        place.backend = self.backend;
        place.node = self.node;
        place.flags = self.flags;
        place.seen = self.seen;
        place.service = self.service;
        place.vni = self.vni;
    }
}

impl LayOut<Flow> for OtherFlow {
    #[inline(always)]
    fn lay_out(&self, place: &mut Flow) {
        place.source = self.source;
        place.destination = self.destination;
        place.source_port = self.source_port;
        place.destination_port = self.destination_port;
        place.backend = self.backend;
        place.node = self.node;
        place.flags = self.flags;
        place.seen = self.seen;
        place.service = self.service;
        place.vni = self.vni;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding_and_nothing_lost_on_the_way_there_and_back() {
        assert_eq!(size_of::<OtherFlow>(), 8 + 5 * 4 + 4 + 32);
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
        let (mut there, mut back) = (OtherFlow::default(), Flow::default());
        flow.lay_out(&mut there);
        there.lay_out(&mut back);
        assert_eq!(back, flow);
    }
}
