//! The object loaded and attached in namespaces of the tests' own, taken over, spoilt and removed.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aya::maps::{HashMap as KernelHashMap, MapData, MapInfo};
use mesh_common::abi::{
    Address, Endpoint, EndpointKey, Flow, FlowKey, Node as MeshNode, Service, ServiceKey, Settings, Slot,
    SubnetKey, capacity,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{layout::Layout, *};
use crate::{apply::Maps as _, scratch::Scratch, table::XdpMode};

/// A run directory that goes with the test, and everything under it.
struct RunDir(PathBuf);

impl RunDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("meshrun-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = Datapath::remove(&self.0) {
            eprintln!("{error}");
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The object that the agent embeds.
fn object() -> Vec<u8> {
    fs::read(env!("MESH_EBPF_OBJECT")).unwrap()
}

/// A node's namespace with a pair of interfaces that are up.
struct Node {
    scratch: Scratch,
    run_dir: RunDir,
}

impl Node {
    fn new() -> Self {
        let scratch = Scratch::new("data");
        scratch.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
        for up in ["up0", "up1"] {
            scratch.ip(&["link", "set", up, "up"]);
        }
        Self { scratch, run_dir: RunDir::new() }
    }

    fn open(&self) -> Datapath {
        let cookie = self.scratch.namespace().cookie().unwrap();
        Datapath::open(&self.run_dir.0, &object(), cookie, capacity::SLOTS).unwrap()
    }

    /// As on a kernel that has neither links on interfaces nor flags for opening tunnels.
    fn open_as_on_linux_6_1(&self) -> Datapath {
        let cookie = self.scratch.namespace().cookie().unwrap();
        let abilities = Abilities { tcx: false, decap_flags: false };
        Datapath::open_with(&self.run_dir.0, &object(), cookie, capacity::SLOTS, abilities).unwrap()
    }

    /// Runs `work` inside.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.scratch.namespace().run_blocking(work).unwrap()
    }

    fn index(&self, name: &str) -> u32 {
        let text = self.scratch.ip(&["-o", "link", "show", name]);
        text.split(':').next().unwrap().parse().unwrap()
    }
}

/// What programs on interfaces are attached by on this kernel.
fn ingress() -> Hook {
    if Abilities::probe().unwrap().tcx { Hook::Ingress } else { Hook::Filter }
}

fn seen(datapath: &Datapath) -> Vec<(String, Hook, Option<u32>)> {
    datapath
        .attached()
        .unwrap()
        .into_iter()
        .map(|attached| (attached.program, attached.hook, attached.ifindex))
        .collect()
}

/// The agent hands it to a thread that may block.
#[expect(dead_code, reason = "it need only compile")]
fn may_be_sent(datapath: Datapath) -> impl Send {
    datapath
}

#[test]
fn a_restart_takes_over_maps_and_links() {
    let node = Node::new();
    let (up0, up1) = (node.index("up0"), node.index("up1"));
    let settings = Settings { node: 7, ..Settings::default() };
    let attach = |datapath: &Datapath| {
        datapath.attach_endpoint(up1).unwrap();
        assert_eq!(datapath.attach_underlay(up0, XdpMode::Native).unwrap(), XdpOutcome::Native);
        datapath.attach_cgroup().unwrap();
    };

    let first = node.inside(|| {
        let mut datapath = node.open();
        datapath.array("SETTINGS").unwrap().set(0, &settings).unwrap();
        attach(&datapath);
        let attached = datapath.attached().unwrap();
        // Once more changes nothing.
        attach(&datapath);
        assert_eq!(datapath.attached().unwrap(), attached);
        attached
    });
    assert_eq!(first.len(), 3 + 8);
    for attached in &first {
        assert!(attached.verified_instructions > 0, "{attached:?}");
    }
    for expected in [
        ("endpoint_tc", ingress(), Some(up1)),
        ("underlay_tc", ingress(), Some(up0)),
        ("underlay_xdp", Hook::XdpNative, Some(up0)),
        ("connect4", Hook::Cgroup, None),
    ] {
        let found = first
            .iter()
            .any(|attached| (attached.program.as_str(), attached.hook, attached.ifindex) == expected);
        assert!(found, "{expected:?} is not among {first:?}");
    }

    let second = node.inside(|| {
        let mut datapath = node.open();
        // What the first one attached runs on until it is replaced.
        assert_eq!(datapath.attached().unwrap(), first);
        assert_eq!(datapath.array::<Settings>("SETTINGS").unwrap().get(0).unwrap(), Some(settings));
        attach(&datapath);
        datapath.attached().unwrap()
    });
    assert_eq!(second.len(), first.len());
    for (new, old) in second.iter().zip(&first) {
        // The same link with another program: replaced in place, never detached.
        assert_eq!(new.link_id, old.link_id, "{}", new.program);
        assert_eq!(new.hook, old.hook, "{}", new.program);
        assert_ne!(new.program_id, old.program_id, "{}", new.program);
    }
}

/// What is refused is answered also while no agent runs, and by the next one's program as soon as that is there.
#[test]
fn programs_that_others_call_outlive_the_agent() {
    let node = Node::new();
    node.inside(|| {
        let called = |fs: &BpfFs| {
            TAIL_CALLS.map(|(array, index, _)| {
                let is_its = |pin: &String| Layout::parse(pin).is_some_and(|(map, _)| map == array);
                let pin = fs.list(MAPS).unwrap().into_iter().find(is_its).unwrap();
                let array = sys::get_pinned(&fs.path(MAPS).join(pin)).unwrap();
                sys::lookup::<u32, u32>(array.as_fd(), &index).unwrap()
            })
        };
        let numbers = |datapath: &Datapath| {
            TAIL_CALLS.map(|(_, _, name)| {
                let program = datapath.ebpf.program(name).unwrap().fd().unwrap();
                Some(sys::program_number(program.as_fd()).unwrap())
            })
        };
        let first = node.open();
        let before = numbers(&first);
        assert_eq!(called(&first.fs), before);
        drop(first);
        let fs = BpfFs::open(&node.run_dir.0).unwrap();
        assert_eq!(called(&fs), before);
        // Those that call them may still be an agent's before.
        let mut second = node.open();
        assert_ne!(numbers(&second), before);
        assert_eq!(called(&fs), before);
        assert!(!second.is_taking_over());
        commit(&mut second);
        assert_eq!(called(&fs), numbers(&second));
    });
}

#[test]
fn a_link_goes_with_its_interface() {
    let node = Node::new();
    let (up0, up1) = (node.index("up0"), node.index("up1"));
    node.inside(|| {
        let datapath = node.open();
        datapath.attach_endpoint(up1).unwrap();
        datapath.attach_underlay(up0, XdpMode::Auto).unwrap();
        node.scratch.ip(&["link", "del", "up0"]);
        assert_eq!(seen(&datapath), []);
        let filters = if ingress() == Hook::Filter { 2 } else { 0 };
        assert_eq!(datapath.fs.list(attach::LINKS).unwrap().len(), 3 - filters);
        datapath.sweep().unwrap();
        assert_eq!(datapath.fs.list(attach::LINKS).unwrap().len(), 0);

        // Another interface that happens to get the same index: the stale pin must not be taken for its own.
        node.scratch.ip(&["link", "add", "up0", "index", "900", "type", "veth", "peer", "name", "up1"]);
        datapath.attach_endpoint(900).unwrap();
        node.scratch.ip(&["link", "del", "up0"]);
        node.scratch.ip(&["link", "add", "up0", "index", "900", "type", "veth", "peer", "name", "up1"]);
        assert_eq!(seen(&datapath), []);
        datapath.attach_endpoint(900).unwrap();
        assert_eq!(seen(&datapath), [("endpoint_tc".into(), ingress(), Some(900))]);

        let text = datapath.attach_endpoint(4_000_000).unwrap_err().to_string();
        assert!(text.contains("endpoint_tc") && text.contains("interface number 4000000"), "{text}");
    });
}

/// Runs `tc` in the namespace of the calling thread.
fn tc(arguments: &[&str]) -> String {
    let output = std::process::Command::new("tc").args(arguments).output().unwrap();
    assert!(output.status.success(), "tc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_links_there_are_filters() {
    let node = Node::new();
    let (up0, up1) = (node.index("up0"), node.index("up1"));
    let attach = |datapath: &Datapath| {
        datapath.attach_endpoint(up1).unwrap();
        datapath.attach_underlay(up0, XdpMode::Off).unwrap();
    };
    let mut expected = [("endpoint_tc", up1), ("underlay_tc", up0)]
        .map(|(name, index)| (name.to_owned(), Hook::Filter, Some(index)));
    expected.sort_by_key(|(_, _, index)| *index);
    let seen = |datapath: &Datapath| {
        let mut seen = seen(datapath);
        seen.sort_by_key(|(_, _, index)| *index);
        seen
    };
    let numbers =
        |datapath: &Datapath| datapath.attached().unwrap().iter().map(|a| a.program_id).collect::<Vec<_>>();
    node.inside(|| {
        let first = node.open_as_on_linux_6_1();
        attach(&first);
        assert_eq!(seen(&first), expected);
        let before = numbers(&first);
        attach(&first);
        assert_eq!(numbers(&first), before);
        drop(first);

        // They outlive the agent, and the next one's programs take their places.
        let second = node.open_as_on_linux_6_1();
        assert_eq!(numbers(&second), before);
        assert_eq!(second.foreign().unwrap().len(), 2);
        attach(&second);
        assert_eq!(seen(&second), expected);
        assert!(numbers(&second).iter().all(|number| !before.contains(number)));
        assert!(second.foreign().unwrap().is_empty());

        // What somebody takes away is put back.
        tc(&["qdisc", "del", "dev", "up0", "clsact"]);
        assert_eq!(seen(&second).len(), 1);
        attach(&second);
        assert_eq!(seen(&second), expected);

        second.detach_all_but(&[up1], false).unwrap();
        assert_eq!(seen(&second), [("endpoint_tc".into(), Hook::Filter, Some(up1))]);
        second.detach(up1).unwrap();
        second.detach(up1).unwrap();
        assert_eq!(seen(&second), []);

        node.scratch.ip(&["link", "del", "up0"]);
        let text = second.attach_endpoint(up1).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!(
                "could not attach the eBPF program endpoint_tc to interface number {up1}"
            )),
            "{text}"
        );
    });
}

