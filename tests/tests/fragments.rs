//! UDP datagrams that are longer than the network's packets: their fragments reach one backend, in whatever order they come.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use mesh_common::abi::capacity;
use mesh_tests::lab::{Host, Lab, Mesh, UdpEcho};
use nix::{
    libc::EMSGSIZE,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
    },
};
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

/// What one fragment may carry: a multiple of eight.
const PART: usize = 1200;

/// The IP packets of a datagram's fragments.
fn fragments(from: SocketAddr, to: SocketAddr, id: u8, payload: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut packet = Vec::new();
    let header = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .udp(from.port(), to.port())
                .write(&mut packet, payload)?;
            20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .udp(from.port(), to.port())
                .write(&mut packet, payload)?;
            40
        }
        _ => bail!("addresses of two families"),
    };
    let (header, datagram) = packet.split_at(header);
    let parts = datagram.chunks(PART).enumerate().map(|(index, part)| {
        let more = u16::from((index + 1) * PART < datagram.len());
        let offset = (index * PART) as u16;
        let mut bytes = header.to_vec();
        if from.is_ipv4() {
            // The kernel writes the length and the checksum.
            bytes[4..6].copy_from_slice(&[0x40, id]);
            bytes[6..8].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let [a, b] = (offset | more).to_be_bytes();
            let next = std::mem::replace(&mut bytes[6], 44);
            bytes.extend([next, 0, a, b, 0, 0, 0x40, id]);
        }
        bytes.extend(part);
        bytes
    });
    Ok(parts.collect())
}

/// Sends IP packets as they are.
fn send_raw(host: &Host, to: IpAddr, packets: &[Vec<u8>]) -> Result<()> {
    host.namespace.inside(|| {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        for packet in packets {
            sendto(socket.as_raw_fd(), packet, &address, MsgFlags::empty())?;
        }
        Ok(())
    })?
}

/// Two datagrams of one flow, whose fragments come in the order that `order` gives them, are both echoed.
fn echo_shuffled(lab: &Lab, to: SocketAddr, order: impl Fn(&mut Vec<Vec<u8>>)) -> Result<()> {
    let client = lab.host("client");
    let [v4, v6] = addresses(lab, "client")?;
    let socket = client.namespace.inside(|| UdpSocket::bind((if to.is_ipv4() { v4 } else { v6 }, 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let sent = [payload(20_000, 1), payload(9_000, 2)];
    let mut packets = Vec::new();
    for (id, datagram) in sent.iter().enumerate() {
        packets.extend(fragments(socket.local_addr()?, to, id as u8, datagram)?);
    }
    order(&mut packets);
    send_raw(client, to.ip(), &packets)?;
    let mut echoes = Vec::new();
    for _ in 0..2 {
        let mut answer = vec![0; 1 << 16];
        let length = socket.recv(&mut answer).with_context(|| format!("no echo by {to}"))?;
        echoes.push(answer[..length].to_vec());
    }
    echoes.sort_by_key(|echo| std::cmp::Reverse(echo.len()));
    ensure!(echoes == sent, "other datagrams came back from {to}");
    Ok(())
}

/// By another node and by the task's own; and while fragments whose first never comes take each other's places.
#[test]
fn fragments_come_in_any_order() -> Result<()> {
    mesh("native").test(|lab| {
        let _echo = serve(lab.host("echo.1"))?;
        let client = lab.host("client");
        // A flow of another datagram in between; last first; first last; every third.
        let every_third = |packets: &mut Vec<Vec<u8>>| {
            let all: Vec<_> = packets.drain(..).rev().collect();
            packets.extend((0..3).flat_map(|start| all.iter().skip(start).step_by(3).cloned()));
        };
        for node in ["n1", "n2"] {
            for address in addresses(lab, node)? {
                let to = SocketAddr::new(address, PORT);
                echo_shuffled(lab, to, |packets| packets.reverse()).context("reversed")?;
                echo_shuffled(lab, to, |packets| packets.rotate_left(1)).context("a first one last")?;
                echo_shuffled(lab, to, every_third).context("every third")?;
            }
        }
        let held = |node: &str| -> Result<u64> {
            let stats = lab.node(node).meshctl("stats")?;
            let maps = stats["maps"].as_array().context("no maps")?;
            let map = maps.iter().find(|map| map["name"] == "HELD").context("no HELD")?;
            map["lost"].as_u64().context("no number of lost ones")
        };
        let from = SocketAddr::new(lab.mesh().address_v4("client")?, 4000);
        let to = SocketAddr::new(lab.mesh().address_v4("n1")?, PORT);
        let before = held("n1")?;
        let mut strays = Vec::new();
        for number in 0..2 * capacity::HELD as u16 {
            let mut later = fragments(from, to, 0, &payload(2 * PART, 0))?.swap_remove(1);
            later[4..6].copy_from_slice(&(0x8000 | number).to_be_bytes());
            strays.push(later);
        }
        send_raw(client, to.ip(), &strays)?;
        let lost = held("n1")? - before;
        ensure!(lost >= u64::from(capacity::HELD), "{lost} fragments made room for others");
        echo(client, to, 100, 1)?;
        echo_shuffled(lab, to, |packets| packets.reverse()).context("after the flood")
    })
}
