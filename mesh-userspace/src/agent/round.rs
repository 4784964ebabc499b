//! One round: what is true of the node → plan → links → maps → programs. A round that finds all as it should be
//! changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ipnet::IpNet;
use mesh_common::abi::{Family, HOST_ALIASES_V4, HOST_ALIASES_V6, host_alias};

use super::{EVERY, settling::Settling};
use crate::{
    apply::{self, Lowered, MapContents, MapError, Operation},
    datapath::{self, Attached, Datapath, DatapathError, KernelMaps, XdpOutcome},
    dns::Gateway,
    links::{self, Gate, GateWay, KeptNamespaces, LinkError, Links},
    plan::{self, Earlier, EndpointLink, GateFacts, GateLink, GatewayLink, Hook, NodeFacts, Plan, PlanError},
    problem::Problem,
    table::{Table, XdpMode},
};

/// Why a round could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The interfaces could not be looked at.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The new tables of a take-over could not be filled, so nothing was attached to them.
    #[error("The data plane of the earlier meshd is not taken over and stays as it was: {why}")]
    NotFilled {
        /// Why, as a sentence.
        why: String,
    },
}

/// What a round found and did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Arc<Plan>,
    pub(crate) facts: NodeFacts,
    /// What the maps hold now.
    pub(crate) contents: Arc<MapContents>,
    /// The programs that are attached.
    pub(crate) programs: Vec<Attached>,
    /// The interfaces of this node's endpoints in their tasks' namespaces, by the endpoint's name.
    pub(crate) interfaces: BTreeMap<String, String>,
    /// Why endpoints of this node are not attached, by name.
    pub(crate) waiting: BTreeMap<String, String>,
    /// Where the gateways of this node's networks can answer for names, by the network's name.
    pub(crate) gateways: BTreeMap<String, Gateway>,
    pub(crate) problems: Vec<Problem>,
}

/// What became of the links that should be.
#[derive(Debug, Default)]
struct Linked {
    gate: Option<GateFacts>,
    /// As in [`Outcome`].
    interfaces: BTreeMap<String, String>,
    /// As in [`Outcome`].
    waiting: BTreeMap<String, String>,
    /// As in [`Outcome`].
    gateways: BTreeMap<String, Gateway>,
}

/// The node's kernel, and what is known of it between rounds.
#[derive(Debug)]
pub(crate) struct Kernel {
    links: Links,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    /// The namespaces of the gateways.
    namespaces: KeptNamespaces,
    /// What was last written to the maps; none when that is not known.
    known: Option<Lowered>,
    /// When the maps were last compared with what is known.
    compared: Option<Instant>,
    /// Of which [`revision`](Self::revision) the maps are.
    applied: u64,
    earlier: Earlier,
    settling: Settling,
    /// The node's own pair of interfaces, as it was last seen.
    gate: Option<GateFacts>,
    /// Counts the tables: with another one, there is something new to do.
    pub(crate) revision: u64,
    /// Entries that were found altered, and put right.
    pub(crate) repaired: u64,
    /// One packet in this many is to be traced; 0 for none.
    pub(crate) trace_every: u32,
}

