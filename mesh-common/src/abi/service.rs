//! Services, their rings and their backends.

use super::{Address, pod::pod};
use crate::hash;

/// Where a backend stands in the table of backends.
pub type BackendIndex = u32;

/// Who is asked for: a virtual IP in a network, or a published port of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual IP, the one address that a port is published at, or `::` for one published on each of the node's.
    pub address: Address,
    /// The network's VNI, 0 for a published port, or [`ServiceKey::ELSEWHERE`].
    pub scope: u32,
    /// The port, or 0 for each port of a virtual IP.
    pub port: [u8; 2],
    /// The IP protocol number, or 0 for each protocol of a virtual IP.
    pub protocol: u8,
    /// The [`Family`](super::Family) of the client's packet: 4 or 6.
    pub family: u8,
}

impl ServiceKey {
    /// The scope of a port that clients find at other nodes or addresses than this one's: what they ask for may be for a
    /// task of this node all the same. No VNI is as great.
    pub const ELSEWHERE: u32 = 1 << 31;
}

/// A port at which tasks of a network answer the clients of a published port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetKey {
    /// The network's VNI.
    pub vni: u32,
    /// The port.
    pub port: [u8; 2],
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// What the longest-prefix table of clients that may ask is searched by: the service's number, then the client's
/// address. Any value means that they may.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllowedKey {
    /// The service's number, in network byte order.
    pub service: [u8; 4],
    /// The address, IPv4 mapped into IPv6, so that a /24 has a prefix of 32 + 96 + 24 bits.
    pub address: [u8; 16],
}

/// How a backend is chosen for a new flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Maglev hashing: the slot that the flow's hash names; no state.
    Mh = 0,
    /// Round robin: the slots are the backends in their order, taken in turn.
    Rr = 1,
}

/// What a service does with a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its number, the index of its round-robin cursor and of its counters.
    pub id: u32,
    /// Where its ring begins in the table of slots.
    pub first_slot: u32,
    /// The slots of its ring; 0 while the service has no backend.
    pub slots: u32,
    /// The port of the backends, or 0 to keep the one that the client used.
    pub target_port: [u8; 2],
    /// A [`Scheduler`].
    pub scheduler: u8,
    /// Zero.
    pub reserved: u8,
    /// Flags of the module [`service_flags`].
    pub flags: u32,
    /// For how many seconds a client comes back to the backend that it had (IPVS's persistence); 0 for not at all. Slots are
    /// then named by clients' addresses alone, whatever the scheduler is.
    pub persistent: u32,
}

impl Service {
    /// The hash by which a client's flow finds its slot: with persistence, the same for each of the client's ports. Ports are
    /// in network byte order; the seed is the cluster's.
    #[inline(always)]
    #[must_use]
    pub fn hash(
        &self,
        seed: u64,
        client: Address,
        client_port: [u8; 2],
        service_port: [u8; 2],
        protocol: u8,
    ) -> u32 {
        let client_port = if self.persistent == 0 { client_port } else { [0, 0] };
        hash::flow(seed, client, client_port, service_port, protocol)
    }

    /// Whether flows that begin are given to its backends in turn, whatever their hash is.
    #[inline(always)]
    #[must_use]
    pub const fn takes_turns(&self) -> bool {
        self.scheduler == Scheduler::Rr as u8 && self.persistent == 0
    }
}

/// Flags of a [`Service`].
pub mod service_flags {
    /// What no backend takes is lost without an answer.
    pub const SILENT: u32 = 1;
    /// Only clients of the ranges that are listed for the service's number may ask.
    pub const RESTRICTED: u32 = 2;
    /// Each of its backends drains: flows that are under way go on, and no other is taken. Its ring is as if none did.
    pub const DRAINING: u32 = 4;
}

/// A place in a ring: the backend that new flows go to, and those that it had before, the latest first, which flows that
/// the current one does not know may belong to.
///
/// Three numbers of 21 bits each, the current one lowest, so that it is read and written as a whole.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot(u64);

