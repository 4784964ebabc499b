//! What a pinned map is known by: its name, and its layout, which its pin's name tells.

use std::{fmt, path::Path};

use aya_obj::{Map, Object, generated::bpf_map_type, maps::PinningType};
use mesh_common::abi::layout;

use super::{DatapathError, error::chain, sys};

/// What must agree before a map is taken over as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// By [`layout::version`].
    pub(super) version: u32,
    /// A `bpf_map_type`.
    pub(super) kind: u32,
    /// Bytes of a key.
    pub(super) key: u32,
    /// Bytes of a value.
    pub(super) value: u32,
    /// The most entries.
    pub(super) entries: u32,
    /// Those that it was made with.
    pub(super) flags: u32,
}

impl Layout {
    fn of(name: &str, map: &Map) -> Self {
        Self {
            version: layout::version(name),
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: map.max_entries(),
            flags: map.map_flags(),
        }
    }

    pub(super) fn is(&self, kind: bpf_map_type) -> bool {
        self.kind == kind as u32
    }

    /// The name of the pin of a map with this layout. (A bpffs refuses names with dots.)
    pub(super) fn pin_name(&self, map: &str) -> String {
        let Self { version, kind, key, value, entries, flags } = self;
        format!("{map}-v{version}-t{kind}-k{key}-v{value}-n{entries}-f{flags}")
    }

    /// The map and the layout that a pin's name tells.
    pub(super) fn parse(pin: &str) -> Option<(&str, Self)> {
        let mut parts = pin.split('-');
        let map = parts.next()?;
        let mut number = |prefix| parts.next()?.strip_prefix(prefix)?.parse().ok();
        let layout = Self {
            version: number("v")?,
            kind: number("t")?,
            key: number("k")?,
            value: number("v")?,
            entries: number("n")?,
            flags: number("f")?,
        };
        parts.next().is_none().then_some((map, layout))
    }

    /// Whether the map that is pinned there is what its pin's name says.
    pub(super) fn is_true_of(&self, path: &Path) -> bool {
        let Ok(info) = sys::get_pinned(path).and_then(|map| sys::map_facts(&map)) else { return false };
        // The kernel's size of a ring is what aya made of it, for pages of this machine.
        let entries =
            if self.is(bpf_map_type::BPF_MAP_TYPE_RINGBUF) { self.entries } else { info.max_entries };
        *self
            == Self {
                version: self.version,
                kind: info.type_,
                key: info.key_size,
                value: info.value_size,
                entries,
                flags: info.map_flags,
            }
    }

    /// Whether entries of a map of this layout stand for the same in one of the other, byte for byte.
    pub(super) fn has_entries_of(&self, other: &Self) -> bool {
        (self.version, self.key, self.value) == (other.version, other.key, other.value)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, key, value, entries, .. } = self;
        write!(f, "version {version}, {entries} entries of {key} and {value} bytes")
    }
}

/// The object's maps that outlive the agent, by name: those that it wants pinned.
pub(super) fn pinned_maps(object: &[u8]) -> Result<Vec<(String, Layout)>, DatapathError> {
    let object = Object::parse(object).map_err(|error| DatapathError::Load { why: chain(&error) })?;
    let mut maps: Vec<(String, Layout)> = object
        .maps
        .iter()
        .filter(|(_, map)| map.pinning() == PinningType::ByName)
        .map(|(name, map)| (name.clone(), Layout::of(name, map)))
        .collect();
    maps.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_tells_the_layout() {
        let layout = Layout { version: 3, kind: 9, key: 48, value: 64, entries: 1024, flags: 1 };
        let name = layout.pin_name("NEW_FLOWS");
        assert_eq!(name, "NEW_FLOWS-v3-t9-k48-v64-n1024-f1");
        assert_eq!(Layout::parse(&name), Some(("NEW_FLOWS", layout)));
        for other in ["FLOWS", "FLOWS-3", "FLOWS-v3-t9-k48-v64-n1024-fx", "FLOWS-v3-t9-k48-v64-n1024-f1-"] {
            assert_eq!(Layout::parse(other), None, "{other}");
        }
    }
}
