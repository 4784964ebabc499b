//! The pipeline's first life: the programs loaded, their maps, and single packets run through them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf, lpm_trie::Key,
    },
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp, XdpMode},
    util::nr_cpus,
};
use mesh_common::{
    Reason,
    abi::{
        Address, Allowance, AllowedKey, Attachment, Backend, Counter, Endpoint, EndpointKey, Exit,
        FastService, Flow, FlowKey, FragmentKey, Fragments, Held, Hook, Local, MacKey, Network, Node,
        NodeIndex, OuterHeader, PORT_WORDS, Pod, Service, ServiceKey, Settings, Shortage, Slot, Station,
        SubnetKey, TargetKey, Trace, Uplink, capacity,
    },
    native::NodeTables,
};
use mesh_tests::bpf::{object, skb_context, xdp_context};
use nix::libc::EINVAL;

/// A type of the ABI as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<T>(T);

// SAFETY: the ABI's Pod demands the same as aya's, and more: no padding, and any bytes are a valid value.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

type Hash<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;

/// More nodes than a world has.
const NODES: u32 = 16;

/// What the kernel did with a packet.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What the program returned.
    pub(crate) code: u32,
    /// The packet afterwards.
    pub(crate) bytes: Vec<u8>,
    /// What the program told of it.
    pub(crate) trace: Trace,
}

/// The loaded programs and their maps.
pub(crate) struct Kernel {
    programs: Ebpf,
    traces: RingBuf<MapData>,
    drops: PerCpuArray<MapData, Raw<u64>>,
    counters: PerCpuArray<MapData, Raw<Counter>>,
    shortages: PerCpuArray<MapData, Raw<u64>>,
    new_flows: Array<MapData, Raw<FlowKey>>,
    new_flows_turn: Array<MapData, Raw<u64>>,
    settings: Array<MapData, Raw<Settings>>,
    slots: Array<MapData, Raw<Slot>>,
    backends: Array<MapData, Raw<Backend>>,
    nodes: Array<MapData, Raw<Node>>,
    cursors: Array<MapData, Raw<u64>>,
    services: Hash<ServiceKey, Service>,
    endpoints: Hash<EndpointKey, Endpoint>,
    stations: Hash<MacKey, Station>,
    targets: Hash<TargetKey, u32>,
    attachments: Hash<u32, Attachment>,
    networks: Hash<u32, Network>,
    peers: Hash<Address, NodeIndex>,
    locals: Hash<Address, Local>,
    fast_services: Array<MapData, Raw<FastService>>,
    published_ports: Array<MapData, Raw<u64>>,
    /// The entries of that in use.
    fast: Vec<u32>,
    outer_headers: PerCpuArray<MapData, Raw<OuterHeader>>,
    exits: PerCpuArray<MapData, Raw<Exit>>,
    uplinks: Hash<u32, Uplink>,
    flows: Hash<FlowKey, Flow>,
    fragments: Hash<FragmentKey, Fragments>,
    held: Array<MapData, Raw<Held>>,
    held_turn: Array<MapData, Raw<u64>>,
    subnets: LpmTrie<MapData, Raw<SubnetKey>, Raw<u32>>,
    allowed: LpmTrie<MapData, Raw<AllowedKey>, Raw<u32>>,
    allowance: PerCpuArray<MapData, Raw<Allowance>>,
    /// They forget their programs when nobody has them open.
    _called: [ProgramArray<MapData>; 6],
    /// The interface that packets from the wire come in by.
    uplink: u32,
}

/// Whether this kernel has the flags for opening tunnels, by its own types.
pub(crate) fn has_decap_flags() -> Result<bool> {
    const NAME: &[u8] = b"BPF_F_ADJ_ROOM_DECAP_L3_IPV4";
    let types = fs::read("/sys/kernel/btf/vmlinux").context("the kernel does not tell its types")?;
    Ok(types.windows(NAME.len()).any(|window| window == NAME))
}

macro_rules! map {
    ($object:expr, $kind:ident, $name:literal) => {
        $kind::try_from($object.take_map($name).context(concat!("no map ", $name))?)?
    };
}