/// The data plane, which is sound whatever a thread that held it was about to do.
pub(crate) fn lock(datapath: &Mutex<Datapath>) -> MutexGuard<'_, Datapath> {
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    pub(crate) fn new(links: Links, datapath: Arc<Mutex<Datapath>>, run_dir: &Path) -> Self {
        Self {
            links,
            datapath,
            namespaces: KeptNamespaces::in_directory(run_dir.join("netns")),
            known: None,
            compared: None,
            applied: 0,
            earlier: Earlier::default(),
            settling: Settling::default(),
            gate: None,
            revision: 0,
            repaired: 0,
            trace_every: 0,
        }
    }

    /// Makes the node what the table says that it should be, as far as it can be now.
    ///
    /// # Errors
    /// When the node's interfaces cannot be looked at, or the table does not have the node.
    pub(crate) async fn round(&mut self, table: &Table, node: &str) -> Result<Outcome, RoundError> {
        let mut problems = Vec::new();

        let found = self.facts(table, node, self.gate).await?;
        let mut plan = plan::plan(table, node, &found, &mut self.earlier)?;
        let linked = self.ensure_links(&plan, &mut problems).await?;
        let facts = self.facts(table, node, linked.gate).await?;
        self.gate = linked.gate;
        if facts != found {
            plan = plan::plan(table, node, &facts, &mut self.earlier)?;
        }
        plan.settings.trace_every = self.trace_every;
        problems.extend(plan.problems.iter().cloned());

        if let Err(error) = self.apply(&plan) {
            // How far it came is not known: the next round reads everything anew.
            self.known = None;
            if lock(&self.datapath).is_taking_over() {
                return Err(RoundError::NotFilled { why: sentence(&error) });
            }
            problems.push(Problem::new("kernel maps", error.to_string()));
        }
        let programs = self.attach(&plan, &facts, &mut problems);
        self.ensure_merging(table, &plan, &facts, &programs).await;
        problems.sort();
        problems.dedup();
        Ok(Outcome {
            plan: Arc::new(plan),
            facts,
            contents: self.known.as_ref().map(|known| Arc::clone(known.contents())).unwrap_or_default(),
            programs,
            interfaces: linked.interfaces,
            waiting: linked.waiting,
            gateways: linked.gateways,
            problems,
        })
    }

    /// Takes everything away that the mesh has made on this node, but for what is pinned.
    pub(crate) async fn remove_links(&mut self) -> Result<(), LinkError> {
        for endpoint in self.links.list_endpoints().await? {
            self.links.remove_endpoint(&endpoint.name).await?;
        }
        self.links.remove_gro().await?;
        self.links.remove_gate().await?;
        self.namespaces.remove_all()
    }

    /// Has the kernel merge what comes in tunnels, where that is safe. A kernel that refuses goes without: it is slower.
    async fn ensure_merging(&self, table: &Table, plan: &Plan, facts: &NodeFacts, programs: &[Attached]) {
        let done = if may_merge(&plan.hooks, facts, programs) {
            self.links.ensure_gro(table.options.vxlan_port).await
        } else {
            self.links.remove_gro().await
        };
        if let Err(error) = done {
            tracing::debug!(%error, "what comes in tunnels is not merged");
        }
    }

    async fn facts(
        &self,
        table: &Table,
        node: &str,
        gate: Option<GateFacts>,
    ) -> Result<NodeFacts, LinkError> {
        let seen = self.links.observe().await?;
        let mut facts = NodeFacts {
            // That which has tunnels merged carries nothing: no plan needs to know of it.
            interfaces: seen
                .interfaces
                .into_iter()
                .filter(|seen| seen.name != links::GRO_NAME)
                .map(interface)
                .collect(),
            addresses: seen.addresses.into_iter().map(address).collect(),
            gate,
            ..NodeFacts::default()
        };
        for (name, other) in table.nodes.iter().filter(|(name, _)| *name != node) {
            match self.links.route_to(other.address).await {
                Ok(Some(route)) if !route.local => {
                    let interface = facts.interface(route.ifindex).map(|interface| interface.mtu);
                    let mtu = route.mtu.into_iter().chain(interface).min().unwrap_or(1500);
                    let route = plan::NodeRoute { ifindex: route.ifindex, mtu, source: route.source };
                    facts.routes.insert(other.address, route);
                }
                // The plan tells of a node without a route.
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(node = name, %error, "the route to a node could not be asked for");
                }
            }
        }
        let listed: BTreeMap<String, u32> =
            self.links.list_endpoints().await?.into_iter().map(|link| (link.name, link.ifindex)).collect();
        facts.attached = table
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.node == node)
            .filter_map(|(name, _)| Some((name.clone(), *listed.get(&plan::host_interface(name))?)))
            .collect();
        let gateways = table.networks.keys();
        facts.gateways = gateways
            .filter_map(|name| Some((name.clone(), *listed.get(&plan::gateway_interface(name))?)))
            .collect();
        Ok(facts)
    }

    /// Makes the links that should be and removes those that should not. What cannot be made is told, and does not
    /// keep the others back.
    async fn ensure_links(&mut self, plan: &Plan, problems: &mut Vec<Problem>) -> Result<Linked, LinkError> {
        let mut linked = Linked::default();
        let endpoints = plan.links.endpoints.values().map(|wanted| &wanted.host_name);
        let gateways = plan.links.gateways.values().map(|wanted| &wanted.host_name);
        let wanted: BTreeSet<&str> = endpoints.chain(gateways).map(String::as_str).collect();
        for listed in self.links.list_endpoints().await? {
            if !wanted.contains(listed.name.as_str())
                && let Err(error) = self.links.remove_endpoint(&listed.name).await
            {
                problems.push(Problem::new(format!("interface {}", listed.name), sentence(&error)));
            }
        }
        match self.links.ensure_gate(&gate_way(&plan.links.gate)).await {
            Ok(gate) => {
                linked.gate = Some(GateFacts { host_ifindex: gate.host_ifindex, mesh0_mac: gate.mesh0_mac });
            }
            Err(error) => {
                problems.push(Problem::new(format!("interface {}", links::GATE_NAME), sentence(&error)));
            }
        }
        for (name, wanted) in &plan.links.endpoints {
            match self.links.ensure_endpoint(&endpoint_link(name, wanted)).await {
                Ok(pair) => {
                    linked.interfaces.insert(name.clone(), pair.interface);
                }
                Err(error) => {
                    problems.push(Problem::new(format!("endpoint {name}"), sentence(&error)));
                    linked.waiting.insert(name.clone(), error.to_string());
                }
            }
        }
        for (network, wanted) in &plan.links.gateways {
            match self.ensure_gateway(network, wanted).await {
                Ok(gateway) => {
                    linked.gateways.insert(network.clone(), gateway);
                }
                Err(error) => problems.push(Problem::new(format!("network {network}"), sentence(&error))),
            }
        }
        let networks = plan.links.gateways.keys().map(String::as_str).collect();
        if let Err(error) = self.namespaces.keep_only(&networks) {
            problems.push(Problem::new("namespaces of gateways", sentence(&error)));
        }
        Ok(linked)
    }

    /// Makes the namespace of a network's gateway and attaches it, like a task.
    async fn ensure_gateway(&mut self, network: &str, wanted: &GatewayLink) -> Result<Gateway, LinkError> {
        let namespace = self.namespaces.ensure(network)?.clone();
        let link = links::EndpointLink {
            name: wanted.host_name.clone(),
            peer_mac: wanted.mac,
            netns: namespace.own_path(),
            addresses: wanted.addresses.clone(),
            routes: wanted.routes.clone(),
            gateways: Vec::new(),
            default_route: false,
            mtu: wanted.mtu,
            alias: format!("gateway of {network}"),
        };
        self.links.ensure_endpoint(&link).await?;
        Ok(Gateway { namespace, addresses: wanted.addresses.iter().map(IpNet::addr).collect() })
    }

    /// Whether the maps are what they should be, as of the last round.
    pub(crate) const fn is_applied(&self) -> bool {
        self.known.is_some()
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let datapath = Arc::clone(&self.datapath);
        let mut datapath = lock(&datapath);
        datapath.flush_log();
        let mut maps = datapath.kernel_maps();
        let now = Instant::now();
        let found = self.found(&maps, now)?;
        let settled = self.settling.settled(now);
        let wanted = match &self.known {
            Some(known) => known.next(plan, &settled)?,
            None => Lowered::anew(plan, &found, &settled)?,
        };
        let operations = apply::diff(&found, wanted.contents());
        if !operations.is_empty() {
            tracing::debug!(writes = operations.len(), "writing to the kernel maps");
        }
        apply::execute(&mut maps, &operations)?;
        self.settling.note(wanted.contents(), now);
        self.known = Some(wanted);
        self.applied = self.revision;
        Ok(())
    }

    /// What the maps hold. A round that has something new to do trusts what was written last, so that it is done at
    /// once; others look.
    fn found(&mut self, maps: &KernelMaps<'_>, now: Instant) -> Result<Arc<MapContents>, MapError> {
        let is_recent = self.compared.is_some_and(|then| now.saturating_duration_since(then) < 2 * EVERY);
        if let Some(known) = &self.known
            && self.revision != self.applied
            && is_recent
        {
            return Ok(Arc::clone(known.contents()));
        }
        let known = self.known.as_ref().map(|known| known.contents().as_ref());
        let found = apply::read(maps, known)?;
        self.compared = Some(now);
        if let Some(known) = known {
            let drift = apply::diff(&found, known);
            if !drift.is_empty() {
                let mut names: Vec<&str> = drift.iter().map(Operation::map).collect();
                names.dedup();
                tracing::warn!(
                    entries = drift.len(),
                    maps = names.join(", "),
                    "entries of kernel maps had been altered, and are put right"
                );
                self.repaired += drift.len() as u64;
            }
        }
        Ok(Arc::new(found))
    }

    /// Puts each program where it belongs, and nowhere else.
    fn attach(&self, plan: &Plan, facts: &NodeFacts, problems: &mut Vec<Problem>) -> Vec<Attached> {
        let datapath = lock(&self.datapath);
        let name = |ifindex: u32| match facts.interface(ifindex) {
            Some(interface) => format!("interface {}", interface.name),
            None => format!("interface number {ifindex}"),
        };
        for (ifindex, hook) in &plan.hooks {
            let done = match hook {
                Hook::Endpoint => datapath.attach_endpoint(*ifindex),
                Hook::Host => datapath.attach_host(*ifindex),
                Hook::Underlay(mode) => datapath.attach_underlay(*ifindex, *mode).map(|outcome| {
                    if let (XdpMode::Native | XdpMode::Generic, XdpOutcome::Unavailable { why }) = (mode, outcome) {
                        let message = format!(
                            "XDP was asked for and cannot be: {why}. tc does the same work; `options: {{xdp: auto}}` \
                             leaves it at that."
                        );
                        problems.push(Problem::new(name(*ifindex), message));
                    }
                }),
            };
            if let Err(error) = done {
                problems.push(Problem::new(name(*ifindex), sentence(&error)));
            }
        }
        let wanted: Vec<u32> = plan.hooks.keys().copied().collect();
        let rest: [(&str, Result<(), DatapathError>); 3] = [
            ("control groups", datapath.attach_cgroup()),
            ("programs", datapath.detach_all_but(&wanted, true)),
            ("programs", datapath.sweep()),
        ];
        for (subject, result) in rest {
            if let Err(error) = result {
                problems.push(Problem::new(subject, sentence(&error)));
            }
        }
        datapath.attached().unwrap_or_else(|error| {
            problems.push(Problem::new("programs", sentence(&error)));
            Vec::new()
        })
    }
}

