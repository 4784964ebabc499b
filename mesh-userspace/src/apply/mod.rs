//! From the contents that the maps have to those that they should have.

mod diff;
mod fast;
#[cfg(test)]
mod following;
mod history;
mod indices;
mod lower;
mod maps;
#[cfg(test)]
pub(crate) mod memory;
mod ports;
#[cfg(test)]
mod remembered;
mod rings;
#[cfg(test)]
mod scale;
mod slots;
#[cfg(test)]
mod tests;

pub use diff::{Operation, diff, execute, read};
pub use lower::{Lowered, lower};
pub use maps::{
    Allowed, AllowedPrefix, Attachments, Backends, Endpoints, Entries, Entry, FastServices, Flows, Full,
    Locals, Map, MapContents, MapError, MapKind, Maps, Networks, NodeSettings, Nodes, Peers, PublishedPorts,
    SLOTS, Services, Stations, SubnetPrefix, Subnets, Targets, Uplinks,
};
pub use rings::follow;
pub use slots::{Block, Blocks};
