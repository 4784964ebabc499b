//! What is wrong, for the status and the log.

use serde::{Deserialize, Serialize};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: `endpoint search.1`, `node n2`, `/etc/mesh/mesh.yaml:3:7`.
    pub subject: String,
    /// What is wrong, and what would mend it, in full sentences.
    pub message: String,
}

impl Problem {
    /// A problem of a subject.
    pub fn new(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.subject, self.message)
    }
}
