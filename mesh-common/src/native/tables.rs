//! The pipeline's tables in hash maps.

use core::{cell::Cell, ops::Deref};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use super::{Routes, Subnets};
use crate::{
    Route, Tables,
    abi::{
        Address, Allowance, AllowedKey, Arrival, Attachment, Backend, BackendIndex, Endpoint, EndpointKey,
        Exit, FastService, Flow, FlowKey, FragmentKey, Fragments, Handover, Local, MacKey, Network, Node,
        NodeIndex, OuterHeader, Service, ServiceKey, Settings, Shortage, Slot, Station, SubnetKey, TargetKey,
        Uplink, capacity,
    },
};

/// Everything that one node knows: the tables that an agent fills, and those that the pipeline fills itself.
///
/// Tables may be filled by hand, or by the methods that build a world: [`NodeTables::new`] and those whose names begin
/// with `add_`.
#[derive(Clone, Debug, Default)]
pub struct NodeTables {
    /// What holds for this node.
    pub settings: Settings,
    /// Virtual IPs and published ports.
    pub services: HashMap<ServiceKey, Service>,
    /// The published ports that the fast path knows, by their entries: see [`NodeTables::hasten`].
    pub fast_services: HashMap<u32, FastService>,
    /// The words of the table of published ports; what is not there has all of its ports, and goes the longer way.
    pub published_ports: HashMap<u32, u64>,
    /// The ports at which tasks answer clients.
    pub targets: HashSet<TargetKey>,
    /// The slots of all rings. What is not there is as the kernel's arrays have it: zero.
    pub slots: Vec<Slot>,
    /// The backends, of which the first is unused. What is not there is zero likewise.
    pub backends: Vec<Backend>,
    /// The endpoints of all nodes.
    pub endpoints: HashMap<EndpointKey, Endpoint>,
    /// The endpoints of this node by their MAC addresses.
    pub stations: HashMap<MacKey, Station>,
    /// The endpoints of this node by interface index.
    pub attachments: HashMap<u32, Attachment>,
    /// The networks by VNI.
    pub networks: HashMap<u32, Network>,
    /// The networks' subnets.
    pub subnets: Subnets,
    /// The nodes, of which the first is unused. What is not there is zero likewise.
    pub nodes: Vec<Node>,
    /// The other nodes by underlay address.
    pub peers: HashMap<Address, NodeIndex>,
    /// The ranges of clients that may ask for services which not everybody may, by the service's number.
    pub allowed: Subnets,
    /// The addresses that packets come to this node for.
    pub locals: HashMap<Address, Local>,
    /// The interfaces to the outside world.
    pub uplinks: HashMap<u32, Uplink>,
    /// The node's own routes and neighbours.
    pub routes: Routes,
    outer_headers: RefCell<HashMap<NodeIndex, OuterHeader>>,
    exits: RefCell<HashMap<u32, Exit>>,
    flows: RefCell<HashMap<FlowKey, Flow>>,
    new_flows: RefCell<HashMap<u32, FlowKey>>,
    next_place: Cell<u32>,
    fragments: RefCell<HashMap<FragmentKey, Fragments>>,
    held: RefCell<Vec<u32>>,
    handover: Cell<Handover>,
    shortages: Cell<[u64; Shortage::ALL.len()]>,
    cursors: RefCell<HashMap<u32, u64>>,
    allowance: Cell<Allowance>,
    arrival: Cell<Option<Arrival>>,
    clock: Cell<u64>,
}

