//! The second chance of a flow of a published port that the node it was sent to does not know: where it is asked for.
//!
//! Rings change, on one node before the other, while flows live on. So an entry node names the backend that had a slot
//! before, and a delivering node that does not know a flow passes its packet on: to where a [`ForwardingAddress`] says that
//! it lives, to whom the packet names, to those that had the slot before by this node's own ring. Who knows the flow
//! delivers it. When nobody is left, it comes back to the slot's current backend and is taken there: a datagram opens a flow,
//! a segment meets the task's own kernel, which resets it. A backend that is not there, or drains, does not take it: who has
//! been told so knows which came after, and passes it on once more.
//!
//! Loops are impossible: a packet carries in its tunnel how often it was asked for, which only ever grows, and the last
//! errand is never passed on. (Prior art: Beamer, NSDI 2018; GitHub's GLB director.)

use core::mem::offset_of;

use super::{Step, balance, datagram::Datagram, lookup, published::Forward};
use crate::{
    Packet, Reason, Tables, Verdict,
    abi::{
        Address, Arrival, Backend, BackendIndex, Endpoint, Flow, FlowKey, ForwardingAddress, MacKey,
        NodeIndex, Settings, Slot, Space, settings_flags, station_flags,
    },
    wire::protocol,
};

/// How often a packet was passed on, as its tunnel says in the VXLAN header's last byte, which RFC 7348 reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errand(u8);

impl Errand {
    /// The packet comes from its entry node.
    pub(super) const FIRST: Self = Self(0);
    /// Nobody else is asked: the backend that it is for takes it. Where that is not there, the slot's current one is the last.
    const TAKE: Self = Self(0xfe);
    /// Whoever gets it takes it.
    pub(super) const LAST: Self = Self(0xff);
    /// How many nodes are asked at most: who had the slot before, and one that the packet or a forwarding address named.
    const MOST: u8 = Slot::HISTORY as u8 + 1;

    #[inline(always)]
    pub(super) const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    #[inline(always)]
    pub(super) const fn byte(self) -> u8 {
        self.0
    }

    /// Whether the packet comes straight from its entry node.
    #[inline(always)]
    pub(super) const fn is_first(self) -> bool {
        self.0 == 0
    }

    /// Whether nobody else is asked.
    #[inline(always)]
    pub(super) const fn is_to_take(self) -> bool {
        self.0 > Self::MOST
    }

    #[inline(always)]
    const fn is_last(self) -> bool {
        self.0 == Self::LAST.0
    }

    #[inline(always)]
    const fn next(self) -> Self {
        if self.0 < Self::MOST { Self(self.0 + 1) } else { self.to_take() }
    }

    /// The next errand of a packet that nobody else is asked for.
    #[inline(always)]
    const fn to_take(self) -> Self {
        if self.0 < Self::TAKE.0 { Self::TAKE } else { Self::LAST }
    }
}

/// The MAC address of the backend that had a slot before `current`, for the delivering node to ask: zero for none, and for
/// one that a tunnel of the current one's network cannot name.
#[inline(always)]
pub(super) fn named<T: Tables>(tables: &T, slot: Slot, current: &Backend) -> [u8; 6] {
    let [latest, _] = slot.before();
    if latest == 0 {
        return [0; 6];
    }
    match tables.backend(latest) {
        Some(before) if before.vni == current.vni => before.mac,
        _ => [0; 6],
    }
}

/// Finds whom to pass a packet on to that belongs to no flow of this node. False if it is to be taken here, by the backend
/// that `arrival` then names.
#[inline(never)]
pub(super) fn ask<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    arrival: &mut Arrival,
    onward: &mut Forward,
) -> Result<bool, Reason> {
    let settings = tables.settings().ok_or(Reason::NotAttached)?;
    let errand = Errand::from_byte(arrival.errand);
    if errand.is_last() || settings.flags & settings_flags::NO_SECOND_CHANCE != 0 {
        return Ok(false);
    }
    let takes = takes(tables, settings, arrival);
    // Where its client may have a session, even a flow that opens is asked for.
    let opens = datagram.is_syn() && arrival.persistent == 0;
    if takes && (opens || errand.is_to_take()) {
        return Ok(false);
    }
    onward.source = tables.node(arrival.entry.into()).ok_or(Reason::NoRoute)?.mac;
    onward.errand = errand.next();
    onward.vni = arrival.vni;
    // Also one that was passed on may come to where its flow left an address: at its entry node the ring was another, or it was
    // another's turn.
    let is_found = !opens
        && !onward.errand.is_to_take()
        && (follow_address(tables, settings, datagram, arrival, onward)
            || errand.is_first() && follow_name(tables, settings, arrival, onward));
    if is_found {
        return Ok(true);
    }
    follow_history(tables, settings, datagram, arrival, onward, Asked { opens, takes })
}

