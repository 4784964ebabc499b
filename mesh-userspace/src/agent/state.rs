//! The picture of the agent that its API answers from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use mesh_cluster::MemberState;
use mesh_common::abi::{self, Address, BackendIndex, NodeIndex};

use super::{
    desired::Desired,
    flows::{Gone, monotonic},
    replicated::Replicated,
    round::Outcome,
};
use crate::{
    api::{
        Attachment, Cluster, Lookup, Member, Snapshot, Uplink,
        types::{self, NodeState},
    },
    apply::MapContents,
    datapath::{Attached, Hook},
    plan::{self, Plan, SEED, ring::BackendId},
    problem::Problem,
    table::{Health, HealthState, Healths, Table},
};

/// What stands behind the numbers in the kernel's maps.
#[derive(Debug)]
pub(crate) struct Numbers {
    table: Arc<Table>,
    plan: Arc<Plan>,
    contents: Arc<MapContents>,
    /// The backends that are known not to be healthy, by VNI and address.
    unwell: BTreeSet<(u32, Address)>,
    interfaces: BTreeMap<u32, String>,
}

impl Numbers {
    pub(crate) fn new(table: &Arc<Table>, healths: &Healths, outcome: &Outcome) -> Self {
        let names = outcome.facts.interfaces.iter();
        let sick = healths.iter().filter(|(_, health)| !health.takes_flows());
        let unwell = sick.filter_map(|(name, _)| table.endpoints.get(name)).flat_map(|endpoint| {
            let vni = table.networks.get(&endpoint.network).map(|network| network.vni);
            let id = move |address: &IpAddr| Some((vni?, Address::from(*address)));
            endpoint.addresses.iter().filter_map(id)
        });
        Self {
            unwell: unwell.collect(),
            table: Arc::clone(table),
            plan: Arc::clone(&outcome.plan),
            contents: Arc::clone(&outcome.contents),
            interfaces: names.map(|interface| (interface.index, interface.name.clone())).collect(),
        }
    }

    /// What the maps hold.
    pub(crate) fn contents(&self) -> &MapContents {
        &self.contents
    }

    /// The address and the UDP port of this node's tunnels.
    pub(crate) fn underlay(&self) -> Option<(IpAddr, u16)> {
        let settings = self.contents.settings.get(&0)?;
        Some((settings.address.into(), u16::from_be_bytes(settings.vxlan_port)))
    }

    /// Whether services have the rings, and lie where they did, before.
    pub(crate) fn has_rings_of(&self, before: &Self) -> bool {
        self.contents.services == before.contents.services
    }

    /// The backends that have left, whose numbers are kept for flows that are under way, and those that are not healthy.
    pub(crate) fn gone(&self) -> Gone {
        let is_gone = |backend: &abi::Backend| {
            let id = BackendId { vni: backend.vni, address: backend.address.into() };
            !self.plan.backends.contains_key(&id) || self.unwell.contains(&(backend.vni, backend.address))
        };
        let gone = self.contents.backends.iter().filter(|(_, backend)| is_gone(backend));
        Gone { backends: gone.map(|(index, _)| *index).collect(), unwell: self.unwell.clone() }
    }
}

impl Lookup for Numbers {
    fn seed(&self) -> u64 {
        SEED
    }