#[test]
fn filters_of_others_stay() {
    let node = Node::new();
    let (up0, up1) = (node.index("up0"), node.index("up1"));
    // A classic program that matches nothing.
    let other = |device, number: &[&str]| {
        let filter = ["filter", "add", "dev", device, "ingress", "protocol", "all"];
        tc(&[&filter, number, &["bpf", "bytecode", "1,6 0 0 0"]].concat());
    };
    let others = |device| {
        let shown = tc(&["filter", "show", "dev", device, "ingress"]);
        shown.lines().filter(|line| line.contains("handle") && !line.contains("mesh:")).count()
    };
    node.inside(|| {
        let datapath = node.open_as_on_linux_6_1();
        // A queueing discipline of the older kind, and a filter of the very preference.
        tc(&["qdisc", "add", "dev", "up0", "ingress"]);
        other("up0", &["pref", "19781", "handle", "3"]);
        other("up0", &["pref", "8"]);
        datapath.attach_underlay(up0, XdpMode::Off).unwrap();
        assert_eq!(seen(&datapath), [("underlay_tc".into(), Hook::Filter, Some(up0))]);
        assert_eq!(others("up0"), 2);
        datapath.detach_all_but(&[], false).unwrap();
        assert_eq!((seen(&datapath), others("up0")), (vec![], 2));

        // One in the very place of ours is neither replaced nor taken away.
        tc(&["qdisc", "add", "dev", "up1", "clsact"]);
        other("up1", &["pref", "19781", "handle", "0x5348"]);
        let error = datapath.attach_endpoint(up1).unwrap_err();
        assert!(matches!(&error, DatapathError::Attach { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists), "{error}");
        datapath.detach_all_but(&[], false).unwrap();
        assert_eq!(others("up1"), 1);
    });
}

#[test]
fn detaching_takes_what_is_named_and_leaves_the_rest() {
    let node = Node::new();
    let (up0, up1) = (node.index("up0"), node.index("up1"));
    node.inside(|| {
        let datapath = node.open();
        datapath.attach_host(up1).unwrap();
        datapath.attach_underlay(up0, XdpMode::Generic).unwrap();
        datapath.attach_cgroup().unwrap();
        assert_eq!(seen(&datapath).len(), 3 + 8);
        datapath.detach(up0).unwrap();
        datapath.detach(up0).unwrap();
        assert_eq!(seen(&datapath).len(), 1 + 8);
        datapath.detach_all_but(&[up1], false).unwrap();
        assert_eq!(seen(&datapath), [("host_tc".into(), ingress(), Some(up1))]);
        datapath.detach_all_but(&[], true).unwrap();
        assert_eq!(seen(&datapath), []);
    });
}

#[test]
fn xdp_runs_in_the_way_that_was_asked_for_or_says_why_not() {
    let node = Node::new();
    let (up0, lo) = (node.index("up0"), node.index("lo"));
    node.inside(|| {
        let datapath = node.open();
        let shown = || node.scratch.ip(&["link", "show", "up0"]);
        assert_eq!(datapath.attach_underlay(up0, XdpMode::Native).unwrap(), XdpOutcome::Native);
        assert!(shown().contains("prog/xdp") && !shown().contains("xdpgeneric"), "{}", shown());
        assert_eq!(datapath.attach_underlay(up0, XdpMode::Generic).unwrap(), XdpOutcome::Generic);
        assert!(shown().contains("xdpgeneric"), "{}", shown());
        assert_eq!(datapath.attach_underlay(up0, XdpMode::Off).unwrap(), XdpOutcome::Off);
        assert!(!shown().contains("xdp"), "{}", shown());
        assert_eq!(seen(&datapath), [("underlay_tc".into(), ingress(), Some(up0))]);
        assert_eq!(datapath.attach_underlay(up0, XdpMode::Auto).unwrap(), XdpOutcome::Native);

        // The loopback's driver has no XDP.
        let XdpOutcome::Unavailable { why } = datapath.attach_underlay(lo, XdpMode::Auto).unwrap() else {
            panic!("the loopback took a native XDP program");
        };
        assert!(why.contains("the driver of the interface has no XDP"), "{why}");
        assert_eq!(datapath.attach_underlay(lo, XdpMode::Generic).unwrap(), XdpOutcome::Generic);

        // Somebody else's program stays.
        let other = RunDir::new();
        let second = Datapath::open(&other.0, &object(), 1, capacity::SLOTS).unwrap();
        let XdpOutcome::Unavailable { why } = second.attach_underlay(up0, XdpMode::Native).unwrap() else {
            panic!("two XDP programs on one interface");
        };
        assert!(why.contains("another XDP program"), "{why}");
    });
}

#[test]
fn pins_outlive_the_mount_namespace_that_they_were_made_in() {
    let node = Node::new();
    let up0 = node.index("up0");
    // What `ip netns exec` does to the command that it runs.
    let exec = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
                    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).unwrap();
                    nix::sched::setns(node.scratch.namespace(), CloneFlags::CLONE_NEWNET).unwrap();
                    work();
                })
                .join()
                .unwrap();
        });
    };
    let settings = Settings { seed: 42, ..Settings::default() };
    exec(&|| {
        let mut datapath = node.open();
        datapath.array("SETTINGS").unwrap().set(0, &settings).unwrap();
        datapath.attach_endpoint(up0).unwrap();
        datapath.attach_cgroup().unwrap();
    });
    exec(&|| {
        let mut datapath = node.open();
        assert_eq!(seen(&datapath).len(), 1 + 8);
        assert_eq!(datapath.array::<Settings>("SETTINGS").unwrap().get(0).unwrap(), Some(settings));
    });
    exec(&|| Datapath::remove(&node.run_dir.0).unwrap());
    assert!(!node.run_dir.0.join("bpf").exists());
}

