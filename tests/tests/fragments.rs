//! UDP datagrams that are longer than the network's packets: their fragments reach one backend, in whatever order they come.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{Host, Lab, Mesh, UdpEcho};
use nix::libc::EMSGSIZE;
use serde_json::json;

const PORT: u16 = 5300;
/// Datagrams sent until one must be answered: the first may teach its sender how narrow the way is.
const TRIES: usize = 3;

fn mesh(xdp: &str) -> Mesh {
    Mesh::new(2)
        .option("xdp", json!(xdp))
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("echo", "blue", "10.0.9.2", "mh", &["5300:53/udp"])
        .backend("echo", "echo.1", "n2", "blue", "10.0.9.11")
        .task("caller", "n1", "blue", "10.0.9.99")
}

/// Both families' echo servers of a task.
fn serve(host: &Host) -> Result<[UdpEcho; 2]> {
    let v4 = UdpEcho::start(host, "0.0.0.0:53".parse()?)?;
    // Of IPv6 alone, by its own address: both may then have the port.
    let v6 = UdpEcho::start(host, "[fd00:9::a00:90b]:53".parse()?)?;
    Ok([v4, v6])
}

fn addresses(lab: &Lab, node: &str) -> Result<[IpAddr; 2]> {
    Ok([lab.mesh().address_v4(node)?, lab.mesh().address_v6(node)?])
}

/// Bytes that tell their places.
fn payload(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ salt).collect()
}

/// Sends one datagram and takes its echo; some may be lost in teaching the sender how narrow the way is.
fn echo(host: &Host, server: SocketAddr, length: usize, tries: usize) -> Result<()> {
    let sent = payload(length, 0);
    host.namespace.inside(|| {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
        socket.connect(server)?;
        let mut answer = vec![0; 1 << 16];
        for _ in 0..tries {
            match socket.send(&sent).and_then(|_| socket.recv(&mut answer)) {
                Ok(received) => {
                    ensure!(answer[..received] == sent[..], "an echo of {received} bytes for {length}");
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.raw_os_error() == Some(EMSGSIZE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no echo of {length} bytes by {server}");
    })?
}

#[test]
fn long_datagrams_are_echoed_by_every_way() -> Result<()> {
    for xdp in ["native", "off"] {
        mesh(xdp).test(|lab| {
            let _echo = serve(lab.host("echo.1"))?;
            let client = lab.host("client");
            for length in [100, 4000, 60000] {
                for node in ["n1", "n2"] {
                    for address in addresses(lab, node)? {
                        echo(client, SocketAddr::new(address, PORT), length, TRIES)
                            .with_context(|| format!("through {node}, XDP {xdp}"))?;
                    }
                }
                for vip in ["10.0.9.2", "fd00:9::a00:902"] {
                    echo(lab.host("caller"), SocketAddr::new(vip.parse()?, 53), length, 1)
                        .context("by the virtual IP")?;
                }
                for address in addresses(lab, "n1")? {
                    echo(lab.host("n1"), SocketAddr::new(address, PORT), length, TRIES)
                        .context("from the node itself")?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
