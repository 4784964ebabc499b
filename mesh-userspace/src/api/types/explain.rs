//! Where a flow would go, and why.

use serde::{Deserialize, Serialize};

use super::Place;
use crate::table::{Protocol, Scheduler};

/// A flow to explain: `GET /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The client. Without a port, the shares of the backends are told in the place of a choice.
    pub from: Place,
    /// What it asks for.
    pub to: Place,
    /// By which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The network that the client is on; where it is not given, the one that has the client's address.
    #[serde(default)]
    pub network: Option<String>,
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client.
    pub from: Place,
    /// What it asks for.
    pub to: Place,
    /// By which protocol.
    pub protocol: Protocol,
    /// What becomes of it, in one word.
    pub verdict: Verdict,
    /// The same as a sentence, without its full stop.
    pub summary: String,
    /// The service that takes it, and the backend.
    pub choice: Option<Choice>,
    /// The nodes and tunnels on its way.
    pub path: Option<String>,
    /// Each step that led there, a sentence each, without full stops.
    pub why: Vec<String>,
    /// What would pass, where this does not.
    pub instead: Vec<String>,
}

/// What becomes of a flow, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The mesh brings it to a task.
    Delivered,
    /// The mesh answers it itself.
    Answered,
    /// It leaves for the world outside through its node.
    Outside,
    /// The mesh leaves it to the kernel.
    Passed,
    /// The mesh drops it, and counts it.
    Dropped,
}

/// The service that takes a flow, and the backend that it chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The service.
    pub service: String,
    /// Which of its addresses: `published port 9200/tcp`, or `VIP 10.0.9.2 on blue`.
    pub by: String,
    /// How it chooses.
    pub scheduler: Scheduler,
    /// The flow's hash, where the scheduler uses one and the client's port was given.
    pub hash: Option<u32>,
    /// The slot that the hash names.
    pub slot: Option<u32>,
    /// The slots of the ring.
    pub slots: u32,
    /// The backend, where it can be foretold.
    pub backend: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// The share of each backend, the greatest first, where none can be foretold.
    pub shares: Vec<Share>,
}

/// How much of a ring is a backend's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The backend, by the name of its endpoint.
    pub backend: String,
    /// Its node.
    pub node: String,
    /// Its slots.
    pub slots: u32,
}
