//! A snapshot as people and scripts see it.

mod backends;
mod explain;
mod flows;
mod packet;
mod trace;

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use mesh_common::{
    Reason,
    abi::{Counter, Hook, Outcome},
};

use super::{
    Snapshot, control,
    types::{
        Cluster, Counts, DropCount, Endpoint, EndpointState, Health, HookCount, MapUse, Member, Network,
        Node, Peer, Problem, Service, Stats, Status,
    },
};
use crate::{spec::HealthCheck, table};

pub(super) use backends::{backend, backends};
pub(super) use explain::explain;
pub(super) use flows::flows;
pub(super) use trace::Tracer;

/// The daemon and its node.
pub(super) fn status(snapshot: &Snapshot, maps: Vec<MapUse>, now: SystemTime) -> Status {
    let table = &snapshot.table;
    Status {
        node: snapshot.node.clone(),
        address: table.nodes.get(&snapshot.node).map(|node| node.address),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // A clock that was set back since the start makes it 0 rather than an error.
        uptime: now.duration_since(snapshot.started).unwrap_or_default().as_secs(),
        revision: snapshot.revision,
        counts: Counts {
            nodes: table.nodes.len(),
            networks: table.networks.len(),
            services: table.services.len(),
            endpoints: table.endpoints.len(),
            local_endpoints: table.endpoints.values().filter(|e| e.node == snapshot.node).count(),
        },
        programs: snapshot.programs.clone(),
        peers: table
            .nodes
            .iter()
            .filter(|(name, _)| **name != snapshot.node)
            .map(|(name, node)| {
                let uplink = snapshot.uplinks.get(name);
                Peer {
                    name: name.clone(),
                    address: node.address,
                    interface: uplink.map(|uplink| uplink.interface.clone()),
                    mtu: uplink.map(|uplink| uplink.mtu),
                }
            })
            .collect(),
        cluster: snapshot.cluster.as_ref().map(|known| cluster(known, now)),
        problems: snapshot.problems.iter().cloned().chain(maps.iter().filter_map(nearly_full)).collect(),
        maps: with_room(maps),
    }
}

/// The warning that a map will soon have no room, from nine tenths on.
fn nearly_full(map: &MapUse) -> Option<Problem> {
    // A table of one entry is full by nature; and what leaves these keeps its number, while there are others to give.
    if map.capacity == 1 || ["NODES", "BACKENDS"].contains(&map.name.as_str()) {
        return None;
    }
    let entries =
        map.entries.filter(|entries| entries.saturating_mul(10) >= map.capacity.saturating_mul(9))?;
    let message = match map.name.as_str() {
        "FLOWS" => {
            "Once it is full, the flows that have been quiet for longest are forgotten. Spread the clients over more \
            nodes."
        }
        "NEW_FLOWS" => {
            "More flows begin than prove that there is somebody at their other end: this may be a flood. Flows \
            that have proved themselves stay; new ones may be forgotten before they do."
        }
        _ => {
            "Once it is full, this node can follow no further changes. Remove networks, services or endpoints that are no \
            longer needed."
        }
    };
    let room = format!("{entries} of its {} entries are used.", map.capacity);
    Some(Problem { subject: format!("map {}", map.name), message: format!("{room} {message}") })
}

/// The maps but those of one entry, like the settings', which are full by nature.
fn with_room(mut maps: Vec<MapUse>) -> Vec<MapUse> {
    maps.retain(|map| map.capacity > 1);
    maps
}

/// The cluster.
fn cluster(known: &control::Cluster, now: SystemTime) -> Cluster {
    let member = |(name, member): (&String, &control::Member)| Member {
        name: name.clone(),
        address: member.address,
        state: member.state,
        seconds: seconds_since(member, now),
    };
    Cluster { members: known.members.iter().map(member).collect(), digest: known.digest.clone() }
}

fn seconds_since(member: &control::Member, now: SystemTime) -> u64 {
    now.duration_since(member.since).unwrap_or_default().as_secs()
}

/// Every node.
pub(super) fn nodes(snapshot: &Snapshot, now: SystemTime) -> Vec<Node> {
    snapshot.table.nodes.iter().map(|(name, node)| self::node(snapshot, name, node, now)).collect()
}

/// A node.
pub(super) fn node(snapshot: &Snapshot, name: &str, node: &table::Node, now: SystemTime) -> Node {
    let member = snapshot.cluster.as_ref().and_then(|cluster| cluster.members.get(name));
    Node {
        state: member.map(|member| member.state),
        seconds: member.map(|member| seconds_since(member, now)),
        name: name.to_owned(),
        address: node.address,
        interface: node.interface.clone(),
        this: name == snapshot.node,
        route: snapshot.uplinks.get(name).map(|uplink| uplink.interface.clone()),
        endpoints: endpoints_where(snapshot, |endpoint| endpoint.node == name),
    }
}

/// Every network.
pub(super) fn networks(snapshot: &Snapshot) -> Vec<Network> {
    snapshot.table.networks.iter().map(|(name, network)| self::network(snapshot, name, network)).collect()
}

