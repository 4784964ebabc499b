//! Where packets are run: a lab of two nodes with their agents, whose tables are those of a real mesh, and the programs loaded
//! several times onto these tables.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, ProgramArray},
    programs::Program,
};
use mesh_common::abi::{Flow, FlowKey, Pod};
use mesh_tests::{
    bpf::{self, Kind},
    lab::{Lab, Mesh, Namespace, Underlay},
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    super::PREFIX,
    frame::Frame,
    path::{Site, Wanted},
};

/// The node that clients enter by, and that has the task which asks.
pub(in crate::bench) const ENTRY: &str = "n1";
/// The node that has every backend.
pub(in crate::bench) const DELIVERING: &str = "n2";
/// The task that asks.
pub(in crate::bench) const ASKING: &str = "asks";
/// Backends of each service.
const BACKENDS: u8 = 4;
/// The table of flows.
const FLOWS: &str = "FLOWS";
/// The arrays of programs that flows' packets go on to, and the programs.
const CALLED: [(&str, &str); 3] = [
    ("ENDPOINT_LONGER", "endpoint_longer"),
    ("UNDERLAY_LONGER", "underlay_longer"),
    ("UNKNOWN_TC", "unknown_tc"),
];
/// Room for a packet after any program.
const LONGEST: usize = 2048;

/// The lab and the programs.
pub(in crate::bench) struct Stage {
    pub(in crate::bench) lab: Lab,
    /// On each node, each time that the programs were loaded.
    loads: BTreeMap<String, Vec<Ebpf>>,
    controls: [OwnedFd; 2],
    /// The MAC address of each host's interface on the underlay.
    macs: BTreeMap<String, [u8; 6]>,
    /// The interface on the underlay of each node.
    uplinks: BTreeMap<String, u32>,
    /// Of each task, by its MAC address, the interface on its node.
    tasks: BTreeMap<[u8; 6], u32>,
    /// Whether flows are in tables of the programs' own.
    has_own_flows: bool,
}

/// The mesh: a service by hash and one by turns, whose backends are all on the second node.
pub(super) fn mesh(underlay: Underlay) -> Mesh {
    let mut mesh = Mesh::new(2)
        .underlay(underlay)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("hash", "blue", "10.0.9.2", "mh", &["8080:80/udp"]);
    for number in 1..=BACKENDS {
        let (name, address) = (format!("hash.{number}"), format!("10.0.9.{}", 10 + number));
        mesh = mesh.backend("hash", &name, DELIVERING, "blue", &address);
    }
    mesh = mesh.service("turn", "blue", "10.0.9.3", "rr", &["8081:80/udp"]);
    for number in 1..=BACKENDS {
        let (name, address) = (format!("turn.{number}"), format!("10.0.9.{}", 20 + number));
        mesh = mesh.backend("turn", &name, DELIVERING, "blue", &address);
    }
    mesh.task(ASKING, ENTRY, "blue", "10.0.9.31")
}

impl Stage {
    /// Builds a lab and loads the programs so many times on each node that runs an agent. The tables are the agents', save
    /// that of flows, where it is said how many entries another one is to have in its place.
    pub(in crate::bench) fn new(mesh: Mesh, loads: u16, flows: Option<u32>) -> Result<Self> {
        let lab = mesh.up(PREFIX)?;
        let object = fs::read(bpf::object()).context("cannot read the eBPF object")?;
        let mut stage = Self {
            loads: BTreeMap::new(),
            controls: [Kind::Xdp, Kind::Tc]
                .map(empty)
                .into_iter()
                .collect::<Result<Vec<_>>>()?
                .try_into()
                .ok()
                .context("two controls")?,
            macs: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            tasks: BTreeMap::new(),
            has_own_flows: flows.is_some(),
            lab,
        };
        for node in stage.lab.mesh().nodes.clone() {
            let pins = stage.lab.node(&node).pins()?;
            let own = flows.map(|entries| (stage.own_pins(&node), entries));
            let load = |_| load(&object, &pins, own.as_ref());
            let loaded = (0..loads).map(load).collect::<Result<Vec<_>>>();
            let loaded = loaded.with_context(|| format!("on {node}"))?;
            stage.uplinks.insert(node.clone(), index(&stage.lab.host(&node).namespace, "eth0")?);
            stage.loads.insert(node, loaded);
        }
        for host in stage.on_the_underlay() {
            let mac = mac_of(&stage.lab.host(&host).namespace, "eth0")?;
            stage.macs.insert(host, mac);
        }
        stage.settle_ways()?;
        let endpoints = stage.lab.mesh().endpoints.clone();
        for endpoint in endpoints {
            let Some(task) = &endpoint.task else { continue };
            let address: IpAddr = endpoint.address.parse()?;
            let interface = stage.lab.host(task).interface_of(address)?;
            let mac = mac_of(&stage.lab.host(task).namespace, &interface)?;
            let side = stage.lab.host_side(task, address, &endpoint.node)?;
            let side = index(&stage.lab.host(&endpoint.node).namespace, &side)?;
            stage.tasks.insert(mac, side);
        }
        Ok(stage)
    }