#[test]
fn removing_leaves_nothing_behind() {
    let node = Node::new();
    let up0 = node.index("up0");
    let programs: Vec<u32> = node.inside(|| {
        let datapath = node.open();
        datapath.attach_underlay(up0, XdpMode::Native).unwrap();
        datapath.attach_cgroup().unwrap();
        let programs = datapath.attached().unwrap().iter().map(|attached| attached.program_id).collect();
        datapath.detach_all(&node.run_dir.0).unwrap();
        programs
    });
    assert_eq!(programs.len(), 2 + 8);
    assert!(!node.run_dir.0.join("bpf").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(node.run_dir.0.to_str().unwrap()));
    // The kernel frees a program a moment after its last user is gone.
    let patience = Instant::now() + Duration::from_secs(10);
    while let Some(program) = programs.iter().find(|program| sys::program_facts(**program).is_ok()) {
        assert!(Instant::now() < patience, "the program {program} is still loaded");
        std::thread::sleep(Duration::from_millis(20));
    }
    Datapath::remove(&node.run_dir.0).unwrap();
    Datapath::remove(Path::new("/no/such/run/dir")).unwrap();
}

/// Takes a take-over to its end, where no program is attached or each is attached again.
fn commit(datapath: &mut Datapath) -> Report {
    loop {
        match datapath.commit(&object(), 1).unwrap() {
            Progress::Attach => {}
            Progress::Done(report) => return report,
            Progress::Nothing => panic!("there was nothing to take over"),
        }
    }
}

