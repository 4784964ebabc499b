//! How a mesh keeps a flow with its backend: the columns of the comparison.

use std::str::FromStr;

/// A value of the option `continuity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Its name in the file's options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SecondChance => "second-chance",
            Self::Node => "node",
            Self::EntryCache => "entry-cache",
            Self::Hash => "none",
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

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        let names = || Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("there is no mode {text:?}; there are {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_by_their_names() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        let error = "maglev".parse::<Mode>().unwrap_err();
        assert_eq!(error, "there is no mode \"maglev\"; there are second-chance, node, entry-cache, none");
    }
}
