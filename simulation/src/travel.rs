//! Taking a frame to its end: from hook to hook, from node to node.

use mesh_common::{
    Reason, Verdict,
    abi::{BackendIndex, NodeIndex, Outcome},
    native::{Buffer, finish},
    pipeline,
};

use crate::{
    cluster::{Cluster, FIRST_IFINDEX, UPLINK, VXLAN_PORT},
    frame,
    view::View,
};

/// Where a frame comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Wire,
    Task(BackendIndex),
}

/// Where it ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Task {
        task: BackendIndex,
        frame: Vec<u8>,
    },
    /// On the wire, for nobody of the mesh.
    Out {
        node: NodeIndex,
        frame: Vec<u8>,
    },
    /// In a node's tables.
    Learned,
    Lost {
        reason: Reason,
    },
    /// Lost, and its sender told.
    Refused {
        reason: Reason,
    },
    /// On the wire to a node that is not there any more.
    AtDeadNode {
        node: NodeIndex,
    },
    /// Where no packet of the simulation may end.
    Astray {
        verdict: Verdict,
    },
}

/// A frame's whole way.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    /// The nodes that it came to.
    pub(crate) nodes: Vec<NodeIndex>,
    /// The errands that its tunnels told of.
    pub(crate) errands: Vec<u8>,
    pub(crate) end: End,
}

/// No packet may be in more tunnels: from the entry node, to three nodes that are asked at most, to one that is to take it,
/// and to the last, if that one's backend is gone.
pub(crate) const MOST_TUNNELS: usize = 6;
/// The errand that nobody passes on.
pub(crate) const LAST: u8 = 0xff;

impl Cluster {
    /// Takes a frame that has to do with a service to its end.
    pub(crate) fn travel(
        &mut self,
        mut node: NodeIndex,
        start: Start,
        mut frame: Vec<u8>,
        service: usize,
    ) -> Journey {
        let mut journey = Journey { nodes: vec![], errands: vec![], end: End::Learned };
        let mut start = start;
        loop {
            if !self.nodes[node as usize].is_alive() {
                journey.end = End::AtDeadNode { node };
                return journey;
            }
            journey.nodes.push(node);
            let (verdict, bytes) = self.run(node, start, frame, service);
            let reason = verdict.reason();
            journey.end = match (verdict.outcome(), reason) {
                (Outcome::Drop, Some(reason)) => End::Lost { reason },
                (Outcome::Refuse, Some(reason)) => End::Refused { reason },
                (Outcome::Deliver, _) => End::Task { task: verdict.detail() - FIRST_IFINDEX, frame: bytes },
                (Outcome::Learn, _) => End::Learned,
                (Outcome::Transmit, _) if verdict.detail() == UPLINK => {
                    let tunnel = frame::tunnel(&bytes, VXLAN_PORT);
                    let next = tunnel.and_then(|(address, errand)| Some((self.node_at(address)?, errand)));
                    match next {
                        Some((next, errand)) if journey.errands.len() < MOST_TUNNELS => {
                            journey.errands.push(errand);
                            (node, start, frame) = (next, Start::Wire, bytes);
                            continue;
                        }
                        Some(_) => End::Astray { verdict },
                        None => End::Out { node, frame: bytes },
                    }
                }
                _ => End::Astray { verdict },
            };
            return journey;
        }
    }

    fn run(&mut self, node: NodeIndex, start: Start, frame: Vec<u8>, number: usize) -> (Verdict, Vec<u8>) {
        let entry = self.service_entry(node, number).unwrap_or_default();
        let seconds = 1000 + self.now / 1000;
        let node = &self.nodes[node as usize];
        node.own.set_clock(seconds);
        let mut packet = Buffer::new(frame);
        if node.has_xdp && matches!(start, Start::Wire) {
            let view = View::at_xdp(self, node, number, entry);
            let verdict = pipeline::from_underlay(&mut packet, &view);
            if verdict.outcome() != Outcome::Pass {
                let verdict = finish(&mut packet, &view, verdict, UPLINK);
                return (verdict, packet.into_bytes());
            }
        }
        let view = View::at_tc(self, node, number, entry);
        let (verdict, ingress) = match start {
            Start::Wire => {
                let known = pipeline::known_from_underlay(&mut packet, &view);
                (known.unwrap_or_else(|| pipeline::from_underlay(&mut packet, &view)), UPLINK)
            }
            Start::Task(task) => {
                let ifindex = FIRST_IFINDEX + task;
                let known = pipeline::known_from_endpoint(&mut packet, &view, ifindex);
                (known.unwrap_or_else(|| pipeline::from_endpoint(&mut packet, &view, ifindex)), ifindex)
            }
        };
        let verdict = finish(&mut packet, &view, verdict, ingress);
        (verdict, packet.into_bytes())
    }
}