/// The only pin of a map.
fn pin_of(datapath: &Datapath, map: &str) -> String {
    let pins = datapath.fs.list(MAPS).unwrap();
    let mut own = pins.into_iter().filter(|pin| Layout::parse(pin).is_some_and(|(name, _)| name == map));
    let pin = own.next().unwrap();
    assert_eq!(own.next(), None);
    pin
}

/// Puts a map in the place of a pinned one, as an earlier agent with another layout would have it there.
fn replace_pin<K: aya::Pod, V: aya::Pod>(
    datapath: &Datapath,
    map: &str,
    change: impl FnOnce(&mut Layout),
    entries: impl Iterator<Item = (K, V)>,
) {
    let pin = pin_of(datapath, map);
    let (_, mut layout) = Layout::parse(&pin).unwrap();
    change(&mut layout);
    fs::remove_file(datapath.fs.path(MAPS).join(pin)).unwrap();
    let mut earlier: KernelHashMap<MapData, K, V> =
        KernelHashMap::create(layout.entries, layout.flags).unwrap();
    for (key, value) in entries {
        earlier.insert(key, value, 0).unwrap();
    }
    earlier.pin(datapath.fs.path(MAPS).join(layout.pin_name(map))).unwrap();
}

/// Nothing, of the types of services.
fn no_services() -> impl Iterator<Item = (Raw<ServiceKey>, Raw<Service>)> {
    std::iter::empty()
}

