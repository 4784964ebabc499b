//! What can go wrong with interfaces, as sentences for people.

use std::{io, net::IpAddr, path::PathBuf};

/// Why an interface could not be made as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The namespace is not there.
    #[error(
        "network namespace {path} does not exist: {mend}, or correct the endpoint's `netns`",
        path = path.display()
    )]
    NoNamespace {
        /// Where it was looked for.
        path: PathBuf,
        /// How it would come to be.
        mend: String,
    },
    /// The file is there and is no network namespace.
    #[error(
        "{path} is not a network namespace: name one that `ip netns add` made, or the path of one, such as \
         /proc/PID/ns/net",
        path = path.display()
    )]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// A task was given the node's own namespace.
    #[error(
        "{path} is the node's own network namespace, which {endpoint} cannot be attached in: give the task \
         a namespace of its own, made with `ip netns add`",
        path = path.display()
    )]
    OwnNamespace {
        /// The endpoint.
        endpoint: String,
        /// The namespace.
        path: PathBuf,
    },
    /// The namespace could not be opened or entered.
    #[error(
        "could not enter the network namespace {path}: {source}; meshd must run as root",
        path = path.display()
    )]
    Enter {
        /// The namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread for work in a namespace could not be started, or did not end as it should.
    #[error("work in the network namespace {path} was cut short: {why}", path = path.display())]
    CutShort {
        /// The namespace.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// The kernel refused a change or a question.
    #[error("could not {doing}: {source}")]
    Kernel {
        /// What was asked of it.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// A setting under /proc/sys could not be read or written.
    #[error("could not set {path} to {value}: {source}", path = path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// The value it should have had.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no IPv6, and the mesh needs it.
    #[error(
        "{address} cannot be given to {interface}: this kernel runs without IPv6; start it without \
         `ipv6.disable=1`, or take the IPv6 subnet out of the network"
    )]
    NoIpv6 {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Somebody else's interface has a name that the mesh needs.
    #[error(
        "the interface {name} is not the mesh's own (it is {kind}): give it another name with `ip link set \
         {name} name OTHER`"
    )]
    Foreign {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// What was just made is gone again.
    #[error("the interface {name} vanished while it was being set up")]
    Vanished {
        /// The interface.
        name: String,
    },
}

impl LinkError {
    /// From what netlink answered to a request.
    pub(super) fn netlink(doing: impl Into<String>, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self::Kernel { doing: doing.into(), source }
    }
}
