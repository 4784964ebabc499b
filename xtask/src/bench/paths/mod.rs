//! The paths that are compared: the mesh's, the kernel's own overlay with netfilter's balancing, and bare links. All of them are
//! in one lab, on one switch, between as many namespaces, and are measured in turns.

mod bare;
mod dnat;
mod ipvs;
mod kernel;
mod wire;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mesh_tests::lab::{Host, Lab, Mesh};
use serde::{Deserialize, Serialize};

pub(super) use self::wire::Wire;
use super::{
    PREFIX,
    load::{Connections, Echo},
};

/// The port of iperf3.
const BULK: u16 = 5201;
/// The port of the server that sends datagrams back.
const ECHO: u16 = 7000;
/// The port of the server of short connections that something balances.
const SHORT: u16 = 8000;
/// The port of the same server for connections to the task itself. With the other one, a client's port that the mesh knows of a
/// connection through the virtual IP, a moment ago, would lead the answers of a direct one astray.
const SHORT_DIRECT: u16 = 8001;

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Mesh,
    /// `vxlan` devices on bridges, and a [`Balancer`] where something is balanced.
    Kernel,
    /// Routers, and nothing around the packets.
    Bare,
}

/// What balances for the kernel's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balancer {
    /// DNAT and connection tracking.
    Nftables,
    /// IPVS by NAT, as Docker has it.
    Ipvs,
}

/// What a client dials.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Road {
    /// A task on another node dials the server's own address.
    Task,
    /// A task on another node dials the service's virtual IP.
    Vip,
    /// A client outside dials the other node's address and the published port. By bare links, where nobody publishes anything, it
    /// dials the server's own address, by way of that node: so much the wire further costs.
    Published,
}

/// The family of the addresses that a client dials. The nodes themselves know each other by IPv4.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(super) enum Family {
    #[value(name = "ipv4")]
    V4,
    #[value(name = "ipv6")]
    V6,
}

impl Road {
    pub(super) const ALL: [Self; 3] = [Self::Task, Self::Vip, Self::Published];

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Task => "task to task",
            Self::Vip => "through a virtual IP",
            Self::Published => "through a published port",
        }
    }

    /// What can carry it.
    pub(super) const fn carriers(self) -> &'static [Carrier] {
        match self {
            Self::Task | Self::Published => &Carrier::ALL,
            Self::Vip => &[Carrier::Mesh, Carrier::Kernel],
        }
    }
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The one of two addresses that is of this family.
    fn of<'a>(self, v4: &'a str, v6: &'a str) -> &'a str {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// The lab, with servers on the second node of each carrier.
pub(super) struct Paths {
    // Before the lab: it closes their sockets, which would keep namespaces.
    _echoes: Vec<Echo>,
    _servers: Vec<Connections>,
    lab: Lab,
}

impl Paths {
    /// Builds everything, over a wire.
    pub(super) fn lay(wire: Wire, balancer: Balancer) -> Result<Self> {
        let mut lab = mesh().up(PREFIX)?;
        wire.lay(&lab)?;
        kernel::build(&mut lab)?;
        bare::build(&mut lab)?;
        let (mut echoes, mut servers) = (vec![], vec![]);
        for carrier in Carrier::ALL {
            let server = lab.host(carrier.server());
            server.serve_iperf()?;
            for family in Family::ALL {
                let address: IpAddr = carrier.server_address(family).parse()?;
                server.interface_of(address)?;
                echoes.push(Echo::start(server, SocketAddr::new(address, ECHO))?);
                for port in [SHORT, SHORT_DIRECT] {
                    servers.push(Connections::serve(server, SocketAddr::new(address, port))?);
                }
            }
        }
        match balancer {
            Balancer::Nftables => dnat::balance(&lab)?,
            Balancer::Ipvs => ipvs::balance(&lab)?,
        }
        Ok(Self { _echoes: echoes, _servers: servers, lab })
    }

    /// Who dials, and what, by a carrier and a road.
    pub(super) fn ends(&self, carrier: Carrier, road: Road, family: Family) -> Result<(&Host, IpAddr)> {
        Ok(match road {
            Road::Task => (self.lab.host(carrier.client()), carrier.server_address(family).parse()?),
            Road::Vip => (self.lab.host(carrier.client()), carrier.virtual_ip(family).parse()?),
            Road::Published if carrier == Carrier::Bare => {
                (self.lab.host("client"), carrier.server_address(family).parse()?)
            }
            Road::Published => {
                let entry = carrier.entry();
                let address = match family {
                    Family::V4 => self.lab.mesh().address_v4(entry)?,
                    Family::V6 => self.lab.mesh().address_v6(entry)?,
                };
                (self.lab.host("client"), address)
            }
        })
    }

    /// The server that sends datagrams back, at an address of [`Self::ends`].
    pub(super) fn echo(address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, ECHO)
    }

    /// The server of short connections, at an address of [`Self::ends`].
    pub(super) fn short(road: Road, address: IpAddr) -> SocketAddr {
        let port = if road == Road::Task { SHORT_DIRECT } else { SHORT };
        SocketAddr::new(address, port)
    }

    /// Prints what the daemons and servers said.
    pub(super) fn print_logs(&self) {
        self.lab.print_logs();
    }
}

impl Carrier {
    pub(super) const ALL: [Self; 3] = [Self::Mesh, Self::Kernel, Self::Bare];

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Kernel => "kernel",
            Self::Bare => "bare",
        }
    }

    /// The first node, which clients outside enter by.
    fn entry(self) -> &'static str {
        match self {
            Self::Mesh => "n1",
            Self::Kernel => "k1",
            Self::Bare => "b1",
        }
    }

    /// The task on the first node.
    fn client(self) -> &'static str {
        match self {
            Self::Mesh => "nt1",
            Self::Kernel => "kt1",
            Self::Bare => "bt1",
        }
    }

    /// The task on the second node.
    fn server(self) -> &'static str {
        match self {
            Self::Mesh => "nt2",
            Self::Kernel => "kt2",
            Self::Bare => "bt2",
        }
    }

    fn server_address(self, family: Family) -> &'static str {
        match self {
            Self::Mesh => family.of("10.0.9.12", "fd00:9::a00:90c"),
            Self::Kernel => family.of("10.0.8.12", "fd00:8::12"),
            Self::Bare => family.of("10.0.72.2", "fd00:72::2"),
        }
    }

    /// Nobody has one on bare links.
    fn virtual_ip(self, family: Family) -> &'static str {
        match self {
            Self::Mesh => family.of("10.0.9.2", "fd00:9::a00:902"),
            Self::Kernel | Self::Bare => family.of("10.0.8.2", "fd00:8::2"),
        }
    }
}

/// Two nodes of the mesh with a task on each, and the hosts that become nodes of the others.
fn mesh() -> Mesh {
    let ports = [
        format!("{BULK}:{BULK}"),
        format!("{BULK}:{BULK}/udp"),
        format!("{ECHO}:{ECHO}/udp"),
        format!("{SHORT}:{SHORT}"),
    ];
    let ports: Vec<_> = ports.iter().map(String::as_str).collect();
    Mesh::new(2)
        .client("k1")
        .client("k2")
        .client("b1")
        .client("b2")
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("load", "blue", "10.0.9.2", "mh", &ports)
        .task("nt1", "n1", "blue", "10.0.9.11")
        .backend("load", "nt2", "n2", "blue", "10.0.9.12")
}
