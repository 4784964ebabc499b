//! Fragments of UDP datagrams: whose ports are known, and which wait for their first.

use super::{Address, pod::pod};

/// What the fragments of one datagram have in common (RFC 791, section 3.2; RFC 8200, section 4.5), but for the protocol,
/// which is always UDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey {
    /// The fragments' source.
    pub source: Address,
    /// Their destination.
    pub destination: Address,
    /// The identification, as it stands on the wire; IPv4's in the first two bytes.
    pub id: [u8; 4],
    /// Where they travel: a [scope](super::FlowKey::scope).
    pub scope: u32,
}

/// What is known of a datagram in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// The source port, once the first fragment has come.
    pub source_port: [u8; 2],
    /// The destination port likewise.
    pub destination_port: [u8; 2],
    /// The turn of the fragment that was held last, or 0 if none waits.
    pub waiting: u32,
    /// 1 if the first fragment has come, otherwise 0.
    pub is_known: u32,
    /// Zero.
    pub reserved: u32,
    /// When the first fragment came, or the first of those that wait: seconds of the monotonic clock.
    pub since: u64,
}

/// A fragment that waits for the first of its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its turn, from 1, or 0 while there is none in this place.
    pub turn: u32,
    /// The turn of the one of its datagram that came before it, or 0.
    pub before: u32,
    /// The frame's length in bytes.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
    /// The frame.
    pub bytes: [u8; Self::BYTES],
}

impl Held {
    /// The longest frame that is held: one of an Ethernet with VXLAN around it, and some more.
    pub const BYTES: usize = 2048;
    /// How many fragments of one datagram are held at most: as many as the longest has on the narrowest link of IPv6
    /// (RFC 8200, section 5: 1280 bytes), and some more.
    pub const MOST: usize = 64;
}

/// What one program hands on to another with a fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// Where its network header stands in the frame.
    pub l3: u32,
    /// Where it travels: a [scope](super::FlowKey::scope).
    pub scope: u32,
    /// 1 if its ports were found, otherwise 0.
    pub has_ports: u32,
    /// The source port of its datagram, if that was found.
    pub source_port: [u8; 2],
    /// The destination port likewise.
    pub destination_port: [u8; 2],
}

/// For how long a datagram's fragments are taken for its own, in seconds. Linux puts one together for as long; RFC 791 says
/// 15, RFC 8200 60.
pub const FRAGMENTS_LIFETIME: u64 = 30;

pod!(FragmentKey, Fragments, Held, Handover);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<FragmentKey>(), 32 + 4 + 4);
        assert_eq!(size_of::<Fragments>(), 4 + 4 + 4 + 4 + 8);
        assert_eq!(size_of::<Handover>(), 4 + 4 + 4 + 4);
        assert_eq!(size_of::<Held>(), 16 + Held::BYTES);
    }
}
