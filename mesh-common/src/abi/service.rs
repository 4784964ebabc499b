//! Services, their rings and their backends.

use super::{Address, pod::pod};

/// Where a backend stands in the table of backends.
pub type BackendIndex = u32;

/// Who is asked for: a virtual IP in a network, or a published port of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual IP, or `::` for a port published on each of the node's addresses.
    pub address: Address,
    /// The network's VNI, or 0 for a published port.
    pub scope: u32,
    /// The port, or 0 for each port of a virtual IP.
    pub port: [u8; 2],
    /// The IP protocol number, or 0 for each protocol of a virtual IP.
    pub protocol: u8,
    /// The [`Family`](super::Family) of the client's packet: 4 or 6.
    pub family: u8,
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
}

/// A place in a ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The backend that new flows go to.
    pub current: BackendIndex,
    /// The backend before it: the second chance of a flow that the current one does not know.
    pub previous: BackendIndex,
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
}

pod!(ServiceKey, Service, Slot, Backend);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<ServiceKey>(), 16 + 4 + 2 + 1 + 1);
        assert_eq!(size_of::<Service>(), 3 * 4 + 2 + 2);
        assert_eq!(size_of::<Slot>(), 8);
        assert_eq!(size_of::<Backend>(), 16 + 8 + 8);
    }
}