/// Whether the kernel may merge what comes in tunnels. What is merged and taken out of its tunnel by a tc program still carries the
/// marks of one (`bpf_skb_adjust_room` clears neither `encapsulation` nor the kind of its segments), and a card that cuts tunnels'
/// segments itself would look for headers that are gone. So an answer that returns to its client must not be merged before it
/// leaves by a card: where XDP runs in the driver, it sends answers on before anything is merged. A veth has no such card.
fn may_merge(hooks: &BTreeMap<u32, Hook>, facts: &NodeFacts, programs: &[Attached]) -> bool {
    let mut underlay = hooks.iter().filter(|(_, hook)| matches!(hook, Hook::Underlay(_)));
    underlay.all(|(ifindex, _)| {
        let is_veth = facts.interface(*ifindex).is_some_and(|interface| interface.kind == "veth");
        let sends_on = |program: &Attached| {
            program.ifindex == Some(*ifindex) && program.hook == datapath::Hook::XdpNative
        };
        is_veth || programs.iter().any(sends_on)
    })
}

/// Why the maps are not what they should be.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Full(#[from] apply::Full),
    #[error(transparent)]
    Map(#[from] MapError),
}

/// An error as a full sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let begin = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{begin}{}{stop}", letters.as_str())
}

fn interface(seen: links::Interface) -> plan::Interface {
    plan::Interface {
        index: seen.index,
        name: seen.name,
        mac: seen.mac.unwrap_or_default(),
        mtu: seen.mtu,
        up: seen.up,
        kind: seen.kind.unwrap_or_default(),
        master: seen.master,
    }
}

