//! What one program hands on to another of a client's packet.

use super::pod::pod;

/// How a client's packet came to the node that may deliver it, and whom it is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The service's number.
    pub service: u32,
    /// The service's [`service_flags`](super::service_flags).
    pub flags: u32,
    /// For how many seconds the service's clients come back to their backends, or 0.
    pub persistent: u32,
    /// The network of the backend.
    pub vni: u32,
    /// The [`NodeIndex`](super::NodeIndex) of the entry node. There is room for far fewer nodes than 16 bits count.
    pub entry: u16,
    /// That of the node that it came from: the entry node, or the one that passed it on.
    pub peer: u16,
    /// The MAC address of the backend that the entry node chose, or that is asked.
    pub mac: [u8; 6],
    /// The MAC address of the backend to ask next, if the packet comes straight from its entry node.
    pub source: [u8; 6],
    /// The backends' port, or 0 to keep the client's.
    pub target_port: [u8; 2],
    /// Bytes of the tunnel around the packet, or 0.
    pub tunnel: u8,
    /// How often it was passed on, as its tunnel says.
    pub errand: u8,
}

pod!(Arrival);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<Arrival>(), 5 * 4 + 12 + 4);
    }
}
