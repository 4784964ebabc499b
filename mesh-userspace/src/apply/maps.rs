//! The kernel maps by name and type, and the small trait by which they are read and written.

use imbl::{OrdMap, ordmap::DiffItem};
use mesh_common::abi::{
    self, Address, AllowedKey, Attachment, Backend, Endpoint, EndpointKey, FastService, Flow, FlowKey, Local,
    MacKey, Network, PORT_WORDS, Pod, Service, ServiceKey, Settings, Slot, Station, SubnetKey, TargetKey,
    Uplink, capacity,
};

use super::slots::Blocks;

/// A subnet in the longest-prefix table, laid out as the kernel's `bpf_lpm_trie_key`: the prefix's bits, then
/// the data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubnetPrefix {
    /// The bits that count: 32 for the VNI, then those of the address as IPv6.
    pub prefix_len: u32,
    /// The VNI and the address.
    pub key: SubnetKey,
}

// SAFETY: a repr(C) structure of an integer and byte arrays, 4 + 20 bytes without padding (tested below).
unsafe impl Pod for SubnetPrefix {}

/// A range of clients in the longest-prefix table of those that may ask, laid out likewise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllowedPrefix {
    /// The bits that count: 32 for the service's number, then those of the address as IPv6.
    pub prefix_len: u32,
    /// The service's number and the address.
    pub key: AllowedKey,
}

// SAFETY: as above.
unsafe impl Pod for AllowedPrefix {}

/// What sort of map the kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Each index below the capacity exists, zero until it is written; nothing is ever removed.
    Array,
    /// Entries come and go.
    Hash,
    /// A longest-prefix table.
    LpmTrie,
}

/// The name of the map of slots, which is written by the ring.
pub const SLOTS: &str = "SLOTS";

/// A kernel map.
pub trait Map {
    /// The key's type.
    type Key: Pod + Ord + std::fmt::Debug;
    /// The value's type.
    type Value: Pod + PartialEq + Default + std::fmt::Debug;
    /// Its name in the eBPF object.
    const NAME: &'static str;
    /// Its sort.
    const KIND: MapKind;
    /// The most entries that it takes.
    const CAPACITY: u32;
}

/// The entries of a map.
pub type Entries<M> = Vec<(<M as Map>::Key, <M as Map>::Value)>;

/// A map has no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The kernel map {map} is full: it takes {capacity} entries. {mend}")]
pub struct Full {
    /// The map's name.
    pub map: &'static str,
    /// The most entries that it takes.
    pub capacity: u32,
    /// What gives it room, as a sentence.
    pub mend: &'static str,
}

impl Full {
    /// The error of a map.
    #[must_use]
    pub const fn of<M: Map>() -> Self {
        let mend = "Remove networks, services or endpoints that are no longer needed.";
        Self { map: M::NAME, capacity: M::CAPACITY, mend }
    }

