//! Packets that are none of the mesh's, which are most of what an ordinary node gets: told by their port alone.

use super::headers::Headers;
use crate::{
    Tables, Verdict,
    abi::{MASQUERADE_PORTS, port_bit},
};

/// The way of an ordinary packet from the wire in no tunnel, if it is to pass: nothing is published at its port, and no task is
/// masqueraded to it. What [`from_underlay`](super::from_underlay()) comes to after it has asked for the address and the service.
#[inline(always)]
pub(super) fn foreign<T: Tables>(tables: &T, headers: &Headers) -> Option<Verdict> {
    let port = u16::from_be((headers.ports >> 16) as u16);
    let (word, bit) = port_bit(headers.protocol, port)?;
    let is_foreign = port < MASQUERADE_PORTS.start && tables.published_ports(word) & bit == 0;
    is_foreign.then_some(Verdict::PASS)
}
