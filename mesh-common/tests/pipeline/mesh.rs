//! Three nodes, and packets that travel between them.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mesh_common::{
    Reason, Verdict,
    abi::{
        Address, Family, HOST_ALIAS_V4, HOST_ALIAS_V6, Hook, Outcome, Scheduler, network_flags,
        settings_flags,
    },
    native::{Buffer, Choice, Member, NodeTables, Target, enter, finish},
    pipeline,
    wire::protocol,
};

use crate::message::{Mac, Message, Tunnel, macs};

pub(crate) const BLUE: u32 = 4097;
/// Has the same subnets as blue.
pub(crate) const RED: u32 = 77;
/// Is internal.
pub(crate) const GREY: u32 = 5;

pub(crate) const MTU: u32 = 1430;

/// The uplink of every node.
pub(crate) const UPLINK: u32 = 2;
/// The inner side of `mesh0` on every node.
pub(crate) const GATE: u32 = 3;

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Tasks of blue: two on node 1, one on 2, one on 3.
pub(crate) const A: Task = Task { vni: BLUE, last: 11, node: 1, ifindex: 21 };
pub(crate) const B: Task = Task { vni: BLUE, last: 12, node: 1, ifindex: 22 };
pub(crate) const C: Task = Task { vni: BLUE, last: 13, node: 2, ifindex: 23 };
pub(crate) const D: Task = Task { vni: BLUE, last: 14, node: 3, ifindex: 24 };
/// Tasks of red, one of which has the addresses of one of blue's.
pub(crate) const E: Task = Task { vni: RED, last: 11, node: 1, ifindex: 31 };
pub(crate) const F: Task = Task { vni: RED, last: 22, node: 2, ifindex: 32 };
/// A task of grey.
pub(crate) const G: Task = Task { vni: GREY, last: 11, node: 1, ifindex: 41 };

const TASKS: [Task; 7] = [A, B, C, D, E, F, G];

/// Virtual IPs of blue by their last byte: of C by hashing, of B, C and D in turn, of A alone, of nobody.
pub(crate) const VIP_C: u8 = 2;
pub(crate) const VIP_RR: u8 = 3;
pub(crate) const VIP_A: u8 = 4;
pub(crate) const VIP_NOBODY: u8 = 5;

/// Published ports and the backends' own: of C and of A by hashing, of B, C and D in turn.
pub(crate) const TCP_C: (u16, u16) = (80, 8080);
pub(crate) const TCP_A: (u16, u16) = (90, 9090);
pub(crate) const TCP_RR: (u16, u16) = (81, 81);
pub(crate) const UDP_C: (u16, u16) = (53, 5353);
/// A port that is published, over TCP and UDP, for a service that nobody serves.
pub(crate) const PORT_NOBODY: u16 = 99;

/// A client outside of the mesh.
pub(crate) fn client(family: Family) -> IpAddr {
    match family {
        Family::V4 => ip("203.0.113.9"),
        Family::V6 => ip("2001:db8:f::9"),
    }
}

pub(crate) fn alias(family: Family) -> IpAddr {
    match family {
        Family::V4 => HOST_ALIAS_V4.into(),
        Family::V6 => HOST_ALIAS_V6.into(),
    }
}

/// A node's own address.
pub(crate) fn node_address(family: Family, node: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, node as u8).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node as u16).into(),
    }
}

/// An address of the networks by its last byte.
pub(crate) fn address(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 9, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(crate) const GATEWAY: u8 = 1;
pub(crate) const GATEWAY_MAC: Mac = [0x02, 0x42, 10, 0, 9, 1];
pub(crate) const HOST_MAC: Mac = [0x02, 0, 0, 0, 0, 4];

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) vni: u32,
    pub(crate) last: u8,
    pub(crate) node: u32,
    pub(crate) ifindex: u32,
}

impl Task {
    pub(crate) fn address(self, family: Family) -> IpAddr {
        address(family, self.last)
    }

    pub(crate) const fn mac(self) -> Mac {
        [0x02, 0x42, 10, 0, 9, self.last]
    }

    fn member(self) -> Member {
        Member {
            vni: self.vni,
            v4: Some(Ipv4Addr::new(10, 0, 9, self.last)),
            v6: Some(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, self.last.into())),
            node: self.node,
            ifindex: self.ifindex,
        }
    }
}

/// Where a packet ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At a task.
    Task { node: u32, ifindex: u32, frame: Vec<u8> },
    /// At a node itself, by the inner side of `mesh0`.
    Node { node: u32, frame: Vec<u8> },
    /// Back where it had come from.
    Back { node: u32, frame: Vec<u8> },
    /// On the wire, for nobody of the mesh.
    Out { node: u32, frame: Vec<u8> },
    /// In a node's own stack.
    Stack { node: u32 },
    /// Held, until the first fragment of its datagram comes.
    Held { node: u32 },
    /// In a node's tables: it was word from another node.
    Learned { node: u32 },
    /// Lost.
    Lost { node: u32, reason: Reason },
    /// Lost, and its sender told.
    Refused { node: u32, reason: Reason, frame: Vec<u8> },
}