impl Kernel {
    /// Loads the object. The XDP program is also put on the uplink, which would otherwise have no queue of XDP's that a
    /// test could name. Tunnels are opened with the flags for it, or as on kernels that have none.
    pub(crate) fn load(pins: &std::path::Path, uplink: u32, decap_flags: bool) -> Result<Self> {
        let path = object();
        let bytes = fs::read(&path).with_context(|| {
            format!("no eBPF object at {}: `cargo xtask build-ebpf` makes it", path.display())
        })?;
        let mut programs = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .override_global("DECAP_FLAGS", &u32::from(decap_flags), true)
            .load(&bytes)?;
        for name in [
            "endpoint_tc",
            "endpoint_longer",
            "host_tc",
            "underlay_tc",
            "underlay_longer",
            "refuse_tc",
            "unknown_tc",
            "fragment_tc",
            "endpoint_fragment",
            "host_fragment",
            "underlay_fragment",
        ] {
            tc(&mut programs, name)?.load().with_context(|| format!("cannot load {name}"))?;
        }
        xdp(&mut programs, "refuse_xdp")?.load()?;
        let mut at_tc = map!(programs, ProgramArray, "REFUSE_TC");
        at_tc.set(0, tc(&mut programs, "refuse_tc")?.fd()?, 0)?;
        let mut at_xdp = map!(programs, ProgramArray, "REFUSE_XDP");
        at_xdp.set(0, xdp(&mut programs, "refuse_xdp")?.fd()?, 0)?;
        let mut of_fragments = map!(programs, ProgramArray, "FRAGMENT_TC");
        for (index, name) in [
            (Hook::Endpoint as u32, "endpoint_fragment"),
            (Hook::Host as u32, "host_fragment"),
            (Hook::Underlay as u32, "underlay_fragment"),
            (3, "fragment_tc"),
        ] {
            of_fragments.set(index, tc(&mut programs, name)?.fd()?, 0)?;
        }
        let mut unknown = map!(programs, ProgramArray, "UNKNOWN_TC");
        unknown.set(0, tc(&mut programs, "unknown_tc")?.fd()?, 0)?;
        let mut longer = [
            map!(programs, ProgramArray, "ENDPOINT_LONGER"),
            map!(programs, ProgramArray, "UNDERLAY_LONGER"),
        ];
        for (array, name) in longer.iter_mut().zip(["endpoint_longer", "underlay_longer"]) {
            array.set(0, tc(&mut programs, name)?.fd()?, 0)?;
        }
        let [of_endpoints, of_underlay] = longer;
        let underlay = xdp(&mut programs, "underlay_xdp")?;
        underlay.load()?;
        underlay.attach_to_if_index(uplink, XdpMode::Driver)?;
        Ok(Self {
            traces: map!(programs, RingBuf, "TRACES"),
            drops: map!(programs, PerCpuArray, "DROPS"),
            counters: map!(programs, PerCpuArray, "COUNTERS"),
            settings: map!(programs, Array, "SETTINGS"),
            slots: map!(programs, Array, "SLOTS"),
            backends: map!(programs, Array, "BACKENDS"),
            nodes: map!(programs, Array, "NODES"),
            cursors: map!(programs, Array, "CURSORS"),
            services: map!(programs, HashMap, "SERVICES"),
            endpoints: map!(programs, HashMap, "ENDPOINTS"),
            stations: map!(programs, HashMap, "STATIONS"),
            targets: map!(programs, HashMap, "TARGETS"),
            shortages: map!(programs, PerCpuArray, "SHORTAGES"),
            new_flows: map!(programs, Array, "NEW_FLOWS"),
            new_flows_turn: map!(programs, Array, "NEW_FLOWS_TURN"),
            attachments: map!(programs, HashMap, "ATTACHMENTS"),
            networks: map!(programs, HashMap, "NETWORKS"),
            peers: map!(programs, HashMap, "PEERS"),
            locals: map!(programs, HashMap, "LOCALS"),
            fast_services: map!(programs, Array, "FAST_SERVICES"),
            published_ports: map!(programs, Array, "PUBLISHED_PORTS"),
            fast: vec![],
            outer_headers: map!(programs, PerCpuArray, "OUTER_HEADERS"),
            exits: map!(programs, PerCpuArray, "EXITS"),
            uplinks: map!(programs, HashMap, "UPLINKS"),
            flows: map!(programs, HashMap, "FLOWS"),
            fragments: map!(programs, HashMap, "FRAGMENTS"),
            held: map!(programs, Array, "HELD"),
            held_turn: map!(programs, Array, "HELD_TURN"),
            subnets: map!(programs, LpmTrie, "SUBNETS"),
            allowed: map!(programs, LpmTrie, "ALLOWED"),
            allowance: map!(programs, PerCpuArray, "ALLOWANCE"),
            _called: [at_tc, at_xdp, unknown, of_fragments, of_endpoints, of_underlay],
            programs,
            uplink,
        })
    }

