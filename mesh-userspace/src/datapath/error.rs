//! What can go wrong between the agent and the kernel's side, as sentences for people.

use std::{error::Error, io, path::PathBuf};

/// Why the kernel's side is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The file system for pins could not be mounted.
    #[error(
        "could not mount a bpffs on {path}: {source}; meshd must run as root, on a kernel with \
         CONFIG_BPF_SYSCALL",
        path = path.display()
    )]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or directory could not be made, read or removed.
    #[error("could not {doing}: {source}")]
    File {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("could not load the eBPF object: {why}")]
    Load {
        /// Why.
        why: String,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refused the eBPF program {program}: {source}; its verifier says:\n{log}")]
    Refused {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
        /// What its verifier said.
        log: String,
    },
    /// The object does not have what it should have.
    #[error("the eBPF object has no {what} {name}: build it again with `cargo xtask build`")]
    Missing {
        /// "program" or "map".
        what: &'static str,
        /// Which.
        name: String,
    },
    /// It could not be found out what the kernel can do.
    #[error(
        "could not find out how programs are attached on this kernel: {source}; meshd must run as root, on Linux 6.1 or \
         later with CONFIG_BPF_SYSCALL"
    )]
    Probe {
        /// What the kernel said.
        source: io::Error,
    },
    /// The filters of interfaces could not be looked at or changed.
    #[error("could not {doing}: {source}")]
    Filter {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be attached.
    #[error("could not attach the eBPF program {program} to {target}: {source}")]
    Attach {
        /// The program.
        program: String,
        /// The interface or the control group.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The control groups' root could not be opened.
    #[error(
        "could not open the root of the control groups: {source}; published ports would not answer on the \
         node itself. A kernel with CONFIG_CGROUPS and CONFIG_CGROUP_BPF is needed"
    )]
    Cgroup {
        /// What the kernel said.
        source: io::Error,
    },
    /// What is attached could not be read.
    #[error("could not read what is pinned as {pin}: {source}")]
    Pin {
        /// The name of the pin.
        pin: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// What an earlier agent left in a map could not be carried over.
    #[error("could not carry over what the map {map} holds: {source}; the data plane stays as it was")]
    Carry {
        /// The map.
        map: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Programs of an earlier agent are attached where none of ours could be.
    #[error(
        "could not replace the programs that an earlier meshd left ({}); the data plane stays as it was, and the next \
         start tries again. `meshctl status` of the earlier version shows them",
        .links.join(", ")
    )]
    NotReplaced {
        /// The pins of their links.
        links: Vec<String>,
    },
    /// A map is not of the types that the agent takes it for.
    #[error("the map {map} is not what the agent takes it for ({why}): build the eBPF object again")]
    Shape {
        /// The map.
        map: String,
        /// What differs.
        why: String,
    },
    /// A map has no room left.
    #[error(
        "the map {map} is full: {key} has no place in its {capacity} entries; take something out of the \
         configuration, or raise the map's size in mesh-ebpf and build again"
    )]
    Full {
        /// The map.
        map: String,
        /// What should have been put there.
        key: String,
        /// How many entries it has.
        capacity: u32,
    },
    /// An entry of a map could not be read or written.
    #[error("could not {doing} {key} in the map {map}: {why}")]
    Entry {
        /// "read", "write" or "remove".
        doing: &'static str,
        /// The map.
        map: String,
        /// The entry.
        key: String,
        /// What the kernel said.
        why: String,
    },
}

/// An error with everything that caused it, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