/// A packet's whole way.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    /// The tunnels between nodes that it was in.
    pub(crate) tunnels: Vec<Tunnel>,
    pub(crate) end: End,
    /// Those of the packets that had waited for this one.
    pub(crate) released: Vec<Self>,
}

/// Where a packet comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    Task(u32),
    Node,
    Wire,
}

/// Three nodes that know the same.
#[derive(Clone)]
pub(crate) struct Mesh {
    nodes: Vec<NodeTables>,
    /// The underlay's family.
    pub(crate) outer: Family,
    /// Whether packets from the wire meet XDP first.
    has_xdp: bool,
    /// Frames that wait, by node and turn.
    held: RefCell<HashMap<(u32, u32), Vec<u8>>>,
}

impl Mesh {
    /// One over every underlay, with and without XDP.
    pub(crate) fn each() -> impl Iterator<Item = Self> {
        FAMILIES.into_iter().flat_map(|outer| [true, false].map(|has_xdp| Self::new(outer, has_xdp)))
    }

    /// One over every underlay, and every family inside.
    pub(crate) fn each_with_family() -> impl Iterator<Item = (Self, Family)> {
        FAMILIES.into_iter().flat_map(|inner| Self::each().map(move |mesh| (mesh, inner)))
    }

    pub(crate) fn new(outer: Family, has_xdp: bool) -> Self {
        Self {
            nodes: (1..=3).map(|index| node(outer, index)).collect(),
            outer,
            has_xdp,
            held: RefCell::default(),
        }
    }

    pub(crate) fn node(&self, index: u32) -> &NodeTables {
        &self.nodes[index as usize - 1]
    }

    pub(crate) fn node_mut(&mut self, index: u32) -> &mut NodeTables {
        &mut self.nodes[index as usize - 1]
    }

    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut NodeTables> {
        self.nodes.iter_mut()
    }

    /// Makes answers go straight to the client, on every node.
    pub(crate) fn return_direct(&mut self) {
        self.all().for_each(|node| node.settings.flags |= settings_flags::RETURN_DIRECT);
    }

    /// The address that a node's tunnels have.
    pub(crate) fn underlay(&self, node: u32) -> IpAddr {
        node_address(self.outer, node)
    }

    /// A task sends.
    pub(crate) fn task_sends(&self, task: Task, message: &Message) -> Journey {
        self.task_sends_frame(task, message.frame(task.mac(), GATEWAY_MAC))
    }

    pub(crate) fn task_sends_frame(&self, task: Task, frame: Vec<u8>) -> Journey {
        self.travel(task.node, Entry::Task(task.ifindex), frame)
    }

    /// A node itself sends.
    pub(crate) fn node_sends(&self, node: u32, message: &Message) -> Journey {
        self.travel(node, Entry::Node, message.frame(HOST_MAC, [0x02, 0, 0, 0, 0, 3]))
    }

    /// Something comes to a node from outside of the mesh.
    pub(crate) fn wire_brings(&self, node: u32, message: &Message) -> Journey {
        self.wire_brings_frame(node, message.frame([0x02, 0, 0, 0, 1, 254], [0x02, 0, 0, 0, 0, node as u8]))
    }

    pub(crate) fn wire_brings_frame(&self, node: u32, frame: Vec<u8>) -> Journey {
        self.travel(node, Entry::Wire, frame)
    }