    /// Makes the kernel's tables what a node's are.
    pub(crate) fn fill(&mut self, node: &NodeTables) -> Result<()> {
        // Each packet is traced: the trace tells what the program decided.
        self.settings.set(0, Raw(Settings { trace_every: 1, ..node.settings }), 0)?;
        fill_array(&mut self.slots, &node.slots, 256)?;
        fill_array(&mut self.backends, &node.backends, 256)?;
        fill_array(&mut self.nodes, &node.nodes, NODES)?;
        for index in std::mem::take(&mut self.fast) {
            self.fast_services.set(index, Raw(FastService::default()), 0)?;
        }
        for (index, service) in &node.fast_services {
            self.fast_services.set(*index, Raw(*service), 0)?;
        }
        self.fast = node.fast_services.keys().copied().collect();
        for word in 0..PORT_WORDS {
            let ports = node.published_ports.get(&word).copied().unwrap_or(u64::MAX);
            self.published_ports.set(word, Raw(ports), 0)?;
        }
        // What the programs keep is of the world before this one.
        let none = vec![Raw(OuterHeader::default()); nr_cpus().map_err(|(_, error)| error)?];
        for index in 0..NODES {
            self.outer_headers.set(index, PerCpuValues::try_from(none.clone())?, 0)?;
        }
        let none = vec![Raw(Exit::default()); nr_cpus().map_err(|(_, error)| error)?];
        for place in 0..capacity::EXITS {
            self.exits.set(place, PerCpuValues::try_from(none.clone())?, 0)?;
        }
        for service in 0..64 {
            self.cursors.set(service, Raw(node.cursor(service)), 0)?;
        }
        fill_hash(&mut self.services, &node.services)?;
        fill_hash(&mut self.endpoints, &node.endpoints)?;
        fill_hash(&mut self.stations, &node.stations)?;
        fill_hash(&mut self.targets, &node.targets.iter().map(|key| (*key, 1)).collect())?;
        fill_hash(&mut self.attachments, &node.attachments)?;
        fill_hash(&mut self.networks, &node.networks)?;
        fill_hash(&mut self.peers, &node.peers)?;
        fill_hash(&mut self.locals, &node.locals)?;
        fill_hash(&mut self.uplinks, &node.uplinks)?;
        fill_hash(&mut self.flows, &node.flows().into_iter().collect())?;
        // As far as the world before this one took places, and one more that the test itself may have filled.
        for place in 0..=self.next_place()? {
            self.new_flows.set(place, Raw(FlowKey::default()), 0)?;
        }
        self.new_flows_turn.set(0, Raw(0), 0)?;
        fill_hash(&mut self.fragments, &std::collections::HashMap::new())?;
        let nothing = Held { turn: 0, before: 0, length: 0, reserved: 0, bytes: [0; Held::BYTES] };
        for place in 0..=u32::try_from(self.held_turn.get(&0, 0)?.0)? {
            self.held.set(place, Raw(nothing), 0)?;
        }
        self.held_turn.set(0, Raw(0), 0)?;
        let keys: Vec<_> = self.subnets.keys().collect::<Result<_, _>>()?;
        for key in keys {
            self.subnets.remove(&key)?;
        }
        for (key, bits, value) in node.subnets.entries() {
            self.subnets.insert(&Key::new(bits, Raw(key)), Raw(value), 0)?;
        }
        let keys: Vec<_> = self.allowed.keys().collect::<Result<_, _>>()?;
        for key in keys {
            self.allowed.remove(&key)?;
        }
        for (SubnetKey { vni: service, address }, bits, _) in node.allowed.entries() {
            let key = AllowedKey { service, address };
            self.allowed.insert(&Key::new(bits, Raw(key)), Raw(1), 0)?;
        }
        Ok(())
    }

