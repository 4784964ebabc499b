//! Forgetting flows that are over, in small slices.

use std::{collections::BTreeSet, sync::atomic::AtomicUsize, time::Duration};

use mesh_common::abi::{self, Address, BackendIndex, Flow, FlowKey, Space, flow_flags};

use crate::{
    apply::{Flows, Map, MapError, Maps},
    conversation::{TCP, TCP_IDLE, is_closed, quiet},
};

/// A closed TCP connection is remembered for so many seconds: as long as Linux keeps one in TIME-WAIT.
pub(crate) const CLOSED_FOR: u64 = 60;
/// A conversation without connections is over after so many quiet seconds: what conntrack gives a UDP stream.
pub(crate) const QUIET_FOR: u64 = 180;

/// A flow of which nothing proved that there is somebody at its other end is given up after so many quiet seconds: about as
/// long as a Linux server goes on answering a SYN that nobody confirms (`tcp_synack_retries`).
pub(crate) const NEW_FOR: u64 = 60;

/// How many flows are looked at before others have their turn.
pub(crate) const SLICE: usize = 256;

/// The kernel's monotonic clock, by which flows are dated.
pub(crate) fn monotonic() -> Duration {
    // Linux always has this clock.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// What the last sweep left.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Directions of flows.
    pub(crate) all: AtomicUsize,
    /// Flows that have not proved themselves.
    pub(crate) new: AtomicUsize,
}

/// The backends with which no conversation goes on that has no connection to lose.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// Those that have left or are not healthy, by the numbers that they are chosen by.
    pub(crate) backends: BTreeSet<BackendIndex>,
    /// Those that are not healthy, by VNI and address: where a flow is delivered, its backend has no number.
    pub(crate) unwell: BTreeSet<(u32, Address)>,
}

impl Gone {
    /// Whether a flow is part of a conversation with a backend that is not healthy. A connection goes on: it may well be that it
    /// is new ones that the backend cannot take.
    fn is_sick(&self, key: &FlowKey, flow: &Flow) -> bool {
        let space = key.scope >> 24;
        let is_to_a_backend = space == Space::Published as u32 || space == Space::Network as u32;
        let is_reply = flow.flags & flow_flags::REPLY != 0;
        let backend = if is_reply { key.source } else { flow.destination };
        key.protocol != TCP
            && is_to_a_backend
            && flow.service != 0
            && self.unwell.contains(&(key.scope & abi::VNI_MAX, backend))
    }
}

/// A walk over all flows, a slice at a time.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    next: Option<FlowKey>,
    /// The flows that were passed, gone ones included.
    seen: usize,
}

impl Walk {
    /// The keys of the next slice, and whether there are more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn slice(&mut self, maps: &impl Maps) -> Result<(Vec<FlowKey>, bool), MapError> {
        // The last key of a slice is where the next one begins: it is looked at then, when it is sure to be there.
        let mut keys: Vec<FlowKey> = self.next.take().into_iter().collect();
        keys.extend(maps.keys_after::<Flows>(keys.first(), SLICE + 1 - keys.len())?);
        // A key that has gone in the meantime leads back to the beginning: nothing may go round forever.
        let is_last = keys.len() <= SLICE || self.seen >= Flows::CAPACITY as usize;
        if !is_last {
            self.next = keys.pop();
        }
        self.seen += keys.len();
        Ok((keys, !is_last))
    }
}

/// Where a sweep stands.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    walk: Walk,
    /// The flows that were forgotten.
    pub(crate) removed: usize,
    /// The flows that are left.
    pub(crate) left: usize,
    /// Those of them that have not proved themselves, without the directions of their answers.
    pub(crate) new: usize,
    /// Whether room was short when the last sweep ended.
    short_of_room: bool,
}

impl Sweep {
    /// A sweep that follows one that left so many flows.
    pub(crate) const fn after(left: usize) -> Self {
        let short_of_room = left >= Flows::CAPACITY as usize / 4 * 3;
        Self { walk: Walk { next: None, seen: 0 }, removed: 0, left: 0, new: 0, short_of_room }
    }

    /// Looks at the next slice; says whether there is more. `now` is in seconds of the monotonic clock.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn slice(&mut self, maps: &mut impl Maps, now: u64, gone: &Gone) -> Result<bool, MapError> {
        let (keys, more) = self.walk.slice(maps)?;
        for key in keys {
            let Some(flow) = maps.get::<Flows>(&key)? else { continue };
            let back_key = flow.back_key(&key);
            let back = match &back_key {
                Some(back_key) => maps.get::<Flows>(back_key)?,
                None => None,
            };
            let is_over = gone.is_sick(&key, &flow)
                || is_over(&key, &flow, back.as_ref(), now, &gone.backends, self.short_of_room);
            if !is_over
                // A packet that came in the meantime has the last word.
                || maps.get::<Flows>(&key)? != Some(flow)
            {
                self.left += 1;
                self.new += usize::from(flow.flags & flow_flags::NEW != 0);
                continue;
            }
            // Both directions at once: what is left of a conversation would not be known for one that is over.
            maps.remove::<Flows>(&key)?;
            self.removed += 1;
            if let (Some(back_key), Some(_)) = (back_key, back) {
                maps.remove::<Flows>(&back_key)?;
                self.removed += 1;
            }
        }
        Ok(more)
    }
}

