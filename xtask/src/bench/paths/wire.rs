//! What lies between the hosts.

use anyhow::Result;
use mesh_tests::lab::{Lab, Namespace};
use serde::{Deserialize, Serialize};

/// What a wire carries. Each host's interface is one end of a veth pair; the other is a port of the switch.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(in crate::bench) enum Wire {
    /// Packets of 1500 bytes with whole checksums, as a cable between plain network cards does: the sender's kernel cuts what
    /// is longer (GSO) and the receiver's merges what it can (GRO).
    Packets,
    /// Segments as they were sent, up to 64 KiB long, as between virtual machines of one host or with cards that cut and merge
    /// themselves.
    Segments,
}

impl Wire {
    /// For people.
    pub(in crate::bench) const fn title(self) -> &'static str {
        match self {
            Self::Packets => "wire of packets",
            Self::Segments => "wire of segments",
        }
    }

    /// Gives every host's interface and every port of the switch the offloads of such a wire.
    pub(super) fn lay(self, lab: &Lab) -> Result<()> {
        let switch = Namespace::open(&lab.namespace_name("switch"))?;
        let mesh = lab.mesh();
        for host in mesh.nodes.iter().chain(&mesh.clients) {
            let namespace = &lab.host(host).namespace;
            // With a program there, its peer would get no segments; nothing here sends from XDP.
            switch.ip(&format!("link set {host} xdp off"))?;
            let offload = match self {
                Self::Packets => "off",
                Self::Segments => "on",
            };
            // `tx` stands for the checksums; TSO needs it. A switch merges nothing, and a card merges by default.
            switch.exec(&format!("ethtool -K {host} tx {offload} tso {offload} gro off"))?;
            namespace.exec(&format!("ethtool -K eth0 tx {offload} tso {offload} gro on"))?;
        }
        Ok(())
    }
}
