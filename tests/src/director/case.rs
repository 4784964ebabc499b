//! What is measured: each way of forwarding, by each family of addresses, under each load.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::traffic::Expected;

/// One measurement.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Case {
    /// How packets are forwarded.
    pub way: Way,
    /// Of which family the client and the service are.
    pub family: Family,
    /// How many flows there are.
    pub load: Load,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How many flows the packets are of.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Load {
    /// All of one.
    OneFlow,
    /// Of [`MANY`](super::MANY), which take turns.
    ManyFlows,
    /// Each begins one.
    NewFlows,
}

/// A way of forwarding; the first ones are controls.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Way {
    /// None: dropped where the driver hands packets over.
    DropAtXdp,
    /// None: dropped at the first hook where packets are kernel buffers.
    DropAtTc,
    /// Untouched, back to where it came from (`XDP_TX`).
    Back,
    /// Untouched, out by the interface of the servers (`XDP_REDIRECT`).
    Across,
    /// By the kernel's routing, to the one address that the client gave.
    Routing,
    /// The mesh's published port, by VXLAN to the node of the task.
    Mesh(Scheduler),
    /// IPVS.
    Ipvs {
        /// How it gets packets to servers.
        forwarding: Forwarding,
        /// How it chooses a server.
        scheduler: Scheduler,
        /// Whether it chooses for each packet and remembers nothing (`-o`).
        one_packet: bool,
    },
    /// Destination NAT by nftables, to one server after the other.
    Nftables,
    /// The same by iptables.
    Iptables,
}

/// A scheduler, by IPVS's names.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Maglev hashing.
    Mh,
}

/// A way of IPVS's to get packets to servers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Forwarding {
    /// Another destination (`-m`).
    Nat,
    /// Another MAC address (`-g`).
    Dr,
    /// A tunnel of IP in IP (`-i`).
    Ipip,
}

/// Bytes of an Ethernet header, of the two IP headers, and of a frame's UDP header and payload.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8 + 18;
/// What VXLAN puts before a frame, over IPv4: IP, UDP and VXLAN headers, and the frame's own Ethernet header.
const VXLAN: usize = IPV4 + 8 + 8 + ETHERNET;

impl Case {
    /// What arrives at the sink.
    pub(super) fn expected(self) -> Expected {
        let is_v4 = self.family == Family::V4;
        let ip = if is_v4 { IPV4 } else { IPV6 };
        let plain = Expected { length: ETHERNET + ip + UDP, is_v4, protocol: 17 };
        match self.way {
            // The nodes know each other by IPv4.
            Way::Mesh(_) => Expected { length: plain.length + VXLAN, is_v4: true, protocol: 17 },
            Way::Ipvs { forwarding: Forwarding::Ipip, .. } => {
                Expected { length: plain.length + ip, is_v4, protocol: if is_v4 { 4 } else { 41 } }
            }
            _ => plain,
        }
    }
}

/// Every case, controls first, the ways of a load together.
#[must_use]
pub fn cases() -> Vec<Case> {
    let ipvs = |forwarding, scheduler, one_packet| Way::Ipvs { forwarding, scheduler, one_packet };
    let controls = [Way::DropAtXdp, Way::Back, Way::Across, Way::DropAtTc, Way::Routing];
    let ways = [
        Way::Mesh(Scheduler::Mh),
        Way::Mesh(Scheduler::Rr),
        ipvs(Forwarding::Dr, Scheduler::Mh, false),
        ipvs(Forwarding::Dr, Scheduler::Rr, false),
        ipvs(Forwarding::Ipip, Scheduler::Mh, false),
        ipvs(Forwarding::Nat, Scheduler::Mh, false),
        ipvs(Forwarding::Nat, Scheduler::Rr, false),
        ipvs(Forwarding::Dr, Scheduler::Mh, true),
        ipvs(Forwarding::Dr, Scheduler::Rr, true),
        Way::Nftables,
        Way::Iptables,
    ];
    let mut cases = Vec::new();
    for family in [Family::V4, Family::V6] {
        cases.extend(controls.map(|way| Case { way, family, load: Load::OneFlow }));
        for load in [Load::OneFlow, Load::ManyFlows, Load::NewFlows] {
            cases.extend(ways.map(|way| Case { way, family, load }));
        }
    }
    cases
}

impl Scheduler {
    /// Its name in IPVS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Mh => "mh",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.way, self.family, self.load)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneFlow => f.write_str("one flow"),
            Self::ManyFlows => write!(f, "{} flows", super::MANY),
            Self::NewFlows => f.write_str("a new flow per packet"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropAtXdp => f.write_str("control: drop in XDP"),
            Self::DropAtTc => f.write_str("control: drop in tc"),
            Self::Back => f.write_str("control: untouched, XDP_TX"),
            Self::Across => f.write_str("control: untouched, XDP_REDIRECT"),
            Self::Routing => f.write_str("control: ip_forward"),
            Self::Mesh(scheduler) => write!(f, "mesh vxlan {}", scheduler.name()),
            Self::Ipvs { forwarding, scheduler, one_packet } => {
                let forwarding = match forwarding {
                    Forwarding::Nat => "nat",
                    Forwarding::Dr => "dr",
                    Forwarding::Ipip => "ipip",
                };
                let one_packet = if *one_packet { " one-packet" } else { "" };
                write!(f, "IPVS {forwarding} {}{one_packet}", scheduler.name())
            }
            Self::Nftables => f.write_str("nftables DNAT"),
            Self::Iptables => f.write_str("iptables DNAT"),
        }
    }
}
