//! The rules of published ports: one owner for each port of a node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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

/// How many ports may be published in mode host, over all nodes: each is held against the others of its node.
const MOST_HOST_PORTS: usize = 1_000_000;

/// A service and a port that it publishes.
type Wanted<'a> = (&'a str, &'a Given<PublishedPort>);

/// Who has a published port.
#[derive(Clone, Copy)]
struct Owner<'a> {
    service: &'a str,
    origin: &'a Origin,
}

/// The owners of one port and protocol, so far.
#[derive(Default)]
struct Owners<'a> {
    /// The first one.
    first: Option<Owner<'a>>,
    /// The one that has it on every node.
    ingress: Option<Owner<'a>>,
    /// Those that have it where their tasks are, by node.
    host: HashMap<&'a str, Owner<'a>>,
    /// All of them, by service.
    services: HashMap<&'a str, Owner<'a>>,
}

impl<'a> Judge<'a> {
    pub(super) fn port_rules(&mut self) {
        let spec = self.spec;
        let vxlan_port =
            spec.options.vxlan_port.as_ref().map_or(Options::default().vxlan_port, |port| port.value);
        let mut nodes: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for endpoint in &spec.endpoints {
            if let Some(service) = &endpoint.service {
                nodes.entry(&service.value).or_default().insert(&endpoint.node.value);
            }
        }
        let mut wanted: BTreeMap<(Protocol, u16), Vec<Wanted<'_>>> = BTreeMap::new();
        let mut on_nodes = 0_usize;
        for (service, asked) in &spec.services {
            let nodes = nodes.get(service.as_str()).map_or(0, BTreeSet::len);
            for port in &asked.ports {
                self.port_numbers(service, port, vxlan_port);
                if port.value.mode == PublishMode::Host {
                    on_nodes = on_nodes.saturating_add(nodes);
                    if on_nodes > MOST_HOST_PORTS {
                        self.fault(
                            &port.origin,
                            format!(
                                "The nodes have more than {MOST_HOST_PORTS} ports in mode host between them; publish \
                                 fewer, or some in mode ingress.",
                            ),
                        );
                        return;
                    }
                }
                wanted.entry((port.value.protocol, port.value.published)).or_default().push((service, port));
            }
        }
        for ports in wanted.into_values().filter(|ports| ports.len() > 1) {
            self.one_owner(ports, &nodes);
        }
    }

    /// That a port which several want has one owner on each node, whoever asked first.
    fn one_owner(&mut self, mut ports: Vec<Wanted<'a>>, nodes: &HashMap<&'a str, BTreeSet<&'a str>>) {
        ports.sort_by_key(|(_, port)| &port.origin);
        let mut owners = Owners::default();
        for (service, port) in ports {
            let mut nodes = nodes.get(service).into_iter().flatten().copied();
            let clash = owners.services.get(service).copied().or_else(|| match port.value.mode {
                PublishMode::Ingress => owners.first,
                PublishMode::Host => {
                    owners.ingress.or_else(|| nodes.clone().find_map(|node| owners.host.get(node).copied()))
                }
            });
            if let Some(other) = clash {
                let whose = if other.service == service {
                    "it".to_owned()
                } else {
                    format!("the service {}", quoted(other.service))
                };
                self.fault(
                    &port.origin,
                    format!(
                        "The service {} publishes {} port {}, which {whose} publishes already ({}); publish \
                         another.",
                        quoted(service),
                        name(port.value.protocol),
                        port.value.published,
                        other.origin.seen_from(&port.origin)
                    ),
                );
                continue;
            }
            let owner = Owner { service, origin: &port.origin };
            owners.first.get_or_insert(owner);
            owners.services.insert(service, owner);
            match port.value.mode {
                PublishMode::Ingress => owners.ingress = Some(owner),
                PublishMode::Host => owners.host.extend(nodes.by_ref().map(|node| (node, owner))),
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