/// A network.
pub(super) fn network(snapshot: &Snapshot, name: &str, network: &table::Network) -> Network {
    Network {
        name: name.to_owned(),
        vni: network.vni,
        subnets: network.subnets.clone(),
        gateways: network.gateways().collect(),
        internal: network.internal,
        mtu: snapshot.mtus.get(name).copied().or(network.mtu),
        services: snapshot
            .table
            .services
            .iter()
            .filter(|(_, service)| service.vips.contains_key(name))
            .map(|(service, _)| service.clone())
            .collect(),
        endpoints: endpoints_where(snapshot, |endpoint| endpoint.network == name),
    }
}

/// Every service.
pub(super) fn services(snapshot: &Snapshot) -> Vec<Service> {
    snapshot.table.services.iter().map(|(name, service)| self::service(snapshot, name, service)).collect()
}

/// A service.
pub(super) fn service(snapshot: &Snapshot, name: &str, service: &table::Service) -> Service {
    Service {
        name: name.to_owned(),
        vips: service.vips.clone(),
        scheduler: service.scheduler,
        endpoint_mode: service.endpoint_mode,
        on_no_backend: service.on_no_backend,
        persistent: service.persistent,
        health_check: service.health_check.as_ref().map(HealthCheck::from),
        ports: service.ports.clone(),
        external: service.external.clone(),
        backends: endpoints_where(snapshot, |endpoint| endpoint.service.as_deref() == Some(name)),
    }
}

/// Every endpoint.
pub(super) fn endpoints(snapshot: &Snapshot) -> Vec<Endpoint> {
    snapshot.table.endpoints.iter().map(|(name, endpoint)| self::endpoint(snapshot, name, endpoint)).collect()
}

/// An endpoint.
pub(super) fn endpoint(snapshot: &Snapshot, name: &str, endpoint: &table::Endpoint) -> Endpoint {
    let attachment = snapshot.attachments.get(name);
    Endpoint {
        name: name.to_owned(),
        node: endpoint.node.clone(),
        service: endpoint.service.clone(),
        network: endpoint.network.clone(),
        addresses: endpoint.addresses.clone(),
        mac: mac(endpoint.mac),
        netns: endpoint.netns.as_ref().map(|path| path.display().to_string()),
        interface: attachment.and_then(|attachment| attachment.interface.clone()),
        host_interface: attachment.and_then(|attachment| attachment.host_interface.clone()),
        state: state(snapshot, name, endpoint),
        health: health(snapshot, name),
    }
}

/// What was lost, for every reason.
pub(super) fn drops(counts: &[u64]) -> Vec<DropCount> {
    Reason::ALL
        .into_iter()
        .zip(counts.iter().copied().chain(std::iter::repeat(0)))
        .map(|(reason, packets)| DropCount {
            reason: reason.label().to_owned(),
            sentence: reason.sentence().to_owned(),
            packets,
        })
        .collect()
}

/// The counters.
pub(super) fn stats(drops: &[u64], counters: &[Counter], maps: Vec<MapUse>) -> Stats {
    let hooks = Hook::ALL.into_iter().flat_map(|hook| Outcome::ALL.map(|outcome| (hook, outcome)));
    Stats {
        dropped: drops.iter().fold(0, |sum, count| sum.saturating_add(*count)),
        hooks: hooks
            .filter_map(|(hook, outcome)| {
                let index = usize::try_from(Counter::index(hook, outcome)).ok()?;
                let counter = counters.get(index).filter(|counter| counter.packets > 0)?;
                Some(HookCount {
                    hook: hook.label().to_owned(),
                    outcome: outcome.label().to_owned(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                })
            })
            .collect(),
        maps: with_room(maps),
    }
}

/// The endpoint that has an address on a network.
fn endpoint_at<'a>(
    table: &'a table::Table,
    network: &str,
    address: IpAddr,
) -> Option<(&'a String, &'a table::Endpoint)> {
    table
        .endpoints
        .iter()
        .find(|(_, endpoint)| endpoint.network == network && endpoint.addresses.contains(&address))
}

/// The name of the network with a VNI.
fn network_of_vni(table: &table::Table, vni: u32) -> Option<&String> {
    table.networks.iter().find(|(_, network)| network.vni == vni).map(|(name, _)| name)
}

fn endpoints_where(snapshot: &Snapshot, matches: impl Fn(&table::Endpoint) -> bool) -> Vec<String> {
    snapshot
        .table
        .endpoints
        .iter()
        .filter(|(_, endpoint)| matches(endpoint))
        .map(|(name, _)| name.clone())
        .collect()
}

fn state(snapshot: &Snapshot, name: &str, endpoint: &table::Endpoint) -> EndpointState {
    if endpoint.node != snapshot.node {
        let is_gone = |cluster: &control::Cluster| cluster.gone.contains(&endpoint.node);
        return match snapshot.cluster.as_ref().is_some_and(is_gone) {
            true => EndpointState::Gone,
            false => EndpointState::Remote,
        };
    }
    match snapshot.attachments.get(name) {
        Some(attachment) => match &attachment.waiting {
            Some(why) => EndpointState::Waiting(why.clone()),
            None => EndpointState::Attached,
        },
        None => EndpointState::Waiting("the daemon has not come to it yet".to_owned()),
    }
}

fn health(snapshot: &Snapshot, name: &str) -> Option<Health> {
    let known = snapshot.healths.get(name)?;
    // A clock that was set back makes it 0 rather than an error.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = if known.since == 0 { 0 } else { now.saturating_sub(known.since) };
    Some(Health { is: known.state, seconds, why: known.reason.clone() })
}

fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