/// Where a forwarding address that was left here says that the flow lives.
#[inline(always)]
fn follow_address<T: Tables>(
    tables: &T,
    settings: &Settings,
    datagram: &mut Datagram,
    arrival: &Arrival,
    onward: &mut Forward,
) -> bool {
    let mut found = tables.flow(datagram.key_in(Space::Moved, arrival.vni));
    if let Some(flow) = &found {
        balance::mark(tables, flow, datagram);
    } else if arrival.persistent != 0 && datagram.may_begin() {
        let port = core::mem::take(&mut datagram.key.source_port);
        found = tables.flow(&datagram.key);
        datagram.key.source_port = port;
    }
    let Some(flow) = found else { return false };
    match lookup::endpoint(tables, arrival.vni, &flow.destination) {
        Some(&Endpoint { node, mac, .. }) if node != settings.node => {
            onward.node = node;
            onward.mac = mac;
            true
        }
        _ => false,
    }
}

/// Whom the entry node named.
#[inline(always)]
fn follow_name<T: Tables>(tables: &T, settings: &Settings, arrival: &Arrival, onward: &mut Forward) -> bool {
    match tables.station(&MacKey { vni: arrival.vni, mac: arrival.source, reserved: [0; 2] }) {
        Some(station) if station.node != settings.node && arrival.source != arrival.mac => {
            onward.node = station.node;
            onward.mac = arrival.source;
            true
        }
        _ => false,
    }
}

/// What is known of a packet that is asked for.
#[derive(Clone, Copy)]
struct Asked {
    /// It opens a flow, which nobody can know.
    opens: bool,
    /// The backend that it was sent to is on this node, and takes new flows.
    takes: bool,
}

/// Who comes behind the backend that was asked, in the slot's history by this node's own ring, or who comes first if the
/// ring need not be the entry node's; and behind the last, the current one takes the packet.
#[inline(always)]
fn follow_history<T: Tables>(
    tables: &T,
    settings: &Settings,
    datagram: &Datagram,
    arrival: &mut Arrival,
    onward: &mut Forward,
    asked: Asked,
) -> Result<bool, Reason> {
    let key = &datagram.key;
    let service = lookup::asked(tables, datagram, &key.destination, key.destination_port)
        .ok_or(Reason::NotPublished)?;
    // A turn is no function of the hash that the slot goes by: who was chosen takes what may be a flow's first.
    if service.takes_turns() && asked.takes && arrival.errand == Errand::FIRST.byte() && datagram.may_begin()
    {
        return Ok(false);
    }
    let Some(slot) = balance::slot(tables, settings, service, datagram) else { return Ok(false) };
    let current = tables.backend(slot.current()).ok_or(Reason::NoBackend)?;
    let [latest, oldest] = slot.before();
    let is_asked = |backend: &Backend| backend.mac == arrival.mac && backend.vni == arrival.vni;
    let errand = Errand::from_byte(arrival.errand);
    let is_first = errand.is_first();
    let is_second = errand == Errand::FIRST.next();
    let was_latest = tables.backend(latest).is_some_and(is_asked);
    let was_oldest = tables.backend(oldest).is_some_and(is_asked);
    // The current one, or one whose turn with the slot this node never heard of.
    let was_later = !was_latest && !was_oldest;
    // Who passed the packet on has been asked; the entry node has not.
    let peer = if is_first { 0 } else { arrival.peer.into() };
    // One never heard of came after all that this node knows, if its ring is older than that of who named it. Or it came
    // between the current one and those before: then the current one was asked, mostly by who passed the packet on.
    let may_be_newer = was_later && !is_asked(current);
    let is_found = !asked.opens
        && !onward.errand.is_to_take()
        && ((is_first || may_be_newer) && elsewhere(tables, settings, slot.current(), peer, onward)
            // Who was asked second may be one that the packet named, and the one between was not asked.
            || (is_first || was_later || is_second && was_oldest)
                && elsewhere(tables, settings, latest, peer, onward)
            || (is_first || !was_oldest) && elsewhere(tables, settings, oldest, peer, onward));
    if is_found {
        return Ok(true);
    }
    if is_first && asked.takes {
        return Ok(false);
    }
    // Nobody is left that this node knows of; the current one's may know more, and takes the packet if it does not.
    if asked.opens {
        onward.errand = errand.to_take();
    }
    if elsewhere(tables, settings, slot.current(), 0, onward) {
        return Ok(true);
    }
    arrival.mac = current.mac;
    arrival.vni = current.vni;
    Ok(false)
}