impl NodeTables {
    /// What a tc hook sees.
    #[must_use]
    pub fn at_tc(&self) -> HookTables<'_, true, false> {
        HookTables { node: self }
    }

    /// What the program sees that a tc hook's fragments go to with their ports.
    #[must_use]
    pub fn at_tc_with_ports(&self) -> HookTables<'_, true, true> {
        HookTables { node: self }
    }

    /// What an XDP hook sees.
    #[must_use]
    pub fn at_xdp(&self) -> HookTables<'_, false, false> {
        HookTables { node: self }
    }

    /// Sets the clock: seconds.
    pub fn set_clock(&self, now: u64) {
        self.clock.set(now);
    }

    /// Seconds of the clock.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock.get()
    }

    /// Sets what may still be sent of errors and resets.
    pub fn set_allowance(&self, allowance: Allowance) {
        self.allowance.set(allowance);
    }

    /// A flow.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.borrow().get(key).copied()
    }

    /// Remembers a flow, as if a packet had made it known.
    pub fn set_flow(&self, key: FlowKey, flow: Flow) {
        self.flows.borrow_mut().insert(key, flow);
    }

    /// Every flow, in the order of their keys.
    #[must_use]
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let mut flows: Vec<_> = self.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect();
        flows.sort_unstable_by_key(|(key, _)| *key);
        flows
    }

    /// Forgets the flows of which this is not true.
    pub fn keep_flows(&self, mut kept: impl FnMut(&FlowKey, &Flow) -> bool) {
        self.flows.borrow_mut().retain(|key, flow| kept(key, flow));
    }

    /// The place of the queue of new flows that the next one takes.
    #[must_use]
    pub fn next_place(&self) -> u32 {
        self.next_place.get()
    }

    /// The key in a place of the queue of new flows.
    #[must_use]
    pub fn queued(&self, place: u32) -> Option<FlowKey> {
        self.new_flows.borrow().get(&place).copied()
    }

    /// Puts a key into a place of the queue of new flows, as if a flow had been put there when that was its turn.
    pub fn set_queued(&self, place: u32, key: FlowKey) {
        self.new_flows.borrow_mut().insert(place, key);
    }

    /// What is known of a datagram in fragments.
    #[must_use]
    pub fn fragments(&self, key: &FragmentKey) -> Option<Fragments> {
        self.fragments.borrow().get(key).copied()
    }

    /// The turns of the fragments that a first one releases, given the one of its verdict: the last comes first.
    #[must_use]
    pub fn released(&self, last: u32) -> Vec<u32> {
        let held = self.held.borrow();
        let before = |turn: &u32| held.get(*turn as usize - 1).copied().filter(|turn| *turn != 0);
        core::iter::successors(Some(last), before).collect()
    }

    /// How often there was no room.
    #[must_use]
    pub fn shortages(&self, shortage: Shortage) -> u64 {
        self.shortages.get()[shortage as usize]
    }

    /// The next turn of a service's round robin, without taking it.
    #[must_use]
    pub fn cursor(&self, service: u32) -> u64 {
        self.cursors.borrow().get(&service).copied().unwrap_or(0)
    }

    /// Sets the next turn of a service's round robin.
    pub fn set_cursor(&self, service: u32, turn: u64) {
        self.cursors.borrow_mut().insert(service, turn);
    }
}

/// A flow as it stood when it was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Known(Flow);

impl Deref for Known {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.0
    }
}

/// What one of a node's hooks sees of its tables: with `DELIVERS` as tc does, otherwise as XDP does.
#[derive(Clone, Copy, Debug)]
pub struct HookTables<'a, const DELIVERS: bool, const FRAGMENTS: bool> {
    node: &'a NodeTables,
}

/// `::1`, from which the kernel sends nothing over an interface.
const LOOPBACK: Address = Address::from_v6(core::net::Ipv6Addr::LOCALHOST.octets());

/// The entry of an array of the kernel's, which has them all from its beginning.
fn entry<'a, T>(entries: &'a [T], index: u32, capacity: u32, unused: &'a T) -> Option<&'a T> {
    if index >= capacity {
        return None;
    }
    Some(usize::try_from(index).ok().and_then(|index| entries.get(index)).unwrap_or(unused))
}

