//! What comes to a node's own addresses: from the wire, from its own processes, or from its masqueraded tasks.

use std::net::IpAddr;

use mesh_common::{
    Reason,
    abi::{Address, ServiceKey},
};

use super::{Asked, End, Story, family, number, version};
use crate::{
    api::{
        types::{Verdict, protocol_name},
        views::endpoint_at,
    },
    spec::listed,
    table::{Protocol, PublishMode, ReturnPath},
};

/// Who comes to a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller<'a> {
    /// A client from the wire.
    Client,
    /// A process of the entry node.
    Itself,
    /// A task, in the name of its node.
    Masqueraded {
        /// Its node.
        by: &'a str,
    },
}

impl<'a> Story<'a> {
    /// A packet from the wire, or from a node's own process.
    pub(super) fn sent_by_others(&mut self) -> End {
        let (from, to) = (self.query.from.address, self.query.to.address);
        let this = self.snapshot.node.as_str();
        let sender = self.node_with(from);
        let Some(entry) = self.node_with(to) else { return self.sent_to_no_node() };
        // A loopback address is a node's own only for that node; which one is asked is the one that is meant.
        let itself = sender == Some(entry);
        if to.is_loopback() && !itself {
            self.why.push(format!("{to} is {this}'s own, and {from} is not on {this}"));
            return End::plain(
                Verdict::Passed,
                "never reaches the mesh: a loopback address stays on its host",
            );
        }
        self.why.push(if itself {
            format!("{from} and {to} are {entry}'s own: it enters the mesh there, without a wire")
        } else {
            format!("{to} is an address of {entry}: it enters the mesh there")
        });
        if self.query.protocol == Protocol::Udp
            && self.port == self.snapshot.table.options.vxlan_port
            && !itself
        {
            self.why.push(format!("{} is the tunnels' port", self.port_text()));
            return match sender {
                Some(peer) => End::plain(
                    Verdict::Delivered,
                    format!("a tunnel packet from {peer}: what is inside decides"),
                ),
                None => End::dropped(Reason::NotAPeer),
            };
        }
        self.entered(entry, if itself { Caller::Itself } else { Caller::Client })
    }