const fn address(seen: links::InterfaceAddress) -> plan::LocalAddress {
    plan::LocalAddress { address: seen.address, prefix_len: seen.prefix, ifindex: seen.ifindex }
}

fn endpoint_link(name: &str, wanted: &EndpointLink) -> links::EndpointLink {
    links::EndpointLink {
        name: wanted.host_name.clone(),
        peer_mac: wanted.mac,
        netns: wanted.netns.clone(),
        addresses: wanted.addresses.clone(),
        routes: wanted.routes.clone(),
        gateways: wanted.gateways.clone(),
        default_route: !wanted.gateways.is_empty(),
        mtu: wanted.mtu,
        alias: name.to_owned(),
    }
}

fn gate_way(wanted: &GateLink) -> Gate {
    let way = |family, source: IpAddr, own| {
        let (first, bits) = match family {
            Family::V4 => (HOST_ALIASES_V4, 24),
            Family::V6 => (HOST_ALIASES_V6, 64),
        };
        let alias = IpAddr::from(host_alias(family, 0));
        // Too long a prefix is none of either family's: then there would be the first address alone.
        let aliases = IpNet::new(first.into(), bits).unwrap_or_else(|_| IpNet::from(IpAddr::from(first)));
        GateWay { alias, aliases, source, own }
    };
    Gate {
        mtu: wanted.mtu,
        ways: vec![
            way(Family::V4, wanted.v4.address.into(), wanted.v4.on_mesh0),
            way(Family::V6, wanted.v6.address.into(), wanted.v6.on_mesh0),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_merged_where_no_card_meets_what_was_in_them() {
        let facts = NodeFacts {
            interfaces: [(1, ""), (2, "veth"), (3, "bridge")]
                .map(|(index, kind)| plan::Interface { index, kind: kind.to_owned(), ..Default::default() })
                .to_vec(),
            ..NodeFacts::default()
        };
        let hooks = |underlay: &[u32]| -> BTreeMap<u32, Hook> {
            let underlay = underlay.iter().map(|ifindex| (*ifindex, Hook::Underlay(XdpMode::Auto)));
            underlay.chain([(9, Hook::Endpoint)]).collect()
        };
        let attached = |hook, ifindex| Attached {
            program: "underlay_xdp".to_owned(),
            hook,
            ifindex: Some(ifindex),
            link_id: Some(1),
            program_id: 1,
            verified_instructions: 0,
            runs: 0,
            run_time_ns: 0,
        };
        let native = [attached(datapath::Hook::XdpNative, 1)];
        let generic = [attached(datapath::Hook::XdpGeneric, 1)];
        assert!(may_merge(&hooks(&[2]), &facts, &[]));
        assert!(may_merge(&hooks(&[1, 2]), &facts, &native));
        assert!(!may_merge(&hooks(&[1]), &facts, &[]));
        assert!(!may_merge(&hooks(&[1]), &facts, &generic), "it runs after what is received was merged");
        assert!(!may_merge(&hooks(&[1, 3]), &facts, &native), "a bridge's ports may be cards");
        assert!(!may_merge(&hooks(&[4]), &facts, &native), "nothing is known of it");
    }

    #[test]
    fn errors_become_sentences() {
        for (error, expected) in [
            ("could not read x: no such file", "Could not read x: no such file."),
            ("It ends already.", "It ends already."),
            ("éa", "Éa."),
            ("", "."),
        ] {
            assert_eq!(sentence(&std::io::Error::other(error)), expected);
        }
    }
}