#[test]
fn what_is_no_map_of_the_meshs_is_not_taken_over() {
    let node = Node::new();
    {
        let datapath = node.open();
        let pin = datapath.fs.path(MAPS).join(pin_of(&datapath, "PEERS"));
        fs::remove_file(&pin).unwrap();
        let other: KernelHashMap<MapData, u32, u32> = KernelHashMap::create(16, 0).unwrap();
        other.pin(&pin).unwrap();
        datapath.fs.make_directory("v0").unwrap();
    }
    let mut datapath = node.open();
    assert!(datapath.is_taking_over());
    let report = commit(&mut datapath);
    assert_eq!((report.fresh, report.loss), (vec!["PEERS".to_owned()], None));
    datapath.hash("PEERS").unwrap().insert(&Address([1, 2]), &7_u32).unwrap();
    pin_of(&datapath, "PEERS");
    assert!(!datapath.fs.path("v0").exists());
    assert!(!node.open().is_taking_over());
}

#[test]
fn tables_of_another_layout_are_carried_over_and_given_up_with_the_take_over() {
    let node = Node::new();
    let services: Vec<(ServiceKey, Service)> = (0..3000)
        .map(|n| (ServiceKey { scope: n, ..ServiceKey::default() }, Service { id: n, ..Service::default() }))
        .collect();
    {
        let mut datapath = node.open();
        datapath.array("NODES").unwrap().set(5, &MeshNode { mtu: 1400, ..MeshNode::default() }).unwrap();
        let entries = services.iter().map(|(key, service)| (Raw(*key), Raw(*service)));
        replace_pin(&datapath, "SERVICES", |layout| layout.entries = 4096, entries);
        let flow = FlowKey { protocol: 6, ..FlowKey::default() };
        datapath.hash("FLOWS").unwrap().insert(&flow, &Flow { backend: 8, ..Flow::default() }).unwrap();
    }
    let before = node.open().fs.list(MAPS).unwrap();
    node.open().abandon();
    for _ in 0..2 {
        let datapath = node.open();
        assert!(datapath.is_taking_over());
        assert_eq!(datapath.fs.list(MAPS).unwrap(), before);
        // A crash leaves it so.
        assert!(!datapath.fs.list(NEXT).unwrap().is_empty());
    }
    let mut datapath = node.open();
    let report = commit(&mut datapath);
    // The agent's tables name things by each other's numbers, and go together; the flows stay where they are.
    assert!(report.carried.contains(&"SERVICES".to_owned()) && report.carried.contains(&"NODES".to_owned()));
    assert!(report.kept.contains(&"FLOWS".to_owned()), "{report:?}");
    assert_eq!(datapath.array::<MeshNode>("NODES").unwrap().get(5).unwrap().map(|node| node.mtu), Some(1400));
    let mut found = datapath.hash::<ServiceKey, Service>("SERVICES").unwrap().entries().unwrap();
    found.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(found, services);
    assert_eq!(datapath.fs.list(NEXT).unwrap(), [""; 0]);
    pin_of(&datapath, "SERVICES");
    assert_eq!(datapath.hash::<FlowKey, Flow>("FLOWS").unwrap().entries().unwrap().len(), 1);
    assert!(!node.open().is_taking_over());
}

