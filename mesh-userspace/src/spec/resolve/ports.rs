//! The rules of published ports: one owner for each port of a node.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
};

use mesh_common::abi::MASQUERADE_PORTS;

use super::Judge;
use crate::{
    spec::{Given, Origin, quoted},
    table::{Options, Protocol, PublishMode, PublishedPort},
};

/// The ports by which tasks reach the outside world.
pub(super) const fn masquerading() -> RangeInclusive<u16> {
    MASQUERADE_PORTS.start..=MASQUERADE_PORTS.end - 1
}

/// Who has a published port.
#[derive(Clone, Copy)]
struct Owner<'a> {
    service: &'a str,
    origin: &'a Origin,
}

/// The owners of one port and protocol.
#[derive(Default)]
struct Owners<'a> {
    /// The first one.
    first: Option<Owner<'a>>,
    /// The one that has it on every node.
    ingress: Option<Owner<'a>>,
    /// Those that have it where their tasks are, by node.
    host: HashMap<&'a str, Owner<'a>>,
    /// The services among them.
    services: BTreeSet<&'a str>,
}

impl Judge<'_> {
    pub(super) fn port_rules(&mut self) {
        let spec = self.spec;
        let mut nodes_of: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for endpoint in &spec.endpoints {
            if let Some(service) = &endpoint.service {
                nodes_of.entry(&service.value).or_default().insert(&endpoint.node.value);
            }
        }
        let vxlan_port =
            spec.options.vxlan_port.as_ref().map_or(Options::default().vxlan_port, |port| port.value);

        let mut ports: Vec<(&str, &Given<PublishedPort>)> = spec
            .services
            .iter()
            .flat_map(|(name, service)| service.ports.iter().map(move |port| (name.as_str(), port)))
            .collect();
        ports.sort_by_key(|(_, port)| &port.origin);
        let mut owners: HashMap<(Protocol, u16), Owners<'_>> = HashMap::new();
        for (service, port) in ports {
            self.port_numbers(service, port, vxlan_port);
            let PublishedPort { published, protocol, mode, .. } = port.value;
            let owners = owners.entry((protocol, published)).or_default();
            let nodes = nodes_of.get(service);
            let clash = if owners.services.contains(service) {
                owners.first.filter(|owner| owner.service == service).or(owners.ingress).or(owners.first)
            } else {
                match mode {
                    PublishMode::Ingress => owners.first,
                    PublishMode::Host => owners.ingress.or_else(|| {
                        nodes.into_iter().flatten().find_map(|node| owners.host.get(node).copied())
                    }),
                }
            };
            if let Some(other) = clash {
                self.fault(
                    &port.origin,
                    format!(
                        "The service {} publishes {} port {published}, which {} publishes already ({}); publish \
                         another.",
                        quoted(service),
                        name(protocol),
                        if other.service == service {
                            "it".to_owned()
                        } else {
                            format!("the service {}", quoted(other.service))
                        },
                        other.origin.seen_from(&port.origin)
                    ),
                );
                continue;
            }
            let owner = Owner { service, origin: &port.origin };
            owners.first.get_or_insert(owner);
            owners.services.insert(service);
            match mode {
                PublishMode::Ingress => owners.ingress = Some(owner),
                PublishMode::Host => {
                    owners.host.extend(nodes.into_iter().flatten().map(|node| (*node, owner)));
                }
            }
        }
    }

    fn port_numbers(&mut self, service: &str, port: &Given<PublishedPort>, vxlan_port: u16) {
        let PublishedPort { published, target, protocol, .. } = port.value;
        if published == 0 || target == 0 {
            self.fault(
                &port.origin,
                format!(
                    "The service {} publishes port {published} for port {target}; both must be from 1 to 65535.",
                    quoted(service)
                ),
            );
        }
        if masquerading().contains(&published) {
            self.fault(
                &port.origin,
                format!(
                    "The service {} publishes port {published}, but nodes keep the ports {}-{} for what tasks send \
                     to the outside world; publish one below them.",
                    quoted(service),
                    masquerading().start(),
                    masquerading().end()
                ),
            );
        }
        if protocol == Protocol::Udp && published == vxlan_port {
            self.fault(
                &port.origin,
                format!(
                    "The service {} publishes udp port {published}, which the tunnels between the nodes use; publish \
                     another, or set another vxlan_port.",
                    quoted(service)
                ),
            );
        }
    }
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
