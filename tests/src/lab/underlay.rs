//! The underlay: a switch that nodes and clients are plugged into.

use anyhow::Result;

use super::{namespace::Namespace, pass::Pass, record::Record};

/// The switch that all are plugged into.
pub(super) const SWITCH: &str = "switch";
/// One beside it, which nobody is plugged into at first.
pub(super) const FAR_SWITCH: &str = "switch2";

/// A bridge in a namespace of its own: the wire between the hosts.
#[derive(Debug)]
pub(super) struct Switch {
    namespace: Namespace,
    /// Of each cable, in bytes.
    mtu: u32,
    /// For each port.
    pass: Pass,
}

impl Switch {
    pub(super) fn create(record: &Record, mtu: u32) -> Result<Self> {
        let namespace = record.create_namespace("switch")?;
        for name in [SWITCH, FAR_SWITCH] {
            namespace
                .ip(&format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))?;
            namespace.ip(&format!("link set {name} mtu {mtu} up"))?;
        }
        let pass = Pass::load(&record.directory().join("switch"))?;
        Ok(Self { namespace, mtu, pass })
    }

    /// Gives a host the interface `eth0` with the addresses 192.0.2.N and 2001:db8::N.
    pub(super) fn plug(&self, host: &Namespace, port: &str, number: u8) -> Result<()> {
        let (mtu, switch) = (self.mtu, self.namespace.name());
        host.ip(&format!("link add eth0 mtu {mtu} type veth peer name {port} mtu {mtu} netns {switch}"))?;
        // A veth hands a packet on with its checksum unfinished, which no wire does.
        host.exec("ethtool -K eth0 tx off")?;
        self.namespace.exec(&format!("ethtool -K {port} tx off"))?;
        self.namespace.ip(&format!("link set {port} master {SWITCH} up"))?;
        self.namespace.ip(&format!("link set {port} xdp pinned {}", self.pass.path().display()))?;
        host.ip("link set eth0 up")?;
        host.ip(&format!("address add 192.0.2.{number}/24 dev eth0"))?;
        host.ip(&format!("address add 2001:db8::{number}/64 dev eth0 nodad"))?;
        Ok(())
    }

    /// Moves a port to another of the two switches.
    pub(super) fn move_to(&self, port: &str, switch: &str) -> Result<()> {
        self.namespace.ip(&format!("link set {port} master {switch}")).map(drop)
    }

    /// Takes a port out of service, or puts it in again: the other end of its cable has no carrier meanwhile.
    pub(super) fn carrier(&self, port: &str, present: bool) -> Result<()> {
        let state = if present { "up" } else { "down" };
        self.namespace.ip(&format!("link set {port} {state}")).map(drop)
    }

    /// Lets a host's interface take long segments and unfinished checksums, as a card does that finishes them itself.
    pub(super) fn offload(&self, host: &Namespace, port: &str) -> Result<()> {
        // An XDP program takes no segments longer than the MTU, so the kernel gives it none.
        self.namespace.ip(&format!("link set {port} xdp off"))?;
        host.exec("ethtool -K eth0 tx on tso on").map(drop)
    }
}