    /// Each host on the underlay.
    fn on_the_underlay(&self) -> Vec<String> {
        let mesh = self.lab.mesh();
        mesh.nodes.iter().chain(&mesh.kernel_nodes).chain(&mesh.clients).cloned().collect()
    }

    /// Nobody's MAC address is to be asked for while packets are measured, and clients live behind a router.
    fn settle_ways(&self) -> Result<()> {
        for node in &self.lab.mesh().nodes {
            for neighbour in self.on_the_underlay().iter().filter(|other| *other != node) {
                let mac = self.mac(neighbour)?.map(|byte| format!("{byte:02x}")).join(":");
                for address in
                    [self.lab.mesh().address_v4(neighbour)?, self.lab.mesh().address_v6(neighbour)?]
                {
                    let entry = format!("neigh replace {address} lladdr {mac} nud permanent dev eth0");
                    self.lab.host(node).namespace.ip(&entry)?;
                }
            }
        }
        let entry = &self.lab.host(ENTRY).namespace;
        entry.ip(&format!("route add 198.18.0.0/15 via {}", self.lab.mesh().address_v4("client")?))?;
        entry.ip(&format!("route add 2001:db8:c::/48 via {}", self.lab.mesh().address_v6("client")?))?;
        Ok(())
    }

    /// How often the programs were loaded.
    pub(in crate::bench) fn loads(&self) -> usize {
        self.loads.values().map(Vec::len).min().unwrap_or(0)
    }

    /// The MAC address of a host on the underlay.
    pub(in crate::bench) fn mac(&self, host: &str) -> Result<[u8; 6]> {
        self.macs.get(host).copied().with_context(|| format!("no host {host} on the underlay"))
    }

    /// A node's interface on the underlay.
    pub(in crate::bench) fn uplink(&self, node: &str) -> Result<u32> {
        self.uplinks.get(node).copied().with_context(|| format!("no node {node}"))
    }

    /// Bytes of the longest packet on the underlay.
    pub(super) fn mtu(&self) -> u16 {
        u16::try_from(self.lab.mesh().mtu).unwrap_or(u16::MAX)
    }

    /// The interface on its node of the task with this MAC address.
    pub(in crate::bench) fn side_of(&self, mac: &[u8]) -> Result<u32> {
        let found = self.tasks.iter().find(|(task, _)| task.as_slice() == mac);
        Ok(*found.with_context(|| format!("no task has the MAC address {mac:02x?}"))?.1)
    }

    /// The MAC address of a task, and the interface on its node.
    pub(in crate::bench) fn task(&self, name: &str) -> Result<([u8; 6], u32)> {
        let endpoint = self.lab.mesh().endpoints.iter().find(|endpoint| endpoint.name == name);
        let address: IpAddr = endpoint.with_context(|| format!("no task {name}"))?.address.parse()?;
        let host = self.lab.host(name);
        let mac = mac_of(&host.namespace, &host.interface_of(address)?)?;
        Ok((mac, self.side_of(&mac)?))
    }