#[test]
fn tables_that_cannot_be_read_take_the_numbers_and_the_flows_with_them() {
    let node = Node::new();
    {
        let mut datapath = node.open();
        let flow = FlowKey { protocol: 6, ..FlowKey::default() };
        datapath.hash("FLOWS").unwrap().insert(&flow, &Flow { backend: 8, ..Flow::default() }).unwrap();
        replace_pin(&datapath, "SERVICES", |layout| layout.version = 999, no_services());
    }
    let mut datapath = node.open();
    let report = commit(&mut datapath);
    assert!(report.loss.as_ref().is_some_and(|loss| loss.contains("SERVICES")), "{report:?}");
    assert!(report.kept.is_empty() && report.carried.is_empty(), "{report:?}");
    assert_eq!(datapath.hash::<FlowKey, Flow>("FLOWS").unwrap().entries().unwrap().len(), 0);
    pin_of(&datapath, "FLOWS");
}

#[test]
fn programs_that_are_not_replaced_keep_a_take_over_back() {
    let node = Node::new();
    let up0 = node.index("up0");
    node.inside(|| {
        let datapath = node.open();
        datapath.attach_endpoint(up0).unwrap();
        replace_pin(
            &datapath,
            "PEERS",
            |layout| layout.entries = 64,
            [(Raw(Address([1, 2])), 3_u32)].into_iter(),
        );
        let mut next = node.open();
        let before = next.fs.list(MAPS).unwrap();
        let text = next.commit(&object(), 1).unwrap_err().to_string();
        assert!(text.contains(&format!("endpoint_tc-{up0}")), "{text}");
        assert_eq!((next.fs.list(MAPS).unwrap(), next.fs.list(NEXT).unwrap()), (before, Vec::new()));
        let mut next = node.open();
        next.attach_endpoint(up0).unwrap();
        commit(&mut next);
    });
}

