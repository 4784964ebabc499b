//! Fragments of UDP datagrams: only the first says the ports, which all the others are delivered by.
//!
//! A node remembers the ports of the first, so that the others go its way. What comes before the first is held, and comes
//! in once more behind it. The search for the ports is an entry of its own, since a program of its own runs it: an entry that
//! meets a fragment hands it on, and it then comes to the same entry once more, with the ports that were found.

use super::datagram::Datagram;
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{FRAGMENTS_LIFETIME, Family, FragmentKey, Fragments, Handover, Held},
    packet::REACH,
    wire::{ether_type, protocol},
};

/// Whether a packet whose network header stands at `l3` is a fragment that goes on to the search for its ports, with
/// [`Verdict::FRAGMENT`]. If not, it is none, or comes from there, and now has its ports, if it has any.
#[inline(always)]
pub(super) fn goes_on<T: Tables>(tables: &T, datagram: &mut Datagram, l3: usize, scope: u32) -> bool {
    if T::FRAGMENTS {
        datagram.take_for_fragment(&tables.fragment_handed_on());
        return false;
    }
    if datagram.is_fragment {
        tables.hand_on_fragment(Handover { l3: l3 as u32, scope, ..Handover::default() });
        return true;
    }
    datagram.take_for_whole();
    false
}

/// Searches for the ports of a fragment that another entry has handed on. `None` if it goes on with them, or for want of
/// any; otherwise it waits for them, or others have waited for it.
#[inline(always)]
pub fn find_ports<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Verdict> {
    let mut handover = tables.fragment_handed_on();
    let mut verdict = Verdict::FRAGMENT;
    if search(packet, tables, &mut handover, &mut verdict).is_ok() {
        if verdict != Verdict::FRAGMENT {
            return Some(verdict);
        }
        handover.has_ports = 1;
    }
    tables.hand_on_fragment(handover);
    None
}

/// Finds the ports, or says by `verdict` that the fragment does not go on.
#[inline(always)]
fn search<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    handover: &mut Handover,
    verdict: &mut Verdict,
) -> Result<(), Reason> {
    let l3 = handover.l3 as usize & REACH;
    let version: u8 = packet.read(l3).ok_or(Reason::Malformed)?;
    let family = if version >> 4 == 6 { Family::V6 } else { Family::V4 };
    let mut datagram = Datagram::UNREAD;
    datagram.parse(packet, l3, ether_type::of(family))?;
    // TCP sends none, and an ICMP message has no ports but its own.
    if !datagram.is_fragment || datagram.key.protocol != protocol::UDP {
        return Err(Reason::Portless);
    }
    let key = FragmentKey {
        source: datagram.key.source,
        destination: datagram.key.destination,
        id: identification(packet, &datagram, l3).ok_or(Reason::Malformed)?,
        scope: handover.scope,
    };
    let mut fragments = tables.fragments(&key).unwrap_or_default();
    let now = tables.now();
    if now.saturating_sub(fragments.since) > FRAGMENTS_LIFETIME {
        fragments = Fragments { since: now, ..Fragments::default() };
    }
    if datagram.is_later {
        if fragments.is_known == 0 {
            if packet.length() > Held::BYTES {
                return Err(Reason::Portless);
            }
            fragments.waiting = tables.hold(fragments.waiting).ok_or(Reason::Portless)?;
            tables.put_fragments(&key, &fragments);
            *verdict = Verdict::hold(fragments.waiting);
            return Ok(());
        }
    } else {
        let [source, destination, _, _]: [[u8; 2]; 4] =
            packet.read(datagram.l4()).ok_or(Reason::Malformed)?;
        let waiting = fragments.waiting;
        fragments = Fragments {
            source_port: source,
            destination_port: destination,
            is_known: 1,
            since: now,
            ..Fragments::default()
        };
        tables.put_fragments(&key, &fragments);
        if waiting != 0 {
            *verdict = Verdict::release(waiting);
            return Ok(());
        }
    }
    handover.source_port = fragments.source_port;
    handover.destination_port = fragments.destination_port;
    Ok(())
}

/// What all fragments of a datagram have in common besides their addresses. IPv6's stands at the end of the header that says
/// that this is one, the last before the transport header.
#[inline(always)]
fn identification<P: Packet>(packet: &P, datagram: &Datagram, l3: usize) -> Option<[u8; 4]> {
    match datagram.family {
        Family::V4 => packet.read(l3 + 4).map(|[a, b]: [u8; 2]| [a, b, 0, 0]),
        // Masked, so that the verifier sees an offset that is neither negative nor great.
        Family::V6 => packet.read(datagram.l4().wrapping_sub(4) & REACH),
    }
}