    /// What the frames are after a program, each of which must come out as it is wanted.
    pub(in crate::bench) fn through(
        &self,
        site: Site,
        frames: &[Frame],
        wanted: Wanted,
    ) -> Result<Vec<Vec<u8>>> {
        let program = self.program(site, 0)?;
        let out = self.lab.host(site.node).namespace.inside(|| -> Result<Vec<Vec<u8>>> {
            let mut room = vec![0; LONGEST];
            let mut run = |(number, frame): (usize, &Frame)| {
                let context = site.context(frame);
                let ran = bpf::test_run(program, &frame.bytes, &context, Some(&mut room))?;
                wanted.check(&frame.bytes, ran).with_context(|| format!("packet {number}"))?;
                Ok(room.get(..ran.length).context("a packet longer than there is room for")?.to_vec())
            };
            frames.iter().enumerate().map(&mut run).collect()
        })?;
        out.with_context(|| self.told(site))
    }

    /// A program, and for what reasons packets were lost on its node.
    fn told(&self, site: Site) -> String {
        let drops = self.lab.node(site.node).drops().unwrap_or_default();
        let drops: Vec<_> = drops
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let drops = if drops.is_empty() { "no packet".to_owned() } else { drops.join(", ") };
        format!("{} on {}, which lost: {drops}", site.program, site.node)
    }

    /// The nanoseconds that a frame takes in a program, loaded for the so-manieth time: the mean without the highest and the
    /// lowest tenth. A median would be no finer than the clock, which on some machines goes in steps of ten nanoseconds.
    pub(in crate::bench) fn time(
        &self,
        site: Site,
        load: usize,
        frames: &[&Frame],
        wanted: Wanted,
    ) -> Result<f64> {
        let program = self.program(site, load)?;
        let times = self.lab.host(site.node).namespace.inside(|| -> Result<Vec<u32>> {
            stay()?;
            let mut times = Vec::with_capacity(frames.len());
            for frame in frames {
                let ran = bpf::test_run(program, &frame.bytes, &site.context(frame), None)?;
                wanted.check(&frame.bytes, ran)?;
                times.push(ran.nanoseconds);
            }
            Ok(times)
        })?;
        let mut times = times.with_context(|| self.told(site))?;
        times.sort_unstable();
        let tenth = times.len() / 10;
        let middle = times.get(tenth..times.len() - tenth).filter(|middle| !middle.is_empty());
        let middle = middle.context("nothing was measured")?;
        Ok(middle.iter().copied().map(f64::from).sum::<f64>() / middle.len() as f64)
    }

    /// The programs as they were first loaded on a node.
    pub(super) fn loaded(&self, node: &str) -> Result<&Ebpf> {
        self.loads.get(node).and_then(|loads| loads.first()).with_context(|| format!("no node {node}"))
    }

    fn program(&self, site: Site, load: usize) -> Result<BorrowedFd<'_>> {
        if let Some(control) = site.control() {
            return Ok(self.controls.get(control).context("no such control")?.as_fd());
        }
        let loaded = self.loads.get(site.node).and_then(|loads| loads.get(load));
        let program = loaded.and_then(|ebpf| ebpf.program(site.program));
        Ok(program.with_context(|| format!("no program {}", site.program))?.fd()?.as_fd())
    }

    /// Forgets every flow on both nodes.
    pub(in crate::bench) fn forget(&self) -> Result<()> {
        for node in &self.lab.mesh().nodes {
            let mut flows = self.flows(node)?;
            let keys: Vec<_> = flows.keys().collect::<Result<_, _>>()?;
            for key in keys {
                flows.remove(&key)?;
            }
        }
        Ok(())
    }

    /// How many flows a node remembers; each direction counts.
    pub(in crate::bench) fn remembered(&self, node: &str) -> Result<usize> {
        Ok(self.flows(node)?.keys().filter(Result::is_ok).count())
    }

    /// What a node remembers, in no order.
    pub(in crate::bench) fn entries(&self, node: &str) -> Result<Vec<(FlowKey, Flow)>> {
        let flows = self.flows(node)?;
        let entries = flows.iter().map(|entry| entry.map(|(key, flow)| (key.0, flow.0)));
        Ok(entries.collect::<Result<_, _>>()?)
    }

    /// Has a node remember flows.
    pub(in crate::bench) fn remember(
        &self,
        node: &str,
        entries: impl IntoIterator<Item = (FlowKey, Flow)>,
    ) -> Result<()> {
        let mut flows = self.flows(node)?;
        entries.into_iter().try_for_each(|(key, flow)| Ok(flows.insert(Raw(key), Raw(flow), 0)?))
    }

    fn flows(&self, node: &str) -> Result<HashMap<MapData, Raw<FlowKey>, Raw<Flow>>> {
        let pin = match self.has_own_flows {
            true => own_pin(&self.own_pins(node), FLOWS),
            false => self.lab.node(node).map_pin(FLOWS)?,
        };
        Ok(HashMap::try_from(Map::LruHashMap(MapData::from_pin(pin)?))?)
    }

    /// Where the programs pin maps of their own.
    fn own_pins(&self, node: &str) -> PathBuf {
        self.lab.node(node).run_directory().join("bpf")
    }
}

