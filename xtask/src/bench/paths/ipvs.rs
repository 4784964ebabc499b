//! Balancing by IPVS, by NAT, in the places where Docker has it: in the client task's own namespace for a virtual IP, and at the
//! entry node, behind which it masquerades, for a published port. The kernels of many machines do not have IPVS; the virtual
//! machine's do.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mesh_tests::lab::{Lab, Namespace};

use super::{Carrier, ECHO, Family, SHORT};

/// Has the kernel's nodes balance a virtual IP for tasks, and published ports for clients.
pub(super) fn balance(lab: &Lab) -> Result<()> {
    let kernel = Carrier::Kernel;
    let task = &lab.host(kernel.client()).namespace;
    let node = &lab.host(kernel.entry()).namespace;
    for family in Family::ALL {
        let server: IpAddr = kernel.server_address(family).parse()?;
        let vip: IpAddr = kernel.virtual_ip(family).parse()?;
        // IPVS takes what its own host sends only if the address is the host's; there it stands where Docker has it, and is asked
        // for by whoever answers, since what is sent to one's own address comes from it.
        let length = if family == Family::V4 { "/32" } else { "/128" };
        let nodad = if family == Family::V4 { "" } else { "nodad" };
        task.ip(&format!("address add {vip}{length} dev eth0 {nodad}"))?;
        serve(task, vip, server)?;
        let entry = match family {
            Family::V4 => lab.mesh().address_v4(kernel.entry())?,
            Family::V6 => lab.mesh().address_v6(kernel.entry())?,
        };
        serve(node, entry, server)?;
    }
    // The answers must come back through the entry node, so it sends in its own name; nftables must be told what IPVS did.
    node.sysctl("net.ipv4.vs.conntrack", "1")?;
    let nft = |words: &str| node.exec(&format!("nft {words}"));
    nft("add table inet balance")?;
    nft("add chain inet balance postrouting { type nat hook postrouting priority srcnat ; }")?;
    nft(&format!(
        "add rule inet balance postrouting oifname br0 meta l4proto {{ tcp, udp }} th dport {{ {ECHO}, {SHORT} }} masquerade"
    ))?;
    Ok(())
}

/// Balances the ports at an address, for one server.
fn serve(at: &Namespace, address: IpAddr, server: IpAddr) -> Result<()> {
    for (protocol, port) in [("-t", SHORT), ("-u", ECHO)] {
        let (service, server) = (SocketAddr::new(address, port), SocketAddr::new(server, port));
        at.exec(&format!("ipvsadm -A {protocol} {service} -s rr"))?;
        at.exec(&format!("ipvsadm -a {protocol} {service} -r {server} -m"))?;
    }
    Ok(())
}
