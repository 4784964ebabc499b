//! The tables of the fast path: published ports by each address that they answer at, and outer headers ready to be sent.

use super::{
    Address, Family, Local, Scheduler, Service, ServiceKey, Settings, capacity, local_flags, pod::pod,
    service_flags, settings_flags,
};
use crate::{hash, wire::protocol};

/// A port that is published at an address, of a service that wants nothing but Maglev hashing: all that the fast path
/// needs to know of it. It stands in one of the [`FastService::PROBES`] entries that follow from whom it asks for; one whose
/// entries are all taken goes the longer way.
///
/// An entry may be read while it is written. It is then a mixture of two, which its check gives away.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastService {
    /// The address that clients ask at.
    pub address: Address,
    /// The port, the IP protocol number and the family, as [`FastService::asked`] makes one number of them; 0 in an unused
    /// entry.
    pub asked: u32,
    /// What the rest comes to: see [`FastService::is_for`].
    pub check: u32,
    /// Where its ring begins in the table of slots.
    pub first_slot: u32,
    /// The slots of its ring.
    pub slots: u32,
}

impl FastService {
    /// How many entries, one behind the other, a port may stand in.
    pub const PROBES: u32 = 4;

    /// An odd number with bits of no pattern (the golden ratio's), by which a ring's place is spread over 64 bits.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The entry of a published port at an address of this node, or `None` if it does not answer there, or the fast path must
    /// leave its packets alone. `is_published` says of a port at the address itself whether there is a service for it.
    pub fn at(
        settings: &Settings,
        (address, local): (Address, &Local),
        (key, service): (&ServiceKey, &Service),
        is_published: impl FnOnce(&ServiceKey) -> bool,
    ) -> Option<Self> {
        let has_own = local.flags & local_flags::OWN != 0;
        let answers = if key.address.is_unspecified() {
            let own = ServiceKey { address, ..*key };
            // What is published at the address itself comes first.
            local.flags & local_flags::SERVES != 0 && !(has_own && is_published(&own))
        } else {
            key.address == address && has_own
        };
        if key.scope == 0 && answers { Self::of(settings, address, key, service) } else { None }
    }

    /// The entry of a port that answers at an address, or `None` if the fast path must leave its packets alone.
    #[must_use]
    pub fn of(settings: &Settings, address: Address, key: &ServiceKey, service: &Service) -> Option<Self> {
        let is_tunnels = key.protocol == protocol::UDP && key.port == settings.vxlan_port;
        let is_plain = service.slots != 0
            && service.scheduler == Scheduler::Mh as u8
            && service.persistent == 0
            && service.flags & (service_flags::RESTRICTED | service_flags::DRAINING) == 0
            && settings.flags & settings_flags::ENTRY_CACHE == 0;
        if !is_plain || is_tunnels || key.family != address.family() as u8 {
            return None;
        }
        let asked = Self::asked(key.port, key.protocol, address.family());
        let mut entry =
            Self { address, asked, check: 0, first_slot: service.first_slot, slots: service.slots };
        entry.check = entry.sum(Self::hash(address, asked));
        Some(entry)
    }

    /// The number of a port, in network byte order, an IP protocol and a family: never 0.
    #[inline(always)]
    #[must_use]
    pub const fn asked(port: [u8; 2], protocol: u8, family: Family) -> u32 {
        Self::asked_by_ports(hash::ports([0; 2], port), protocol, family)
    }

    /// The same, given both [`hash::ports`] of a client's packet.
    #[inline(always)]
    #[must_use]
    pub const fn asked_by_ports(ports: u32, protocol: u8, family: Family) -> u32 {
        ports >> 16 | (protocol as u32) << 16 | (family as u32) << 24
    }

    /// The hash of whom a client asks for.
    #[inline(always)]
    #[must_use]
    pub const fn hash(address: Address, asked: u32) -> u64 {
        let [high, low] = address.0;
        hash::words(0, [u64::from_le(high).rotate_left(17) ^ u64::from_le(low) ^ asked as u64])
    }

    /// The entries of the table in which a port may stand, given its hash.
    #[inline(always)]
    pub fn entries(hash: u64) -> impl Iterator<Item = u32> {
        const LAST: u32 = capacity::FAST_SERVICES - 1;
        const _: () = assert!(capacity::FAST_SERVICES.is_power_of_two());
        let first = (hash >> 32) as u32;
        (0..Self::PROBES).map(move |probe| first.wrapping_add(probe) & LAST)
    }

    /// The same, given the port's entry.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        Self::entries(Self::hash(self.address, self.asked))
    }

    /// Whether this is the whole entry of a port at an address, with its hash.
    #[inline(always)]
    #[must_use]
    pub fn is_for(&self, address: Address, asked: u32, hash: u64) -> bool {
        self.asked == asked && self.address == address && self.check == self.sum(hash)
    }

    #[inline(always)]
    const fn sum(&self, hash: u64) -> u32 {
        let ring = (self.slots as u64) << 32 | self.first_slot as u64;
        hash as u32 ^ (ring.wrapping_mul(Self::SPREAD) >> 32) as u32
    }
}

/// The outer Ethernet and IP headers of the last packet that was tunnelled to a node, for those that follow at once: what
/// differs from packet to packet is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterHeader {
    /// The headers' bytes in little-endian words; behind them zero.
    pub words: [u64; 7],
    /// The one's complement sum of an IPv4 header's 16-bit words, in the machine's byte order.
    pub sum: u32,
    /// The interface that it leaves by.
    pub ifindex: u32,
    /// The longest IP packet that fits into the tunnel, in bytes.
    pub inner_mtu: u32,
    /// The [`Family`] of the header.
    pub family: u32,
    /// Until when it is good, by the clock of the hook: 0 for not at all.
    pub until: u64,
}