fn own_pin(directory: &Path, map: &str) -> PathBuf {
    directory.join(format!("own-{map}"))
}

/// A type of the kernel's tables, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: the ABI's Pod demands the same as aya's, and more: no padding, and any bytes are a valid value.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

/// Loads the programs that packets are run through, with the maps that an agent has pinned: those that these call in turn are
/// the agent's. A table of flows of their own, of so many entries, is made where it is not pinned yet, and then those that look into it are theirs as
/// well.
fn load(object: &[u8], pins: &[PathBuf], own: Option<&(PathBuf, u32)>) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for pin in pins.iter().filter(|pin| pin.parent().is_some_and(|parent| parent.ends_with("maps"))) {
        let name = pin.file_name().and_then(|name| name.to_str()?.split('-').next());
        loader.map_pin_path(name.context("a pin without a name")?, pin);
    }
    if let Some((directory, entries)) = own {
        loader.map_max_entries(FLOWS, *entries);
        for map in CALLED.map(|(array, _)| array).into_iter().chain([FLOWS]) {
            loader.map_pin_path(map, own_pin(directory, map));
        }
    }
    let mut ebpf = loader.load(object)?;
    let called = if own.is_some() { &CALLED[..] } else { &[] };
    for name in Site::PROGRAMS.into_iter().chain(called.iter().map(|(_, program)| *program)) {
        let loaded = match ebpf.program_mut(name).with_context(|| format!("no program {name}"))? {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => anyhow::bail!("{name} is of another type than it was: {:?}", other.prog_type()),
        };
        loaded.with_context(|| format!("the kernel refuses {name}"))?;
    }
    for (array, program) in called {
        // Its pin keeps what is set.
        let mut array = ProgramArray::try_from(ebpf.take_map(array).context("nothing is called")?)?;
        array.set(0, ebpf.program(program).context("nothing is called")?.fd()?, 0)?;
    }
    Ok(ebpf)
}

/// A program that does nothing but let the packet pass.
fn empty(kind: Kind) -> Result<OwnedFd> {
    let code = match kind {
        Kind::Tc => 0,
        Kind::Xdp | Kind::XdpFrags => 2,
    };
    bpf::load(kind, &[bpf::answer(code), bpf::EXIT]).context("cannot load an empty program")
}

/// Keeps the calling thread on one processor, so that what it measures is of one cache.
fn stay() -> Result<()> {
    let here = Pid::from_raw(0);
    let allowed = sched_getaffinity(here)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no processor is allowed")?)?;
    sched_setaffinity(here, &one).context("cannot stay on one processor")
}

fn index(namespace: &Namespace, interface: &str) -> Result<u32> {
    namespace.inside(|| if_nametoindex(interface))?.with_context(|| format!("no interface {interface}"))
}

fn mac_of(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = namespace.ip(&format!("-json link show {interface}"))?;
    let links: serde_json::Value = serde_json::from_str(&text).context("ip gave no JSON")?;
    let text = links[0]["address"].as_str().with_context(|| format!("{interface} has no MAC address"))?;
    let bytes: Vec<_> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let mac = bytes.try_into().ok();
    let mac = mac.with_context(|| format!("{text} is no MAC address"))?;
    ensure!(mac != [0; 6], "{interface} has no MAC address");
    Ok(mac)
}
