//! Where something was asked for, and what is wrong with it.

use std::{borrow::Cow, cmp::Ordering, fmt, sync::Arc};

use mesh_cluster::{Key, Kind, Stamp};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where something was asked for. What is less was there first: of two that cannot both be, the other is at fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In a file.
    File {
        /// The file, as it was named to us.
        file: Arc<str>,
        /// The line, from 1.
        line: u32,
        /// The column in characters, from 1.
        column: u32,
    },
    /// In the cluster's store.
    Cluster(Arc<Creation>),
    /// By a command, such as `meshctl attach`.
    Command(Cow<'static, str>),
}

/// When an object of the cluster came to be, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Creation {
    /// When, and on which node.
    pub created: Stamp,
    /// What it is found by.
    pub key: Key,
}

impl Origin {
    /// By a command, such as `meshctl attach`.
    pub fn command(command: impl Into<Cow<'static, str>>) -> Self {
        Self::Command(command.into())
    }

    /// In the cluster's store.
    #[must_use]
    pub fn cluster(created: Stamp, key: Key) -> Self {
        Self::Cluster(Arc::new(Creation { created, key }))
    }

    /// Whether it stands in a file, and so is changed there and not by commands.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// Whether it is an object of the cluster's store.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// In which order things get what they left open: those of a file, then the cluster's by their age, then those that are just
    /// asked for by a command.
    pub(super) fn turn(&self) -> (u8, Option<Stamp>) {
        match self {
            Self::File { .. } => (0, None),
            Self::Cluster(creation) => (1, Some(creation.created)),
            Self::Command(_) => (2, None),
        }
    }

    /// How a fault that is reported at `here` speaks of this place: "line 7", the whole place if that is
    /// elsewhere, or the command.
    #[must_use]
    pub fn seen_from(&self, here: &Self) -> String {
        match (self, here) {
            (Self::File { file, line, .. }, Self::File { file: same, .. }) if file == same => {
                format!("line {line}")
            }
            (Self::File { .. }, _) => self.to_string(),
            (Self::Cluster(_), _) => "in the cluster".to_owned(),
            (Self::Command(command), _) => format!("given by {command}"),
        }
    }
}

/// What comes by the API without a word of its command.
impl Default for Origin {
    fn default() -> Self {
        Self::Command(Cow::Borrowed("meshctl"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Cluster(creation) => write!(f, "{} {}", kind_name(creation.key.kind), creation.key.name),
            Self::Command(command) => f.write_str(command),
        }
    }
}

/// A value and where it was given. As JSON it is the value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it was given.
    pub origin: Origin,
}

impl<T> Given<T> {
    /// A value from a place.
    pub const fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

/// A value that came by a command.
impl<T> From<T> for Given<T> {
    fn from(value: T) -> Self {
        Self { value, origin: Origin::default() }
    }
}

impl<T: Serialize> Serialize for Given<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

/// Something that cannot stand as it was asked for: what is wrong and what would be right, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Where it was asked for.
    pub origin: Origin,
    /// The sentence.
    pub sentence: String,
    /// Where the other of two things was asked for that cannot both be.
    pub against: Option<Origin>,
    /// Whether it is only that others have all that there was.
    pub lacks_room: bool,
}

impl Fault {
    /// A fault at a place.
    pub fn new(origin: Origin, sentence: impl Into<String>) -> Self {
        Self { origin, sentence: sentence.into(), against: None, lacks_room: false }
    }

    /// What was asked for last of the two things that cannot both be: in a cluster, that gives way.
    #[must_use]
    pub fn later(&self) -> &Origin {
        self.against.as_ref().map_or(&self.origin, |against| against.max(&self.origin))
    }

    /// What was asked for first of them, and stays unless it is at fault itself; none if it is not about two things.
    #[must_use]
    pub fn earlier(&self) -> Option<&Origin> {
        self.against.as_ref().map(|against| against.min(&self.origin))
    }
}

/// `FILE:LINE:COLUMN: sentence`, or the sentence alone for what came by a command.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            origin @ Origin::File { .. } => write!(f, "{origin}: {}", self.sentence),
            Origin::Cluster(_) | Origin::Command(_) => f.write_str(&self.sentence),
        }
    }
}

/// Every fault that was found, in the order of their places, one a line when printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    found: Vec<Fault>,
    /// How many more there are than are kept.
    omitted: usize,
}

impl std::error::Error for Faults {}

impl Faults {
    /// How many are kept: nobody reads more, and a hostile file must not fill the memory with them.
    pub const MOST: usize = 1000;

    /// Adds a fault.
    pub fn push(&mut self, fault: Fault) {
        if self.found.len() < Self::MOST {
            self.found.push(fault);
        } else {
            self.omitted += 1;
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many there are, those included that are not kept.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.found.len() + self.omitted
    }

    /// Those that are kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.found.iter()
    }

    /// Adds all of another collection.
    pub fn append(&mut self, other: Self) {
        self.omitted += other.omitted;
        for fault in other.found {
            self.push(fault);
        }
    }

    /// The value if there is no fault, otherwise the faults in the order of their places.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            return Ok(value);
        }
        self.found.sort_by(|a, b| match a.origin.cmp(&b.origin) {
            Ordering::Equal => a.sentence.cmp(&b.sentence),
            unequal => unequal,
        });
        self.found.dedup();
        Err(self)
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { found: vec![fault], omitted: 0 }
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => {
                write!(f, "\n{omitted} more faults are not listed; mend these first, then check again.")
            }
        }
    }
}

/// The noun for a kind of objects of the cluster.
pub(crate) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Options => "options",
        Kind::Node => "node",
        Kind::Network => "network",
        Kind::Service => "service",
        Kind::Endpoint => "endpoint",
        Kind::Health => "health",
        Kind::Secret => "secret",
    }
}

/// The article of a noun that has none yet.
pub(crate) fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Several words in a sentence: "a", "a or b", "a, b or c".
pub(crate) fn listed<T: AsRef<str>>(words: &[T], conjunction: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        None => String::new(),
        Some((only, [])) => (*only).to_owned(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
    }
}

/// Text of the user's in a sentence: quoted, without control characters, and not too long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}", format!("{}…", text.get(..end).unwrap_or_default())),
    }
}