/// By which way the last answer left that came to this node in a tunnel for the same client, from the same node and port, for
/// those that follow at once: that whoever sent it may is then known as well.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Who is answered.
    pub client: Address,
    /// The published address, which answers.
    pub published: Address,
    /// The underlay address of the node that it came from.
    pub peer: Address,
    /// The VNI of the tunnel, and [`Exit::AT_TC`] for one kept at tc, where the kernel writes the MAC addresses.
    pub scope: u32,
    /// The published port.
    pub port: [u8; 2],
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// The interface that it leaves by.
    pub ifindex: u32,
    /// The MAC address of the next hop.
    pub destination: [u8; 6],
    /// The interface's own.
    pub source: [u8; 6],
    /// Until when it is good, by the clock of the hook: 0 for not at all.
    pub until: u64,
}

impl Exit {
    /// A bit of the scope that no VNI has.
    pub const AT_TC: u32 = 1 << 24;

    /// The entry of the table that it stands in, in the place of what was there before.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self) -> u32 {
        const _: () = assert!(capacity::EXITS.is_power_of_two());
        let [c0, c1] = self.client.0;
        let [a0, a1] = self.published.0;
        let [p0, p1] = self.peer.0;
        let [x, y] = self.port;
        let rest = (self.scope as u64) << 32 | u32::from_le_bytes([x, y, self.protocol, 0]) as u64;
        let mixed = (c0 ^ c1.rotate_left(7))
            ^ (a0 ^ a1.rotate_left(7)).rotate_left(29)
            ^ (p0 ^ p1.rotate_left(7)).rotate_left(47)
            ^ rest.rotate_left(13);
        (hash::words(0, [mixed]) >> 32) as u32 & (capacity::EXITS - 1)
    }

    /// Whether this is for the same answers as another.
    #[inline(always)]
    #[must_use]
    pub fn is_for(&self, other: &Self) -> bool {
        self.client == other.client
            && self.published == other.published
            && self.peer == other.peer
            && self.scope == other.scope
            && self.port == other.port
            && self.protocol == other.protocol
    }
}

pod!(FastService, OuterHeader, Exit);

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        address: Address::UNSPECIFIED,
        seed: 0,
        node: 1,
        host_ifindex: 0,
        host_mac: [0; 6],
        vxlan_port: 4789u16.to_be_bytes(),
        trace_every: 0,
        flags: 0,
    };

    fn key(port: u16, protocol: u8) -> ServiceKey {
        ServiceKey { port: port.to_be_bytes(), protocol, family: 4, ..ServiceKey::default() }
    }

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<FastService>(), 16 + 4 * 4);
        assert_eq!(size_of::<OuterHeader>(), 7 * 8 + 4 * 4 + 8);
        assert_eq!(size_of::<Exit>(), 3 * 16 + 8 + 4 + 12 + 8);
    }

    #[test]
    fn an_entry_is_for_whom_it_was_made_and_gives_a_mixture_away() {
        let address = Address::from_v4([192, 0, 2, 1]);
        let service = Service { first_slot: 4096, slots: 1024, ..Service::default() };
        let entry = FastService::of(&SETTINGS, address, &key(9200, protocol::TCP), &service).unwrap();
        let is_for = |entry: &FastService, address, port: u16, protocol| {
            let asked = FastService::asked(port.to_be_bytes(), protocol, Family::V4);
            entry.is_for(address, asked, FastService::hash(address, asked))
        };
        assert!(is_for(&entry, address, 9200, protocol::TCP));
        assert!(!is_for(&entry, address, 9200, protocol::UDP));
        assert!(!is_for(&entry, address, 9201, protocol::TCP));
        assert!(!is_for(&entry, Address::from_v4([192, 0, 2, 2]), 9200, protocol::TCP));
        for mixture in [
            FastService { first_slot: 8192, ..entry },
            FastService { slots: 2048, ..entry },
            FastService { check: 0, ..entry },
        ] {
            assert!(!is_for(&mixture, address, 9200, protocol::TCP), "{mixture:?}");
        }
    }

    #[test]
    fn only_what_needs_nothing_else_is_fast() {
        let address = Address::from_v4([192, 0, 2, 1]);
        let plain = Service { slots: 1024, ..Service::default() };
        let is_fast = |settings: &Settings, key: &ServiceKey, service: &Service| {
            FastService::of(settings, address, key, service).is_some()
        };
        assert!(is_fast(&SETTINGS, &key(80, protocol::TCP), &plain));
        assert!(is_fast(&SETTINGS, &key(4789, protocol::TCP), &plain));
        assert!(!is_fast(&SETTINGS, &key(4789, protocol::UDP), &plain));
        assert!(!is_fast(&SETTINGS, &ServiceKey { family: 6, ..key(80, protocol::TCP) }, &plain));
        let remembering = Settings { flags: settings_flags::ENTRY_CACHE, ..SETTINGS };
        assert!(!is_fast(&remembering, &key(80, protocol::TCP), &plain));
        for service in [
            Service { slots: 0, ..plain },
            Service { scheduler: Scheduler::Rr as u8, ..plain },
            Service { persistent: 300, ..plain },
            Service { flags: service_flags::RESTRICTED, ..plain },
            Service { flags: service_flags::DRAINING, ..plain },
        ] {
            assert!(!is_fast(&SETTINGS, &key(80, protocol::TCP), &service), "{service:?}");
        }
    }
}