/// Whether a flow is to be forgotten, given that of its other direction, if it has one. `now` is in seconds of the clock of
/// [`Flow::seen`], and `gone` holds the backends that have left, or are not well.
#[must_use]
pub fn is_over(
    key: &FlowKey,
    flow: &Flow,
    back: Option<&Flow>,
    now: u64,
    gone: &BTreeSet<BackendIndex>,
    short_of_room: bool,
) -> bool {
    let quiet = quiet(flow, back, now);
    let flags = flow.flags | back.map_or(0, |back| back.flags);
    if flags & flow_flags::NEW != 0 && quiet > NEW_FOR {
        return true;
    }
    let space = key.scope >> 24;
    if space == Space::Session as u32 {
        return quiet > u64::from(flow.vni);
    }
    // Forwarding addresses are left again and again while their flows live.
    if space == Space::Moved as u32 {
        return quiet > QUIET_FOR;
    }
    if key.protocol != TCP {
        // What speaks without a connection would stay with a backend that is gone, or not well, for as long as it speaks.
        return quiet > QUIET_FOR || gone.contains(&flow.backend);
    }
    // An open but quiet one is given up only where room is short.
    is_closed(flow, back) && quiet > CLOSED_FOR || short_of_room && quiet > TCP_IDLE
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::{Address, flow_flags};

    use super::*;
    use crate::apply::memory::MemoryMaps;

    const NOW: u64 = 10_000;
    const UDP: u8 = 17;

    /// Both directions of a conversation with a virtual IP, last seen so many seconds ago, with these flags.
    fn conversation(
        maps: &mut MemoryMaps,
        n: u16,
        protocol: u8,
        there: (u64, u32),
        back: (u64, u32),
    ) -> FlowKey {
        let [client, vip, backend] = [1, 2, 3].map(|last| Address::from_v4([10, 0, 9, last]));
        let port = n.to_be_bytes();
        let key = FlowKey {
            source: client,
            destination: vip,
            source_port: port,
            destination_port: [0, 80],
            scope: 7,
            protocol,
            reserved: [0; 7],
        };
        let forward = Flow {
            source: client,
            destination: backend,
            source_port: port,
            destination_port: [0, 80],
            backend: 5,
            flags: there.1,
            seen: NOW - there.0,
            ..Flow::default()
        };
        let back_key = FlowKey {
            source: backend,
            destination: client,
            source_port: [0, 80],
            destination_port: port,
            ..key
        };
        let backward = Flow {
            source: vip,
            destination: client,
            source_port: [0, 80],
            destination_port: port,
            flags: flow_flags::REPLY | back.1,
            seen: NOW - back.0,
            ..forward
        };
        assert_eq!(forward.back_key(&key), Some(back_key));
        assert_eq!(backward.back_key(&back_key), Some(key));
        maps.insert::<Flows>(&key, &forward).unwrap();
        maps.insert::<Flows>(&back_key, &backward).unwrap();
        key
    }

    fn sweep(maps: &mut MemoryMaps, mut sweep: Sweep, gone: &[BackendIndex]) -> Sweep {
        let gone = Gone { backends: gone.iter().copied().collect(), ..Gone::default() };
        while sweep.slice(maps, NOW, &gone).unwrap() {}
        sweep
    }

    #[test]
    fn only_what_is_over_is_forgotten() {
        use flow_flags::{ANSWERED, FIN, NEW, RST};
        for (protocol, there, back, stays, why) in [
            (6, (100, FIN), (100, FIN), false, "closed on both sides"),
            (6, (50, FIN), (100, FIN), true, "closed just now"),
            (6, (100, FIN), (100, 0), true, "half closed: the answer may still come"),
            (6, (100, RST), (100, 0), false, "reset by the client"),
            (6, (100, 0), (100, RST), false, "reset by the server"),
            (6, (5000, 0), (5000, 0), true, "open and quiet"),
            (UDP, (181, 0), (181, 0), false, "quiet"),
            (UDP, (500, 0), (3, 0), true, "one side speaks"),
            (1, (181, 0), (181, 0), false, "an old ping"),
            (6, (61, NEW), (61, 0), false, "a SYN whose client was never heard of again"),
            (6, (500, NEW), (59, 0), true, "the server still answers a SYN"),
            (UDP, (61, NEW), (61, ANSWERED), false, "a question that was answered"),
            (UDP, (59, NEW), (59, 0), true, "a question just asked"),
        ] {
            let mut maps = MemoryMaps::default();
            let key = conversation(&mut maps, 4000, protocol, there, back);
            let after = sweep(&mut maps, Sweep::default(), &[]);
            assert_eq!(maps.get::<Flows>(&key).unwrap().is_some(), stays, "{why}");
            assert_eq!((after.removed, after.left), if stays { (0, 2) } else { (2, 0) }, "{why}");
        }
    }

    #[test]
    fn new_flows_are_counted() {
        let mut maps = MemoryMaps::default();
        for n in 0..700 {
            let flags = if n % 3 == 0 { flow_flags::NEW } else { 0 };
            conversation(&mut maps, n, UDP, (1, flags), (1, 0));
        }
        let after = sweep(&mut maps, Sweep::default(), &[]);
        assert_eq!((after.new, after.left), (700_usize.div_ceil(3), 1400));
    }

    #[test]
    fn what_is_no_conversation_lasts_as_long_as_it_says() {
        let flow = |ago, vni| Flow { seen: NOW - ago, vni, ..Flow::default() };
        for (space, protocol, flow, stays) in [
            (Space::Session, 17, flow(299, 300), true),
            (Space::Session, 6, flow(301, 300), false),
            (Space::Moved, 6, flow(QUIET_FOR, 0), true),
            (Space::Moved, 6, flow(QUIET_FOR + 1, 0), false),
        ] {
            let mut maps = MemoryMaps::default();
            let key = FlowKey { scope: FlowKey::scope(space, 7), protocol, ..FlowKey::default() };
            maps.insert::<Flows>(&key, &flow).unwrap();
            sweep(&mut maps, Sweep::default(), &[]);
            assert_eq!(maps.get::<Flows>(&key).unwrap().is_some(), stays, "{space:?} over {protocol}");
        }
    }

    #[test]
    fn quiet_connections_go_when_room_is_short() {
        let mut maps = MemoryMaps::default();
        let old = conversation(&mut maps, 1, 6, (901, 0), (901, 0));
        let young = conversation(&mut maps, 2, 6, (899, 0), (899, 0));
        sweep(&mut maps, Sweep::after(200_000), &[]);
        assert_eq!(maps.get::<Flows>(&old).unwrap(), None);
        assert!(maps.get::<Flows>(&young).unwrap().is_some());
    }

    #[test]
    fn datagrams_do_not_stay_with_a_backend_that_left() {
        let mut maps = MemoryMaps::default();
        let udp = conversation(&mut maps, 1, UDP, (1, 0), (1, 0));
        let tcp = conversation(&mut maps, 1, 6, (1, 0), (1, 0));
        sweep(&mut maps, Sweep::default(), &[4]);
        assert!(maps.get::<Flows>(&udp).unwrap().is_some());
        sweep(&mut maps, Sweep::default(), &[5]);
        assert_eq!(maps.get::<Flows>(&udp).unwrap(), None);
        assert!(maps.get::<Flows>(&tcp).unwrap().is_some());
    }

    #[test]
    fn only_connections_stay_with_a_backend_that_is_unhealthy() {
        let backend = Address::from_v4([10, 0, 9, 3]);
        let sick = |vni, address| Gone { unwell: [(vni, address)].into(), ..Gone::default() };
        for (protocol, service, gone, stays) in [
            (UDP, 1, sick(7, backend), false),
            (6, 1, sick(7, backend), true),
            (UDP, 1, sick(8, backend), true),
            (UDP, 1, sick(7, Address::from_v4([10, 0, 9, 2])), true),
            (UDP, 0, sick(7, backend), true),
        ] {
            for reply_first in [false, true] {
                let mut maps = MemoryMaps::default();
                let key = conversation(&mut maps, 1, protocol, (1, 0), (1, 0));
                let flow = maps.get::<Flows>(&key).unwrap().unwrap();
                let back_key = flow.back_key(&key).unwrap();
                for key in [key, back_key] {
                    let flow = maps.get::<Flows>(&key).unwrap().unwrap();
                    maps.insert::<Flows>(&key, &Flow { service, backend: 0, ..flow }).unwrap();
                }
                // Either direction is enough.
                maps.remove::<Flows>(if reply_first { &key } else { &back_key }).unwrap();
                let mut sweep = Sweep::default();
                while sweep.slice(&mut maps, NOW, &gone).unwrap() {}
                let left = maps.entries::<Flows>().unwrap().len();
                assert_eq!(left == 1, stays, "{protocol} {service} {gone:?} {reply_first}");
            }
        }
    }

    #[test]
    fn each_flow_is_looked_at_once_however_many_slices_it_takes() {
        let mut maps = MemoryMaps::default();
        let over = (0..700).filter(|n| n % 3 == 0).count();
        for n in 0..700 {
            let ago = if n % 3 == 0 { 200 } else { 10 };
            conversation(&mut maps, n, UDP, (ago, 0), (ago, 0));
        }
        let after = sweep(&mut maps, Sweep::default(), &[]);
        assert_eq!((after.removed, after.left), (2 * over, 1400 - 2 * over));
    }
}
