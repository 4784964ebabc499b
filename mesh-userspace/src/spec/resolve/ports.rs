//! The rules of published ports: one owner for each port of an address of a node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
};

use mesh_common::abi::MASQUERADE_PORTS;

use super::{Judge, nodes::unfit};
use crate::{
    spec::{Given, Origin, nearest, quoted},
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

/// Where on a node a port answers. A port has one owner at each.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Spot {
    /// At addresses that only their node knows: all of them, or those of an interface.
    Unnamed,
    /// At this address alone.
    At(IpAddr),
}

/// The owners of one port and protocol at one spot, so far.
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

impl<'a> Owners<'a> {
    /// Whom a port clashes with that is published on these nodes in mode host.
    fn clash(
        &self,
        service: &str,
        mode: PublishMode,
        mut nodes: impl Iterator<Item = &'a str>,
    ) -> Option<Owner<'a>> {
        self.services.get(service).copied().or_else(|| match mode {
            PublishMode::Ingress => self.first,
            PublishMode::Host => self.ingress.or_else(|| nodes.find_map(|node| self.host.get(node).copied())),
        })
    }

    fn add(&mut self, owner: Owner<'a>, mode: PublishMode, nodes: impl Iterator<Item = &'a str>) {
        self.first.get_or_insert(owner);
        self.services.insert(owner.service, owner);
        match mode {
            PublishMode::Ingress => self.ingress = Some(owner),
            PublishMode::Host => self.host.extend(nodes.map(|node| (node, owner))),
        }
    }
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
                self.port_limits(service, port);
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

    /// That a port which several want has one owner at each spot of each node, whoever asked first.
    ///
    /// What is published at a named address is told by that from everything else, on whichever node it arrives. What is
    /// published at an interface's addresses is not: other nodes do not know them, so it is told by its port alone.
    fn one_owner(&mut self, mut ports: Vec<Wanted<'a>>, nodes: &HashMap<&'a str, BTreeSet<&'a str>>) {
        ports.sort_by_key(|(_, port)| &port.origin);
        let mut owners: HashMap<Spot, Owners<'_>> = HashMap::new();
        // An interface may turn out to have the address that another port names.
        let (mut at_interface, mut at_address): (Option<Owner<'_>>, Option<Owner<'_>>) = (None, None);
        for (service, port) in ports {
            let nodes = || nodes.get(service).into_iter().flatten().copied();
            let mode = port.value.mode;
            let spots = self.spots(service, &port.value);
            let clash = spots
                .iter()
                .find_map(|spot| Some((*spot, owners.get(spot)?.clash(service, mode, nodes())?)))
                .or_else(|| match (&port.value.interface, port.value.host_ip) {
                    (Some(_), _) => Some((Spot::Unnamed, at_address?)),
                    (None, Some(_)) if !self.is_external(service, &port.value) => {
                        Some((Spot::Unnamed, at_interface?))
                    }
                    (None, _) => None,
                });
            if let Some((spot, other)) = clash {
                let whose = if other.service == service {
                    "it".to_owned()
                } else {
                    format!("the service {}", quoted(other.service))
                };
                let at = match spot {
                    Spot::Unnamed => String::new(),
                    Spot::At(address) => format!(" at {address}"),
                };
                self.fault_between(
                    &port.origin,
                    other.origin,
                    format!(
                        "The service {} publishes {} port {}{at}, which {whose} publishes already ({}); publish \
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
            for spot in spots {
                owners.entry(spot).or_default().add(owner, mode, nodes());
            }
            if port.value.interface.is_some() {
                at_interface.get_or_insert(owner);
            } else if port.value.host_ip.is_some() && !self.is_external(service, &port.value) {
                at_address.get_or_insert(owner);
            }
        }
    }

    /// Where a port answers.
    fn spots(&self, service: &str, port: &PublishedPort) -> Vec<Spot> {
        if let Some(address) = port.host_ip {
            return vec![Spot::At(address)];
        }
        let external = self.spec.services.get(service).map_or(&[][..], |service| &service.external);
        let external = if port.interface.is_some() { &[][..] } else { external };
        let at = external.iter().map(|address| Spot::At(address.value));
        std::iter::once(Spot::Unnamed).chain(at).collect()
    }

    /// Whether a port is published at an external address of its service.
    fn is_external(&self, service: &str, port: &PublishedPort) -> bool {
        self.spec
            .services
            .get(service)
            .is_some_and(|service| service.external.iter().any(|address| Some(address.value) == port.host_ip))
    }

    /// That what limits a port can be.
    fn port_limits(&mut self, service: &str, port: &Given<PublishedPort>) {
        let PublishedPort { published, host_ip, interface, nodes, sources, .. } = &port.value;
        let which = format!("The service {} publishes port {published}", quoted(service));
        if let Some(address) = *host_ip {
            if address.is_unspecified() {
                self.fault(
                    &port.origin,
                    format!("{which} at {address}, which stands for every address; leave it out."),
                );
            } else if !address.is_loopback()
                && let Some(why) = unfit(address)
            {
                self.fault(
                    &port.origin,
                    format!("{which} at {address}, {why}; name an address of the nodes, or leave it out."),
                );
            } else if interface.is_some() {
                self.fault(
                    &port.origin,
                    format!("{which} at an address and at an interface; name one of the two."),
                );
            }
        }
        if let Some(interface) = interface {
            self.interface_name(interface, &port.origin);
            let listed = &self.spec.options.interfaces;
            if !listed.is_empty() && !listed.iter().any(|listed| listed.value == *interface) {
                self.fault(
                    &port.origin,
                    format!(
                        "{which} at the interface {}, which is none of those that the options list; add it to \
                         interfaces there, or name another.",
                        quoted(interface)
                    ),
                );
            }
        }
        for (index, node) in nodes.iter().enumerate() {
            let is_known = self.spec.nodes.contains_key(node) || self.unreadable.nodes.contains(node);
            if !is_known {
                let mend = match nearest(node, self.spec.nodes.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean {}?", quoted(near)),
                    None => "name one of the section nodes.".to_owned(),
                };
                self.fault(
                    &port.origin,
                    format!("{which} on the node {}, which there is not; {mend}", quoted(node)),
                );
            } else if nodes.iter().take(index).any(|other| other == node) {
                self.fault(
                    &port.origin,
                    format!("{which} on the node {} twice; name it once.", quoted(node)),
                );
            }
        }
        for source in sources.iter().filter(|source| source.trunc() != **source) {
            self.fault(
                &port.origin,
                format!(
                    "{which} for the source {source}, whose address has more bits than its prefix; write {}.",
                    source.trunc()
                ),
            );
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
