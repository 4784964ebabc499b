//! What moves, and what is lost.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Place;

/// The flows of this node: `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Those that match, the most recent first, cut at the filter's limit.
    pub flows: Vec<Flow>,
    /// How many match.
    pub matching: usize,
    /// How many there are.
    pub total: usize,
    /// How many there is room for.
    pub capacity: u32,
}

/// A direction of a conversation, and what becomes of its packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// What it belongs to.
    pub kind: FlowKind,
    /// Its network.
    pub network: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the protocol's number.
    pub protocol: String,
    /// Where its packets come from.
    pub source: Place,
    /// Where they are addressed to.
    pub destination: Place,
    /// The source that they leave with; none where only a choice is remembered.
    pub new_source: Option<Place>,
    /// The destination that they leave with; none where only a choice is remembered.
    pub new_destination: Option<Place>,
    /// Whether this is the direction of the answers.
    pub reply: bool,
    /// The service.
    pub service: Option<String>,
    /// The backend, by the name of its endpoint, or its address where no endpoint has it any longer.
    pub backend: Option<String>,
    /// The node that the client spoke to, for an answer that returns through it.
    pub entry: Option<String>,
    /// Seconds since its last packet.
    pub idle: u64,
    /// A FIN or RST has passed.
    pub closing: bool,
    /// Nothing proves yet that there is somebody at its other end: it gives way when too many such wait.
    pub new: bool,
}

/// What a flow belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowKind {
    /// A conversation on a network, to a virtual IP.
    Network,
    /// A client's, to a published port, on the node that delivers it.
    Published,
    /// A client's, to a published port, on the node that it enters by.
    Entry,
    /// A task's with the world outside.
    Outside,
    /// A client's, to a published port, that another node said it delivers.
    Moved,
    /// A client's session with a backend that it comes back to.
    Session,
}

/// Packets lost for one reason: `GET /v1/drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The reason's label, also the metric's.
    pub reason: String,
    /// What it means.
    pub sentence: String,
    /// Packets since the data plane was set up.
    pub packets: u64,
}

/// This node's counters: `GET /v1/stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Packets dropped, for every reason together.
    pub dropped: u64,
    /// What the programs did with what they saw; what never happened is missing.
    pub hooks: Vec<HookCount>,
    /// How full the kernel's maps are.
    pub maps: Vec<MapUse>,
}

/// How often a program did one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCount {
    /// Where the packets came from: `endpoint`, `host`, `underlay` or `xdp`.
    pub hook: String,
    /// What became of them: `pass`, `drop`, `reply`, `deliver`, `host` or `transmit`.
    pub outcome: String,
    /// Packets; one that stands for many (GSO) counts once.
    pub packets: u64,
    /// Their bytes, as they came in.
    pub bytes: u64,
}

/// How full a kernel map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUse {
    /// Its name in the eBPF object.
    pub name: String,
    /// Entries in use, of flows as the daemon last counted them; none where the kernel does not tell.
    pub entries: Option<u64>,
    /// Entries that it has room for; of the ring of traces, bytes.
    pub capacity: u64,
    /// How often, since the maps were made, the programs found no room, or forgot a flow that had not proved itself.
    pub lost: u64,
}

/// A traced packet: one line of `GET /v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// When it passed, in microseconds since 1970.
    pub at: u64,
    /// Where it came from: `endpoint`, `host`, `underlay` or `xdp`.
    pub hook: String,
    /// The interface that it came in by.
    pub interface: String,
    /// Bytes of the frame as it came in.
    pub length: u32,
    /// What became of it: `pass`, `drop`, `reply`, `deliver`, `host` or `transmit`.
    pub outcome: String,
    /// Why it was dropped.
    pub reason: Option<String>,
    /// The interface that it left by.
    pub out: Option<String>,
    /// The tunnel around it as it left.
    pub tunnel: Option<Tunnel>,
    /// The packet as it left; none where it was too short to be read.
    pub packet: Option<Datagram>,
}

/// A VXLAN tunnel around a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The network's VNI.
    pub vni: u32,
    /// The node that sent it.
    pub source: IpAddr,
    /// The node that it goes to.
    pub destination: IpAddr,
}

/// A packet, as far as its first bytes tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`, or the number of the IP protocol or of the EtherType (`0x88cc`).
    pub protocol: String,
    /// Where it comes from.
    pub source: Option<Place>,
    /// Where it goes.
    pub destination: Option<Place>,
    /// The TCP flags, the sort of an ICMP or ARP packet, or `fragment`.
    pub detail: Option<String>,
}
