//! The labs: a director on a cable to its clients and one to its servers, which is a node of a mesh or a host without one.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use mesh_common::abi::{Address, Local};
use serde_json::{Value, json};

use super::case::{Case, Family, Scheduler, Way};
use crate::{
    lab::{Host, Lab, Mesh, eventually},
    traffic::Aim,
};

/// The director's interface to its clients, and its other end.
pub(super) const CLIENTS: &str = "front";
/// The director's interface to its servers, and its other end.
pub(super) const SERVERS: &str = "eth0";
/// The node of the mesh.
const NODE: &str = "n1";
/// The last numbers of the servers' addresses: 192.0.2.N and 2001:db8::N.
pub(super) const SERVER_NUMBERS: std::ops::RangeInclusive<u8> = 2..=5;
/// The service's port for `mh`, and for all ways but the mesh; and the mesh's for `rr`.
pub(super) const PORT: u16 = 5300;
const RR_PORT: u16 = 5301;

/// A director, and what is at the far ends of its cables.
pub(super) struct Stage<'a> {
    pub(super) director: &'a Host,
    pub(super) wire: &'a Host,
}

/// The mesh: one node that there is, as many that are only spoken of as there are servers, each with a task of two services.
pub(super) fn mesh() -> Mesh {
    let mut mesh = Mesh::new(1)
        .option("xdp", json!("native"))
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("hash", "blue", "10.0.9.2", "mh", &[&format!("{PORT}:53/udp")])
        .service("turns", "blue", "10.0.9.3", "rr", &[&format!("{RR_PORT}:53/udp")]);
    for number in SERVER_NUMBERS {
        let node = format!("n{number}");
        mesh = mesh
            .absent_node(&node)
            .backend("hash", &format!("hash.{number}"), &node, "blue", &format!("10.0.9.1{number}"))
            .backend("turns", &format!("turns.{number}"), &node, "blue", &format!("10.0.9.2{number}"));
    }
    mesh
}

/// A director that is a host without a mesh.
pub(super) fn host() -> Mesh {
    Mesh::new(0).client("director")
}

/// The address that clients ask, on the director's side of their cable.
pub(super) fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => [198, 51, 100, 1].into(),
        Family::V6 => [0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1].into(),
    }
}

/// A server's address.
pub(super) fn server(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, number].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)].into(),
    }
}

impl<'a> Stage<'a> {
    /// What a lab has, of [`mesh`] or of [`host`].
    pub(super) fn of(lab: &'a Lab) -> Result<Self> {
        if lab.mesh().nodes.is_empty() { Self::host(lab) } else { Self::node(lab) }
    }

    /// The director that is a node of the mesh, once its programs hang on the interfaces; its daemon is halted then.
    fn node(lab: &'a Lab) -> Result<Self> {
        let stage = Self::new(lab, NODE, "client")?;
        for interface in [CLIENTS, SERVERS] {
            let what = format!("the mesh has its XDP program on {interface}");
            eventually(&what, Duration::from_secs(60), || {
                const DRIVER: u64 = 1;
                let mode = link(stage.director, interface)?["xdp"]["mode"].as_u64();
                ensure!(mode == Some(DRIVER), "there is none");
                Ok(())
            })?;
        }
        // The interface may have had its program before it had its addresses.
        for family in [Family::V4, Family::V6] {
            let address = vip(family);
            eventually(&format!("the mesh answers at {address}"), Duration::from_secs(60), || {
                ensure!(is_local(lab, address)?, "its programs do not know the address");
                Ok(())
            })?;
        }
        // Packets do not need it, and it would take the processor that they are measured on.
        lab.node(NODE).halt()?;
        Ok(stage)
    }

    /// The director without a mesh.
    fn host(lab: &'a Lab) -> Result<Self> {
        let stage = Self::new(lab, "director", "client")?;
        // What is transmitted from XDP, as the source does, arrives at a veth device that polls; it does with GRO.
        stage.director.namespace.exec(&format!("ethtool -K {CLIENTS} gro on"))?;
        Ok(stage)
    }

    fn new(lab: &'a Lab, director: &str, wire: &str) -> Result<Self> {
        lab.join_directly(director, wire)?;
        let far = lab.namespace_name(wire);
        let (director, wire) = (lab.host(director), lab.host(wire));
        director.namespace.ip(&format!("link add {CLIENTS} type veth peer name {CLIENTS} netns {far}"))?;
        for host in [director, wire] {
            host.namespace.ip(&format!("link set {CLIENTS} up"))?;
        }
        let namespace = &director.namespace;
        namespace.ip(&format!("address add {}/24 dev {CLIENTS}", vip(Family::V4)))?;
        namespace.ip(&format!("address add {}/64 dev {CLIENTS} nodad", vip(Family::V6)))?;
        for number in SERVER_NUMBERS {
            for family in [Family::V4, Family::V6] {
                let server = server(family, number);
                let mac = format!("lladdr 02:00:00:00:00:{number:02x}");
                namespace.ip(&format!("neighbour replace {server} {mac} dev {SERVERS} nud permanent"))?;
            }
        }
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            (&format!("net.ipv4.conf.{CLIENTS}.rp_filter"), "0"),
        ] {
            namespace.sysctl(name, value)?;
        }
        // The way back to the clients, which nobody takes.
        namespace.ip(&format!("route add 198.18.0.0/15 dev {CLIENTS}"))?;
        namespace.ip(&format!("route add 2001:2::/48 dev {CLIENTS}"))?;
        Ok(Self { director, wire })
    }

    /// Where the packets of a case go.
    pub(super) fn aim(&self, case: Case) -> Result<Aim> {
        let destination = match case.way {
            Way::Routing => SocketAddr::new(server(case.family, *SERVER_NUMBERS.start()), PORT),
            Way::Mesh(Scheduler::Rr) => SocketAddr::new(vip(case.family), RR_PORT),
            _ => SocketAddr::new(vip(case.family), PORT),
        };
        Ok(Aim { from: mac(self.wire, CLIENTS)?, to: mac(self.director, CLIENTS)?, destination })
    }
}

/// Whether the node's programs know an address as the node's own.
fn is_local(lab: &Lab, address: IpAddr) -> Result<bool> {
    type Key = [u8; size_of::<Address>()];
    type Value = [u8; size_of::<Local>()];
    let map = Map::HashMap(MapData::from_pin(lab.node(NODE).map_pin("LOCALS")?)?);
    let locals = HashMap::<_, Key, Value>::try_from(map)?;
    match locals.get(&Address::from(address).octets(), 0) {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What `ip` tells of an interface.
fn link(host: &Host, interface: &str) -> Result<Value> {
    let text = host.namespace.ip(&format!("-json link show {interface}"))?;
    let links: Value = serde_json::from_str(&text).context("ip gave no JSON")?;
    Ok(links[0].clone())
}

fn mac(host: &Host, interface: &str) -> Result<[u8; 6]> {
    let link = link(host, interface)?;
    let text = link["address"].as_str().context("the interface has no MAC address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    <[u8; 6]>::try_from(bytes).ok().with_context(|| format!("{text} is no MAC address"))
}
