//! The keys of a mapping: which were asked for, which are missing, and which nobody knows.

use super::{
    reader::Reader,
    yaml::{Content, Entry, Node, Place},
};
use crate::spec::{listed, nearest, quoted};

/// A mapping whose keys are taken one by one; [`Keys::finish`] reports the rest.
pub(super) struct Keys<'n> {
    what: String,
    at: Place,
    complete: bool,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    missing: Vec<(&'static str, String)>,
}

impl<'n> Keys<'n> {
    /// The keys of `what`, which must be a mapping; `want` shows one.
    pub(super) fn of(reader: &mut Reader, node: &'n Node, what: String, want: &str) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            reader.wrong(node, &what, want);
            return None;
        };
        Some(Self {
            what,
            at: node.at,
            complete: node.complete,
            entries,
            known: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// Points at another place when something is missing, such as the key that the mapping is the value of.
    pub(super) const fn missing_at(mut self, at: Place) -> Self {
        self.at = at;
        self
    }

    /// The entry of a key.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The value of a key that must be there; `mend` is what to write otherwise.
    pub(super) fn need(&mut self, key: &'static str, mend: &str) -> Option<&'n Node> {
        let value = self.take(key);
        if value.is_none() && self.complete {
            self.missing.push((key, format!("{} has no {key}; {mend}.", self.what)));
        }
        value
    }

    /// Reports each key that nobody asked for, and each that was needed and is not there. Whether there was
    /// neither.
    pub(super) fn finish(mut self, reader: &mut Reader) -> bool {
        let mut sound = true;
        let there: Vec<&str> = self
            .known
            .iter()
            .copied()
            .filter(|key| self.entries.iter().any(|entry| entry.key == *key))
            .collect();
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            sound = false;
            let glued = entry.key.split_once(':').map(|(key, _)| key);
            let mend = if let Some(key) = glued.filter(|key| self.known.contains(key)) {
                self.missing.retain(|(missing, _)| *missing != key);
                format!("put a space after the colon, as in \"{key}: …\".")
            } else if let Some(near) =
                nearest(&entry.key, self.known.iter().copied().filter(|key| !there.contains(key)))
            {
                self.missing.retain(|(missing, _)| *missing != near);
                format!("did you mean {}?", quoted(near))
            } else {
                format!("its keys are {}.", listed(&self.known, "and"))
            };
            reader.fault(entry.at, format!("{} has no key {}; {mend}", self.what, quoted(&entry.key)));
        }
        for (_, sentence) in self.missing {
            sound = false;
            reader.fault(self.at, sentence);
        }
        sound
    }
}
