//! Where a flow would go, and why: the pipeline's own decisions, taken with the same tables and told in words.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_common::{
    Reason,
    abi::{self, Address, Family, ServiceKey},
    hash,
};

use super::{endpoint_at, network_of_vni, state};
use crate::{
    api::{
        Refusal, RefusalKind, Snapshot,
        types::{Choice, EndpointState, ExplainQuery, Explanation, Place, Share, Verdict, protocol_name},
    },
    table::{Endpoint, Network, Protocol, PublishMode, PublishedPort, ReturnPath, Scheduler},
};

/// Where a flow would go.
///
/// # Errors
/// When the question has no single answer.
pub(in crate::api) fn explain(snapshot: &Snapshot, query: &ExplainQuery) -> Result<Explanation, Refusal> {
    let Some(port) = query.to.port else {
        return Err(invalid(
            format!("{} has no port, and a flow is told by its port", query.to),
            format!("ask for {}, say", Place::new(query.to.address, 80)),
        ));
    };
    if query.from.address.is_ipv4() != query.to.address.is_ipv4() {
        return Err(invalid(
            format!("{} and {} are not of one family", query.from, query.to),
            "give two IPv4 addresses or two IPv6 addresses",
        ));
    }
    let client = client(snapshot, query)?;
    let mut story = Story { snapshot, query, port, why: Vec::new(), instead: Vec::new() };
    let end = match client {
        Client::Task { name, endpoint, network_name, network } => {
            story.sent_by_task(name, endpoint, network_name, network)
        }
        Client::Stranger { network } => story.sent_by_forger(network),
        Client::Outside => story.sent_by_others(),
    };
    Ok(Explanation {
        from: query.from,
        to: query.to,
        protocol: query.protocol,
        verdict: end.verdict,
        summary: end.summary,
        choice: end.choice,
        path: end.path,
        why: story.why,
        instead: story.instead,
    })
}

/// Who asks.
enum Client<'a> {
    /// A task on a network.
    Task { name: &'a str, endpoint: &'a Endpoint, network_name: &'a str, network: &'a Network },
    /// A task on a network that sends from an address which it has not.
    Stranger { network: &'a str },
    /// Anybody else: a host outside, or a node itself.
    Outside,
}

fn client<'a>(snapshot: &'a Snapshot, query: &'a ExplainQuery) -> Result<Client<'a>, Refusal> {
    let table = &snapshot.table;
    let address = query.from.address;
    if let Some(wanted) = &query.network {
        let Some((network_name, network)) = table.networks.get_key_value(wanted) else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no network `{wanted}`"),
                "`meshctl networks ls` lists those that there are",
            ));
        };
        return Ok(match endpoint_at(table, network_name, address) {
            Some((name, endpoint)) => Client::Task { name, endpoint, network_name, network },
            None => Client::Stranger { network: network_name },
        });
    }
    let mut found = table.endpoints.iter().filter(|(_, endpoint)| endpoint.addresses.contains(&address));
    let Some((name, endpoint)) = found.next() else { return Ok(Client::Outside) };
    if let Some((_, other)) = found.next() {
        return Err(invalid(
            format!("{address} is an endpoint's address on {} and on {}", endpoint.network, other.network),
            format!("say which one with --network {}", endpoint.network),
        ));
    }
    let Some((network_name, network)) = table.networks.get_key_value(&endpoint.network) else {
        return Ok(Client::Outside);
    };
    Ok(Client::Task { name, endpoint, network_name, network })
}

fn invalid(error: impl Into<String>, mend: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, error, mend)
}

/// What becomes of it.
struct End {
    verdict: Verdict,
    summary: String,
    choice: Option<Choice>,
    path: Option<String>,
}

impl End {
    fn plain(verdict: Verdict, summary: impl Into<String>) -> Self {
        Self { verdict, summary: summary.into(), choice: None, path: None }
    }

    fn dropped(reason: Reason) -> Self {
        Self::plain(Verdict::Dropped, format!("dropped as {}: {}", reason.label(), reason.sentence()))
    }
}

/// A service that was asked, and how.
struct Asked {
    service: abi::Service,
    name: String,
    by: String,
}

/// Where a chosen backend is.
struct Target<'a> {
    name: &'a str,
    endpoint: &'a Endpoint,
    address: IpAddr,
    vni: u32,
}

struct Story<'a> {
    snapshot: &'a Snapshot,
    query: &'a ExplainQuery,
    /// The port that is asked for.
    port: u16,
    why: Vec<String>,
    instead: Vec<String>,
}

