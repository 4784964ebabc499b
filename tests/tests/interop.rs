//! The Linux kernel's own `vxlan` device is a node like any other.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::lab::{
    Host, Lab, Mesh, UdpEcho, Underlay, VxlanDevice, Web, eventually, mac_of, udp_in_one_piece,
    udp_round_trip,
};

const MESH_TASK: [&str; 2] = ["10.0.9.11", "fd00:9::a00:90b"];
const KERNEL_TASK: [&str; 2] = ["10.0.9.12", "fd00:9::a00:90c"];

/// A task on n1, which runs the mesh; on k2 the kernel's device holds the other addresses.
fn mesh(underlay: Underlay) -> Mesh {
    Mesh::new(1)
        .underlay(underlay)
        .kernel_node("k2")
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .task("task", "n1", "blue", MESH_TASK[0])
        .endpoint("kernel", "k2", "blue", KERNEL_TASK[0], "kernel")
}

fn mtu(underlay: Underlay) -> u32 {
    match underlay {
        Underlay::V4 => 1450,
        Underlay::V6 => 1430,
    }
}

fn start_device(lab: &Lab, underlay: Underlay) -> Result<()> {
    let addresses = vec![format!("{}/24", KERNEL_TASK[0]), format!("{}/64", KERNEL_TASK[1])];
    let remote = lab.mesh().address("n1")?;
    VxlanDevice { vni: 4097, addresses, remote, mtu: mtu(underlay) }.create(lab, "k2")
}

/// Ping, a transfer of 200 MB each way, and datagrams of each size, from `client` to `server`.
fn speak(client: &Host, server: &Host, address: IpAddr, sum: &str, mtu: usize) -> Result<()> {
    let fits = mtu - if address.is_ipv4() { 28 } else { 48 };
    client.ping(address, 5, 56)?;
    client.ping(address, 5, fits)?;
    let web = SocketAddr::new(address, 80);
    let found = client.curl_sha256(&format!("http://{web}/files/file"))?;
    ensure!(found == sum, "200 MB from {web} arrived changed");
    let echo = SocketAddr::new(address, 7);
    let _echo = UdpEcho::start(server, echo)?;
    udp_round_trip(client, echo, 0..=fits)
}

fn both_directions(underlay: Underlay) -> Result<()> {
    mesh(underlay).test(|lab| {
        start_device(lab, underlay)?;
        let (task, kernel) = (lab.host("task"), lab.host("k2"));
        for address in MESH_TASK {
            let address: IpAddr = address.parse()?;
            VxlanDevice::neighbour(kernel, address, &mac_of(address))?;
        }
        task.serve_http(&Web::on(80))?;
        kernel.serve_http(&Web::on(80))?;
        let mtu = usize::try_from(mtu(underlay))?;
        let task_sum = task.publish_random_file("file", 200_000_000)?;
        let kernel_sum = kernel.publish_random_file("file", 200_000_000)?;
        for family in 0..2 {
            speak(task, kernel, KERNEL_TASK[family].parse()?, &kernel_sum, mtu)?;
            speak(kernel, task, MESH_TASK[family].parse()?, &task_sum, mtu)?;
        }
        ensure!(kernel.curl("http://10.0.9.11/")?.trim_end() == "task sees 10.0.9.12");
        Ok(())
    })
}

#[test]
fn a_kernels_device_over_an_ipv4_underlay() -> Result<()> {
    both_directions(Underlay::V4)
}

#[test]
fn a_kernels_device_over_an_ipv6_underlay() -> Result<()> {
    both_directions(Underlay::V6)
}

/// The device asks through the tunnel who has an address, as it does when nobody has told it.
#[test]
fn a_kernels_device_finds_its_neighbours() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay).test(|lab| {
            start_device(lab, underlay)?;
            for address in MESH_TASK {
                lab.host("k2").ping(address.parse()?, 3, 56)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Frames that stand for many and that nobody cuts, up to the longest that there are: with the tunnel around them, the
/// kernel's receiver must still find a length that is true. Linux 6.7 and later cut what is longer than the underlay's own
/// limit, so that is raised as for BIG TCP.
#[test]
fn the_longest_aggregates_reach_a_kernels_device() -> Result<()> {
    for underlay in [Underlay::V4, Underlay::V6] {
        mesh(underlay).test(|lab| {
            lab.join_directly("n1", "k2")?;
            for node in ["n1", "k2"] {
                lab.host(node).namespace.ip("link set eth0 gso_max_size 131072")?;
            }
            start_device(lab, underlay)?;
            let (task, kernel) = (lab.host("task"), lab.host("k2"));
            for address in KERNEL_TASK {
                let address = address.parse()?;
                eventually("the node has its interface back", Duration::from_secs(10), || {
                    ensure!(task.pings(address)?, "{address} does not answer");
                    Ok(())
                })?;
                // An IP packet of 65,535 bytes at the most: up to the last of them, and well below.
                let pieces = match address {
                    IpAddr::V4(_) => [(1310, 50), (1284, 51), (1259, 52), (1337, 48), (1000, 10)],
                    IpAddr::V6(_) => [(1364, 48), (1284, 51), (1309, 50), (1258, 52), (1000, 10)],
                };
                for (size, count) in pieces {
                    udp_in_one_piece(task, kernel, SocketAddr::new(address, 9000), size, count)?;
                }
            }
            ensure!(lab.node("n1").dropped("malformed")? == 0, "n1 found malformed packets");
            Ok(())
        })?;
    }
    Ok(())
}
