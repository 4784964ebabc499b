//! Answers as people read them.

mod backends;
mod endpoints;
mod explain;
mod keys;
mod networks;
mod nodes;
mod services;
mod status;
mod traffic;

use std::net::IpAddr;

use super::{
    screen::{Entry, Tone},
    units::age,
};
use crate::{
    api::types::{Down, EndpointState, Health, Left, NodeState, Removed},
    table::HealthState,
};

pub(super) use backends::{
    backend_added, backend_drained, backend_removed, backend_weighed, backends, live_flows,
};
pub(super) use endpoints::{attached, endpoint, endpoints};
pub(super) use explain::explanation;
pub(super) use keys::{key_installed, key_used, keys};
pub(super) use networks::{network, network_created, networks};
pub(super) use nodes::{node, nodes};
pub(super) use services::{service, service_created, services};
pub(super) use status::status;
pub(super) use traffic::{drops, flows, stats, trace};

/// What was removed.
pub(super) fn removed(noun: &str, how: &str, removed: &Removed) -> String {
    format!("{noun} {} {how}\n", removed.name)
}

/// The end of membership.
pub(super) fn left(left: &Left) -> String {
    format!(
        "{} has left the cluster, and the mesh is down there; `systemctl start meshd` has it join again\n",
        left.node
    )
}

/// The end.
pub(super) fn down(down: &Down) -> String {
    format!(
        "the mesh is down on {}: its programs, maps and interfaces are gone; `systemctl start meshd` brings it back\n",
        down.node
    )
}

/// How a member is seen, in a word.
const fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Alive => "alive",
        NodeState::Suspect => "suspect",
        NodeState::Restarting => "restarting",
        NodeState::Dead => "dead",
        NodeState::Left => "left",
    }
}

fn state(state: &EndpointState) -> Entry {
    match state {
        EndpointState::Attached => Entry::new(Tone::Good, "attached"),
        EndpointState::Waiting(why) => Entry::new(Tone::Bad, format!("waiting: {why}")),
        EndpointState::Remote => Entry::new(Tone::Faint, "on its own node"),
        EndpointState::Gone => Entry::new(Tone::Bad, "gone with its node"),
    }
}

/// What health checks came to, for a column.
fn health(health: Option<&Health>) -> Entry {
    let Some(Health { is, seconds, .. }) = health else { return "–".into() };
    match is {
        HealthState::Healthy => Entry::new(Tone::Good, is.name()),
        HealthState::Starting => Entry::new(Tone::Faint, format!("{} {}", is.name(), age(*seconds))),
        HealthState::Unhealthy => Entry::new(Tone::Bad, format!("{} {}", is.name(), age(*seconds))),
    }
}

fn addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Names for a line, or a dash.
fn names(names: &[String]) -> String {
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}
