//! Whether a packet fits the way that it is to go.

use crate::{Packet, wire::ETHERNET};

/// Whether the frame's packet is longer than `mtu` bytes.
#[inline(always)]
pub(super) fn is_too_big<P: Packet>(packet: &P, mtu: u32) -> bool {
    !packet.is_aggregate() && packet.length() - ETHERNET > mtu as usize
}
