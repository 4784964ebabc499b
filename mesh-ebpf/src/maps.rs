//! The kernel maps. The agent fills all but the flows, the cursors and what is counted.
//!
//! What is pinned outlives the programs, and other programs take it over: see `mesh_common::abi::layout`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use mesh_common::{
    Reason,
    abi::{
        Address, Allowance, AllowedKey, Arrival, Attachment, Backend, Counter, Dialled, DialledKey, Endpoint,
        EndpointKey, Exit, FastService, Flow, FlowKey, FragmentKey, Fragments, Handover, Held, Local, MacKey,
        Network, Node, NodeIndex, OuterHeader, PORT_WORDS, Service, ServiceKey, Settings, Shortage, Slot,
        Station, SubnetKey, TargetKey, Uplink, capacity, layout::FlowBefore,
    },
    packet,
};

#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::pinned(capacity::SERVICES, NO_PREALLOC);
/// Published ports by address, for the fast path.
#[map]
pub static FAST_SERVICES: Array<FastService> = Array::pinned(capacity::FAST_SERVICES, 0);
/// See `abi::port_bit`.
#[map]
pub static PUBLISHED_PORTS: Array<u64> = Array::pinned(PORT_WORDS, 0);
/// By node: the outer header that its last packet had. New programs begin without any.
#[map]
pub static OUTER_HEADERS: PerCpuArray<OuterHeader> = PerCpuArray::with_max_entries(capacity::NODES, 0);
/// By which ways answers left that came in tunnels. New programs begin without any.
#[map]
pub static EXITS: PerCpuArray<Exit> = PerCpuArray::with_max_entries(capacity::EXITS, 0);
/// The ports at which tasks answer clients; the values say nothing.
#[map]
pub static TARGETS: HashMap<TargetKey, u32> = HashMap::pinned(capacity::TARGETS, NO_PREALLOC);
/// The agent writes it through a mapping of its own, and may ask for more entries when it loads the object.
#[map]
pub static SLOTS: Array<Slot> = Array::pinned(capacity::SLOTS, aya_ebpf::bindings::BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(capacity::BACKENDS, 0);
#[map]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::pinned(capacity::ENDPOINTS, NO_PREALLOC);
#[map]
pub static STATIONS: HashMap<MacKey, Station> = HashMap::pinned(capacity::ENDPOINTS, NO_PREALLOC);
/// By interface index.
#[map]
pub static ATTACHMENTS: HashMap<u32, Attachment> = HashMap::pinned(capacity::LOCAL_ENDPOINTS, NO_PREALLOC);
/// By VNI.
#[map]
pub static NETWORKS: HashMap<u32, Network> = HashMap::pinned(capacity::NETWORKS, NO_PREALLOC);
/// The networks' subnets, with how many of an address's last bits tell their hosts apart.
#[map]
pub static SUBNETS: LpmTrie<SubnetKey, u32> = LpmTrie::pinned(capacity::SUBNETS, 0);
#[map]
pub static NODES: Array<Node> = Array::pinned(capacity::NODES, 0);
#[map]
pub static PEERS: HashMap<Address, NodeIndex> = HashMap::pinned(capacity::NODES, NO_PREALLOC);
/// The ranges of clients that may ask for services which not everybody may.
#[map]
pub static ALLOWED: LpmTrie<AllowedKey, u32> = LpmTrie::pinned(capacity::ALLOWED, 0);
/// The addresses that packets come to this node for.
#[map]
pub static LOCALS: HashMap<Address, Local> = HashMap::pinned(capacity::LOCALS, NO_PREALLOC);
/// By interface index.
#[map]
pub static UPLINKS: HashMap<u32, Uplink> = HashMap::pinned(capacity::UPLINKS, NO_PREALLOC);

#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::pinned(capacity::FLOWS, 0);
/// The keys of flows that had not proved themselves when they were put here: each new one takes the place of the oldest.
#[map]
pub static NEW_FLOWS: Array<FlowKey> = Array::pinned(capacity::NEW_FLOWS, 0);
/// How many flows have ever been put into `NEW_FLOWS`.
#[map]
pub static NEW_FLOWS_TURN: Array<u64> = Array::pinned(1, 0);
/// Round robin's next turn, by service number.
#[map]
pub static CURSORS: Array<u64> = Array::pinned(capacity::SERVICES, 0);
#[map]
pub static DIALLED: LruHashMap<DialledKey, Dialled> = LruHashMap::pinned(capacity::DIALLED, 0);

/// The flows as the programs before these keep them, while these are loaded to bridge: see `bridge`. The agent puts the
/// older programs' own map in the place of this one.
#[map]
pub static FLOWS_BEFORE: LruHashMap<FlowKey, FlowBefore> = LruHashMap::with_max_entries(1, 0);
/// The programs that answer what is refused, at tc and at XDP: an array holds programs of one type.
#[map]
pub static REFUSE_TC: ProgramArray = ProgramArray::pinned(1, 0);
#[map]
pub static REFUSE_XDP: ProgramArray = ProgramArray::pinned(1, 0);
/// The program that goes on with packets of unknown flows.
#[map]
pub static UNKNOWN_TC: ProgramArray = ProgramArray::pinned(1, 0);
/// The programs of the longer ways, of an endpoint's packets and of those from the wire.
#[map]
pub static ENDPOINT_LONGER: ProgramArray = ProgramArray::pinned(1, 0);
#[map]
pub static UNDERLAY_LONGER: ProgramArray = ProgramArray::pinned(1, 0);
/// What is handed on to the program of unknown flows.
#[map]
pub static ARRIVALS: PerCpuArray<Arrival> = PerCpuArray::pinned(1, 0);
/// What XDP's program hands on to the one that answers.
#[map]
pub static REFUSALS: PerCpuArray<u32> = PerCpuArray::pinned(1, 0);
/// Bytes of a packet that are being summed up.
#[map]
pub static SUMMED: PerCpuArray<[u8; packet::SUMMED]> = PerCpuArray::with_max_entries(1, 0);
/// What may still be sent of errors and resets.
#[map]
pub static ALLOWANCE: PerCpuArray<Allowance> = PerCpuArray::pinned(1, 0);

/// What is known of datagrams in fragments.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragments> = LruHashMap::pinned(capacity::FRAGMENTS, 0);
/// Fragments that wait for their first: each new one takes the place of the oldest.
#[map]
pub static HELD: Array<Held> = Array::pinned(capacity::HELD, 0);
/// How many fragments have ever waited.
#[map]
pub static HELD_TURN: Array<u64> = Array::pinned(1, 0);
/// By the number of the hook, the programs that fragments go to with their ports; behind them the one that finds those.
#[map]
pub static FRAGMENT_TC: ProgramArray = ProgramArray::pinned(4, 0);
/// What they hand on with it.
#[map]
pub static FRAGMENT_HANDOVER: PerCpuArray<Handover> = PerCpuArray::pinned(1, 0);

/// Packets lost, by reason.
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::pinned(Reason::ALL.len() as u32, 0);
/// How often there was no room, by what for.
#[map]
pub static SHORTAGES: PerCpuArray<u64> = PerCpuArray::pinned(Shortage::ALL.len() as u32, 0);
/// Packets seen, by hook and outcome.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(Counter::COUNT, 0);
#[map]
pub static TRACES: RingBuf = RingBuf::pinned(capacity::TRACES, 0);

/// `BPF_F_NO_PREALLOC`: tables that change seldom take memory for what they hold, not for what they could.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;
