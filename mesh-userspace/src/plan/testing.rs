//! Small tables and facts for tests.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::{Earlier, GateFacts, Interface, LocalAddress, NodeFacts, NodeRoute, Plan, PlanError};
use crate::table::{
    Endpoint, Network, Node, Protocol, PublishMode, PublishedPort, Scheduler, Service, Table,
};

/// An address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A plan whose rings are made anew.
pub(crate) fn plan(table: &Table, node: &str, facts: &NodeFacts) -> Result<Plan, PlanError> {
    super::plan(table, node, facts, &mut Earlier::default())
}

/// Three nodes, `n1` at 192.0.2.1 and so on, and the network `blue`, VNI 4097, of both families.
pub(crate) fn table() -> Table {
    let mut table = Table::default();
    for n in 1..=3 {
        let node = Node { address: ip(&format!("192.0.2.{n}")), interface: None };
        table.nodes.insert(format!("n{n}"), node);
    }
    network(&mut table, "blue", 4097, &["10.0.9.0/24", "fd00:9::/64"]);
    table
}

/// Adds a network.
pub(crate) fn network(table: &mut Table, name: &str, vni: u32, subnets: &[&str]) {
    let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
    table.networks.insert(name.to_owned(), Network { vni, subnets, internal: false, mtu: None });
}

/// Adds a service with its virtual IPs by network and its published ports, TCP in ingress mode.
pub(crate) fn service(table: &mut Table, name: &str, vips: &[(&str, &[&str])], ports: &[(u16, u16)]) {
    let vips = vips
        .iter()
        .map(|(network, vips)| ((*network).to_owned(), vips.iter().map(|vip| ip(vip)).collect::<Vec<_>>()));
    let ports = ports.iter().map(|(published, target)| PublishedPort {
        published: *published,
        target: *target,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    });
    let service = Service {
        vips: vips.collect(),
        scheduler: Scheduler::Mh,
        endpoint_mode: Default::default(),
        on_no_backend: Default::default(),
        persistent: None,
        health_check: None,
        ports: ports.collect(),
        external: Vec::new(),
        aliases: Vec::new(),
    };
    table.services.insert(name.to_owned(), service);
}

/// Adds an endpoint of a service, in a namespace of its own name.
pub(crate) fn endpoint(
    table: &mut Table,
    name: &str,
    node: &str,
    service: &str,
    network: &str,
    addresses: &[&str],
) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
    let [.., a, b, c, d] = match addresses[0] {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let endpoint = Endpoint {
        node: node.to_owned(),
        service: (!service.is_empty()).then(|| service.to_owned()),
        weight: 1,
        network: network.to_owned(),
        addresses,
        mac: [0x02, 0x42, a, b, c, d],
        netns: Some(PathBuf::from(format!("/run/netns/{name}"))),
        aliases: Vec::new(),
    };
    table.endpoints.insert(name.to_owned(), endpoint);
}

/// What `n1` is: loopback, `eth0` with its address, and `mesh0`.
pub(crate) fn facts() -> NodeFacts {
    let interface = |index: u32, name: &str, mtu| Interface {
        index,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, index as u8],
        mtu,
        up: true,
        kind: String::new(),
        master: None,
    };
    let address = |text: &str, prefix_len, ifindex| LocalAddress { address: ip(text), prefix_len, ifindex };
    let route = NodeRoute { ifindex: 2, mtu: 1500, source: Some(ip("192.0.2.1")) };
    NodeFacts {
        interfaces: vec![
            interface(1, "lo", 65536),
            interface(2, "eth0", 1500),
            interface(3, "mesh0", 1500),
            interface(4, "mesh0-gate", 1500),
        ],
        addresses: vec![
            address("127.0.0.1", 8, 1),
            address("::1", 128, 1),
            address("fe80::1", 64, 2),
            address("192.0.2.1", 24, 2),
            address("2001:db8::1", 64, 2),
        ],
        routes: BTreeMap::from([(ip("192.0.2.2"), route), (ip("192.0.2.3"), route)]),
        attached: BTreeMap::new(),
        gateways: BTreeMap::new(),
        gate: Some(GateFacts { host_ifindex: 4, mesh0_mac: [2, 0, 0, 0, 0, 3] }),
    }
}
