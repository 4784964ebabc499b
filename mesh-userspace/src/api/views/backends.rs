//! Backends, and how many live flows each has.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use mesh_common::abi::{self, Flow, FlowKey, Space, flow_flags};

use super::{health, state};
use crate::{
    api::{FlowDump, Snapshot, types::Backend},
    conversation::is_live,
    table::Endpoint,
};

/// The backends of one service, or of all, in the order of their names.
pub(in crate::api) fn backends(snapshot: &Snapshot, dump: &FlowDump, of: Option<&str>) -> Vec<Backend> {
    let live = Live::of(snapshot, dump);
    let endpoints = snapshot.table.endpoints.iter();
    let mut backends: Vec<Backend> = endpoints
        .filter_map(|(name, endpoint)| Some((endpoint.service.as_ref()?, name, endpoint)))
        .filter(|(service, ..)| of.is_none_or(|wanted| *service == wanted))
        .map(|(service, name, endpoint)| one(snapshot, &live, service, name, endpoint))
        .collect();
    backends.sort_by(|a, b| (&a.service, &a.endpoint).cmp(&(&b.service, &b.endpoint)));
    backends
}

/// An endpoint as a backend of a service.
pub(in crate::api) fn backend(
    snapshot: &Snapshot,
    dump: &FlowDump,
    service: &str,
    name: &str,
    endpoint: &Endpoint,
) -> Backend {
    one(snapshot, &Live::of(snapshot, dump), service, name, endpoint)
}

fn one(snapshot: &Snapshot, live: &Live, service: &str, name: &str, endpoint: &Endpoint) -> Backend {
    let flows = snapshot.table.networks.get(&endpoint.network).map_or(0, |network| {
        endpoint.addresses.iter().map(|address| live.to(network.vni, *address, service)).sum()
    });
    Backend {
        service: service.to_owned(),
        endpoint: name.to_owned(),
        network: endpoint.network.clone(),
        addresses: endpoint.addresses.clone(),
        node: endpoint.node.clone(),
        weight: endpoint.weight,
        // Another node's own flows are not known here.
        flows: (endpoint.node == snapshot.node || flows > 0).then_some(flows),
        state: state(snapshot, name, endpoint),
        health: health(snapshot, name),
    }
}

/// How many live flows there are, by the VNI and the address of their backend, and by the number of their service.
struct Live {
    counts: HashMap<(u32, IpAddr), BTreeMap<u32, u64>>,
    names: BTreeMap<u32, Option<String>>,
}

impl Live {
    fn of(snapshot: &Snapshot, dump: &FlowDump) -> Self {
        let flows: HashMap<&FlowKey, &Flow> = dump.entries.iter().map(|(key, flow)| (key, flow)).collect();
        let mut live = Self { counts: HashMap::new(), names: BTreeMap::new() };
        for (key, flow) in dump.entries.iter().filter(|(key, flow)| is_to_a_backend(key, flow)) {
            let back = flow.back_key(key).and_then(|back| flows.get(&back).copied());
            if is_live(key, flow, back, dump.now) {
                let backend = (key.scope & abi::VNI_MAX, IpAddr::from(flow.destination));
                *live.counts.entry(backend).or_default().entry(flow.service).or_default() += 1;
                live.names.entry(flow.service).or_insert_with(|| snapshot.lookup.service_name(flow.service));
            }
        }
        live
    }

    /// Those of a service, and of numbers that no service has any longer: a port that is published no more, say.
    fn to(&self, vni: u32, address: IpAddr, service: &str) -> u64 {
        let counts = self.counts.get(&(vni, address)).into_iter().flatten();
        let is_its = |number: &u32| {
            let name = self.names.get(number).and_then(Option::as_deref);
            name.is_none_or(|name| name == service)
        };
        counts.filter(|(number, _)| is_its(number)).map(|(_, count)| count).sum()
    }
}

/// Whether a flow is one direction of a conversation with a backend, the client's, where both directions pass: what comes
/// by a published port on the node that delivers it, or to a virtual IP on the client's node.
fn is_to_a_backend(key: &FlowKey, flow: &Flow) -> bool {
    let space = key.scope >> 24;
    let is_kept_here = space == Space::Published as u32 || space == Space::Network as u32;
    is_kept_here && flow.service != 0 && flow.flags & flow_flags::REPLY == 0
}