    /// Takes a frame to its end.
    pub(crate) fn travel(&self, mut node: u32, mut entry: Entry, mut frame: Vec<u8>) -> Journey {
        let (mut tunnels, mut released) = (vec![], vec![]);
        loop {
            let (verdict, bytes) = self.run(node, entry, &frame);
            let reason = verdict.reason().unwrap_or(Reason::Malformed);
            let end = match verdict.outcome() {
                Outcome::Pass => End::Stack { node },
                Outcome::Drop => End::Lost { node, reason },
                Outcome::Refuse => End::Refused { node, reason, frame: bytes },
                Outcome::Deliver => End::Task { node, ifindex: verdict.detail(), frame: bytes },
                Outcome::Host => {
                    assert_eq!(verdict.detail(), GATE);
                    End::Node { node, frame: bytes }
                }
                Outcome::Hold => {
                    assert_eq!(bytes, frame, "what is held is untouched");
                    self.held.borrow_mut().insert((node, verdict.detail()), bytes);
                    End::Held { node }
                }
                Outcome::Release => {
                    assert_eq!(bytes, frame, "what releases others is untouched");
                    // It comes in once more, and they behind it.
                    let first = self.travel(node, entry, bytes);
                    for turn in self.node(node).released(verdict.detail()) {
                        let held = self.held.borrow_mut().remove(&(node, turn));
                        released.push(self.travel(node, entry, held.expect("it waits")));
                    }
                    released.extend(first.released);
                    tunnels.extend(first.tunnels);
                    first.end
                }
                Outcome::Learn => End::Learned { node },
                Outcome::Reply => End::Back { node, frame: bytes },
                Outcome::Transmit => {
                    assert_eq!(verdict.detail(), UPLINK);
                    let sent = Message::read(&bytes);
                    match (1..=3).find(|index| self.underlay(*index) == sent.destination && *index != node) {
                        Some(next) => {
                            // What is no tunnel goes to that node's own stack, by way of the same hooks.
                            if sent.source == self.underlay(node)
                                && matches!(sent.body, crate::message::Body::Udp { to: 4789, .. })
                            {
                                tunnels.push(Tunnel::read(&bytes));
                            }
                            (node, entry, frame) = (next, Entry::Wire, bytes);
                            continue;
                        }
                        None => End::Out { node, frame: bytes },
                    }
                }
            };
            return Journey { tunnels, end, released };
        }
    }

    fn run(&self, node: u32, entry: Entry, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let tables = self.node(node);
        if self.has_xdp && matches!(entry, Entry::Wire) {
            let mut packet = Buffer::new(frame);
            let verdict = pipeline::from_underlay(&mut packet, &tables.at_xdp());
            if verdict.outcome() != Outcome::Pass {
                if verdict.refusal().is_some() {
                    assert_eq!(packet.bytes(), frame, "what is refused is untouched");
                }
                let verdict = finish(&mut packet, &tables.at_xdp(), verdict, UPLINK);
                return (verdict, packet.into_bytes());
            }
            assert_eq!(packet.bytes(), frame, "what XDP passes on is untouched");
        }
        // As if a card had summed it up: then every change must be accounted for.
        let mut packet = Buffer::new(frame).summed_by_card();
        let (hook, ingress) = match entry {
            Entry::Task(ifindex) => (Hook::Endpoint, ifindex),
            Entry::Node => (Hook::Host, GATE),
            Entry::Wire => (Hook::Underlay, UPLINK),
        };
        let verdict = enter(&mut packet, tables, hook, ingress);
        if matches!(verdict.outcome(), Outcome::Deliver | Outcome::Host) {
            assert_eq!(packet.card_sum(), Some(packet.sum()), "the card's sum of {:02x?}", packet.bytes());
        }
        if matches!(verdict.outcome(), Outcome::Pass | Outcome::Refuse) {
            assert_eq!(packet.bytes(), frame, "what passes on or is refused is untouched");
        }
        let verdict = finish(&mut packet, &tables.at_tc(), verdict, ingress);
        (verdict, packet.into_bytes())
    }
}

impl Journey {
    /// The packet as it came to a task; its MAC addresses are those of the gateway, or of the sender.
    #[track_caller]
    pub(crate) fn at_task(&self, task: Task, sender: Mac) -> Message {
        Message::read(self.frame_at_task(task, sender))
    }

    #[track_caller]
    pub(crate) fn frame_at_task(&self, task: Task, sender: Mac) -> &[u8] {
        match &self.end {
            End::Task { node, ifindex, frame } if (*node, *ifindex) == (task.node, task.ifindex) => {
                assert_eq!(macs(frame), (sender, task.mac()), "MAC addresses");
                frame
            }
            other => panic!("not at {task:?}: {other:?}"),
        }
    }

    /// The one of these tasks that the packet came to.
    #[track_caller]
    pub(crate) fn task_of(&self, tasks: &[Task]) -> Task {
        let at = match self.end {
            End::Task { node, ifindex, .. } => (node, ifindex),
            ref other => panic!("at no task: {other:?}"),
        };
        let found = tasks.iter().find(|task| (task.node, task.ifindex) == at);
        *found.unwrap_or_else(|| panic!("at none of {tasks:?}: {:?}", self.end))
    }

    /// The packet as it came to a node itself.
    #[track_caller]
    pub(crate) fn at_node(&self, node: u32) -> Message {
        match &self.end {
            End::Node { node: at, frame } if *at == node => {
                assert_eq!(macs(frame), (HOST_MAC, HOST_MAC), "MAC addresses");
                Message::read(frame)
            }
            other => panic!("not at node {node} itself: {other:?}"),
        }
    }

    /// The packet as it left a node for the world outside.
    #[track_caller]
    pub(crate) fn out_of(&self, node: u32) -> Message {
        match &self.end {
            End::Out { node: at, frame } if *at == node => Message::read(frame),
            other => panic!("not out of node {node}: {other:?}"),
        }
    }

