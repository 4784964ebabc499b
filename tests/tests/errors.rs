//! ICMP errors about a flow find who sent the packet, translated as the flow is.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{FAR, Host, Lab, Mesh, Transfer};

/// A service with a task on each of two nodes, which serve nothing.
fn mesh(scheduler: &str) -> Mesh {
    Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("silent", "blue", "10.0.9.2", scheduler, &["9200:9200", "5300:5353/udp"])
        .backend("silent", "silent.1", "n1", "blue", "10.0.9.11")
        .backend("silent", "silent.2", "n2", "blue", "10.0.9.12")
        .task("caller", "n1", "blue", "10.0.9.99")
}

/// Sends datagrams to a port on which nobody listens, from several ports of its own, and expects each to be refused.
fn is_refused(host: &Host, server: SocketAddr) -> Result<()> {
    host.namespace
        .inside(|| {
            for attempt in 0..8 {
                let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.connect(server)?;
                socket.send(b"anybody?")?;
                match socket.recv(&mut [0; 64]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(error) => bail!("datagram {attempt}: {error}, and should have been refused"),
                    Ok(_) => bail!("datagram {attempt} was answered, and should have been refused"),
                }
            }
            Ok(())
        })?
        .with_context(|| format!("from {} to {server}", host.name()))
}

#[test]
fn a_closed_udp_port_is_refused_in_every_way_to_it() -> Result<()> {
    for scheduler in ["mh", "rr"] {
        mesh(scheduler).test(|lab| {
            for host in ["silent.1", "silent.2", "client"] {
                let namespace = &lab.host(host).namespace;
                // One error a second to one destination, and fifty at once to all, would not do.
                namespace.sysctl("net.ipv4.icmp_msgs_burst", "10000")?;
                namespace.sysctl("net.ipv4.icmp_msgs_per_sec", "100000")?;
                namespace.sysctl("net.ipv4.icmp_ratelimit", "0")?;
                namespace.sysctl("net.ipv6.icmp.ratelimit", "0")?;
            }
            // By the virtual IP, to tasks on the own node and on another.
            for vip in ["10.0.9.2", "fd00:9::a00:902"] {
                is_refused(lab.host("caller"), SocketAddr::new(vip.parse()?, 5353))?;
            }
            // By the published port: each node, with a task or without.
            for node in ["n1", "n2", "n3"] {
                for address in [lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?] {
                    is_refused(lab.host("client"), SocketAddr::new(address, 5300))?;
                    is_refused(lab.host(node), SocketAddr::new(address, 5300))?;
                    is_refused(lab.host("caller"), SocketAddr::new(address, 5300))?;
                }
                for address in ["127.0.0.1", "::1"] {
                    is_refused(lab.host(node), SocketAddr::new(address.parse()?, 5300))?;
                }
            }
            // In the world outside, from a masqueraded task.
            for address in [lab.mesh().address_v4("client")?, lab.mesh().address_v6("client")?] {
                is_refused(lab.host("caller"), SocketAddr::new(address, 5300))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The router on the way takes less at once than either end believes; only its errors tell.
fn behind_a_narrow_link(scheduler: &str, test: impl Fn(&mut Lab) -> Result<()>) -> Result<()> {
    mesh(scheduler).client("router").test(|lab| {
        lab.add_host_behind("router", "far", 1300)?;
        test(lab)
    })
}

#[test]
fn a_masqueraded_task_learns_of_a_narrow_link() -> Result<()> {
    behind_a_narrow_link("mh", |lab| {
        for (address, any) in FAR.into_iter().zip(["0.0.0.0", "::"]) {
            let far = SocketAddr::new(address.parse()?, 7000);
            let listening = SocketAddr::new(any.parse()?, 7000);
            let transfer = Transfer::start(lab.host("caller"), far, lab.host("far"), listening)?;
            transfer.progress()?;
            let summary = transfer.finish()?;
            ensure!(summary.bytes > 1_000_000, "{} bytes to {far}", summary.bytes);
        }
        Ok(())
    })
}

#[test]
fn a_published_tasks_answers_learn_of_a_narrow_link() -> Result<()> {
    for scheduler in ["mh", "rr"] {
        behind_a_narrow_link(scheduler, |lab| {
            for task in ["silent.1", "silent.2"] {
                lab.host(task).serve_http(&mesh_tests::lab::Web::on(9200))?;
                lab.host(task).publish_random_file("file", 3_000_000)?;
            }
            for node in ["n1", "n2", "n3"] {
                for address in [lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?] {
                    for _ in 0..3 {
                        let url = format!("http://{}/files/file", SocketAddr::new(address, 9200));
                        lab.host("far").curl_sha256(&url)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
