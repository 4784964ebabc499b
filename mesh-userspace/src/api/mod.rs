//! The interface of a running daemon: HTTP and JSON over a Unix socket, both of its ends.
//!
//! [`server`] answers from a [`Control`], which the agent implements; [`client`] is what `meshctl` asks with;
//! [`types`] are the bodies that both speak.

pub(crate) mod backends;
pub mod client;
mod control;
mod routes;
pub mod server;
mod socket;
pub mod types;
mod views;

use std::path::{Path, PathBuf};

pub use control::{
    Attachment, Change, Changed, Cluster, Control, FlowDump, KeyChange, Lookup, Member, Refusal, RefusalKind,
    Snapshot, TraceStream, Uplink,
};
pub use socket::{BindError, bind};

/// The directory of the daemon's socket unless the configuration names another.
pub const DEFAULT_RUN_DIR: &str = "/run/mesh";

/// The socket's name in the daemon's run directory.
pub const SOCKET_NAME: &str = "meshd.sock";

/// The greatest request body in bytes: a service with hundreds of ports fits many times over.
pub const BODY_MAX: usize = 64 * 1024;

/// The socket of the daemon that runs in this directory.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET_NAME)
}
