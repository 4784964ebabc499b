//! What a person at a host's keyboard types: `meshctl` is found, and speaks to that host's daemon.

use std::{
    env,
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};

use super::{Lab, command::output, namespace::Namespace, node::meshctl_path};

/// A command as typed on a host; `socket` is of the daemon that runs there, if one does.
///
/// # Errors
/// If there is no `meshctl`, or the namespace's handle cannot be copied.
pub fn typed(namespace: &Namespace, socket: Option<&Path>, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = namespace.command(program)?;
    let meshctl = meshctl_path()?;
    let built = meshctl.parent().context("meshctl is in no directory")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(built.to_owned()).chain(env::split_paths(&path)))?;
    command.env("PATH", path);
    if let Some(socket) = socket {
        command.env("MESH_SOCKET", socket);
    }
    Ok(command)
}

impl Lab {
    /// Runs a line on a host, by the shell, whatever comes of it.
    ///
    /// # Errors
    /// If the shell cannot be run.
    pub fn shell(&self, host: &str, line: &str) -> Result<Output> {
        let socket = self.nodes.get(host).map(super::Node::socket);
        output(typed(&self.host(host).namespace, socket.as_deref(), "sh")?.args(["-c", line]))
    }
}
