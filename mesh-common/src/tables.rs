//! What the pipeline needs to know: the kernel maps, the routes and the clock.

use core::ops::Deref;

use crate::abi::{
    Address, AllowedKey, Arrival, Attachment, Backend, BackendIndex, Endpoint, EndpointKey, Exit,
    FastService, Flow, FlowKey, FragmentKey, Fragments, Handover, Local, MacKey, Network, Node, NodeIndex,
    OuterHeader, Service, ServiceKey, Settings, Shortage, Slot, Station, SubnetKey, TargetKey, Uplink,
};

/// Where a packet leaves by, and the Ethernet addresses it leaves with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The interface.
    pub ifindex: u32,
    /// The MAC address of the next hop; zero where the kernel fills it in on the way out.
    pub destination: [u8; 6],
    /// The interface's own MAC address; zero likewise.
    pub source: [u8; 6],
}

/// The answer to a question for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This way.
    Hop(Hop),
    /// There may be a way, but only a later hook can take it.
    Later,
    /// There is none.
    None,
}

/// The tables, in the kernel or in memory.
pub trait Tables {
    /// A flow as it stands in its table.
    type Flow<'a>: Deref<Target = Flow>
    where
        Self: 'a;

    /// Whether this hook can hand a packet to an endpoint or to the node itself. Where it cannot (XDP), such a
    /// packet passes untouched to the hook that can.
    const DELIVERS: bool;

    /// Whether this is the program that fragments go to with their ports. The others know none, and hand them on.
    const FRAGMENTS: bool;

    /// What holds for this node.
    fn settings(&self) -> Option<&Settings>;
    /// A service.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// An entry of the fast path's table of published ports. It may be read while it is written.
    fn fast_service(&self, index: u32) -> Option<FastService>;
    /// A word of the table of published ports: see [`port_bit`](crate::abi::port_bit).
    fn published_ports(&self, word: u32) -> u64;
    /// The outer header of the last packet to a node, while it is good.
    fn outer_header(&self, node: NodeIndex) -> Option<impl Deref<Target = OuterHeader>>;
    /// Keeps one, for a moment: routes and neighbours change.
    fn keep_outer_header(&self, node: NodeIndex, header: &OuterHeader);
    /// The way in a place by which an answer left, while it is good.
    fn exit(&self, place: u32) -> Option<impl Deref<Target = Exit>>;
    /// Keeps one, likewise for a moment.
    fn keep_exit(&self, place: u32, exit: &Exit);
    /// Whether tasks of a network answer clients at a port.
    fn is_target(&self, key: &TargetKey) -> bool;
    /// A slot of a ring.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// A backend.
    fn backend(&self, index: BackendIndex) -> Option<&Backend>;
    /// An endpoint of any node.
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint>;
    /// The endpoint that has a MAC address.
    fn station(&self, key: &MacKey) -> Option<&Station>;
    /// What hangs on an interface.
    fn attachment(&self, ifindex: u32) -> Option<&Attachment>;
    /// A network.
    fn network(&self, vni: u32) -> Option<&Network>;
    /// How many of an address's last bits tell the hosts of its subnet apart, if it lies in one of a network's.
    fn subnet(&self, key: &SubnetKey) -> Option<u32>;
    /// A node.
    fn node(&self, index: NodeIndex) -> Option<&Node>;
    /// The other node that has this underlay address.
    fn peer(&self, address: Address) -> Option<NodeIndex>;
    /// What an address that packets come to this node for is, if it is one.
    fn local(&self, address: Address) -> Option<Local>;
    /// Whether packets to the address come to this node.
    #[inline(always)]
    fn is_local(&self, address: Address) -> bool {
        self.local(address).is_some()
    }
    /// Whether a client may ask for a service which not everybody may.
    fn is_allowed(&self, key: &AllowedKey) -> bool;
    /// An interface to the outside world.
    fn uplink(&self, ifindex: u32) -> Option<&Uplink>;

    /// A flow.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow<'_>>;
    /// Remembers a flow, in the place of what was known of it.
    fn put_flow(&self, key: &FlowKey, flow: &Flow);
    /// Remembers a flow if nothing is known of it; says whether it did.
    fn add_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Notes of a flow, if it is still known, when it was seen and which flags it has.
    fn mark_flow(&self, key: &FlowKey, seen: u64, flags: u32);
    /// Notes when a flow was seen that was just looked up by its key.
    fn touch_flow(&self, key: &FlowKey, flow: &Self::Flow<'_>, seen: u64);
    /// Forgets a flow, if it is known.
    fn remove_flow(&self, key: &FlowKey);
    /// The next place of the queue of new flows, which the next one takes: the place taken longest ago, once all are.
    fn next_place(&self) -> u32;
    /// The key of the flow that was put into a place of the queue.
    fn queued(&self, place: u32) -> Option<impl Deref<Target = FlowKey>>;
    /// Puts the key of a flow into a place of the queue.
    fn queue(&self, place: u32, key: &FlowKey);
    /// Puts down what one program hands on to another with a fragment.
    fn hand_on_fragment(&self, handover: Handover);
    /// What was handed on with the fragment at hand.
    fn fragment_handed_on(&self) -> Handover;
    /// What is known of a datagram in fragments.
    fn fragments(&self, key: &FragmentKey) -> Option<Fragments>;
    /// Remembers what is known of one, in the place of what was.
    fn put_fragments(&self, key: &FragmentKey, fragments: &Fragments);
    /// Finds a place for a fragment that waits, behind the one of its datagram with the turn `before` (0 for none), and says
    /// its own turn, from 1. The oldest of all that wait makes room.
    fn hold(&self, before: u32) -> Option<u32>;
    /// Counts that there was no room.
    fn count_shortage(&self, shortage: Shortage);

    /// Keeps for [`pipeline::unknown`](crate::pipeline::unknown) how the packet came that is being dealt with.
    fn hand_on(&self, arrival: &Arrival);
    /// What was last kept so.
    fn handed_on(&self) -> Option<Arrival>;

    /// The next turn of a service's round robin, from 0.
    fn turn(&self, service: u32) -> u64;
    /// Whether an error or a reset may be sent now: takes one of this processor's [`Allowance`](crate::abi::Allowance).
    fn may_answer(&self) -> bool;
    /// Seconds of the monotonic clock.
    fn now(&self) -> u64;
    /// The way to an address, by the node's own routes.
    fn route(&self, source: Address, destination: Address) -> Route;
    /// The way to a node.
    fn route_to_node(&self, node: &Node) -> Route;
}
