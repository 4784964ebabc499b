//! Bare links: two routers, each with a task behind it, and nothing around the packets.

use anyhow::Result;
use mesh_tests::lab::Lab;

/// A router, its task, and the number of the network between them.
const ROUTERS: [(&str, &str, u8); 2] = [("b1", "bt1", 71), ("b2", "bt2", 72)];

/// Makes routers of two clients of the lab.
pub(super) fn build(lab: &mut Lab) -> Result<()> {
    for (_, task, _) in ROUTERS {
        lab.add_host(task)?;
    }
    let [first, second] = ROUTERS;
    for ((router, task, number), (peer, _, there)) in [(first, second), (second, first)] {
        let (peer_v4, peer_v6) = (lab.mesh().address_v4(peer)?, lab.mesh().address_v6(peer)?);
        let (router, task) = (&lab.host(router).namespace, &lab.host(task).namespace);
        router.ip(&format!("link add veth0 type veth peer name eth0 netns {}", task.name()))?;
        for (namespace, interface, last) in [(router, "veth0", 1), (task, "eth0", 2)] {
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.ip(&format!("address add 10.0.{number}.{last}/24 dev {interface}"))?;
            namespace.ip(&format!("address add fd00:{number}::{last}/64 dev {interface} nodad"))?;
        }
        task.ip(&format!("route add default via 10.0.{number}.1"))?;
        task.ip(&format!("route add default via fd00:{number}::1"))?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        router.ip(&format!("route add 10.0.{there}.0/24 via {peer_v4}"))?;
        router.ip(&format!("route add fd00:{there}::/64 via {peer_v6}"))?;
    }
    lead_client(lab)
}

/// Leads the client outside to the second task by way of the first router, and the answers back by it, although both routers are
/// its neighbours.
fn lead_client(lab: &Lab) -> Result<()> {
    let [(first, ..), (second, _, number)] = ROUTERS;
    let (entry_v4, entry_v6) = (lab.mesh().address_v4(first)?, lab.mesh().address_v6(first)?);
    let (client_v4, client_v6) = (lab.mesh().address_v4("client")?, lab.mesh().address_v6("client")?);
    let (client, entry, far) =
        (&lab.host("client").namespace, &lab.host(first).namespace, &lab.host(second).namespace);
    for which in ["all", "eth0"] {
        entry.sysctl(&format!("net.ipv4.conf.{which}.send_redirects"), "0")?;
        for family in ["ipv4", "ipv6"] {
            client.sysctl(&format!("net.{family}.conf.{which}.accept_redirects"), "0")?;
        }
    }
    client.ip(&format!("route add 10.0.{number}.0/24 via {entry_v4}"))?;
    client.ip(&format!("route add fd00:{number}::/64 via {entry_v6}"))?;
    far.ip(&format!("route add {client_v4}/32 via {entry_v4}"))?;
    far.ip(&format!("route add {client_v6}/128 via {entry_v6}")).map(drop)
}