impl Slot {
    /// How many backends it remembers besides the current one.
    pub const HISTORY: usize = 2;

    const BITS: u32 = 21;
    const MASK: u64 = (1 << Self::BITS) - 1;

    /// A slot with these backends before the current one: 0 for none. Indices have 21 bits.
    #[inline(always)]
    #[must_use]
    pub const fn new(current: BackendIndex, before: [BackendIndex; Self::HISTORY]) -> Self {
        let [latest, oldest] = before;
        Self(
            current as u64 & Self::MASK
                | (latest as u64 & Self::MASK) << Self::BITS
                | (oldest as u64 & Self::MASK) << (2 * Self::BITS),
        )
    }

    /// The slot as the kernel's map has it.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What [`bits`](Self::bits) gave.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The backend that new flows go to.
    #[inline(always)]
    #[must_use]
    pub const fn current(self) -> BackendIndex {
        (self.0 & Self::MASK) as BackendIndex
    }

    /// Those before it, the latest first; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn before(self) -> [BackendIndex; Self::HISTORY] {
        [
            (self.0 >> Self::BITS & Self::MASK) as BackendIndex,
            (self.0 >> (2 * Self::BITS) & Self::MASK) as BackendIndex,
        ]
    }
}

/// A target of services.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its address in its network; `::` in an unused entry.
    pub address: Address,
    /// Its network's VNI.
    pub vni: u32,
    /// The [`NodeIndex`](super::NodeIndex) of the node it runs on.
    pub node: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// What a tunnel to it has from the outer UDP checksum, which is zero, up to the second byte of the VNI: eight bytes as a
    /// little-endian word.
    pub vxlan: u64,
    /// What follows up to the end of the inner destination MAC address, likewise.
    pub inner: u64,
}

/// The flag of a VXLAN header that says that it holds a VNI (RFC 7348, section 5).
pub(crate) const VNI_PRESENT: u8 = 0x08;

impl Backend {
    /// An unused entry, as the kernel's array has it: zero.
    pub const UNUSED: Self = Self {
        address: Address::UNSPECIFIED,
        vni: 0,
        node: 0,
        mac: [0; 6],
        reserved: [0; 2],
        vxlan: 0,
        inner: 0,
    };

    /// A task with an address on the network with this VNI, on this node.
    #[must_use]
    pub const fn new(address: Address, vni: u32, node: u32, mac: [u8; 6]) -> Self {
        let [vxlan, inner] = inside_tunnel(vni, mac);
        Self { address, vni, node, mac, reserved: [0; 2], vxlan, inner }
    }
}

/// What a tunnel on a network has from the outer UDP checksum, which is zero, to the end of the inner destination MAC address:
/// two little-endian words.
#[inline(always)]
pub(crate) const fn inside_tunnel(vni: u32, mac: [u8; 6]) -> [u64; 2] {
    let [_, v0, v1, v2] = vni.to_be_bytes();
    let [m0, m1, m2, m3, m4, m5] = mac;
    [
        u64::from_le_bytes([0, 0, VNI_PRESENT, 0, 0, 0, v0, v1]),
        u64::from_le_bytes([v2, 0, m0, m1, m2, m3, m4, m5]),
    ]
}

pod!(ServiceKey, AllowedKey, TargetKey, Service, Slot, Backend);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<ServiceKey>(), 16 + 4 + 2 + 1 + 1);
        assert_eq!(size_of::<AllowedKey>(), 20);
        assert_eq!(size_of::<Service>(), 3 * 4 + 2 + 2 + 4 + 4);
        assert_eq!(size_of::<TargetKey>(), 4 + 2 + 1 + 1);
        assert_eq!(size_of::<Slot>(), 8);
        assert_eq!(size_of::<Backend>(), 16 + 8 + 8 + 2 * 8);
    }
}
