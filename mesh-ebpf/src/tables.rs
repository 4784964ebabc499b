//! The pipeline's tables, in kernel maps.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
    ops::Deref,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_NOEXIST, bpf_fib_lookup,
    },
    cty::c_void,
    helpers,
    maps::lpm_trie::Key,
};
use mesh_common::{
    Hop, Route, Tables,
    abi::{
        Address, AllowedKey, Arrival, Attachment, Backend, BackendIndex, Endpoint, EndpointKey, Exit, Family,
        FastService, Flow, FlowKey, FragmentKey, Fragments, Handover, Local, MacKey, Network, Node,
        NodeIndex, OuterHeader, Service, ServiceKey, Settings, Shortage, Slot, Station, SubnetKey, TargetKey,
        Uplink, capacity,
    },
};

use crate::{bridge, clock, fragment, maps, observe};

/// The kernel's address families.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bits of the key of a longest-prefix table: a number and an address.
const PREFIX_BITS: u32 = 32 + 128;

/// For how many ticks of the kernel's timer what was learnt of routes is good: 25 to 250 milliseconds, as kernels are built with 1000 to
/// 100 ticks a second.
const KEPT: u64 = 25;

/// The kernel's tables, as seen from a hook. With `XDP`, packets leave with their Ethernet addresses in place and
/// cannot be handed to endpoints; otherwise the kernel fills those in on the way out. With `FRAGMENTS`, the program is one that
/// fragments go to with their ports.
#[derive(Clone, Copy)]
pub struct KernelTables<const XDP: bool, const FRAGMENTS: bool = false> {
    /// The hook's context, which questions for routes need.
    pub context: *mut c_void,
}

impl<const XDP: bool, const FRAGMENTS: bool> KernelTables<XDP, FRAGMENTS> {
    #[inline(always)]
    fn find_route(&self, source: &Address, destination: &Address) -> Route {
        let mut hop = Hop::default();
        match ask_for_route(self.context, source, destination, &mut hop) {
            BPF_FIB_LKUP_RET_SUCCESS if XDP => Route::Hop(hop),
            BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH if !XDP => {
                Route::Hop(Hop { ifindex: hop.ifindex, ..Hop::default() })
            }
            _ if XDP => Route::Later,
            _ => Route::None,
        }
    }
}

/// Asks the kernel's routing table, as if the packet had come in by the mesh's own gate: an interface of which the agent
/// knows that it forwards, whatever the node's settings are. Out of line, for its query is 64 bytes of stack.
#[inline(never)]
fn ask_for_route(context: *mut c_void, source: &Address, destination: &Address, hop: &mut Hop) -> u32 {
    let Some(settings) = maps::SETTINGS.get(0) else { return BPF_FIB_LKUP_RET_NOT_FWDED };
    // SAFETY: the type is made of integers only, for which zero is a value.
    let mut query: bpf_fib_lookup = unsafe { MaybeUninit::zeroed().assume_init() };
    query.ifindex = settings.host_ifindex;
    // Without a length, the kernel holds the whole frame against the interface's MTU, with a tunnel around it that the packet
    // will not leave with. Nothing is too long for the networks' MTU.
    query.__bindgen_anon_1.tot_len = 1;
    match destination.family() {
        Family::V4 => {
            query.family = AF_INET;
            query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source.v4_octets());
            query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination.v4_octets());
        }
        Family::V6 => {
            query.family = AF_INET6;
            query.__bindgen_anon_3.ipv6_src = words(*source);
            query.__bindgen_anon_4.ipv6_dst = words(*destination);
        }
    }
    // SAFETY: the context is the hook's own, and the query is initialised and as long as it says.
    let answer = unsafe {
        helpers::generated::bpf_fib_lookup(context, &raw mut query, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    *hop = Hop { ifindex: query.ifindex, destination: query.dmac, source: query.smac };
    answer as u32
}

#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    let [a, b] = address.0;
    if cfg!(target_endian = "little") {
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
    } else {
        [(a >> 32) as u32, a as u32, (b >> 32) as u32, b as u32]
    }
}

/// Notes of a flow when it was seen and which flags it has. Out of line: it is rarely called, once a second for each flow,
/// and in many places.
#[inline(never)]
fn mark(key: &FlowKey, seen: u64, flags: u32) {
    if bridge::is_bridging() {
        bridge::mark(key, seen, flags);
    }
    if let Some(flow) = maps::FLOWS.get_ptr_mut(key) {
        // SAFETY: the pointer is the map's; words are written whole, and each writer's value is a right one.
        unsafe {
            ptr::write_volatile(&raw mut (*flow).seen, seen);
            ptr::write_volatile(&raw mut (*flow).flags, flags);
        }
    }
}

/// Counts a cursor one on, and gives what it stood at.
#[inline(always)]
fn take_turn(cursor: *mut u64) -> u64 {
    // SAFETY: the pointer is a map's, aligned to eight bytes, and every access to a cursor is atomic. The standard
    // library keeps `fetch_add` from targets without compare-and-swap, though this one can do it. Relaxed, LLVM takes the
    // instruction that does not fetch.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(cursor, 1) }
}

