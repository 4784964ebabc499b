//! The endpoints: of all nodes, and those attached here.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_common::abi::{Address, Attachment, EndpointKey, Family, MacKey};

use super::{NodeFacts, PlannedEndpoint, PlannedStation, services::family};
use crate::table::{Endpoint, Table};

pub(super) fn all(table: &Table, node: &str, facts: &NodeFacts) -> BTreeMap<EndpointKey, PlannedEndpoint> {
    let of = |(name, endpoint): (&String, &Endpoint)| {
        let (network, home) = (table.networks.get(&endpoint.network)?, table.nodes.get(&endpoint.node)?);
        let ifindex =
            if endpoint.node == node { facts.attached.get(name).copied().unwrap_or_default() } else { 0 };
        let planned = PlannedEndpoint { mac: endpoint.mac, node: home.address, ifindex };
        let key = |address: &IpAddr| EndpointKey {
            address: Address::from(*address),
            vni: network.vni,
            reserved: 0,
        };
        Some(endpoint.addresses.iter().map(|address| (key(address), planned)).collect::<Vec<_>>())
    };
    table.endpoints.iter().filter_map(of).flatten().collect()
}

/// The endpoints of all nodes, by MAC address.
pub(super) fn stations(table: &Table) -> BTreeMap<MacKey, PlannedStation> {
    let known = table.endpoints.values().filter_map(|endpoint| {
        let network = table.networks.get(&endpoint.network)?;
        let key = MacKey { vni: network.vni, mac: endpoint.mac, reserved: [0; 2] };
        let (v4, v6) = (address_or_none(endpoint, Family::V4), address_or_none(endpoint, Family::V6));
        Some((key, PlannedStation { v4, v6, node: table.nodes.get(&endpoint.node)?.address }))
    });
    known.collect()
}

/// What this node's own attached endpoints fill.
#[derive(Debug, Default)]
pub(super) struct Local {
    pub(super) attachments: BTreeMap<u32, Attachment>,
}

pub(super) fn local(table: &Table, node: &str, facts: &NodeFacts) -> Local {
    let mut local = Local::default();
    for (name, endpoint) in &table.endpoints {
        let (true, Some(ifindex), Some(network)) =
            (endpoint.node == node, facts.attached.get(name).copied(), table.networks.get(&endpoint.network))
        else {
            continue;
        };
        let (v4, v6) = (address_or_none(endpoint, Family::V4), address_or_none(endpoint, Family::V6));
        local
            .attachments
            .insert(ifindex, Attachment { v4, v6, vni: network.vni, mac: endpoint.mac, reserved: [0; 6] });
    }
    local
}

fn address_or_none(endpoint: &Endpoint, wanted: Family) -> Address {
    let found: Option<&IpAddr> = endpoint.addresses.iter().find(|address| family(**address) == wanted);
    found.map_or(Address::UNSPECIFIED, |address| Address::from(*address))
}
