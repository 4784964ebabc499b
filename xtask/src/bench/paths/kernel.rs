//! The kernel's own overlay, built as Docker builds one: a bridge for the network on each node, with a `vxlan` device and the
//! tasks' veths as its ports.

use anyhow::Result;
use mesh_tests::lab::{Lab, mac_of};

/// Bytes of the longest packet inside: what a tunnel over IPv4 leaves of 1500.
const MTU: u32 = 1450;

/// A node, its task and the task's last number, and the node's own on the bridge.
const NODES: [(&str, &str, u8, u8); 2] = [("k1", "kt1", 11, 101), ("k2", "kt2", 12, 102)];

/// Makes two nodes of two clients of the lab.
pub(super) fn build(lab: &mut Lab) -> Result<()> {
    for (_, task, ..) in NODES {
        lab.add_host(task)?;
    }
    let [first, second] = NODES;
    for ((node, task, number, own), (peer, _, there, _)) in [(first, second), (second, first)] {
        let (local, remote) = (lab.mesh().address_v4(node)?, lab.mesh().address_v4(peer)?);
        let namespace = &lab.host(node).namespace;
        namespace.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        namespace.ip(&format!("link set br0 mtu {MTU} up"))?;
        // No UDP checksum, as Docker has it, and the mesh.
        namespace.ip(&format!(
            "link add vx0 mtu {MTU} type vxlan id 4096 local {local} remote {remote} dstport 4789 nolearning noudpcsum"
        ))?;
        namespace.ip("link set vx0 master br0 up")?;
        // Docker enters the MAC address of each task elsewhere.
        let mac = mac_of(format!("10.0.8.{there}").parse()?);
        namespace.exec(&format!("bridge fdb append {mac} dev vx0 dst {remote} self permanent"))?;
        namespace.exec(&format!("bridge fdb append {mac} dev vx0 master static"))?;
        // The node's own place on the network, for what enters it by a published port.
        namespace.ip(&format!("address add 10.0.8.{own}/24 dev br0"))?;
        namespace.ip(&format!("address add fd00:8::{own}/64 dev br0 nodad"))?;
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;

        let inside = lab.host(task);
        let mac = mac_of(format!("10.0.8.{number}").parse()?);
        let name = inside.namespace.name();
        namespace.ip(&format!(
            "link add veth0 mtu {MTU} type veth peer name eth0 address {mac} mtu {MTU} netns {name}"
        ))?;
        namespace.ip("link set veth0 master br0 up")?;
        inside.namespace.ip("link set eth0 up")?;
        inside.namespace.ip(&format!("address add 10.0.8.{number}/24 dev eth0"))?;
        inside.namespace.ip(&format!("address add fd00:8::{number}/64 dev eth0 nodad"))?;
    }
    Ok(())
}
