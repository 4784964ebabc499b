//! How a mesh keeps a flow with its backend: the columns of the comparison.

/// A value of the option `continuity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// This mesh: the delivering node knows its flows and passes on what it does not know.
    SecondChance,
    /// Only the delivering node remembers.
    Node,
    /// The entry node keeps a cache of flows before its consistent hash, as Maglev and Katran do.
    EntryCache,
    /// Each packet goes by its hash alone.
    Hash,
}

impl Mode {
    /// Every mode, this mesh first.
    pub const ALL: [Self; 4] = [Self::SecondChance, Self::Node, Self::EntryCache, Self::Hash];

    /// Its value in the file's options; `None` for what needs no mention.
    #[must_use]
    pub const fn option(self) -> Option<&'static str> {
        match self {
            Self::SecondChance => None,
            Self::Node => Some("node"),
            Self::EntryCache => Some("entry-cache"),
            Self::Hash => Some("none"),
        }
    }

    /// What it is called in tables and charts.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::SecondChance => "this mesh",
            Self::Node => "without second chance",
            Self::EntryCache => "entry node's cache only",
            Self::Hash => "consistent hashing only",
        }
    }
}
