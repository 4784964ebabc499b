//! What a name means to a task, by the networks that it is on.

use std::net::IpAddr;

use ipnet::IpNet;

use super::names::{Holder, Names};
use crate::table::{Endpoint, EndpointMode, Protocol, Service};

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// These addresses; none of them where all tasks drain.
    Addresses(Vec<IpAddr>),
    /// These ports of tasks.
    Servers(Vec<Server>),
    /// Another name: who has the address that was asked for.
    Pointer(String),
    /// It is known, and nothing is said of it.
    Nothing,
    /// It is the mesh's to know, and there is no such name.
    Unknown,
    /// It is none of the mesh's.
    Foreign,
}

/// A port of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// The task's endpoint, by its whole name.
    pub(super) name: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Its share of what is asked.
    pub(super) weight: u16,
    pub(super) port: u16,
}

/// What a name means on these networks, of which the first is the one that was asked. It is in lower case.
pub(super) fn meaning(names: &Names, networks: &[&str], name: &str) -> Meaning {
    let on = |network: &&str, name: &str| on_network(names, network, name);
    if let Some(found) = networks.iter().find_map(|network| on(network, name)) {
        return found;
    }
    // A network's name stands for all below it: what is unknown there must not become a stranger's on the Internet.
    let (rest, last) = match name.rsplit_once('.') {
        Some((rest, last)) => (Some(rest), last),
        None => (None, name),
    };
    if let Some(network) = networks.iter().find(|network| is_suffix(names, network, name)) {
        let rest = name.get(..name.len().saturating_sub(network.len() + 1)).filter(|rest| !rest.is_empty());
        return match rest {
            Some(rest) => on(network, rest).unwrap_or(Meaning::Unknown),
            None => Meaning::Nothing,
        };
    }
    match rest {
        // No domain of the world's ends in a number (RFC 1123, section 2.1), and many of our tasks do.
        _ if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) => match rest {
            Some(_) => Meaning::Unknown,
            None => Meaning::Nothing,
        },
        Some(_) => Meaning::Foreign,
        // The root's own name is the world's; others of one label have no addresses out there (RFC 7085).
        None if last.is_empty() => Meaning::Foreign,
        None => Meaning::Unknown,
    }
}

/// Whether a name is a network's, or ends in it.
fn is_suffix(names: &Names, network: &str, name: &str) -> bool {
    let Some(start) = name.len().checked_sub(network.len()) else { return false };
    let (Some(before), Some(last)) = (name.get(..start), name.get(start..)) else { return false };
    (before.is_empty() || before.ends_with('.')) && names.network(last) == Some(network)
}

fn on_network(names: &Names, network: &str, name: &str) -> Option<Meaning> {
    let by_name = of_service(names, network, name).or_else(|| of_endpoint(names, network, name));
    if let Some(addresses) = by_name.or_else(|| of_alias(names, network, name)) {
        return Some(Meaning::Addresses(addresses));
    }
    if let Some(rest) = name.strip_prefix("tasks.")
        && let Some((service_name, service)) = names.service(rest)
        && is_on(names, network, service_name, service)
    {
        return Some(Meaning::Addresses(running(names, network, service_name)));
    }
    if name.starts_with('_') { below_service(names, network, name) } else { None }
}

/// What a service's own name stands for on a network, if it is on it.
fn of_service(names: &Names, network: &str, name: &str) -> Option<Vec<IpAddr>> {
    let (name, service) = names.service(name)?;
    match service.endpoint_mode {
        EndpointMode::Vip => service.vips.get(network).cloned(),
        EndpointMode::Dnsrr => is_on(names, network, name, service).then(|| running(names, network, name)),
    }
}

/// What an endpoint's own name stands for on a network, if it is on it.
fn of_endpoint(names: &Names, network: &str, name: &str) -> Option<Vec<IpAddr>> {
    let (_, endpoint) = names.endpoint(name).filter(|(_, endpoint)| endpoint.network == network)?;
    Some(endpoint.addresses.clone())
}

/// What an alias stands for on a network: all that those of its bearers which are on it stand for.
fn of_alias(names: &Names, network: &str, alias: &str) -> Option<Vec<IpAddr>> {
    let of_bearer = |bearer: &Holder| {
        let name = bearer.name().to_ascii_lowercase();
        match bearer {
            Holder::Service(_) => of_service(names, network, &name),
            Holder::Endpoint(_) => of_endpoint(names, network, &name),
        }
    };
    let found: Vec<Vec<IpAddr>> = names.bearers(alias).filter_map(of_bearer).collect();
    (!found.is_empty()).then(|| found.concat())
}

/// Whether a service is on a network: by a virtual IP, or by a task.
fn is_on(names: &Names, network: &str, name: &str, service: &Service) -> bool {
    service.vips.contains_key(network) || names.tasks(name, network).next().is_some()
}

/// A service's tasks on a network that take new flows: whoever asks wants to open one.
fn taking<'a>(
    names: &'a Names,
    network: &'a str,
    service: &str,
) -> impl Iterator<Item = (&'a str, &'a Endpoint)> + use<'a> {
    names.tasks(service, network).filter(|(_, endpoint)| endpoint.weight > 0)
}

fn running(names: &Names, network: &str, service: &str) -> Vec<IpAddr> {
    taking(names, network, service).flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect()
}

/// `_PORT._PROTOCOL.SERVICE` (RFC 2782), with a number for the port as it is published or as the tasks have it.
fn below_service(names: &Names, network: &str, name: &str) -> Option<Meaning> {
    let labels_end = name.split('.').take_while(|label| label.starts_with('_')).map(|label| label.len() + 1);
    let (labels, service_name) = name.split_at_checked(labels_end.sum())?;
    let (service_name, service) = names.service(service_name)?;
    if !is_on(names, network, service_name, service) {
        return None;
    }
    let mut labels = labels.split_terminator('.').map(|label| label.trim_start_matches('_'));
    let (Some(port), Some(protocol), None) = (labels.next(), labels.next(), labels.next()) else {
        return Some(Meaning::Nothing);
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Some(Meaning::Nothing),
    };
    let Ok(port) = port.parse::<u16>() else { return Some(Meaning::Nothing) };
    let ports = || service.ports.iter().filter(|known| known.protocol == protocol);
    let found =
        ports().find(|known| known.published == port).or_else(|| ports().find(|known| known.target == port));
    let Some(found) = found else { return Some(Meaning::Nothing) };
    let servers = taking(names, network, service_name).map(|(name, endpoint)| Server {
        name: format!("{name}.{network}."),
        addresses: endpoint.addresses.clone(),
        weight: endpoint.weight,
        port: found.target,
    });
    Some(Meaning::Servers(servers.collect()))
}

/// What the name under in-addr.arpa or ip6.arpa that stands for these addresses means.
pub(super) fn reverse(names: &Names, networks: &[&str], asked: IpNet) -> Meaning {
    let whole = asked.prefix_len() == asked.max_prefix_len();
    for name in networks {
        let Some(network) = names.table.networks.get(*name) else { continue };
        if !network.subnets.iter().any(|subnet| subnet.contains(&asked)) {
            continue;
        }
        if !whole {
            return Meaning::Nothing;
        }
        return match names.holder(name, asked.addr()).map(Holder::name) {
            Some(holder) => Meaning::Pointer(format!("{holder}.{name}.")),
            None => Meaning::Unknown,
        };
    }
    Meaning::Foreign
}
