//! What one of a node's hooks sees of the cluster while it works on a packet of one service.

use core::ops::Deref;

use mesh_common::{
    Hop, Route, Tables,
    abi::{
        Address, AllowedKey, Arrival, Attachment, Backend, BackendIndex, Endpoint, EndpointKey, Exit,
        FastService, Flow, FlowKey, FragmentKey, Fragments, Handover, Local, MacKey, Network,
        Node as NodeEntry, NodeIndex, OuterHeader, Service, ServiceKey, Settings, Shortage, Slot, Station,
        SubnetKey, TargetKey, Uplink,
    },
    native::{HookTables, Known},
};

use crate::{
    cluster::{Cluster, FIRST_IFINDEX, FIRST_VNI, Node, Task, UPLINK, Version, anycast, family_of},
    slots::BLOCK_BITS,
};

/// A hook's tables: with `DELIVERS` as tc has them, otherwise as XDP does.
pub(crate) struct View<'a, const DELIVERS: bool> {
    cluster: &'a Cluster,
    node: &'a Node,
    own: HookTables<'a, DELIVERS, false>,
    version: Version,
    /// The one service that the packet asks for, and its entry on this node.
    number: usize,
    service: Service,
}

/// Where routers take what is for the outside world.
const TO_ROUTER: Hop = Hop { ifindex: UPLINK, destination: [2, 0, 0, 0, 1, 254], source: [2, 0, 0, 0, 0, 1] };

impl<'a> View<'a, true> {
    pub(crate) fn at_tc(cluster: &'a Cluster, node: &'a Node, number: usize, service: Service) -> Self {
        Self { cluster, node, own: node.own.at_tc(), version: node.version(), number, service }
    }
}

impl<'a> View<'a, false> {
    pub(crate) fn at_xdp(cluster: &'a Cluster, node: &'a Node, number: usize, service: Service) -> Self {
        Self { cluster, node, own: node.own.at_xdp(), version: node.version(), number, service }
    }
}

impl<const DELIVERS: bool> View<'_, DELIVERS> {
    /// A task, if the node knows it now.
    fn task(&self, index: BackendIndex) -> Option<&Task> {
        let task = self.cluster.tasks.get(index as usize)?;
        (index != 0 && task.born <= self.version && self.version < task.gone).then_some(task)
    }

    fn is_known(&self, node: &Node) -> bool {
        node.joined <= self.version && self.version < node.left
    }
}

