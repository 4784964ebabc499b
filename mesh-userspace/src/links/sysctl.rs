//! Settings of interfaces under /proc/sys/net.
//!
//! These files show the namespace of the thread that opens them, so this is called inside
//! [`Namespace::run`](super::Namespace::run) alone.

use std::{fs, io, path::PathBuf};

use super::LinkError;

/// What an interface's IPv6 should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ipv6 {
    /// None at all: no link-local address, no router solicitations.
    Off,
    /// On, with a link-local address: a task's.
    On,
    /// On, with nothing but the addresses that it is given: the node's own.
    Bare,
}

/// Sets what differs on the interface `name`; without IPv6 in the kernel there is nothing to set.
pub(super) fn set_ipv6(name: &str, ipv6: Ipv6) -> Result<(), LinkError> {
    if !has_ipv6() {
        return Ok(());
    }
    let settings: &[(&str, &str)] = match ipv6 {
        Ipv6::Off => &[("disable_ipv6", "1")],
        // The order matters: what makes addresses by itself is off before IPv6 is on.
        Ipv6::On => {
            &[("accept_ra", "0"), ("accept_dad", "0"), ("router_solicitations", "0"), ("disable_ipv6", "0")]
        }
        Ipv6::Bare => &[
            ("accept_ra", "0"),
            ("accept_dad", "0"),
            ("router_solicitations", "0"),
            ("addr_gen_mode", "1"),
            ("disable_ipv6", "0"),
        ],
    };
    settings.iter().try_for_each(|(setting, value)| set(&format!("ipv6/conf/{name}/{setting}"), value))
}

/// Lets packets come in whose answers would leave by another interface. Off, and not loose (RFC 3704): on an interface
/// without an IPv4 address, the kernel's loose filter refuses them too (`__fib_validate_source`). The programs have judged
/// the sources of what comes in.
pub(super) fn set_no_reverse_path(name: &str) -> Result<(), LinkError> {
    set(&format!("ipv4/conf/{name}/rp_filter"), "0")
}

/// Lets the programs ask for routes as if packets had come in by this interface (`bpf_fib_lookup` wants an interface that
/// forwards), so that the node's own settings need not change. No packet that the kernel would forward comes in by it.
pub(super) fn set_forwarding(name: &str) -> Result<(), LinkError> {
    set(&format!("ipv4/conf/{name}/forwarding"), "1")?;
    if has_ipv6() { set(&format!("ipv6/conf/{name}/forwarding"), "1") } else { Ok(()) }
}

/// Whether this kernel runs with IPv6.
pub(super) fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}

fn set(setting: &str, value: &str) -> Result<(), LinkError> {
    let path = PathBuf::from("/proc/sys/net").join(setting);
    let fault = |source: io::Error| LinkError::Sysctl { path: path.clone(), value: value.into(), source };
    if fs::read_to_string(&path).map_err(fault)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(fault)
}
