//! The bodies of requests and answers, shared by server and client.

mod explain;
mod keys;
mod place;
mod requests;
mod traffic;
mod views;

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::control::tell;
use crate::table::Protocol;

pub use explain::{Choice, ExplainQuery, Explanation, Share, Verdict};
pub use keys::{ClusterKey, KeyInstall, KeyText, KeyUse};
pub use place::{Place, PlaceError};
pub use requests::{
    Attach, BackendAdd, BackendWeight, FlowFilter, NetworkCreate, ServiceCreate, TraceQuery, Vip,
};
pub use traffic::{Datagram, DropCount, Flow, FlowKind, Flows, HookCount, MapUse, Stats, TraceLine, Tunnel};
pub use views::{
    Backend, Cluster, Counts, Endpoint, EndpointState, Health, Member, Network, Node, NodeState, Peer,
    Problem, Program, Service, Status,
};

/// A transport protocol's name, as in requests and answers.
#[must_use]
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// What every refused request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, without a full stop.
    pub error: String,
    /// What to do about it, without a full stop; empty where the error says it already.
    pub mend: String,
}

impl Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tell(f, &self.error, &self.mend)
    }
}

/// The answer to a request that removed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// The revision of the desired state without it.
    pub revision: u64,
}

/// The answer to `POST /v1/down`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The node whose data plane is gone.
    pub node: String,
}

/// The answer to `POST /v1/leave`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The node that has left.
    pub node: String,
}