#[test]
fn maps_are_written_and_read_by_their_types() {
    let node = Node::new();
    let mut datapath = node.open();

    let key = |n: u32| EndpointKey { address: Address([1, 2]), vni: n, reserved: 0 };
    let endpoint = |n: u32| Endpoint { node: n, ..Endpoint::default() };
    let mut endpoints = datapath.hash::<EndpointKey, Endpoint>("ENDPOINTS").unwrap();
    for n in 0..10 {
        endpoints.insert(&key(n), &endpoint(n)).unwrap();
    }
    endpoints.insert(&key(3), &endpoint(33)).unwrap();
    assert_eq!(endpoints.get(&key(3)).unwrap(), Some(endpoint(33)));
    assert!(endpoints.remove(&key(4)).unwrap());
    assert!(!endpoints.remove(&key(4)).unwrap());
    assert_eq!(endpoints.get(&key(4)).unwrap(), None);
    let mut vnis: Vec<u32> = endpoints.entries().unwrap().iter().map(|(key, _)| key.vni).collect();
    vnis.sort_unstable();
    assert_eq!(vnis, [0, 1, 2, 3, 5, 6, 7, 8, 9]);

    let mut flows = datapath.hash::<FlowKey, Flow>("FLOWS").unwrap();
    let flow = FlowKey { protocol: 6, ..FlowKey::default() };
    flows.insert(&flow, &Flow { backend: 8, ..Flow::default() }).unwrap();
    assert_eq!(flows.entries().unwrap().len(), 1);

    let mut subnets = datapath.trie::<SubnetKey, u32>("SUBNETS").unwrap();
    let prefix = SubnetKey { vni: [0, 0, 0, 9], address: [7; 16] };
    let mut inside = prefix;
    inside.address[15] = 1;
    subnets.insert(&prefix, 32 + 120, &1).unwrap();
    assert_eq!(subnets.search(&inside, 32 + 128).unwrap(), Some(1));
    inside.vni = [0, 0, 0, 8];
    assert_eq!(subnets.search(&inside, 32 + 128).unwrap(), None);
    let [(_, bits, value)] = subnets.entries().unwrap()[..] else { panic!("one prefix was put in") };
    assert_eq!((bits, value), (152, 1));
    assert!(subnets.remove(&prefix, 32 + 120).unwrap());
    assert!(!subnets.remove(&prefix, 32 + 120).unwrap());

    let mut maps = datapath.kernel_maps();
    let ring: Vec<Slot> = (0..65_536).map(|n| Slot::new(n, [n + 1, 0])).collect();
    maps.write_slots(100, &ring).unwrap();
    assert!(maps.has_slots(100, &ring).unwrap() && !maps.has_slots(101, &ring).unwrap());
    let mut read = vec![Slot::default(); 2];
    maps.read_slots(99, &mut read).unwrap();
    assert_eq!(read, [Slot::default(), ring[0]]);
    let room = maps.slot_room().unwrap();
    let text = maps.write_slots(room - 1, &ring[..2]).unwrap_err().to_string();
    assert!(text.contains("SLOTS is full") && text.contains("Restart meshd"), "{text}");
    // What is mapped is what the kernel has.
    let slots = datapath.array::<Slot>("SLOTS").unwrap();
    assert_eq!(slots.len(), room);
    for n in [0, 1, 65_535] {
        assert_eq!(slots.get(100 + n).unwrap(), Some(Slot::new(n, [n + 1, 0])));
    }
    assert_eq!(slots.get(99).unwrap(), Some(Slot::default()));
    assert_eq!(slots.get(room).unwrap(), None);

    let sums = datapath.per_cpu::<u64>("DROPS").unwrap().sums().unwrap();
    assert!(sums.len() >= mesh_common::Reason::ALL.len());

    let text = datapath.hash::<u32, u32>("ENDPOINTS").unwrap_err().to_string();
    assert!(text.contains("ENDPOINTS") && text.contains("key size"), "{text}");
    let text = datapath.hash::<u32, u32>("NOTHING").unwrap_err().to_string();
    assert!(text.contains("no map NOTHING"), "{text}");
}