/// What a hash map holds for a key.
///
/// An entry may be replaced by another processor while it is read. The agent replaces whole entries, never parts; what
/// is freed is freed after the program has ended (RCU).
macro_rules! get {
    ($map:ident, $key:expr) => {
        // SAFETY: see above.
        unsafe { maps::$map.get($key) }
    };
}

/// A flow as it stands in its table.
#[derive(Clone, Copy)]
pub struct KnownFlow(NonNull<Flow>);

impl Deref for KnownFlow {
    type Target = Flow;

    #[inline(always)]
    fn deref(&self) -> &Flow {
        // SAFETY: the pointer is the map's, and what is freed is freed after the program has ended.
        unsafe { self.0.as_ref() }
    }
}

impl<const XDP: bool, const FRAGMENTS: bool> Tables for KernelTables<XDP, FRAGMENTS> {
    type Flow<'a> = KnownFlow;

    const DELIVERS: bool = !XDP;
    const FRAGMENTS: bool = FRAGMENTS;

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        maps::SETTINGS.get(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        get!(SERVICES, key)
    }

    #[inline(always)]
    fn fast_service(&self, index: u32) -> Option<FastService> {
        let entry = maps::FAST_SERVICES.get_ptr(index)?;
        // SAFETY: the pointer is the map's. The agent may write the entry at this moment: it is read once, word by word, and
        // what is a mixture is known by its check.
        Some(unsafe { ptr::read_volatile(entry) })
    }

    #[inline(always)]
    fn published_ports(&self, word: u32) -> u64 {
        maps::PUBLISHED_PORTS.get(word).copied().unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn outer_header(&self, node: NodeIndex) -> Option<impl Deref<Target = OuterHeader>> {
        // SAFETY: no arguments.
        maps::OUTER_HEADERS
            .get(node)
            .filter(|header| header.until > unsafe { helpers::generated::bpf_jiffies64() })
    }

    #[inline(always)]
    fn keep_outer_header(&self, node: NodeIndex, header: &OuterHeader) {
        if let Some(place) = maps::OUTER_HEADERS.get_ptr_mut(node) {
            // SAFETY: the entry is this processor's own, and a program at a hook is not interrupted by another at it.
            unsafe {
                *place = OuterHeader { until: helpers::generated::bpf_jiffies64() + KEPT, ..*header };
            }
        }
    }

    #[inline(always)]
    fn exit(&self, place: u32) -> Option<impl Deref<Target = Exit>> {
        // SAFETY: no arguments.
        maps::EXITS.get(place).filter(|exit| exit.until > unsafe { helpers::generated::bpf_jiffies64() })
    }

    #[inline(always)]
    fn keep_exit(&self, place: u32, exit: &Exit) {
        if let Some(place) = maps::EXITS.get_ptr_mut(place) {
            // SAFETY: as for outer headers.
            unsafe {
                *place = Exit { until: helpers::generated::bpf_jiffies64() + KEPT, ..*exit };
            }
        }
    }

    #[inline(always)]
    fn is_target(&self, key: &TargetKey) -> bool {
        get!(TARGETS, key).is_some()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        maps::SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        maps::BACKENDS.get(index)
    }

    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        get!(ENDPOINTS, key)
    }

    #[inline(always)]
    fn station(&self, key: &MacKey) -> Option<&Station> {
        get!(STATIONS, key)
    }

    #[inline(always)]
    fn attachment(&self, ifindex: u32) -> Option<&Attachment> {
        get!(ATTACHMENTS, ifindex)
    }

    #[inline(always)]
    fn network(&self, vni: u32) -> Option<&Network> {
        get!(NETWORKS, vni)
    }

    #[inline(always)]
    fn subnet(&self, key: &SubnetKey) -> Option<u32> {
        maps::SUBNETS.get(Key::new(PREFIX_BITS, *key)).copied()
    }

    #[inline(always)]
    fn node(&self, index: NodeIndex) -> Option<&Node> {
        maps::NODES.get(index)
    }

    #[inline(always)]
    fn peer(&self, address: Address) -> Option<NodeIndex> {
        get!(PEERS, address).copied()
    }

    #[inline(always)]
    fn local(&self, address: Address) -> Option<Local> {
        get!(LOCALS, address).copied()
    }

    #[inline(always)]
    fn is_allowed(&self, key: &AllowedKey) -> bool {
        maps::ALLOWED.get(Key::new(PREFIX_BITS, *key)).is_some()
    }

    #[inline(always)]
    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        get!(UPLINKS, ifindex)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<KnownFlow> {
        if bridge::reads_before() {
            return bridge::flow(key).map(|flow| KnownFlow(NonNull::from(flow)));
        }
        maps::FLOWS.get_ptr_mut(key).and_then(NonNull::new).map(KnownFlow)
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey, flow: &Flow) {
        if bridge::is_bridging() {
            if !bridge::put(key, flow, false) {
                self.count_shortage(Shortage::Flows);
            }
            return;
        }
        // The table of flows evicts its oldest rather than refuse; for want of memory it may refuse all the same, and
        // then the next packet of the flow finds the same backend again by its hash.
        if maps::FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_err() {
            self.count_shortage(Shortage::Flows);
        }
    }

