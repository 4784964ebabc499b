//! Who is there: members by what membership says of them, and nodes without meshd always.

use std::{collections::BTreeSet, time::Duration};

use super::entry::Objects;

/// For how long after its start a node takes others for alive of which it has not heard yet: its data plane has gone on without it,
/// and is not to lose them for the time that joining takes.
pub const GRACE: Duration = Duration::from_secs(5);

/// What membership says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is there, or nobody is sure that it is not.
    Alive,
    /// It died or left.
    Gone,
}

/// The nodes that are not there, this node never among them.
///
/// A node that is no member is one without meshd, named by a file: nobody can tell that it died.
pub fn gone<'a>(
    objects: &'a Objects,
    me: &str,
    of: impl Fn(&str) -> Option<Liveness>,
    since_start: Duration,
) -> BTreeSet<&'a str> {
    let is_gone = |name: &str, member: bool| match of(name) {
        Some(liveness) => liveness == Liveness::Gone,
        None => member && since_start >= GRACE,
    };
    let nodes = objects.nodes().filter(|(name, _, member)| *name != me && is_gone(name, *member));
    nodes.map(|(name, ..)| name).collect()
}