    fn service(&self, key: &abi::ServiceKey) -> Option<abi::Service> {
        self.contents.services.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<abi::Slot> {
        self.contents.slots.get(index)
    }

    fn backend(&self, index: BackendIndex) -> Option<abi::Backend> {
        self.contents.backends.get(&index).copied()
    }

    fn service_name(&self, id: u32) -> Option<String> {
        let (key, _) = self.contents.services.iter().find(|(_, service)| service.id == id)?;
        self.plan.services.get(key).map(|service| service.name.clone())
    }

    fn node_name(&self, index: NodeIndex) -> Option<String> {
        let address = IpAddr::from(self.contents.nodes.get(&index)?.address);
        self.table.nodes.iter().find(|(_, node)| node.address == address).map(|(name, _)| name.clone())
    }

    fn interface_name(&self, index: u32) -> Option<String> {
        self.interfaces.get(&index).cloned()
    }
}

/// The picture after a round.
pub(crate) fn snapshot(
    desired: &Desired,
    started: SystemTime,
    outcome: &Outcome,
    healths: Healths,
    numbers: Arc<Numbers>,
) -> Snapshot {
    let facts = &outcome.facts;
    let table = desired.table();
    let interface_name = |ifindex: u32| match facts.interface(ifindex) {
        Some(interface) => interface.name.clone(),
        None => format!("interface number {ifindex}"),
    };
    let uplinks = table.nodes.iter().filter_map(|(name, node)| {
        let route = facts.routes.get(&node.address)?;
        Some((name.clone(), Uplink { interface: interface_name(route.ifindex), mtu: route.mtu }))
    });
    let ours = table.endpoints.iter().filter(|(_, endpoint)| endpoint.node == desired.node());
    let attachments =
        ours.map(|(name, endpoint)| (name.clone(), attachment(name, endpoint.netns.is_some(), outcome)));
    let mtus = table
        .networks
        .iter()
        .filter_map(|(name, network)| Some((name.clone(), outcome.plan.networks.get(&network.vni)?.mtu)));
    Snapshot {
        node: desired.node().to_owned(),
        started,
        revision: desired.revision(),
        table: Arc::clone(table),
        lookup: numbers,
        programs: outcome.programs.iter().map(|attached| program(attached, interface_name)).collect(),
        uplinks: uplinks.collect::<BTreeMap<_, _>>(),
        attachments: attachments.collect(),
        mtus: mtus.collect(),
        addresses: facts.addresses.iter().map(|local| local.address).collect(),
        serving: serving(&outcome.plan),
        cluster: desired.replicated().map(cluster),
        problems: desired
            .problems()
            .chain(outcome.problems.iter().cloned())
            .map(problem)
            .chain(healths.iter().filter_map(|(name, health)| unhealthy(table, name, health)))
            .collect(),
        healths,
    }
}

/// The problem that a backend is unhealthy.
fn unhealthy(table: &Table, name: &str, health: &Health) -> Option<types::Problem> {
    let service = table.endpoints.get(name)?.service.as_ref()?;
    let is_sick = health.state == HealthState::Unhealthy;
    is_sick.then(|| types::Problem {
        subject: format!("endpoint {name}"),
        message: format!(
            "It is unhealthy, so {service} gives it no new flow: {}. It comes back when its checks succeed.",
            health.reason.as_deref().unwrap_or("its checks failed")
        ),
    })
}

fn serving(plan: &Plan) -> Vec<IpAddr> {
    let serving = plan.locals.iter().filter(|(_, local)| local.flags & abi::local_flags::SERVES != 0);
    serving.map(|(address, _)| IpAddr::from(*address)).collect()
}

fn attachment(name: &str, has_namespace: bool, outcome: &Outcome) -> Attachment {
    let waiting = match outcome.waiting.get(name) {
        Some(why) => Some(why.clone()),
        None if !has_namespace => Some("it has no network namespace, so it is not ours to attach".to_owned()),
        None => None,
    };
    let is_attached = outcome.facts.attached.contains_key(name);
    Attachment {
        interface: outcome.interfaces.get(name).cloned(),
        host_interface: is_attached.then(|| plan::host_interface(name)),
        waiting,
    }
}

fn program(attached: &Attached, interface_name: impl Fn(u32) -> String) -> types::Program {
    types::Program {
        target: attached.ifindex.map_or_else(|| "cgroup".to_owned(), interface_name),
        name: attached.program.clone(),
        mode: match attached.hook {
            Hook::Ingress => "tcx ingress",
            Hook::Filter => "tc ingress",
            Hook::XdpNative => "xdp native",
            Hook::XdpGeneric => "xdp generic",
            Hook::Cgroup => "cgroup",
        }
        .to_owned(),
        id: attached.program_id,
    }
}

fn problem(problem: Problem) -> types::Problem {
    types::Problem { subject: problem.subject, message: problem.message }
}

/// The cluster as the node sees it.
fn cluster(replicated: &Replicated) -> Cluster {
    let (now, monotonic) = (SystemTime::now(), monotonic());
    let member = |(name, member): (&str, &mesh_cluster::Member)| {
        let since = now.checked_sub(monotonic.saturating_sub(member.since)).unwrap_or(now);
        let state = match member.state {
            MemberState::Alive => NodeState::Alive,
            MemberState::Suspect => NodeState::Suspect,
            MemberState::Dead if replicated.restarting().contains_key(name) => NodeState::Restarting,
            MemberState::Dead => NodeState::Dead,
            MemberState::Left => NodeState::Left,
        };
        (name.to_owned(), Member { address: member.identity.address, state, since })
    };
    Cluster {
        members: replicated.members().into_iter().map(member).collect(),
        gone: replicated.gone().clone(),
        digest: format!("{:032x}", replicated.digest()),
    }
}