impl<const DELIVERS: bool> Tables for View<'_, DELIVERS> {
    type Flow<'b>
        = Known
    where
        Self: 'b;

    const DELIVERS: bool = DELIVERS;
    const FRAGMENTS: bool = false;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.node.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        (self.cluster.services[self.number].key == *key).then_some(&self.service)
    }

    fn fast_service(&self, index: u32) -> Option<FastService> {
        let service = &self.cluster.services[self.number];
        let entry =
            FastService::of(&self.node.settings, anycast(family_of(service)), &service.key, &self.service);
        Some(entry.filter(|entry| entry.places().next() == Some(index)).unwrap_or_default())
    }

    fn published_ports(&self, _: u32) -> u64 {
        // All packets here are the mesh's.
        u64::MAX
    }

    fn outer_header(&self, node: NodeIndex) -> Option<impl Deref<Target = OuterHeader>> {
        Tables::outer_header(&self.own, node).map(|header| Box::new(*header))
    }

    fn keep_outer_header(&self, node: NodeIndex, header: &OuterHeader) {
        self.own.keep_outer_header(node, header);
    }

    fn exit(&self, place: u32) -> Option<impl Deref<Target = Exit>> {
        Tables::exit(&self.own, place).map(|exit| Box::new(*exit))
    }

    fn keep_exit(&self, place: u32, exit: &Exit) {
        self.own.keep_exit(place, exit);
    }

    fn is_target(&self, key: &TargetKey) -> bool {
        let service = &self.cluster.services[self.number];
        let port =
            if service.target_port == 0 { service.key.port } else { service.target_port.to_be_bytes() };
        service.vni == key.vni && service.key.protocol == key.protocol && key.port == port
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let block = self.cluster.blocks.get((index >> BLOCK_BITS) as usize)?.as_ref()?;
        block.slots().get((index & ((1 << BLOCK_BITS) - 1)) as usize).copied()
    }

    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        // One that left keeps its entry on the nodes that knew it.
        let first = self.node.rounds.first().map_or(0, |round| round.version);
        let was_known = |task: &&Task| task.born <= self.version && first < task.gone;
        let task = self.cluster.tasks.get(index as usize).filter(|_| index != 0).filter(was_known);
        Some(task.map_or(&Backend::UNUSED, |task| &task.backend))
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        let [_, a, b, c] = key.address.v4_octets();
        let task = self.task(u32::from_be_bytes([0, a, b, c]))?;
        if task.backend.address != key.address || task.backend.vni != key.vni {
            return None;
        }
        let is_here = task.backend.node == self.node.settings.node;
        Some(if is_here { &task.endpoint_here } else { &task.endpoint_elsewhere })
    }

    fn station(&self, key: &MacKey) -> Option<&Station> {
        if key.vni == 0 {
            let [2 | 6, ..] = key.mac else { return None };
            let index = self.cluster.nodes_by_mac.get(&key.mac)?;
            let node = &self.cluster.nodes[*index as usize];
            return self.is_known(node).then_some(&node.station);
        }
        let task = self.task(self.cluster.task_at(key.mac)?)?;
        let station = if task.drains <= self.version { &task.station_draining } else { &task.station };
        (task.backend.vni == key.vni).then_some(station)
    }

    fn attachment(&self, ifindex: u32) -> Option<&Attachment> {
        let task = self.task(ifindex.checked_sub(FIRST_IFINDEX)?)?;
        (task.backend.node == self.node.settings.node).then_some(&task.attachment)
    }

    fn network(&self, vni: u32) -> Option<&Network> {
        self.cluster.networks.get(vni.checked_sub(FIRST_VNI)? as usize)
    }

    fn subnet(&self, key: &SubnetKey) -> Option<u32> {
        let [prefix, ..] = if key.address[..10] == [0; 10] { [key.address[12]] } else { [key.address[0]] };
        matches!(prefix, 10 | 0xfd).then_some(24)
    }

    fn node(&self, index: NodeIndex) -> Option<&NodeEntry> {
        let first = self.node.rounds.first().map_or(0, |round| round.version);
        let Some(node) = self.cluster.nodes.get(index as usize).filter(|_| index != 0) else {
            return Some(&NodeEntry::UNUSED);
        };
        Some(if index == self.node.settings.node {
            &node.entry_without_way
        } else if self.is_known(node) {
            &node.entry
        } else if node.joined <= self.version && first < node.left {
            &node.entry_without_way
        } else {
            &NodeEntry::UNUSED
        })
    }

    fn peer(&self, address: Address) -> Option<NodeIndex> {
        let index = self.cluster.node_at(address)?;
        let is_peer = index != self.node.settings.node && self.is_known(&self.cluster.nodes[index as usize]);
        is_peer.then_some(index)
    }

    fn local(&self, address: Address) -> Option<Local> {
        let is_local = address == self.node.settings.address || address == anycast(address.family());
        is_local.then_some(self.cluster.local)
    }

    fn is_allowed(&self, _key: &AllowedKey) -> bool {
        true
    }

    fn uplink(&self, _ifindex: u32) -> Option<&Uplink> {
        None
    }

    fn flow(&self, key: &FlowKey) -> Option<Known> {
        self.own.flow(key)
    }

    fn put_flow(&self, key: &FlowKey, flow: &Flow) {
        self.own.put_flow(key, flow);
    }

    fn add_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.own.add_flow(key, flow)
    }

    fn mark_flow(&self, key: &FlowKey, seen: u64, flags: u32) {
        self.own.mark_flow(key, seen, flags);
    }

    fn touch_flow(&self, key: &FlowKey, flow: &Known, seen: u64) {
        self.own.touch_flow(key, flow, seen);
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.own.remove_flow(key);
    }

    fn next_place(&self) -> u32 {
        Tables::next_place(&self.own)
    }

    fn queued(&self, place: u32) -> Option<impl Deref<Target = FlowKey>> {
        Tables::queued(&self.own, place).map(|key| Box::new(*key))
    }

    fn queue(&self, place: u32, key: &FlowKey) {
        self.own.queue(place, key);
    }

    fn hand_on_fragment(&self, handover: Handover) {
        self.own.hand_on_fragment(handover);
    }

    fn fragment_handed_on(&self) -> Handover {
        self.own.fragment_handed_on()
    }

    fn fragments(&self, key: &FragmentKey) -> Option<Fragments> {
        Tables::fragments(&self.own, key)
    }

    fn put_fragments(&self, key: &FragmentKey, fragments: &Fragments) {
        self.own.put_fragments(key, fragments);
    }

    fn hold(&self, before: u32) -> Option<u32> {
        self.own.hold(before)
    }

    fn count_shortage(&self, shortage: Shortage) {
        self.own.count_shortage(shortage);
    }

    fn hand_on(&self, arrival: &Arrival) {
        self.own.hand_on(arrival);
    }

    fn handed_on(&self) -> Option<Arrival> {
        self.own.handed_on()
    }

    fn turn(&self, service: u32) -> u64 {
        self.own.turn(service)
    }

    fn may_answer(&self) -> bool {
        self.own.may_answer()
    }

    fn now(&self) -> u64 {
        self.own.now()
    }

    fn route(&self, _source: Address, _destination: Address) -> Route {
        Route::Hop(TO_ROUTER)
    }

    fn route_to_node(&self, node: &NodeEntry) -> Route {
        if node.ifindex == 0 { Route::None } else { Route::Hop(Hop { ifindex: node.ifindex, ..TO_ROUTER }) }
    }
}