impl<'a> Story<'a> {
    /// A packet that a task sends: the decisions of `from_endpoint`, in its order.
    fn sent_by_task(
        &mut self,
        name: &'a str,
        endpoint: &'a Endpoint,
        network_name: &'a str,
        network: &'a Network,
    ) -> End {
        let to = self.query.to.address;
        self.why.push(format!(
            "{} is {name}'s address on {network_name} (VNI {}), attached on {}",
            self.query.from.address, network.vni, endpoint.node
        ));
        if let EndpointState::Waiting(why) = state(self.snapshot, name, endpoint) {
            self.why.push(format!("{name} is not attached, so it can send nothing: {why}"));
            return End::dropped(Reason::NotAttached);
        }
        if Address::from(to).is_multicast() {
            return End::dropped(Reason::Multicast);
        }
        if let Some((target_name, target)) = endpoint_at(&self.snapshot.table, network_name, to) {
            self.why
                .push(format!("{to} is {target_name}'s address on {network_name}: no service is involved"));
            let target = Target { name: target_name, endpoint: target, address: to, vni: network.vni };
            return self.delivered(
                &endpoint.node,
                &target,
                self.port,
                None,
                "the answer comes straight back",
            );
        }
        if network.gateways().any(|gateway| gateway == to) {
            self.why.push(format!("{to} is the gateway of {network_name}"));
            return End::dropped(Reason::Gateway);
        }
        if let Some(asked) = self.asked_vip(network_name, network) {
            return self.balanced(
                &endpoint.node,
                &asked,
                "the answer comes back translated by the same node",
            );
        }
        if network.subnets.iter().any(|subnet| subnet.contains(&to)) {
            self.why.push(format!("{to} lies in a subnet of {network_name}, and nothing there has it"));
            self.instead.push(format!("`meshctl networks inspect {network_name}` shows what is on it"));
            return End::dropped(Reason::NoSuchEndpoint);
        }
        self.outward(network_name, network, &endpoint.node)
    }

    /// A task's packet to an address that is not of its network.
    fn outward(&mut self, network_name: &str, network: &Network, node: &str) -> End {
        let to = self.query.to.address;
        self.why.push(format!("{to} is in no subnet of {network_name}"));
        self.suggest_networks(to, network_name);
        if network.internal {
            return End::dropped(Reason::Internal);
        }
        let there = self.node_with(to);
        if self.query.protocol == Protocol::Udp
            && self.port == self.snapshot.table.options.vxlan_port
            && there.is_some()
        {
            return End::dropped(Reason::TunnelForged);
        }
        if let Some(there) = there
            && let Some((service, _)) = self.published()
        {
            self.why.push(format!(
                "{there} takes it for a client's of {service}'s published port {}; which backend it chooses \
                 depends on the port that {node} masquerades it with",
                self.port_text()
            ));
            self.instead.push(format!("a task on a network of {service} reaches it by its virtual IP"));
        }
        End {
            path: Some(format!("{node}'s own routes, masqueraded as {node}'s address")),
            ..End::plain(
                Verdict::Outside,
                format!("leaves {network_name} for the world outside through {node}"),
            )
        }
    }

    /// A packet that a task sends from an address which it has not.
    fn sent_by_forger(&mut self, network: &str) -> End {
        let from = self.query.from.address;
        self.why.push(format!("no endpoint of {network} has {from}"));
        self.instead.push(format!("`meshctl endpoints ls` lists the addresses on {network}"));
        End::dropped(Reason::SourceForged)
    }

