//! Where a flow would go, and why: the pipeline's own decisions, taken with the same tables and told in words.

mod choice;
mod task;
mod wire;

use std::net::IpAddr;

use mesh_common::{
    Reason,
    abi::{self, Family, ServiceKey},
};

use super::endpoint_at;
use crate::{
    api::{
        Refusal, RefusalKind, Snapshot,
        types::{Choice, ExplainQuery, Explanation, Place, Verdict, protocol_name},
    },
    table::{Endpoint, Network, Protocol, PublishedPort, Service},
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
                format!("there is no network {wanted:?}"),
                "`meshctl networks ls` lists them",
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

    /// Every service that publishes the port that is asked for, wherever it does.
    fn published_anywhere(&self) -> impl Iterator<Item = (&'a str, &'a Service, &'a PublishedPort)> + '_ {
        self.snapshot.table.services.iter().flat_map(|(name, service)| {
            let asked =
                |port: &&PublishedPort| port.published == self.port && port.protocol == self.query.protocol;
            service.ports.iter().filter(asked).map(move |port| (name.as_str(), service, port))
        })
    }

    /// The service that publishes the port that is asked for at the address that is: first the one that names the address.
    fn published(&self) -> Option<(&'a str, &'a PublishedPort)> {
        let to = self.query.to.address;
        let named = self
            .published_anywhere()
            .find(|(_, service, port)| service.addresses_of(port).any(|address| address == to));
        let unnamed = || {
            let mut ports = self.published_anywhere();
            ports.find(|(_, _, port)| port.host_ip.is_none() && !self.is_external(to))
        };
        named.or_else(unnamed).map(|(name, _, port)| (name, port))
    }

    /// Whether an address is routed to the nodes, and is no interface's of this one.
    fn is_external(&self, address: IpAddr) -> bool {
        let mut services = self.snapshot.table.services.values();
        services.any(|service| service.external.contains(&address))
            && !self.snapshot.addresses.contains(&address)
    }

    /// The node that has an address: this one, if it is one of its interfaces', a loopback address, or one that is routed
    /// to several nodes.
    fn node_with(&self, address: IpAddr) -> Option<&'a str> {
        if address.is_loopback() || self.snapshot.addresses.contains(&address) || self.is_external(address) {
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
