//! Who is there: members by what membership says of them, and nodes without meshd always.

use std::{collections::BTreeSet, time::Duration};

use mesh_cluster::{Member, MemberState};

use super::entry::{Objects, Presence};

/// For how long after its start a node takes others for alive of which it has not heard yet: its data plane has gone on without it,
/// and is not to lose them for the time that joining takes.
pub const GRACE: Duration = Duration::from_secs(5);
/// For how long a node whose daemon has said that another follows is taken for alive while its kernel answers.
pub const RESTART: Duration = Duration::from_secs(15);

/// The nodes that are not there, this node never among them.
///
/// `is_there` tells whether a member is, or may be, there; none of whom membership does not know. A node that is no member is one without meshd, named by a file: nobody can tell that it died.
pub fn gone<'a>(
    objects: &'a Objects,
    me: &str,
    is_there: impl Fn(&str) -> Option<bool>,
    since_start: Duration,
) -> BTreeSet<&'a str> {
    let is_gone = |name: &str, daemon: Presence| match is_there(name) {
        Some(is_there) => !is_there,
        None => daemon.member && since_start >= GRACE,
    };
    let nodes = objects.nodes().filter(|(name, daemon)| *name != me && is_gone(name, *daemon));
    nodes.map(|(name, _)| name).collect()
}

/// Whether a member's daemon, in the life that is known of it, has said that another follows.
#[must_use]
pub fn restarts(member: &Member, daemon: Presence) -> bool {
    member.state != MemberState::Left && daemon.restarts >= Some(member.identity.incarnation)
}
