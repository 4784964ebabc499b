//! The kernel's flows by the names that people gave to what they touch.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use mesh_common::abi::{self, Space, flow_flags};

use crate::{
    api::{
        FlowDump, Snapshot,
        types::{Flow, FlowFilter, FlowKind, Flows, Place, protocol_name},
    },
    table::Protocol,
};

/// How many flows are listed where the filter does not say.
const LIMIT: usize = 100;

/// The flows that match a filter, the most recent first.
pub(in crate::api) fn flows(snapshot: &Snapshot, dump: &FlowDump, filter: &FlowFilter) -> Flows {
    let mut names = Names::of(snapshot);
    let mut matching: Vec<Flow> = dump
        .entries
        .iter()
        .map(|(key, value)| flow(&mut names, dump, key, value))
        .filter(|flow| matches(snapshot, flow, filter))
        .collect();
    matching.sort_by(|a, b| {
        let order = |flow: &Flow| (flow.idle, flow.kind, flow.source, flow.destination);
        order(a).cmp(&order(b))
    });
    let count = matching.len();
    match filter.limit.unwrap_or(LIMIT) {
        0 => {}
        limit => matching.truncate(limit),
    }
    Flows { flows: matching, matching: count, total: dump.entries.len(), capacity: dump.capacity }
}

/// The names behind the numbers, each looked for once however many flows there are.
struct Names<'a> {
    snapshot: &'a Snapshot,
    networks: HashMap<u32, &'a String>,
    endpoints: HashMap<(&'a str, IpAddr), &'a String>,
    services: BTreeMap<u32, Option<String>>,
    nodes: BTreeMap<u32, Option<String>>,
}

impl<'a> Names<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let addresses = snapshot.table.endpoints.iter().flat_map(|(name, endpoint)| {
            endpoint.addresses.iter().map(move |address| ((endpoint.network.as_str(), *address), name))
        });
        Self {
            snapshot,
            networks: snapshot.table.networks.iter().map(|(name, network)| (network.vni, name)).collect(),
            endpoints: addresses.collect(),
            services: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    fn service(&mut self, id: u32) -> Option<String> {
        self.services.entry(id).or_insert_with(|| self.snapshot.lookup.service_name(id)).clone()
    }

    fn node(&mut self, index: u32) -> Option<String> {
        self.nodes.entry(index).or_insert_with(|| self.snapshot.lookup.node_name(index)).clone()
    }
}

fn flow(names: &mut Names<'_>, dump: &FlowDump, key: &abi::FlowKey, value: &abi::Flow) -> Flow {
    let kind = kind(key.scope);
    let reply = value.flags & flow_flags::REPLY != 0;
    let chosen = (value.backend != 0).then(|| names.snapshot.lookup.backend(value.backend)).flatten();
    // A flow at the node that a client enters by names no network: its backend does.
    let vni = [key.scope & abi::VNI_MAX, value.vni].into_iter().find(|vni| *vni != 0);
    let vni = vni.or(chosen.map(|backend| backend.vni)).unwrap_or_default();
    let network = names.networks.get(&vni).copied();
    // The node that delivers keeps the backend as the address that it translates to or from.
    let backend = (value.service != 0).then(|| match chosen {
        Some(backend) => IpAddr::from(backend.address),
        None if reply => key.source.into(),
        None => value.destination.into(),
    });
    Flow {
        kind,
        network: network.cloned(),
        protocol: protocol(key.protocol),
        source: place(key.source, key.source_port),
        destination: place(key.destination, key.destination_port),
        new_source: translated(value.source, value.source_port),
        new_destination: translated(value.destination, value.destination_port),
        reply,
        service: (value.service != 0).then(|| names.service(value.service)).flatten(),
        backend: backend.map(|address| {
            network
                .and_then(|network| names.endpoints.get(&(network.as_str(), address)))
                .map_or_else(|| address.to_string(), |name| (*name).clone())
        }),
        entry: (value.node != 0).then(|| names.node(value.node)).flatten(),
        idle: dump.now.saturating_sub(value.seen),
        closing: value.flags & (flow_flags::FIN | flow_flags::RST) != 0,
        new: is_new(dump, key, value),
    }
}

/// Whether a flow has not proved itself; of answers, the other direction tells.
fn is_new(dump: &FlowDump, key: &abi::FlowKey, value: &abi::Flow) -> bool {
    let there = if value.flags & flow_flags::REPLY == 0 {
        Some(value)
    } else {
        let back_key = value.back_key(key);
        let place =
            back_key.and_then(|back_key| dump.entries.binary_search_by_key(&back_key, |(key, _)| *key).ok());
        place.and_then(|place| dump.entries.get(place)).map(|(_, flow)| flow)
    };
    there.is_some_and(|flow| flow.flags & flow_flags::NEW != 0)
}

/// What a flow belongs to: the scope's upper eight bits. A number that is no [`Space`] counts as a network's.
fn kind(scope: u32) -> FlowKind {
    match scope >> 24 {
        space if space == Space::Published as u32 => FlowKind::Published,
        space if space == Space::Entry as u32 => FlowKind::Entry,
        space if space == Space::Outside as u32 => FlowKind::Outside,
        space if space == Space::Moved as u32 => FlowKind::Moved,
        space if space == Space::Session as u32 => FlowKind::Session,
        _ => FlowKind::Network,
    }
}

fn matches(snapshot: &Snapshot, flow: &Flow, filter: &FlowFilter) -> bool {
    let backend_matches = |wanted: &String| {
        flow.backend.as_ref().is_some_and(|backend| {
            backend == wanted
                || wanted.parse::<IpAddr>().is_ok_and(|address| {
                    snapshot
                        .table
                        .endpoints
                        .get(backend)
                        .is_some_and(|endpoint| endpoint.addresses.contains(&address))
                })
        })
    };
    let client = if flow.reply { flow.new_destination.unwrap_or(flow.destination) } else { flow.source };
    filter.service.as_ref().is_none_or(|wanted| flow.service.as_ref() == Some(wanted))
        && filter.backend.as_ref().is_none_or(backend_matches)
        && filter.client.is_none_or(|wanted| client.address == wanted)
        && filter.protocol.is_none_or(|wanted| flow.protocol == protocol_name(wanted))
        && filter.network.as_ref().is_none_or(|wanted| flow.network.as_ref() == Some(wanted))
}

/// What an end becomes; none where the flow only remembers a choice.
fn translated(address: abi::Address, port: [u8; 2]) -> Option<Place> {
    (!address.is_unspecified()).then(|| place(address, port))
}

fn place(address: abi::Address, port: [u8; 2]) -> Place {
    Place::new(address.into(), u16::from_be_bytes(port))
}

/// The name of a protocol by its number (IANA's assigned Internet protocol numbers).
pub(super) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => protocol_name(Protocol::Tcp).to_owned(),
        17 => protocol_name(Protocol::Udp).to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}
