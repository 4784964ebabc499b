//! From the contents that the maps have to those that they should have.

mod maps;

pub use maps::{
    Attachments, Backends, Endpoints, Entry, LocalMacs, Locals, Map, MapContents, MapError, MapKind, Maps,
    Networks, NodeSettings, Nodes, Peers, Services, Slots, SubnetPrefix, Subnets, Uplinks,
};