    /// The error of the table of slots, with room for so many.
    #[must_use]
    pub const fn of_slots(room: u32) -> Self {
        let mend = if room < capacity::SLOTS_MOST {
            "Restart meshd: it makes the map as great as the services need, and the data plane goes on."
        } else {
            "Remove services or endpoints that are no longer needed."
        };
        Self { map: SLOTS, capacity: room, mend }
    }
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It has no room left.
    #[error(transparent)]
    Full(#[from] Full),
    /// The kernel refused.
    #[error("The kernel refused to {action} the map {map}: {source}")]
    Kernel {
        /// The map's name.
        map: &'static str,
        /// `read`, `write` or `remove an entry of`.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The maps of a data plane: the kernel's, or ones in memory for tests.
pub trait Maps {
    /// The value of a key; for an array, also one that was never written.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, MapError>;

    /// Writes an entry, in the place of what was there.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn insert<M: Map>(&mut self, key: &M::Key, value: &M::Value) -> Result<(), MapError>;

    /// Writes many entries, each as [`insert`](Self::insert) does.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses; some of them have been written then.
    fn insert_all<M: Map>(&mut self, entries: &[(M::Key, M::Value)]) -> Result<(), MapError>;

    /// Removes an entry; one that is not there is no error. In an array it is set to zero.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove<M: Map>(&mut self, key: &M::Key) -> Result<(), MapError>;

    /// Each entry; of an array those that are not zero.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn entries<M: Map>(&self) -> Result<Entries<M>, MapError>;

    /// At most `count` keys of a hash that follow `after` in its own order, or the first ones; fewer only at its
    /// end. After a key that is gone by now it may begin again.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn keys_after<M: Map>(&self, after: Option<&M::Key>, count: usize) -> Result<Vec<M::Key>, MapError>;

    /// How many slots there are.
    ///
    /// # Errors
    /// When the kernel's map is not there.
    fn slot_room(&self) -> Result<u32, MapError>;

    /// Reads slots from `first` on into all of `slots`.
    ///
    /// # Errors
    /// When there are not so many.
    fn read_slots(&self, first: u32, slots: &mut [Slot]) -> Result<(), MapError>;

    /// Whether the slots from `first` on are these.
    ///
    /// # Errors
    /// When there are not so many.
    fn has_slots(&self, first: u32, slots: &[Slot]) -> Result<bool, MapError>;

    /// Writes slots from `first` on, each in one step for the programs.
    ///
    /// # Errors
    /// When there are not so many, or the kernel refuses.
    fn write_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), MapError>;
}

/// Declares the maps that the plan fills, in the order in which they are written.
macro_rules! planned_maps {
    ($($(#[$doc:meta])* $map:ident, $field:ident: $name:literal $kind:ident[$capacity:expr] $key:ty => $value:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum $map {}

            impl Map for $map {
                type Key = $key;
                type Value = $value;
                const NAME: &'static str = $name;
                const KIND: MapKind = MapKind::$kind;
                const CAPACITY: u32 = $capacity;
            }
        )+

        /// The contents of every map that the plan fills: what is wanted, or what the kernel holds.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct MapContents {
            $($(#[$doc])* pub $field: OrdMap<$key, $value>,)+
            /// The slots of all rings.
            pub slots: Blocks,
        }

        /// An entry of one of the maps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Entry {
            $($(#[$doc])* $map($key, $value),)+
        }

        impl Entry {
            /// The name of its map.
            #[must_use]
            pub const fn map(&self) -> &'static str {
                match self { $(Self::$map(..) => $name,)+ }
            }

            /// Writes entries in their order, those of one map that follow each other together.
            ///
            /// # Errors
            /// When a map is full or the kernel refuses.
            pub fn insert_all(entries: &[Self], maps: &mut impl Maps) -> Result<(), MapError> {
                for run in entries.chunk_by(|one, next| one.map() == next.map()) {
                    match run.first() {
                        $(Some(Self::$map(..)) => {
                            let of_map = run.iter().filter_map(|entry| match entry {
                                Self::$map(key, value) => Some((*key, *value)),
                                _ => None,
                            });
                            maps.insert_all::<$map>(&of_map.collect::<Vec<_>>())?;
                        })+
                        None => {}
                    }
                }
                Ok(())
            }

            /// Removes it.
            ///
            /// # Errors
            /// When the kernel refuses.
            pub fn remove(&self, maps: &mut impl Maps) -> Result<(), MapError> {
                match self { $(Self::$map(key, _) => maps.remove::<$map>(key),)+ }
            }
        }

        impl MapContents {
            /// Each map's name, how many of its entries are used, and how many there is room for.
            #[must_use]
            pub fn uses(&self) -> Vec<(&'static str, usize, u32)> {
                vec![
                    $(($name, self.$field.len(), <$map as Map>::CAPACITY),)+
                    (SLOTS, self.slots.len(), self.slots.room()),
                ]
            }

            /// Says which map these contents would overflow, if any.
            pub(super) fn check_capacities(&self) -> Result<(), Full> {
                $(if self.$field.len() > usize::try_from(<$map as Map>::CAPACITY).unwrap_or(usize::MAX) {
                    return Err(Full::of::<$map>());
                })+
                Ok(())
            }

            /// Calls `visit` with the entries that `wanted` has and `self` has not, or not so, map by map in
            /// the order in which maps are written. Slots are no entries.
            pub(super) fn missing_from(&self, wanted: &Self, mut visit: impl FnMut(Entry)) {
                $(for change in self.$field.diff(&wanted.$field) {
                    if let DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } = change {
                        visit(Entry::$map(*key, *value));
                    }
                })+
            }

            /// Calls `visit` with the entries whose keys `self` has and `wanted` has not.
            pub(super) fn left_over_from(&self, wanted: &Self, mut visit: impl FnMut(Entry)) {
                $(for change in self.$field.diff(&wanted.$field) {
                    if let DiffItem::Remove(key, value) = change {
                        visit(Entry::$map(*key, *value));
                    }
                })+
            }
        }
    };
}

planned_maps! {
    /// The nodes by index, 0 unused; this node included.
    Nodes, nodes: "NODES" Array[capacity::NODES] u32 => abi::Node;
    /// What holds for this node.
    NodeSettings, settings: "SETTINGS" Array[1] u32 => Settings;
    /// The indices of the other nodes, by underlay address.
    Peers, peers: "PEERS" Hash[capacity::NODES] Address => u32;
    /// The addresses that packets come to this node for.
    Locals, locals: "LOCALS" Hash[capacity::LOCALS] Address => Local;
    /// The interfaces to the outside world, by index.
    Uplinks, uplinks: "UPLINKS" Hash[capacity::UPLINKS] u32 => Uplink;
    /// The networks by VNI.
    Networks, networks: "NETWORKS" Hash[capacity::NETWORKS] u32 => Network;
    /// The networks' subnets.
    Subnets, subnets: "SUBNETS" LpmTrie[capacity::SUBNETS] SubnetPrefix => u32;
    /// The endpoints of all nodes.
    Endpoints, endpoints: "ENDPOINTS" Hash[capacity::ENDPOINTS] EndpointKey => Endpoint;
    /// The endpoints of all nodes by MAC address.
    Stations, stations: "STATIONS" Hash[capacity::ENDPOINTS] MacKey => Station;
    /// What hangs on the host sides of this node's endpoints, by interface index.
    Attachments, attachments: "ATTACHMENTS" Hash[capacity::LOCAL_ENDPOINTS] u32 => Attachment;
    /// The ports at which tasks answer clients; the values say nothing.
    Targets, targets: "TARGETS" Hash[capacity::TARGETS] TargetKey => u32;
    /// The backends by index, 0 unused; also those that left, for the flows that still name them.
    Backends, backends: "BACKENDS" Array[capacity::BACKENDS] u32 => Backend;
    /// The ranges of clients that may ask for services which not everybody may.
    Allowed, allowed: "ALLOWED" LpmTrie[capacity::ALLOWED] AllowedPrefix => u32;
    /// Virtual IPs and published ports.
    Services, services: "SERVICES" Hash[capacity::SERVICES] ServiceKey => Service;
    /// Published ports by address, for the fast path.
    FastServices, fast_services: "FAST_SERVICES" Array[capacity::FAST_SERVICES] u32 => FastService;
    /// Published ports, a bit for each.
    PublishedPorts, published_ports: "PUBLISHED_PORTS" Array[PORT_WORDS] u32 => u64;
}

/// The flows, which the programs fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {}

impl Map for Flows {
    type Key = FlowKey;
    type Value = Flow;
    const NAME: &'static str = "FLOWS";
    const KIND: MapKind = MapKind::Hash;
    const CAPACITY: u32 = capacity::FLOWS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_laid_out_as_the_kernel_wants_it() {
        assert_eq!(size_of::<SubnetPrefix>(), 4 + size_of::<SubnetKey>());
        assert_eq!(std::mem::offset_of!(SubnetPrefix, key), 4);
        assert_eq!(size_of::<AllowedPrefix>(), 4 + size_of::<AllowedKey>());
        assert_eq!(std::mem::offset_of!(AllowedPrefix, key), 4);
    }
}