    #[inline(always)]
    fn add_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        if bridge::is_bridging() {
            return bridge::put(key, flow, true);
        }
        maps::FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn mark_flow(&self, key: &FlowKey, seen: u64, flags: u32) {
        mark(key, seen, flags);
    }

    #[inline(always)]
    fn touch_flow(&self, key: &FlowKey, flow: &KnownFlow, seen: u64) {
        if bridge::is_bridging() {
            return mark(key, seen, flow.flags);
        }
        // SAFETY: the pointer is the map's, as the only table is read; the word is written whole.
        unsafe { ptr::write_volatile(&raw mut (*flow.0.as_ptr()).seen, seen) };
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        if bridge::is_bridging() {
            bridge::remove(key);
        }
        // It may have gone by itself in the meantime.
        let _ = maps::FLOWS.remove(key);
    }

    #[inline(always)]
    fn next_place(&self) -> u32 {
        let turn = maps::NEW_FLOWS_TURN.get_ptr_mut(0).map_or(0, take_turn);
        (turn % u64::from(capacity::NEW_FLOWS)) as u32
    }

    #[inline(always)]
    fn queued(&self, place: u32) -> Option<impl Deref<Target = FlowKey>> {
        // Another processor writes it only after as many more flows as the queue holds.
        maps::NEW_FLOWS.get(place)
    }

    #[inline(always)]
    fn queue(&self, place: u32, key: &FlowKey) {
        if let Some(place) = maps::NEW_FLOWS.get_ptr_mut(place) {
            // SAFETY: the pointer is the map's. A key that two processors wrote half each is no flow's, or that of a flow
            // which has waited for as long as the others.
            unsafe { ptr::write_volatile(place, *key) };
        }
    }

    #[inline(always)]
    fn hand_on_fragment(&self, handover: Handover) {
        if let Some(place) = maps::FRAGMENT_HANDOVER.get_ptr_mut(0) {
            // SAFETY: the entry is this processor's own, and no other program runs at the hook before those that
            // it is for.
            unsafe { *place = handover };
        }
    }

    #[inline(always)]
    fn fragment_handed_on(&self) -> Handover {
        maps::FRAGMENT_HANDOVER.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn fragments(&self, key: &FragmentKey) -> Option<Fragments> {
        get!(FRAGMENTS, key).copied()
    }

    #[inline(always)]
    fn put_fragments(&self, key: &FragmentKey, fragments: &Fragments) {
        // The table gives up its oldest rather than refuse; for want of memory, the datagram is lost.
        if maps::FRAGMENTS.insert(key, fragments, u64::from(BPF_ANY)).is_err() {
            self.count_shortage(Shortage::Fragments);
        }
    }

    #[inline(always)]
    fn hold(&self, before: u32) -> Option<u32> {
        // Never 0, which stands for none: nor does the count of one machine's fragments come so far again soon.
        let turn = (maps::HELD_TURN.get_ptr_mut(0).map(take_turn)? as u32).wrapping_add(1).max(1);
        let held = fragment::place(turn)?;
        // SAFETY: the pointer is the map's; the place is this packet's by its turn, and without that nobody reads the rest.
        unsafe {
            if ptr::read_volatile(&raw const (*held).turn) != 0 {
                self.count_shortage(Shortage::Fragments);
            }
            ptr::write_volatile(&raw mut (*held).turn, 0);
            (*held).before = before;
        }
        Some(turn)
    }

    #[inline(always)]
    fn count_shortage(&self, shortage: Shortage) {
        observe::count_shortage(shortage);
    }

    #[inline(always)]
    fn turn(&self, service: u32) -> u64 {
        maps::CURSORS.get_ptr_mut(service).map_or(0, take_turn)
    }

    #[inline(always)]
    fn hand_on(&self, arrival: &Arrival) {
        if let Some(place) = maps::ARRIVALS.get_ptr_mut(0) {
            // SAFETY: the entry is this processor's own, and no other program runs at the hook between this one and the one
            // that takes it.
            unsafe { *place = *arrival };
        }
    }

    #[inline(always)]
    fn handed_on(&self) -> Option<Arrival> {
        maps::ARRIVALS.get(0).copied()
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        let Some(allowance) = maps::ALLOWANCE.get_ptr_mut(0) else { return false };
        // SAFETY: the helper takes no arguments. The entry is this processor's own, and a program at a hook is not interrupted
        // by another at it; where one at another hook comes between, an answer more is sent.
        unsafe { (*allowance).take(helpers::generated::bpf_ktime_get_ns()) }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        clock::now()
    }

    #[inline(always)]
    fn route(&self, source: Address, destination: Address) -> Route {
        self.find_route(&source, &destination)
    }

    #[inline(always)]
    fn route_to_node(&self, node: &Node) -> Route {
        if XDP {
            let Some(settings) = self.settings() else { return Route::None };
            return self.find_route(&settings.address, &node.address);
        }
        match node.ifindex {
            0 => Route::None,
            ifindex => Route::Hop(Hop { ifindex, ..Hop::default() }),
        }
    }
}