    /// A packet from the wire, or from a node's own process.
    fn sent_by_others(&mut self) -> End {
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
        let options = &self.snapshot.table.options;
        if self.query.protocol == Protocol::Udp && self.port == options.vxlan_port && !itself {
            self.why.push(format!("{} is the tunnels' port", self.port_text()));
            return match sender {
                Some(peer) => End::plain(
                    Verdict::Delivered,
                    format!("a tunnel packet from {peer}: what is inside decides"),
                ),
                None => End::dropped(Reason::NotAPeer),
            };
        }
        let Some((service, port)) = self.published() else { return self.not_published(entry) };
        if port.mode == PublishMode::Host && entry != this {
            return self.host_mode_elsewhere(entry, &service);
        }
        let key = ServiceKey {
            address: Address::UNSPECIFIED,
            scope: 0,
            port: self.port.to_be_bytes(),
            protocol: number(self.query.protocol),
            family: family(to),
        };
        let by = match port.mode {
            PublishMode::Ingress => format!("published port {}, on every node", self.port_text()),
            PublishMode::Host => {
                format!("published port {}, mode host: tasks of {entry} only", self.port_text())
            }
        };
        let Some(found) = self.snapshot.lookup.service(&key) else {
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
            return End::plain(Verdict::Passed, format!("left to {entry}'s own kernel: not the mesh's"));
        };
        let asked = Asked { service: found, name: service, by };
        let back = match options.r#return {
            _ if itself => format!("the answer comes back through {entry}"),
            ReturnPath::Tunnel => format!("the answer returns through {entry}"),
            ReturnPath::Direct => "the answer goes straight to the client".to_owned(),
        };
        self.balanced(entry, &asked, &back)
    }

    fn not_published(&mut self, entry: &str) -> End {
        self.why.push(format!("no service publishes {}", self.port_text()));
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
        End::plain(Verdict::Passed, format!("left to {entry}'s own kernel: not the mesh's"))
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
    fn suggest_networks(&mut self, to: IpAddr, except: &str) {
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

    /// The virtual IP of the network that is asked for.
    fn asked_vip(&self, network_name: &str, network: &Network) -> Option<Asked> {
        let to = self.query.to.address;
        let (name, _) = self
            .snapshot
            .table
            .services
            .iter()
            .find(|(_, service)| service.vips.get(network_name).is_some_and(|vips| vips.contains(&to)))?;
        let key = ServiceKey {
            address: to.into(),
            scope: network.vni,
            port: [0; 2],
            protocol: 0,
            family: family(to),
        };
        let service = self.snapshot.lookup.service(&key)?;
        Some(Asked { service, name: name.clone(), by: format!("virtual IP {to} on {network_name}") })
    }

    /// The service that publishes the port that is asked for.
    fn published(&self) -> Option<(String, PublishedPort)> {
        self.snapshot.table.services.iter().find_map(|(name, service)| {
            let port = service
                .ports
                .iter()
                .find(|port| port.published == self.port && port.protocol == self.query.protocol)?;
            Some((name.clone(), port.clone()))
        })
    }

    /// A service chooses among its backends.
    fn balanced(&mut self, entry: &str, asked: &Asked, back: &str) -> End {
        self.why.push(format!("{} is {}'s: {}", self.query.to, asked.name, asked.by));
        let round_robin = asked.service.scheduler == abi::Scheduler::Rr as u8;
        let mut choice = Choice {
            service: asked.name.clone(),
            by: asked.by.clone(),
            scheduler: if round_robin { Scheduler::Rr } else { Scheduler::Mh },
            hash: None,
            slot: None,
            slots: asked.service.slots,
            backend: None,
            node: None,
            shares: Vec::new(),
        };
        if choice.slots == 0 {
            self.why.push(format!(
                "{} has no backend with an {} address",
                asked.name,
                version(self.query.to.address)
            ));
            self.instead.push(format!(
                "`meshctl attach --network NETWORK --netns NAMESPACE --service {}` gives it one",
                asked.name
            ));
            return End { choice: Some(choice), ..End::dropped(Reason::NoBackend) };
        }
        let source = match self.hashed_source(entry, round_robin) {
            Ok(source) => source,
            Err(unknown) => {
                self.why.push(unknown);
                choice.shares = self.shares(asked);
                let summary = format!("delivered to one of {}'s backends", asked.name);
                return End { choice: Some(choice), ..End::plain(Verdict::Delivered, summary) };
            }
        };
        let (client, port) = source;
        let hash = hash::flow(
            self.snapshot.lookup.seed(),
            client.into(),
            port.to_be_bytes(),
            self.port.to_be_bytes(),
            number(self.query.protocol),
        );
        let slot = hash::slot(hash, choice.slots);
        choice.hash = Some(hash);
        choice.slot = Some(slot);
        self.why.push(format!(
            "mh: the hash of {}, port {} and {} is {hash:#010x}, which names slot {slot} of {}",
            Place::new(client, port),
            self.port,
            protocol_name(self.query.protocol),
            choice.slots
        ));
        let Some(target) = self.target(asked.service.first_slot.wrapping_add(slot)) else {
            self.why.push("the slot holds no backend that the table still has".to_owned());
            return End { choice: Some(choice), ..End::dropped(Reason::NoBackend) };
        };
        choice.backend = Some(target.name.to_owned());
        choice.node = Some(target.endpoint.node.clone());
        self.why.push(format!("slot {slot} holds {}, on {}", target.name, target.endpoint.node));
        let port = match u16::from_be_bytes(asked.service.target_port) {
            0 => self.port,
            port => port,
        };
        self.delivered(entry, &target, port, Some(choice), back)
    }

    /// The client's end as the entry node sees it, or why no slot can be foretold.
    fn hashed_source(&self, entry: &str, round_robin: bool) -> Result<(IpAddr, u16), String> {
        if round_robin {
            return Err(format!(
                "rr: each new connection goes to the next backend in turn, as {entry} counts them; a connection \
                 stays where it began"
            ));
        }
        let Some(port) = self.query.from.port else {
            return Err(
                "mh: the slot depends on the client's port, and none was given; the shares are".to_owned()
            );
        };
        let from = self.query.from.address;
        // A node's own process enters through the mesh's own interface, with the node's underlay address.
        let own = self.node_with(from) == Some(entry) && self.node_with(self.query.to.address) == Some(entry);
        if !own {
            return Ok((from, port));
        }
        match self.snapshot.table.nodes.get(entry).map(|node| node.address) {
            Some(address) if address.is_ipv4() == from.is_ipv4() => Ok((address, port)),
            _ => Err(format!("mh: which address {entry} speaks from is known there only; the shares are")),
        }
    }

    /// A packet is brought to a task.
    fn delivered(
        &mut self,
        entry: &str,
        target: &Target<'_>,
        port: u16,
        choice: Option<Choice>,
        back: &str,
    ) -> End {
        let node = target.endpoint.node.as_str();
        let this = self.snapshot.node.as_str();
        if let EndpointState::Waiting(why) = state(self.snapshot, target.name, target.endpoint) {
            self.why.push(format!("{} is not attached: {why}", target.name));
            return End { choice, ..End::dropped(Reason::NoSuchEndpoint) };
        }
        if entry == this && node != this && !self.snapshot.uplinks.contains_key(node) {
            self.why.push(format!("{this} has no route to {node}"));
            self.instead
                .push(format!("`ip route get ADDRESS` on {this} must show a way to {node}'s address"));
            return End { choice, ..End::dropped(Reason::NoRoute) };
        }
        let there = Place::new(target.address, port);
        let way = if entry == node {
            format!("{node}, without a tunnel")
        } else {
            format!("{entry} → VXLAN {} → {node}", target.vni)
        };
        End {
            verdict: Verdict::Delivered,
            summary: format!("delivered to {} on {node}", target.name),
            choice,
            path: Some(format!("{way}, delivered as {there}; {back}")),
        }
    }

    /// The backend that a slot holds.
    fn target(&self, slot: u32) -> Option<Target<'a>> {
        let slot = self.snapshot.lookup.slot(slot)?;
        let backend = self.snapshot.lookup.backend(slot.current)?;
        let network = network_of_vni(&self.snapshot.table, backend.vni)?;
        let address = backend.address.into();
        let (name, endpoint) = endpoint_at(&self.snapshot.table, network, address)?;
        Some(Target { name, endpoint, address, vni: backend.vni })
    }

    fn shares(&self, asked: &Asked) -> Vec<Share> {
        let mut counts: BTreeMap<&str, (&str, u32)> = BTreeMap::new();
        for slot in 0..asked.service.slots {
            if let Some(target) = self.target(asked.service.first_slot.wrapping_add(slot)) {
                counts.entry(target.name).or_insert((&target.endpoint.node, 0)).1 += 1;
            }
        }
        let mut shares: Vec<Share> = counts
            .into_iter()
            .map(|(backend, (node, slots))| Share {
                backend: backend.to_owned(),
                node: node.to_owned(),
                slots,
            })
            .collect();
        shares.sort_by(|a, b| b.slots.cmp(&a.slots).then_with(|| a.backend.cmp(&b.backend)));
        shares
    }

    /// The node that has an address: this one, if it is one of its interfaces' or a loopback address.
    fn node_with(&self, address: IpAddr) -> Option<&'a str> {
        if address.is_loopback() || self.snapshot.addresses.contains(&address) {
            return Some(&self.snapshot.node);
        }
        self.snapshot
            .table
            .nodes
            .iter()
            .find(|(_, node)| node.address == address)
            .map(|(name, _)| name.as_str())
    }

    fn port_text(&self) -> String {
        format!("{}/{}", self.port, protocol_name(self.query.protocol))
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => Family::V4 as u8,
        IpAddr::V6(_) => Family::V6 as u8,
    }
}

fn version(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// IANA's number of a protocol.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}
