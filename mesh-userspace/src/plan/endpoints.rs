//! The endpoints: of all nodes, and those attached here.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_common::abi::{Address, Attachment, EndpointKey, Family, MacKey, Network};

use super::{
    NodeFacts, PlannedEndpoint, PlannedStation,
    services::{Here, family},
};
use crate::table::{Endpoint, Table};

/// The entries of an endpoint, one for each of its addresses.
pub(super) fn entries<'a>(
    table: &'a Table,
    name: &str,
    endpoint: &'a Endpoint,
    here: &Here<'_>,
) -> impl Iterator<Item = (EndpointKey, PlannedEndpoint)> + 'a {
    let attached = here.facts.attached.get(name).filter(|_| endpoint.node == here.node);
    let ifindex = attached.copied().unwrap_or_default();
    let known = table.networks.get(&endpoint.network).zip(table.nodes.get(&endpoint.node));
    known.into_iter().flat_map(move |(network, home)| {
        let planned = PlannedEndpoint { mac: endpoint.mac, node: home.address, ifindex };
        endpoint.addresses.iter().map(move |address| {
            (EndpointKey { address: Address::from(*address), vni: network.vni, reserved: 0 }, planned)
        })
    })
}

/// An endpoint's entry by its MAC address.
pub(super) fn station(table: &Table, endpoint: &Endpoint) -> Option<(MacKey, PlannedStation)> {
    let network = table.networks.get(&endpoint.network)?;
    let key = MacKey { vni: network.vni, mac: endpoint.mac, reserved: [0; 2] };
    let (v4, v6) = (address_or_none(endpoint, Family::V4), address_or_none(endpoint, Family::V6));
    let draining = endpoint.weight == 0;
    Some((key, PlannedStation { v4, v6, node: table.nodes.get(&endpoint.node)?.address, draining }))
}

/// What hangs on the host sides of this node's attached endpoints.
pub(super) fn attachments(
    table: &Table,
    ours: &[(&str, &Endpoint)],
    facts: &NodeFacts,
    networks: &BTreeMap<u32, Network>,
) -> BTreeMap<u32, Attachment> {
    let attached = ours.iter().filter_map(|(name, endpoint)| {
        let vni = table.networks.get(&endpoint.network)?.vni;
        let &Network { gateway_mac, mtu, .. } = networks.get(&vni)?;
        let (v4, v6) = (address_or_none(endpoint, Family::V4), address_or_none(endpoint, Family::V6));
        let attachment = Attachment { v4, v6, vni, mac: endpoint.mac, gateway_mac, mtu, reserved: 0 };
        Some((*facts.attached.get(*name)?, attachment))
    });
    attached.collect()
}

fn address_or_none(endpoint: &Endpoint, wanted: Family) -> Address {
    let found: Option<&IpAddr> = endpoint.addresses.iter().find(|address| family(**address) == wanted);
    found.map_or(Address::UNSPECIFIED, |address| Address::from(*address))
}
