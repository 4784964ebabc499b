//! Balancing by nftables' DNAT and connection tracking, in the places where Docker has IPVS and kube-proxy its rules.

use anyhow::Result;
use mesh_tests::lab::Lab;

use super::{BULK, ECHO, SHORT};

/// Has the kernel's nodes balance a virtual IP for tasks, and published ports for clients.
pub(super) fn balance(lab: &Lab) -> Result<()> {
    let ports = format!("th dport {{ {BULK}, {ECHO}, {SHORT} }}");
    let served = format!("meta l4proto {{ tcp, udp }} {ports}");
    let task = &lab.host("kt1").namespace;
    let nft = |words: String| task.exec(&format!("nft {words}"));
    // In the task's own namespace, as Docker does it.
    nft("add table inet balance".to_owned())?;
    nft("add chain inet balance output { type nat hook output priority -100 ; }".to_owned())?;
    nft(format!("add rule inet balance output ip daddr 10.0.8.2 {served} dnat ip to 10.0.8.12"))?;
    nft(format!("add rule inet balance output ip6 daddr fd00:8::2 {served} dnat ip6 to fd00:8::12"))?;
    // At the entry node, for whom comes from outside. The answers must come back through it, so it sends in its own name.
    let node = &lab.host("k1").namespace;
    let nft = |words: String| node.exec(&format!("nft {words}"));
    nft("add table inet balance".to_owned())?;
    nft("add chain inet balance prerouting { type nat hook prerouting priority dstnat ; }".to_owned())?;
    nft("add chain inet balance postrouting { type nat hook postrouting priority srcnat ; }".to_owned())?;
    let to_node = "add rule inet balance prerouting iifname eth0 fib daddr type local";
    nft(format!("{to_node} meta nfproto ipv4 {served} dnat ip to 10.0.8.12"))?;
    nft(format!("{to_node} meta nfproto ipv6 {served} dnat ip6 to fd00:8::12"))?;
    nft("add rule inet balance postrouting oifname br0 ct status dnat masquerade".to_owned())?;
    Ok(())
}