/// Names a backend if it is one, and neither on this node nor on another that was asked: what a node does not know, none of its
/// backends has.
#[inline(always)]
fn elsewhere<T: Tables>(
    tables: &T,
    settings: &Settings,
    backend: BackendIndex,
    asked: NodeIndex,
    onward: &mut Forward,
) -> bool {
    if backend == 0 {
        return false;
    }
    match tables.backend(backend) {
        Some(backend) if backend.node != settings.node && backend.node != asked => {
            onward.node = backend.node;
            onward.vni = backend.vni;
            onward.mac = backend.mac;
            true
        }
        _ => false,
    }
}

/// Whether the backend that a packet was sent to is on this node, and takes flows that the node does not know.
#[inline(always)]
fn takes<T: Tables>(tables: &T, settings: &Settings, arrival: &Arrival) -> bool {
    let key = MacKey { vni: arrival.vni, mac: arrival.mac, reserved: [0; 2] };
    tables
        .station(&key)
        .is_some_and(|station| station.node == settings.node && station.flags & station_flags::DRAINING == 0)
}

/// The node by which a packet entered that was passed on, as its tunnel names it.
#[inline(never)]
pub(super) fn entry<T: Tables>(tables: &T, mac: &[u8; 6]) -> Option<NodeIndex> {
    tables.station(&MacKey { vni: 0, mac: *mac, reserved: [0; 2] }).map(|station| station.node)
}

/// Another node's word of where a flow lives.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) vni: u32,
    /// Who says so.
    pub(super) peer: NodeIndex,
    /// Where the [`ForwardingAddress`] begins in the frame.
    pub(super) at: u8,
}

/// Takes note of where a flow lives, if whoever says so is the node that it lives on.
#[inline(never)]
pub(super) fn learn<P: Packet, T: Tables>(packet: &P, tables: &T, told: &Told) -> Step {
    let at = usize::from(told.at);
    let backend: Address =
        packet.read(at + offset_of!(ForwardingAddress, backend)).ok_or(Reason::Malformed)?;
    let endpoint = lookup::endpoint(tables, told.vni, &backend).ok_or(Reason::NoSuchEndpoint)?;
    if endpoint.node != told.peer {
        return Err(Reason::PeerForged);
    }
    remember(packet, tables, told, &backend).ok_or(Reason::Malformed)
}

#[inline(always)]
fn remember<P: Packet, T: Tables>(packet: &P, tables: &T, told: &Told, backend: &Address) -> Option<Verdict> {
    let at = usize::from(told.at);
    // Field by field: the whole would lie on the stack beside what it becomes.
    let protocol: u8 = packet.read(at + offset_of!(ForwardingAddress, protocol))?;
    if !matches!(protocol, protocol::TCP | protocol::UDP) {
        return None;
    }
    let key = FlowKey {
        source: packet.read(at + offset_of!(ForwardingAddress, client))?,
        destination: packet.read(at + offset_of!(ForwardingAddress, published))?,
        source_port: packet.read(at + offset_of!(ForwardingAddress, client_port))?,
        destination_port: packet.read(at + offset_of!(ForwardingAddress, port))?,
        scope: FlowKey::scope(Space::Moved, told.vni),
        protocol,
        reserved: [0; 7],
    };
    let flow = Flow { destination: *backend, node: told.peer, seen: tables.now(), ..Flow::default() };
    tables.put_flow(&key, &flow);
    Some(Verdict::LEARN)
}
