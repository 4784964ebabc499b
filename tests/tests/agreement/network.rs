//! Interfaces, routes and neighbours as the generated worlds have them, in a namespace of the calling thread's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use mesh_common::abi::{Address, Family, HOST_ALIAS_V4, HOST_ALIAS_V6};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use crate::support::world::{ADDRESSES, Interfaces, NEIGHBOURS, ON_LOOPBACK, OUTSIDE, neighbour_mac};

/// Moves the calling thread into a network and a mount namespace of its own, which end with it: nothing has to be
/// cleaned up, whatever happens.
pub(crate) fn leave_the_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make namespaces: as root?")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot keep mounts to ourselves")
}

/// A bpffs for the maps' pins, in the thread's own mount namespace.
pub(crate) struct Pins(PathBuf);

impl Pins {
    pub(crate) fn mount() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mesh-agreement-{}-{count}", std::process::id()));
        fs::create_dir_all(&path)?;
        let pins = Self(path);
        mount(Some("bpf"), &pins.0, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpffs")?;
        Ok(pins)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount(&self.0);
        let removed = fs::remove_dir(&self.0);
        if let (Err(error), _) | (_, Err(error)) = (unmounted.map_err(std::io::Error::from), removed) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Makes the interfaces, routes and neighbours.
pub(crate) fn build() -> Result<Interfaces> {
    let uplink_mac = [0x02, 0, 0, 0, 0, 2];
    let host_mac = [0x02, 0, 0, 0, 0, 4];
    ip("link set lo up")?;
    for (name, peer, mac) in [("up0", "up1", uplink_mac), ("mesh0", "mesh0-gate", host_mac)] {
        ip(&format!("link add {name} address {} type veth peer name {peer}", text(mac)))?;
        for end in [name, peer] {
            // No addresses but ours, so that no kernel says a word of its own on these links.
            ip(&format!("link set {end} addrgenmode none"))?;
            ip(&format!("link set {end} up"))?;
        }
    }
    fs::write("/proc/sys/net/ipv6/conf/up1/disable_ipv6", "1")?;
    for family in ["ipv4", "ipv6"] {
        fs::write(format!("/proc/sys/net/{family}/conf/mesh0-gate/forwarding"), "1")?;
    }
    let [v4, v6] = ADDRESSES;
    ip(&format!("addr add {v4} dev up0"))?;
    ip(&format!("addr add {v6} dev up0 nodad"))?;
    for address in ON_LOOPBACK {
        ip(&format!("addr add {address} dev lo"))?;
    }
    for (destination, router) in OUTSIDE {
        ip(&format!("route add {destination} via {router}"))?;
    }
    for (address, last) in NEIGHBOURS {
        ip(&format!("neigh add {address} lladdr {} nud permanent dev up0", text(neighbour_mac(last))))?;
    }
    for alias in [HOST_ALIAS_V4, HOST_ALIAS_V6] {
        let ip_address = std::net::IpAddr::from(alias);
        ip(&format!("route add {ip_address}/{} dev mesh0", bits(alias)))?;
        ip(&format!("neigh add {ip_address} lladdr {} nud permanent dev mesh0", text(neighbour_mac(1))))?;
    }
    Ok(Interfaces {
        uplink: if_nametoindex("up0")?,
        uplink_mac,
        gate: if_nametoindex("mesh0-gate")?,
        host: if_nametoindex("mesh0")?,
        host_mac,
        tasks: 100,
    })
}

fn bits(address: Address) -> u8 {
    match address.family() {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `ip ARGUMENTS…`, in the calling thread's namespace.
fn ip(arguments: &str) -> Result<()> {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().context("the test needs iproute2")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
