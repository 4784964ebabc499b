//! Which backend a service chooses, by the hash and the ring of the pipeline, and how the packet gets there.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_common::{Reason, abi, hash};

use super::{Asked, End, Story, Target, number, version, wire::Caller};
use crate::{
    api::{
        types::{Choice, EndpointState, Place, Share, Verdict, protocol_name},
        views::{endpoint_at, network_of_vni, state},
    },
    table::Scheduler,
};

impl<'a> Story<'a> {
    /// A service chooses among its backends.
    pub(super) fn balanced(&mut self, entry: &str, asked: &Asked, caller: Caller<'a>, back: &str) -> End {
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
        let drains = asked.service.flags & abi::service_flags::DRAINING != 0;
        if choice.slots == 0 || drains {
            let version = version(self.query.to.address);
            if drains {
                self.drained(&asked.name, version);
            } else {
                self.why.push(format!("{} has no backend with an {version} address", asked.name));
                self.instead.push(format!(
                    "`meshctl attach --network NETWORK --netns NAMESPACE --service {}` gives it one",
                    asked.name
                ));
            }
            return End { choice: Some(choice), ..End::dropped(Reason::NoBackend) };
        }
        let source = match self.hashed_source(entry, caller, asked.service.takes_turns()) {
            Ok(source) => source,
            Err(unknown) => {
                self.why.push(unknown);
                choice.shares = self.shares(asked);
                let summary = format!("delivered to one of {}'s backends", asked.name);
                return End { choice: Some(choice), ..End::plain(Verdict::Delivered, summary) };
            }
        };
        let (client, port) = source;
        let hash = asked.service.hash(
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

    /// Each backend of a service drains: by its weight, or because it is not well.
    fn drained(&mut self, service: &str, version: &str) {
        let endpoints = self.snapshot.table.endpoints.iter();
        let its = endpoints.filter(|(_, endpoint)| endpoint.service.as_deref() == Some(service));
        let mut sick = its.filter_map(|(name, _)| {
            let health = self.snapshot.healths.get(name).filter(|health| !health.takes_flows())?;
            let why = health.reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            Some(format!("{name} is {}{why}", health.state.name()))
        });
        let Some(first) = sick.next() else {
            self.why
                .push(format!("each backend of {service} with an {version} address drains: its weight is 0"));
            self.instead
                .push(format!("`meshctl backends weight {service} ADDRESS 1` lets one take new flows"));
            return;
        };
        let more = match sick.count() {
            0 => String::new(),
            more => format!(", and {more} more are not healthy"),
        };
        self.why.push(format!(
            "no backend of {service} with an {version} address takes new flows: {first}{more}"
        ));
        self.instead.push(format!("`meshctl backends ls {service}` tells the health and the weight of each"));
    }

    /// The client's end as the entry node sees it, or why no slot can be foretold.
    fn hashed_source(
        &self,
        entry: &str,
        caller: Caller<'a>,
        takes_turns: bool,
    ) -> Result<(IpAddr, u16), String> {
        if takes_turns {
            return Err(format!(
                "rr: each new connection goes to the next backend in turn, as {entry} counts them; a connection \
                 stays where it began"
            ));
        }
        if let Caller::Masqueraded { by } = caller {
            return Err(format!(
                "mh: the slot depends on the port that {by} masquerades with; the shares are"
            ));
        }
        let Some(port) = self.query.from.port else {
            return Err(
                "mh: the slot depends on the client's port, and none was given; the shares are".to_owned()
            );
        };
        let from = self.query.from.address;
        if caller == Caller::Client {
            return Ok((from, port));
        }
        // A node's own process enters through the mesh's own interface, with the node's underlay address.
        match self.snapshot.table.nodes.get(entry).map(|node| node.address) {
            Some(address) if address.is_ipv4() == from.is_ipv4() => Ok((address, port)),
            _ => Err(format!("mh: which address {entry} speaks from is known there only; the shares are")),
        }
    }

    /// A packet is brought to a task.
    pub(super) fn delivered(
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
        self.target_of(self.snapshot.lookup.slot(slot)?.current())
    }

    /// What stands behind a backend's number.
    fn target_of(&self, backend: abi::BackendIndex) -> Option<Target<'a>> {
        let backend = self.snapshot.lookup.backend(backend)?;
        let network = network_of_vni(&self.snapshot.table, backend.vni)?;
        let address = backend.address.into();
        let (name, endpoint) = endpoint_at(&self.snapshot.table, network, address)?;
        Some(Target { name, endpoint, address, vni: backend.vni })
    }

    fn shares(&self, asked: &Asked) -> Vec<Share> {
        // By number first: a ring may have a million slots.
        let mut counts: BTreeMap<abi::BackendIndex, u32> = BTreeMap::new();
        for slot in 0..asked.service.slots {
            if let Some(slot) = self.snapshot.lookup.slot(asked.service.first_slot.wrapping_add(slot)) {
                *counts.entry(slot.current()).or_default() += 1;
            }
        }
        let mut shares: Vec<Share> = counts
            .into_iter()
            .filter_map(|(backend, slots)| {
                let target = self.target_of(backend)?;
                Some(Share { backend: target.name.to_owned(), node: target.endpoint.node.clone(), slots })
            })
            .collect();
        shares.sort_by(|a, b| b.slots.cmp(&a.slots).then_with(|| a.backend.cmp(&b.backend)));
        shares
    }
}