    /// Runs a packet through the program of a hook, once; none if the kernel does not take such a packet for a test.
    /// `ingress` is the interface that a task's frame comes in by.
    pub(crate) fn run(&mut self, hook: Hook, packet: &[u8], ingress: u32, gso: bool) -> Result<Option<Ran>> {
        let mut bytes = vec![0; 1 << 14];
        let context = match hook {
            Hook::Xdp => xdp_context(packet.len(), self.uplink),
            Hook::Endpoint | Hook::Host | Hook::Underlay => skb_context(self.uplink, ingress, gso),
        };
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut bytes),
            ctx_in: Some(&context),
            // More would feed the program what it has made.
            repeat: 1,
            ..TestRunOptions::new()
        };
        let ran = match hook {
            Hook::Endpoint => tc(&mut self.programs, "endpoint_tc")?.test_run(options),
            Hook::Host => tc(&mut self.programs, "host_tc")?.test_run(options),
            Hook::Underlay => tc(&mut self.programs, "underlay_tc")?.test_run(options),
            Hook::Xdp => xdp(&mut self.programs, "underlay_xdp")?.test_run(options),
        };
        let ran = match ran {
            Ok(ran) => ran,
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(EINVAL) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        bytes.truncate(ran.data_size_out as usize);
        let trace = self.traces.next().context("the program traced nothing")?;
        ensure!(trace.len() == size_of::<Trace>(), "a trace of {} bytes", trace.len());
        // SAFETY: there are as many bytes as a trace has, and any bytes are one.
        let record = unsafe { trace.as_ptr().cast::<Trace>().read_unaligned() };
        drop(trace);
        ensure!(self.traces.next().is_none(), "the program traced more than one packet");
        Ok(Some(Ran { code: ran.return_value, bytes, trace: record }))
    }

    /// The place of the queue of new flows that the next one takes.
    pub(crate) fn next_place(&self) -> Result<u32> {
        Ok(u32::try_from(self.new_flows_turn.get(&0, 0)?.0)?)
    }

    /// The key in a place of the queue of new flows.
    pub(crate) fn queued(&self, place: u32) -> Result<FlowKey> {
        Ok(self.new_flows.get(&place, 0)?.0)
    }

    /// Puts a key into a place of the queue of new flows.
    pub(crate) fn set_queued(&mut self, place: u32, key: FlowKey) -> Result<()> {
        Ok(self.new_flows.set(place, Raw(key), 0)?)
    }

    /// Sets what every processor may still send of errors and resets.
    pub(crate) fn set_allowance(&mut self, allowance: Allowance) -> Result<()> {
        let all = PerCpuValues::try_from(vec![Raw(allowance); nr_cpus().map_err(|(_, error)| error)?])?;
        Ok(self.allowance.set(0, all, 0)?)
    }

    pub(crate) fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(&Raw(*key), 0).ok().map(|flow| flow.0)
    }

    /// Remembers a flow, as if a packet had made it known.
    pub(crate) fn set_flow(&mut self, key: FlowKey, flow: Flow) -> Result<()> {
        Ok(self.flows.insert(Raw(key), Raw(flow), 0)?)
    }

    /// Every flow, in the order of their keys.
    pub(crate) fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let mut flows = self
            .flows
            .iter()
            .map(|entry| entry.map(|(key, flow)| (key.0, flow.0)))
            .collect::<Result<Vec<_>, _>>()?;
        flows.sort_unstable_by_key(|(key, _)| *key);
        Ok(flows)
    }

    /// The next turn of a service.
    pub(crate) fn cursor(&self, service: u32) -> Result<u64> {
        Ok(self.cursors.get(&service, 0)?.0)
    }

    /// Packets lost, by reason, since the programs were loaded.
    pub(crate) fn drops(&self) -> Result<Vec<u64>> {
        (0..Reason::ALL.len() as u32)
            .map(|reason| Ok(self.drops.get(&reason, 0)?.iter().map(|count| count.0).sum()))
            .collect()
    }

    /// How often there was no room, by what for, since the programs were loaded.
    pub(crate) fn shortages(&self) -> Result<Vec<u64>> {
        (0..Shortage::ALL.len() as u32)
            .map(|index| Ok(self.shortages.get(&index, 0)?.iter().map(|count| count.0).sum()))
            .collect()
    }

    /// Packets and bytes by hook and outcome, since the programs were loaded.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        (0..Counter::COUNT)
            .map(|index| {
                let values = self.counters.get(&index, 0)?;
                Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
                    packets: sum.packets + value.0.packets,
                    bytes: sum.bytes + value.0.bytes,
                }))
            })
            .collect()
    }
}

fn tc<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(programs.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn xdp<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(programs.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Fills an array's first entries, of which no world uses more.
fn fill_array<V: Pod + Default>(array: &mut Array<MapData, Raw<V>>, values: &[V], most: u32) -> Result<()> {
    ensure!(values.len() <= most as usize, "a world of {} entries", values.len());
    for index in 0..most {
        array.set(index, Raw(values.get(index as usize).copied().unwrap_or_default()), 0)?;
    }
    Ok(())
}

fn fill_hash<K: Pod + Eq + std::hash::Hash, V: Pod>(
    map: &mut Hash<K, V>,
    entries: &std::collections::HashMap<K, V>,
) -> Result<()> {
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    for (key, value) in entries {
        map.insert(Raw(*key), Raw(*value), 0)?;
    }
    Ok(())
}
