//! The file as a whole: its sections, in whatever order they stand.

use std::path::PathBuf;

use super::{
    Loaded, LocalConfig, cluster,
    keys::Keys,
    reader::Reader,
    sections::Sections,
    yaml::{self, Content, Entry, Node, Place},
};
use crate::spec::{Faults, faults_beside, listed, nearest, quoted};

/// The longest path of a Unix socket, Linux's sun_path without its closing zero.
const LONGEST_SOCKET: usize = 107;
/// The socket's name under the directory.
const SOCKET: &str = "/meshd.sock";

/// Reads a file's text.
pub(super) fn read(file: &str, text: &[u8]) -> Result<Loaded, Faults> {
    let document = yaml::read(text);
    let mut reader = Reader::new(file);
    for (at, sentence) in document.faults {
        reader.fault(at, sentence);
    }
    let mut loaded = Loaded { local: LocalConfig::default(), spec: crate::spec::Spec::default() };
    let Some(root) = &document.root else {
        if reader.faults.is_empty() {
            reader.fault(Place::START, EMPTY);
        }
        return reader.faults.or(loaded);
    };
    let sections = sections(&mut reader, root, document.whole, &mut loaded.local);
    if !reader.faults.is_empty() && document.whole {
        // What could be read is held against the rules too, so that every fault is told at once.
        reader.faults.append(faults_beside(&sections.spec, &sections.unreadable));
    }
    loaded.spec = sections.spec;
    reader.faults.or(loaded)
}

const EMPTY: &str = "The file is empty; write at least the nodes, as in nodes: {n1: {address: 192.0.2.1}}.";

/// The sections of a file.
const SECTIONS: [&str; 7] = ["node", "nodes", "options", "networks", "services", "endpoints", "cluster"];

fn sections(reader: &mut Reader, root: &Node, whole: bool, local: &mut LocalConfig) -> Sections {
    let mut sections = Sections::default();
    if matches!(&root.content, Content::Scalar { text, quoted: false } if yaml::is_null(text)) {
        reader.fault(Place::START, EMPTY);
        return sections;
    }
    let Content::Map(entries) = &root.content else {
        let want = "a mapping with the keys nodes, networks, services and endpoints";
        reader.wrong(root, "The file", want);
        return sections;
    };
    let mut nodes_named = false;
    for entry in entries {
        let Some(section) = section(reader, entry) else { continue };
        match section {
            "node" => local_config(reader, &entry.value, local),
            "nodes" => {
                nodes_named = true;
                sections.nodes(reader, &entry.value);
            }
            "options" => sections.options(reader, &entry.value),
            "networks" => sections.networks(reader, &entry.value),
            "services" => sections.services(reader, &entry.value),
            "endpoints" => sections.endpoints(reader, &entry.value),
            _ => local.cluster = cluster::cluster(reader, entry),
        }
    }
    if !nodes_named && whole {
        reader.fault(
            root.at,
            "The file has no nodes; write each with its address, as in nodes: {n1: {address: 192.0.2.1}}.",
        );
    }
    sections
}

/// Which section a key names. One that is mistyped is reported, and then read as what it seems to mean, so that
/// nothing is said to be missing which is only under another name.
fn section(reader: &mut Reader, entry: &Entry) -> Option<&'static str> {
    if let Some(section) = SECTIONS.into_iter().find(|section| *section == entry.key) {
        return Some(section);
    }
    let near = nearest(&entry.key, SECTIONS);
    let mend = match near {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("its keys are {}.", listed(&SECTIONS, "and")),
    };
    reader.fault(entry.at, format!("The file has no key {}; {mend}", quoted(&entry.key)));
    near
}

fn local_config(reader: &mut Reader, node: &Node, local: &mut LocalConfig) {
    let want = "a mapping such as {run_dir: /run/mesh, state_dir: /var/lib/mesh}";
    let Some(mut keys) = Keys::of(reader, node, "The section node".to_owned(), want) else { return };
    if let Some(value) = keys.take("run_dir")
        && let Some(path) = absolute(reader, value, "The directory run_dir", "/run/mesh")
    {
        let socket = path.as_os_str().len() + SOCKET.len();
        if socket > LONGEST_SOCKET {
            reader.fault(
                value.at,
                format!(
                    "The directory run_dir is too long for the control socket in it, whose path may have \
                     {LONGEST_SOCKET} bytes; take one of at most {}.",
                    LONGEST_SOCKET - SOCKET.len()
                ),
            );
        }
        local.run_dir = path;
    }
    if let Some(value) = keys.take("state_dir")
        && let Some(path) = absolute(reader, value, "The directory state_dir", "/var/lib/mesh")
    {
        local.state_dir = path;
    }
    if let Some(value) = keys.take("resolv_conf")
        && let Some(path) = absolute(reader, value, "The file resolv_conf", "/etc/resolv.conf")
    {
        local.resolv_conf = path;
    }
    keys.finish(reader);
}

fn absolute(reader: &mut Reader, node: &Node, what: &str, example: &str) -> Option<PathBuf> {
    reader.path(node, what, example).map(|path| path.value)
}