impl<const DELIVERS: bool, const FRAGMENTS: bool> Tables for HookTables<'_, DELIVERS, FRAGMENTS> {
    type Flow<'a>
        = Known
    where
        Self: 'a;

    const DELIVERS: bool = DELIVERS;
    const FRAGMENTS: bool = FRAGMENTS;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.node.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.node.services.get(key)
    }

    fn fast_service(&self, index: u32) -> Option<FastService> {
        (index < capacity::FAST_SERVICES)
            .then(|| self.node.fast_services.get(&index).copied().unwrap_or_default())
    }

    fn published_ports(&self, word: u32) -> u64 {
        self.node.published_ports.get(&word).copied().unwrap_or(u64::MAX)
    }

    fn outer_header(&self, node: NodeIndex) -> Option<impl Deref<Target = OuterHeader>> {
        let header = self.node.outer_headers.borrow().get(&node).copied();
        header.filter(|header| header.until > self.node.clock()).map(Box::new)
    }

    fn keep_outer_header(&self, node: NodeIndex, header: &OuterHeader) {
        let until = self.node.clock().saturating_add(1);
        self.node.outer_headers.borrow_mut().insert(node, OuterHeader { until, ..*header });
    }

    fn exit(&self, place: u32) -> Option<impl Deref<Target = Exit>> {
        let exit = self.node.exits.borrow().get(&place).copied();
        exit.filter(|exit| exit.until > self.node.clock()).map(Box::new)
    }

    fn keep_exit(&self, place: u32, exit: &Exit) {
        let until = self.node.clock().saturating_add(1);
        self.node.exits.borrow_mut().insert(place, Exit { until, ..*exit });
    }

    fn is_target(&self, key: &TargetKey) -> bool {
        self.node.targets.contains(key)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        entry(&self.node.slots, index, capacity::SLOTS, &Slot::default()).copied()
    }

    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        entry(&self.node.backends, index, capacity::BACKENDS, &Backend::UNUSED)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        self.node.endpoints.get(key)
    }

    fn station(&self, key: &MacKey) -> Option<&Station> {
        self.node.stations.get(key)
    }

    fn attachment(&self, ifindex: u32) -> Option<&Attachment> {
        self.node.attachments.get(&ifindex)
    }

    fn network(&self, vni: u32) -> Option<&Network> {
        self.node.networks.get(&vni)
    }

    fn subnet(&self, key: &SubnetKey) -> Option<u32> {
        self.node.subnets.host_bits(key)
    }

    fn node(&self, index: NodeIndex) -> Option<&Node> {
        entry(&self.node.nodes, index, capacity::NODES, &Node::UNUSED)
    }

    fn peer(&self, address: Address) -> Option<NodeIndex> {
        self.node.peers.get(&address).copied()
    }

    fn local(&self, address: Address) -> Option<Local> {
        self.node.locals.get(&address).copied()
    }

    fn is_allowed(&self, key: &AllowedKey) -> bool {
        self.node.allowed.host_bits(&SubnetKey { vni: key.service, address: key.address }).is_some()
    }

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.node.uplinks.get(&ifindex)
    }

    fn flow(&self, key: &FlowKey) -> Option<Known> {
        self.node.flow(key).map(Known)
    }

    fn put_flow(&self, key: &FlowKey, flow: &Flow) {
        self.node.set_flow(*key, *flow);
    }

    fn add_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        let mut flows = self.node.flows.borrow_mut();
        let is_new = !flows.contains_key(key);
        if is_new {
            flows.insert(*key, *flow);
        }
        is_new
    }

    fn mark_flow(&self, key: &FlowKey, seen: u64, flags: u32) {
        if let Some(flow) = self.node.flows.borrow_mut().get_mut(key) {
            flow.seen = seen;
            flow.flags = flags;
        }
    }

    fn touch_flow(&self, key: &FlowKey, flow: &Known, seen: u64) {
        self.mark_flow(key, seen, flow.flags);
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.node.flows.borrow_mut().remove(key);
    }

    fn next_place(&self) -> u32 {
        let place = self.node.next_place.get();
        self.node.next_place.set((place + 1) % capacity::NEW_FLOWS);
        place
    }

    fn queued(&self, place: u32) -> Option<impl Deref<Target = FlowKey>> {
        self.node.queued(place).map(Box::new)
    }

    fn queue(&self, place: u32, key: &FlowKey) {
        self.node.set_queued(place, *key);
    }

    fn hand_on_fragment(&self, handover: Handover) {
        self.node.handover.set(handover);
    }

    fn fragment_handed_on(&self) -> Handover {
        self.node.handover.get()
    }

    fn fragments(&self, key: &FragmentKey) -> Option<Fragments> {
        self.node.fragments(key)
    }

    fn put_fragments(&self, key: &FragmentKey, fragments: &Fragments) {
        self.node.fragments.borrow_mut().insert(*key, *fragments);
    }

    fn hold(&self, before: u32) -> Option<u32> {
        let mut held = self.node.held.borrow_mut();
        held.push(before);
        u32::try_from(held.len()).ok()
    }

    fn count_shortage(&self, shortage: Shortage) {
        let mut counts = self.node.shortages.get();
        counts[shortage as usize] += 1;
        self.node.shortages.set(counts);
    }

    fn turn(&self, service: u32) -> u64 {
        if service >= capacity::SERVICES {
            return 0;
        }
        let mut cursors = self.node.cursors.borrow_mut();
        let cursor = cursors.entry(service).or_default();
        let turn = *cursor;
        *cursor = turn.wrapping_add(1);
        turn
    }

    fn hand_on(&self, arrival: &Arrival) {
        self.node.arrival.set(Some(*arrival));
    }

    fn handed_on(&self) -> Option<Arrival> {
        self.node.arrival.get()
    }

    fn may_answer(&self) -> bool {
        let mut allowance = self.node.allowance.get();
        let may = allowance.take(self.node.clock().saturating_mul(1_000_000_000));
        self.node.allowance.set(allowance);
        may
    }

    fn now(&self) -> u64 {
        self.node.clock()
    }

    fn route(&self, source: Address, destination: Address) -> Route {
        if source == LOOPBACK {
            return if DELIVERS { Route::None } else { Route::Later };
        }
        if DELIVERS { self.node.routes.at_tc(destination) } else { self.node.routes.at_xdp(destination) }
    }

    fn route_to_node(&self, node: &Node) -> Route {
        if !DELIVERS {
            return self.node.routes.at_xdp(node.address);
        }
        match node.ifindex {
            0 => Route::None,
            ifindex => Route::Hop(crate::Hop { ifindex, ..crate::Hop::default() }),
        }
    }
}