    /// A packet to a node's address, at the node: is the port published?
    pub(super) fn entered(&mut self, entry: &'a str, caller: Caller<'a>) -> End {
        let to = self.query.to.address;
        let this = self.snapshot.node.as_str();
        let Some((service, port)) = self.published() else { return self.not_published(entry) };
        if !port.is_on(entry) {
            self.why.push(format!(
                "{service} publishes {} on {} only",
                self.port_text(),
                listed(&port.nodes, "and")
            ));
            return self.left_to(entry);
        }
        if port.mode == PublishMode::Host && entry != this {
            return self.host_mode_elsewhere(entry, service);
        }
        let mut named =
            self.snapshot.table.services.get(service).into_iter().flat_map(|s| s.addresses_of(port));
        let is_named = named.any(|address| address == to);
        let by = match (port.mode, &port.interface) {
            (PublishMode::Host, _) => {
                format!("published port {}, mode host: tasks of {entry} only", self.port_text())
            }
            (PublishMode::Ingress, Some(interface)) => {
                format!("published port {}, at the addresses of {interface}", self.port_text())
            }
            (PublishMode::Ingress, None) if is_named => {
                format!("published port {}, at {to}", self.port_text())
            }
            (PublishMode::Ingress, None) if port.nodes.is_empty() => {
                format!("published port {}, on every node", self.port_text())
            }
            (PublishMode::Ingress, None) => {
                format!("published port {}, on {}", self.port_text(), listed(&port.nodes, "and"))
            }
        };
        let key = |address: Address, scope: u32| ServiceKey {
            address,
            scope,
            port: self.port.to_be_bytes(),
            protocol: number(self.query.protocol),
            family: family(to),
        };
        let lookup = &self.snapshot.lookup;
        if let Some(interface) = &port.interface {
            if entry != this {
                self.why.push(format!("whether {to} is an address of {interface}, {entry} knows"));
            } else if lookup.service(&key(to.into(), 0)).is_none() {
                self.why.push(format!(
                    "{service} publishes {} at the addresses of {interface} only",
                    self.port_text()
                ));
                return self.left_to(entry);
            }
        }
        let address = if is_named { Address::from(to) } else { Address::UNSPECIFIED };
        let found =
            lookup.service(&key(address, 0)).or_else(|| lookup.service(&key(address, ServiceKey::ELSEWHERE)));
        let Some(found) = found else {
            self.why.push(match port.mode {
                PublishMode::Ingress => {
                    format!(
                        "{service} has no network with {} addresses, so {entry} does not answer on it",
                        version(to)
                    )
                }
                PublishMode::Host => {
                    format!(
                        "{service} publishes {} in mode host, and no task of it is on {entry}",
                        self.port_text()
                    )
                }
            });
            return self.left_to(entry);
        };
        let is_unnamed = !is_named && port.interface.is_none();
        if is_unnamed && entry == this && !to.is_loopback() && !self.snapshot.serving.contains(&to) {
            self.why.push(format!(
                "{service} publishes the port, but {to} is of no interface that `options: {{interfaces: …}}` lists"
            ));
            return self.left_to(entry);
        }
        if let Some(client) = self.seen_as(entry, caller)
            && !port.admits(client)
        {
            let sources: Vec<String> = port.sources.iter().map(ToString::to_string).collect();
            self.why.push(format!(
                "{service} lets only {} ask for {}, and the client is {client}",
                listed(&sources, "and"),
                self.port_text()
            ));
            return End::dropped(Reason::NotAllowed);
        }
        let asked = Asked { service: found, name: service.to_owned(), by };
        let back = match self.snapshot.table.options.r#return {
            ReturnPath::Direct if caller == Caller::Client => {
                "the answer goes straight to the client".to_owned()
            }
            _ => format!("the answer returns through {entry}"),
        };
        self.balanced(entry, &asked, caller, &back)
    }

    /// The client's address by which the entry node judges whether it may ask; none for a process of its own.
    fn seen_as(&self, entry: &str, caller: Caller<'_>) -> Option<IpAddr> {
        match caller {
            Caller::Itself => None,
            Caller::Client => Some(self.query.from.address),
            Caller::Masqueraded { by } if by == entry => Some(self.query.from.address),
            // Of the other family, which address that is is known there only.
            Caller::Masqueraded { by } => {
                let node = self.snapshot.table.nodes.get(by)?;
                Some(node.address).filter(|address| address.is_ipv4() == self.query.to.address.is_ipv4())
            }
        }
    }

    /// The mesh has nothing to do with it.
    fn left_to(&self, entry: &str) -> End {
        if self.is_external(self.query.to.address) {
            return End::dropped(Reason::NotPublished);
        }
        End::plain(Verdict::Passed, format!("left to {entry}'s own kernel: not the mesh's"))
    }

    fn not_published(&mut self, entry: &str) -> End {
        let to = self.query.to.address;
        let elsewhere: Vec<String> = self
            .published_anywhere()
            .map(|(name, _, port)| match port.host_ip {
                Some(address) => format!("{name} publishes {} at {address} only", self.port_text()),
                None => format!("{name} publishes {}, but not at {to}", self.port_text()),
            })
            .collect();
        if elsewhere.is_empty() {
            self.why.push(format!("no service publishes {}", self.port_text()));
        }
        self.why.extend(elsewhere);
        let ports: Vec<String> = self
            .snapshot
            .table
            .services
            .iter()
            .flat_map(|(name, service)| service.ports.iter().map(move |port| (name, port)))
            .map(|(name, port)| format!("{}/{} ({name})", port.published, protocol_name(port.protocol)))
            .collect();
        self.instead.push(if ports.is_empty() {
            "no port is published yet: `meshctl services create NAME --publish 80:8080` publishes one"
                .to_owned()
        } else {
            format!("published: {}", ports.join(", "))
        });
        self.left_to(entry)
    }

    fn host_mode_elsewhere(&mut self, entry: &str, service: &str) -> End {
        let tasks: Vec<&str> = self
            .snapshot
            .table
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.service.as_deref() == Some(service) && endpoint.node == entry)
            .map(|(name, _)| name.as_str())
            .collect();
        self.why
            .push(format!("{service} publishes {} in mode host: tasks of {entry} only", self.port_text()));
        if tasks.is_empty() {
            self.why.push(format!("no task of {service} is on {entry}"));
            return End::plain(Verdict::Passed, format!("left to {entry}'s own kernel: not the mesh's"));
        }
        self.instead.push(format!("ask {entry}'s own meshd which one it would be"));
        End::plain(Verdict::Delivered, format!("delivered on {entry} to one of {}", tasks.join(", ")))
    }

    fn sent_to_no_node(&mut self) -> End {
        let to = self.query.to.address;
        self.why.push(format!("{to} is no node's address"));
        self.suggest_networks(to, "");
        if self.instead.is_empty() {
            let nodes: Vec<String> = self
                .snapshot
                .table
                .nodes
                .iter()
                .map(|(name, node)| format!("{} ({name})", node.address))
                .collect();
            self.instead.push(format!("nodes answer at {}", nodes.join(", ")));
        }
        End::plain(Verdict::Passed, "not the mesh's: no node takes it up")
    }

    /// Says whose an address is that the client's place does not reach.
    pub(super) fn suggest_networks(&mut self, to: IpAddr, except: &str) {
        let table = &self.snapshot.table;
        for (network_name, network) in &table.networks {
            if network_name == except || !network.subnets.iter().any(|subnet| subnet.contains(&to)) {
                continue;
            }
            let owner = endpoint_at(table, network_name, to).map(|(name, _)| name.clone()).or_else(|| {
                let (name, _) = table.services.iter().find(|(_, service)| {
                    service.vips.get(network_name).is_some_and(|vips| vips.contains(&to))
                })?;
                Some(format!("the virtual IP of {name}"))
            });
            self.why.push(match owner {
                Some(owner) => {
                    format!("{to} is {owner} on {network_name}, which only tasks on {network_name} reach")
                }
                None => format!(
                    "{to} lies in a subnet of {network_name}, which only tasks on {network_name} reach"
                ),
            });
            self.instead.push(format!(
                "from a task on {network_name}: `meshctl attach --network {network_name} --netns NAMESPACE` makes one"
            ));
            for (name, service) in &table.services {
                if service.vips.get(network_name).is_some_and(|vips| vips.contains(&to)) {
                    for port in &service.ports {
                        self.instead.push(format!(
                            "{name}'s published port {}/{} on any node",
                            port.published,
                            protocol_name(port.protocol)
                        ));
                    }
                }
            }
        }
    }
}