#[test]
fn a_table_of_slots_grows_with_what_it_holds_and_never_shrinks() {
    let node = Node::new();
    let up1 = node.index("up1");
    let open = |slots| {
        let cookie = node.scratch.namespace().cookie().unwrap();
        Datapath::open(&node.run_dir.0, &object(), cookie, slots).unwrap()
    };
    let ring: Vec<Slot> = (0..1024).map(|n| Slot::new(n, [7, 8])).collect();
    let first = capacity::SLOTS - 1024;
    node.inside(|| {
        let datapath = open(capacity::SLOTS);
        datapath.kernel_maps().write_slots(first, &ring).unwrap();
        datapath.attach_endpoint(up1).unwrap();
        let [old] = &datapath.attached().unwrap()[..] else { panic!("one program was attached") };

        let mut datapath = open(3 << 18);
        assert_eq!(datapath.kernel_maps().slot_room().unwrap(), 3 << 18);
        assert!(datapath.kernel_maps().has_slots(first, &ring).unwrap());
        datapath.attach_endpoint(up1).unwrap();
        commit(&mut datapath);
        let [new] = &datapath.attached().unwrap()[..] else { panic!("one program is attached") };
        assert_eq!(new.link_id, old.link_id);
        assert_ne!(new.program_id, old.program_id);

        let datapath = open(capacity::SLOTS);
        assert_eq!(datapath.kernel_maps().slot_room().unwrap(), 3 << 18);
        assert!(datapath.kernel_maps().has_slots(first, &ring).unwrap());
    });
}

#[test]
fn a_full_map_says_which_and_what_had_no_place() {
    let node = Node::new();
    let mut datapath = node.open();
    let capacity = {
        let map = MapInfo::from_pin(datapath.fs.path(MAPS).join(pin_of(&datapath, "SERVICES")));
        map.unwrap().max_entries()
    };
    let mut services = datapath.hash::<ServiceKey, Service>("SERVICES").unwrap();
    let key = |scope| ServiceKey { scope, ..ServiceKey::default() };
    for n in 0..capacity {
        services.insert(&key(n), &Service::default()).unwrap();
    }
    let text = services.insert(&key(capacity), &Service::default()).unwrap_err().to_string();
    assert!(
        text.contains("SERVICES is full")
            && text.contains(&format!("scope: {capacity}"))
            && text.contains(&format!("{capacity} entries")),
        "{text}"
    );
}

#[test]
fn what_is_no_object_is_refused() {
    let run_dir = RunDir::new();
    let error = Datapath::open(&run_dir.0, b"\x7fELF and nothing more", 0, 1).unwrap_err();
    assert!(error.to_string().starts_with("could not load the eBPF object: "), "{error}");
}

#[test]
fn the_root_of_the_control_groups_is_found_without_a_mount() {
    let root = cgroup::open_root().unwrap();
    let kind = nix::sys::statfs::fstatfs(root.as_fd()).unwrap().filesystem_type();
    assert_eq!(kind, nix::sys::statfs::CGROUP2_SUPER_MAGIC);
}