    /// The answer of a node to whoever had sent the packet.
    #[track_caller]
    pub(crate) fn back_from(&self, node: u32) -> &[u8] {
        match &self.end {
            End::Back { node: at, frame } if *at == node => frame,
            other => panic!("not back from node {node}: {other:?}"),
        }
    }

    /// What a node tells whoever had sent the packet that was too long for it.
    #[track_caller]
    pub(crate) fn too_big_for(&self, node: u32) -> &[u8] {
        self.refused_by(node, Reason::TooBig)
    }

    /// What a node tells whoever had sent the packet that it refuses.
    #[track_caller]
    pub(crate) fn refused_by(&self, node: u32, reason: Reason) -> &[u8] {
        match &self.end {
            End::Refused { node: at, reason: why, frame } if (*at, *why) == (node, reason) => frame,
            other => panic!("not refused by node {node} because of {reason:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn is_lost(&self, node: u32, reason: Reason) {
        assert_eq!(self.end, End::Lost { node, reason });
    }

    #[track_caller]
    pub(crate) fn is_left_to_stack(&self, node: u32) {
        assert_eq!(self.end, End::Stack { node });
    }

    /// The one tunnel that the packet was in.
    #[track_caller]
    pub(crate) fn tunnel(&self) -> &Tunnel {
        assert_eq!(self.tunnels.len(), 1, "{self:?}");
        &self.tunnels[0]
    }
}

/// What one node knows of them all.
fn node(outer: Family, index: u32) -> NodeTables {
    let mut node = NodeTables::new(index, node_address(outer, index));
    node.settings.seed = 7;
    node.set_gate(GATE, HOST_MAC);
    let subnets = ["24", "64"].map(|bits| {
        let family = if bits == "24" { Family::V4 } else { Family::V6 };
        format!("{}/{bits}", node_address(family, index)).parse().unwrap_or_else(|error| panic!("{error}"))
    });
    node.add_uplink(UPLINK, [0x02, 0, 0, 0, 0, index as u8], &subnets, 1500);
    for router in ["192.0.2.254", "2001:db8::fe"] {
        node.add_default_route(UPLINK, ip(router));
        node.routes.add_neighbour(UPLINK, ip(router).into(), [0x02, 0, 0, 0, 1, 254]);
    }
    for other in (1..=3).filter(|other| *other != index) {
        node.add_peer(other, node_address(outer, other), UPLINK, 1500);
        for family in FAMILIES {
            let mac = [0x02, 0, 0, 0, 0, other as u8];
            node.routes.add_neighbour(UPLINK, node_address(family, other).into(), mac);
        }
    }
    for vni in [BLUE, RED, GREY] {
        let subnets = ["10.0.9.1/24", "fd00:9::1/64"];
        let subnets = subnets.map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
        node.add_network(vni, &subnets, MTU);
    }
    if let Some(grey) = node.networks.get_mut(&GREY) {
        grey.flags |= network_flags::INTERNAL;
    }
    for task in TASKS {
        node.add_member(&task.member());
    }
    add_services(&mut node);
    node.set_clock(100);
    node
}

fn add_services(node: &mut NodeTables) {
    let mut id = 0;
    let mut choice = |scheduler| {
        id += 1;
        Choice { id, scheduler }
    };
    for family in FAMILIES {
        let [a, b, c, d] = [A, B, C, D].map(|task| node.add_backend(&task.member(), family));
        let vip = |last| Target::Vip { vni: BLUE, address: Address::from(address(family, last)) };
        node.add_service(vip(VIP_C), choice(Scheduler::Mh), &[c; 7]);
        node.add_service(vip(VIP_RR), choice(Scheduler::Rr), &[b, c, d]);
        node.add_service(vip(VIP_A), choice(Scheduler::Mh), &[a; 7]);
        node.add_service(vip(VIP_NOBODY), choice(Scheduler::Mh), &[]);
        let port = |(port, target_port), protocol| Target::Published { port, target_port, protocol, family };
        node.add_service(port(TCP_C, protocol::TCP), choice(Scheduler::Mh), &[c; 7]);
        node.add_service(port(TCP_A, protocol::TCP), choice(Scheduler::Mh), &[a; 7]);
        // The same port as the client's, by not naming one.
        node.add_service(port((TCP_RR.0, 0), protocol::TCP), choice(Scheduler::Rr), &[b, c, d]);
        node.add_service(port(UDP_C, protocol::UDP), choice(Scheduler::Mh), &[c; 7]);
        for protocol in [protocol::TCP, protocol::UDP] {
            node.add_service(port((PORT_NOBODY, 0), protocol), choice(Scheduler::Mh), &[]);
        }
    }
}
