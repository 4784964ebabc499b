//! What a node's agent does about flows: it says where they live, and forgets those that are over.

use std::collections::BTreeSet;

use mesh_common::{
    Tables,
    abi::{EndpointKey, FlowKey, NodeIndex, Space, VNI_MAX},
    hash,
    native::NodeTables,
};
use mesh_userspace::{
    agent::{self, TELL_EVERY, Word},
    apply::MapContents,
    plan::SEED,
};

use crate::{
    Simulation,
    cluster::VXLAN_PORT,
    events::{Event, FIRST_PORT},
    frame,
    travel::{End, Start},
    view::View,
};

impl Simulation {
    pub(crate) fn tell_all(&mut self, node: NodeIndex) {
        if !self.is_at_work(node) {
            return;
        }
        self.schedule(TELL_EVERY.as_millis() as u64, Event::Tell(node));
        self.tell(node, None);
    }

    pub(crate) fn tell_news(&mut self, node: NodeIndex) {
        let of = &mut self.cluster.nodes[node as usize];
        let version = of.version();
        let mut services: Vec<usize> =
            of.news.iter().filter(|(of, _)| *of <= version).map(|(_, service)| *service).collect();
        of.news.retain(|(of, _)| *of > version);
        services.sort_unstable();
        services.dedup();
        if self.is_at_work(node) {
            self.tell(node, Some(&services));
        }
    }

    /// Whether a node's agent runs; if it is away for a while only, it looks again when it is back.
    fn is_at_work(&mut self, node: NodeIndex) -> bool {
        let of = &self.cluster.nodes[node as usize];
        if of.is_alive() && of.frozen_until > self.cluster.now {
            let after = of.frozen_until - self.cluster.now + 1;
            self.schedule(after, Event::Tell(node));
        }
        of_is_at_work(&self.cluster.nodes[node as usize], self.cluster.now)
    }

    /// Says of all flows, or of those of some services, where they live.
    fn tell(&mut self, node: NodeIndex, only: Option<&[usize]>) {
        for (key, _) in self.cluster.nodes[node as usize].own.flows() {
            if key.scope >> 24 != Space::Published as u32 {
                continue;
            }
            let service = usize::from(u16::from_be_bytes(key.destination_port) - FIRST_PORT);
            if only.is_none_or(|only| only.contains(&service)) {
                self.tell_of(node, service, &key);
            }
        }
    }

    fn tell_of(&mut self, node: NodeIndex, service: usize, key: &FlowKey) {
        let Some(place) = self.cluster.place(node, service) else { return };
        let version = self.cluster.services[service].changes[place.change].version;
        let (word, is_here) = self.word(node, service, key);
        let is_told = match word {
            Some(word) => {
                let from = self.cluster.nodes[node as usize].settings.address;
                let packet = frame::datagram(from, word.to.into(), VXLAN_PORT, &word.packet(from.into()));
                self.report.count("packets: words of agents");
                if self.random.one_in(100) {
                    self.report.count("words lost on the wire");
                    return;
                }
                let Some(to) = self.cluster.node_at(word.to.into()) else { return };
                matches!(self.cluster.travel(to, Start::Wire, packet, service).end, End::Learned)
            }
            None => is_here,
        };
        let client = (key.source, u16::from_be_bytes(key.source_port), service);
        if let Some(flow) = self.by_client.get(&client).filter(|_| is_told) {
            let flow = &mut self.flows[*flow];
            if self.cluster.tasks[flow.home as usize].backend.node == node {
                flow.told = flow.told.max(version);
                flow.has_told = true;
            }
        }
    }

    /// What the agent says of a flow, and whether the ring names this very node: then there is nothing to say.
    fn word(&mut self, index: NodeIndex, service: usize, key: &FlowKey) -> (Option<Word>, bool) {
        let entry = self.cluster.service_entry(index, service).unwrap_or_default();
        let cluster = &self.cluster;
        let node = &cluster.nodes[index as usize];
        let Some(flow) = node.own.flow(key) else { return (None, false) };
        let view = View::at_tc(cluster, node, service, entry);
        // Of what the agent knows, only what it will look at.
        let mut contents = MapContents::default();
        contents.settings.insert(0, node.settings);
        contents.services.insert(cluster.services[service].key, entry);
        let endpoint = EndpointKey { address: flow.destination, vni: key.scope & VNI_MAX, reserved: 0 };
        contents.endpoints.extend(view.endpoint(&endpoint).map(|found| (endpoint, *found)));
        let hash = hash::flow(SEED, key.source, key.source_port, key.destination_port, key.protocol);
        let slot = view.slot(entry.first_slot + hash::slot(hash, entry.slots)).unwrap_or_default();
        let backend = view.backend(slot.current()).copied().unwrap_or_default();
        contents.backends.insert(slot.current(), backend);
        contents.nodes.extend(view.node(backend.node).map(|found| (backend.node, *found)));
        let now = 1000 + cluster.now / 1000;
        let word = agent::word(&contents, |index| view.slot(index), key, &flow, now);
        (word, backend.node == index)
    }

    pub(crate) fn sweep(&mut self, node: NodeIndex) {
        if !self.cluster.nodes[node as usize].is_alive() {
            return;
        }
        self.schedule(30_000, Event::Sweep(node));
        let now = 1000 + self.cluster.now / 1000;
        let own: &NodeTables = &self.cluster.nodes[node as usize].own;
        let gone = BTreeSet::new();
        let mut over = BTreeSet::new();
        for (key, flow) in own.flows() {
            let back_key = flow.back_key(&key);
            let back = back_key.and_then(|key| own.flow(&key));
            if agent::is_over(&key, &flow, back.as_ref(), now, &gone, false) {
                over.insert(key);
                over.extend(back_key);
            }
        }
        if !over.is_empty() {
            own.keep_flows(|key, _| !over.contains(key));
        }
    }
}

fn of_is_at_work(node: &crate::cluster::Node, now: u64) -> bool {
    node.is_alive() && node.frozen_until <= now
}
