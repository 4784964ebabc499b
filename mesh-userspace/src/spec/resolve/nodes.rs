//! The rules of nodes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use mesh_common::abi::Address;

use super::Judge;
use crate::{
    spec::{Node, Origin, quoted},
    table,
};

impl Judge<'_> {
    pub(super) fn nodes(&mut self) -> BTreeMap<String, table::Node> {
        let spec = self.spec;
        let mut nodes: Vec<(&String, &Node)> = spec.nodes.iter().collect();
        nodes.sort_by_key(|(_, node)| &node.origin);
        let mut holders: HashMap<IpAddr, (&str, &Origin)> = HashMap::new();
        let mut first: Option<(&str, &Node)> = None;
        for (name, node) in nodes {
            let address = node.address.value;
            let origin = &node.address.origin;
            if let Some(why) = unfit(address) {
                self.fault(
                    origin,
                    format!(
                        "The node {} cannot have the address {address}, {why}; give it the one by which the \
                         other nodes reach it.",
                        quoted(name)
                    ),
                );
            } else if let Some((other, there)) = holders.get(&address) {
                self.fault_between(
                    origin,
                    there,
                    format!(
                        "The node {} has the address {address}, which the node {} has too ({}); each needs its own.",
                        quoted(name),
                        quoted(other),
                        there.seen_from(origin)
                    ),
                );
            } else {
                holders.insert(address, (name, origin));
                match first {
                    None => first = Some((name, node)),
                    Some((other, there)) if there.address.value.is_ipv4() != address.is_ipv4() => self.fault_between(
                        origin,
                        &there.address.origin,
                        format!(
                            "The node {} has an {} address, but the node {} an {} one ({}); give all nodes addresses of one family.",
                            quoted(name),
                            family(address),
                            quoted(other),
                            family(there.address.value),
                            there.address.origin.seen_from(origin)
                        ),
                    ),
                    Some(_) => {}
                }
            }
            if let Some(interface) = &node.interface {
                self.interface_name(&interface.value, &interface.origin);
            }
        }
        spec.nodes
            .iter()
            .map(|(name, node)| {
                let interface = node.interface.as_ref().map(|interface| interface.value.clone());
                (name.clone(), table::Node { address: node.address.value, interface })
            })
            .collect()
    }
}

pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Why nodes cannot be reached by an address.
pub(super) fn unfit(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("which stands for none");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    if Address::from(address).is_host_alias() {
        return Some("which the mesh uses inside of each node");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(_) => None,
    }
}
