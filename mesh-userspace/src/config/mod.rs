//! The YAML file: what a user writes, read with the place of every word, and every fault of it found.

mod cluster;
mod file;
mod health;
mod keys;
mod reader;
mod sections;
mod syntax;
mod yaml;

use std::{
    fs::File,
    io::{ErrorKind, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    spec::{Fault, Faults, Given, Origin, Spec, listed, quoted, resolve},
    table::Table,
};

/// The longest file that is read, in bytes: enough for as many endpoints as the data plane has room for.
const LONGEST_FILE: u64 = 16 << 20;

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What concerns only the daemon that reads it.
    pub local: LocalConfig,
    /// What is asked for of the mesh.
    pub spec: Spec,
}

/// What concerns only the daemon that reads the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// Where the control socket and the bpffs are.
    pub run_dir: PathBuf,
    /// Where the daemon keeps what outlives it.
    pub state_dir: PathBuf,
    /// The file that names the host's resolvers, which are asked for names that are not the mesh's.
    pub resolv_conf: PathBuf,
    /// How it takes part in a cluster that finds itself; without, the file's nodes are the whole mesh.
    pub cluster: Option<ClusterConfig>,
}

/// How a node takes part in a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where to listen for gossip; at the node's own address where it is not given.
    pub listen: Option<SocketAddr>,
    /// Nodes to join by.
    pub join: Vec<SocketAddr>,
    /// The file with the cluster's keys.
    pub keyring: Given<PathBuf>,
}

/// What they say is the same, wherever in the file it stands.
impl PartialEq for ClusterConfig {
    fn eq(&self, other: &Self) -> bool {
        (self.listen, &self.join, &self.keyring.value) == (other.listen, &other.join, &other.keyring.value)
    }
}

impl Eq for ClusterConfig {}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            run_dir: PathBuf::from("/run/mesh"),
            state_dir: PathBuf::from("/var/lib/mesh"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cluster: None,
        }
    }
}

/// Reads a file. What it asks for is not yet held against the rules: [`resolve`] does that.
///
/// # Errors
/// Every fault of its text, and if it has any, also every rule that the rest of it breaks.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    parse(&name, &read(&name, path)?)
}

/// Reads a file and holds it against every rule.
///
/// # Errors
/// Every fault of it, in the order of their places.
pub fn check(path: &Path) -> Result<(Loaded, Table), Faults> {
    let loaded = load(path)?;
    let table = resolve(&loaded.spec)?;
    Ok((loaded, table))
}

/// Reads the text of a file, whose name is used in faults.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, text: &[u8]) -> Result<Loaded, Faults> {
    file::read(file, text)
}

/// The node that a daemon is: the one that it was told, or else the one named like its host.
///
/// # Errors
/// There is no such node in the table.
pub fn pick_node(table: &Table, told: Option<&str>, hostname: &str) -> Result<String, Fault> {
    let there = match table.nodes.len() {
        0 => "the file names no nodes".to_owned(),
        _ => {
            let names: Vec<&str> = table.nodes.keys().map(String::as_str).collect();
            format!("the nodes are {}", listed(&names, "and"))
        }
    };
    if let Some(told) = told {
        return match table.nodes.contains_key(told) {
            true => Ok(told.to_owned()),
            false => Err(Fault::new(
                Origin::command("meshd --node"),
                format!("There is no node {}; {there}.", quoted(told)),
            )),
        };
    }
    // A host's name with and without its domain is the same host.
    let short = hostname.split('.').next().unwrap_or(hostname);
    let mut same_host = table.nodes.keys().filter(|name| name.split('.').next() == Some(short));
    match (table.nodes.contains_key(hostname), same_host.next(), same_host.next()) {
        (true, ..) => Ok(hostname.to_owned()),
        (false, Some(name), None) if name == short || hostname == short => Ok(name.clone()),
        _ => Err(Fault::new(
            Origin::command("meshd"),
            format!(
                "No node is named like this host, {}; name one with --node NAME ({there}).",
                quoted(hostname)
            ),
        )),
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, Faults> {
    let fault = |sentence: String| {
        Faults::from(Fault::new(Origin::File { file: name.into(), line: 1, column: 1 }, sentence))
    };
    let refused = |error: std::io::Error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "does not exist".to_owned(),
            ErrorKind::IsADirectory => "is a directory".to_owned(),
            ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
            _ => format!("cannot be read ({error})"),
        };
        fault(format!("The file {why}; name another with --config FILE."))
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(refused)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut text).map_err(refused)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(fault(format!(
            "The file is longer than {} MiB; make sure that it is the mesh's.",
            LONGEST_FILE >> 20
        )));
    }
    Ok(text)
}

/// A noun phrase in the middle of a sentence.
fn lower(who: &str) -> String {
    let mut characters = who.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}
