//! How long great meshes take to be planned and applied, and how much memory their maps take.
//!
//! `cargo test --release -p mesh-userspace --lib scale -- --nocapture` prints the figures of a thousand services of a
//! hundred backends each and holds them against the limits. A debug build is slower and only held against much more, so that
//! it fails for what is quadratic and not for a busy machine. `cargo xtask bench scale` runs the same for meshes of many sizes.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::MapData;
use serde::Serialize;

use super::{Lowered, MapContents, Maps, diff, execute, memory::MemoryMaps, read};
use crate::{
    datapath::Datapath,
    plan::{Earlier, plan, slots_for, testing::*},
    scratch::Scratch,
    table::Table,
};

/// How great a mesh is.
#[derive(Clone, Copy)]
struct Size {
    services: u32,
    /// Of each service.
    backends: u32,
}

const GREAT: Size = Size { services: if cfg!(debug_assertions) { 100 } else { 1000 }, backends: 100 };

/// What the suite measures: in the last one each service has the rings of many backends.
const SIZES: [Size; 6] = [
    Size { services: 1, backends: 1 },
    Size { services: 10, backends: 10 },
    Size { services: 100, backends: 10 },
    Size { services: 1000, backends: 10 },
    Size { services: 10_000, backends: 10 },
    Size { services: 1000, backends: 100 },
];

/// What the whole may take, and what one backend's change.
const LIMITS: (Duration, Duration) = if cfg!(debug_assertions) {
    (Duration::from_secs(60), Duration::from_secs(10))
} else {
    (Duration::from_secs(1), Duration::from_millis(10))
};

/// How often a backend leaves and comes back.
const ROUNDS: u32 = 5;

impl Size {
    fn mesh(self) -> Table {
        let mut table = table();
        network(&mut table, "wide", 7, &["10.0.0.0/8"]);
        for number in 0..self.services {
            let name = format!("s{number}");
            let vip = Ipv4Addr::from_bits(0x0aff_0000 + number).to_string();
            service(&mut table, &name, &[("wide", &[&vip])], &[(10_000 + number as u16, 80)]);
            for task in 0..self.backends {
                let address = Ipv4Addr::from_bits(0x0a01_0000 + number * self.backends + task).to_string();
                // None is on the node that plans: it has only so many tasks, and their links are not what is measured.
                let node = format!("n{}", 2 + task % 2);
                endpoint(&mut table, &backend(number, task), &node, &name, "wide", &[&address]);
            }
        }
        table
    }
}

fn backend(service: u32, task: u32) -> String {
    format!("s{service}.{task}")
}

/// What the steps of one change took, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Steps {
    plan: u64,
    lower: u64,
    compare: u64,
    write: u64,
    operations: usize,
}

impl Steps {
    fn whole(&self) -> Duration {
        Duration::from_nanos(self.plan + self.lower + self.compare + self.write)
    }

    fn told(&self) -> String {
        let Self { plan, lower, compare, write, operations } = self;
        let [plan, lower, compare, write] =
            [plan, lower, compare, write].map(|step| Duration::from_nanos(*step));
        format!(
            "{:.1?}: plan {plan:.1?}, lower {lower:.1?}, compare {compare:.1?}, write {write:.1?} ({operations} operations)",
            self.whole()
        )
    }
}

/// What was measured of a mesh.
#[derive(Serialize)]
struct Measured {
    services: u32,
    /// Of all services.
    backends: u32,
    first: Steps,
    changes: Vec<Steps>,
    /// Nanoseconds to find out whether the maps still hold what was written.
    check: u64,
    slots: usize,
    maps: Vec<Memory>,
}

/// What a map takes.
#[derive(Serialize)]
struct Memory {
    map: String,
    /// The kernel's own count.
    bytes: u64,
    /// The most entries.
    entries: u32,
}

/// A mesh that changes, and how long each change takes.
struct Case<M> {
    maps: M,
    earlier: Earlier,
    known: Option<Lowered>,
}

impl<M: Maps> Case<M> {
    const fn new(maps: M, earlier: Earlier) -> Self {
        Self { maps, earlier, known: None }
    }

    /// What was written last.
    fn known(&self) -> &MapContents {
        self.known.as_ref().unwrap().contents()
    }

    /// Plans and applies, and tells how long each step took.
    fn change(&mut self, table: &Table) -> Steps {
        let (none, facts) = (BTreeSet::new(), facts());
        let found = match &self.known {
            Some(known) => Arc::clone(known.contents()),
            None => Arc::new(read(&self.maps, None).unwrap()),
        };
        let begin = Instant::now();
        let plan = plan(table, "n1", &facts, &mut self.earlier).unwrap();
        let planned = begin.elapsed();
        let wanted = match &self.known {
            Some(known) => known.next(&plan, &none).unwrap(),
            None => Lowered::anew(&plan, &found, &none).unwrap(),
        };
        let lowered = begin.elapsed();
        let operations = diff(&found, wanted.contents());
        let compared = begin.elapsed();
        execute(&mut self.maps, &operations).unwrap();
        let whole = begin.elapsed();
        self.known = Some(wanted);
        Steps {
            plan: nanoseconds(planned),
            lower: nanoseconds(lowered - planned),
            compare: nanoseconds(compared - lowered),
            write: nanoseconds(whole - compared),
            operations: operations.len(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap()
}

fn measure(name: &str, size: Size, maps: impl Maps) -> Measured {
    let mut table = size.mesh();
    let mut case = Case::new(maps, Earlier::default());
    let first = case.change(&table);
    println!("{name}: the whole mesh in {}", first.told());
    let slots = case.known().slots.len();
    assert_eq!(slots, size.services as usize * (100 * size.backends as usize).next_power_of_two().max(1024));

    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        let gone = backend((17 + round) % size.services, round % size.backends);
        let endpoint = table.endpoints.remove(&gone).unwrap();
        changes.push(case.change(&table));
        println!("{name}: one backend left in {}", changes.last().unwrap().told());
        table.endpoints.insert(gone, endpoint);
        changes.push(case.change(&table));
        println!("{name}: one backend came in {}", changes.last().unwrap().told());
    }

    let begin = Instant::now();
    let found = read(&case.maps, Some(case.known())).unwrap();
    let check = begin.elapsed();
    println!("{name}: compared with what the maps hold in {check:.1?}");
    assert!(diff(&found, case.known()).is_empty());
    let (services, backends) = (size.services, size.services * size.backends);
    Measured { services, backends, first, changes, check: nanoseconds(check), slots, maps: Vec::new() }
}

/// In maps of the kernel, which are gone afterwards.
fn measure_in_the_kernel(size: Size) -> Measured {
    let node = Scratch::new("scale");
    let run_dir = std::env::temp_dir().join(format!("meshscale-{}", std::process::id()));
    let object = fs::read(env!("MESH_EBPF_OBJECT")).unwrap();
    let cookie = node.namespace().cookie().unwrap();
    let datapath = Datapath::open(&run_dir, &object, cookie, slots_for(&size.mesh())).unwrap();
    let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let measured = measure("in the kernel", size, datapath.kernel_maps());
        Measured { maps: memory(&run_dir.join("bpf/maps")), ..measured }
    }));
    datapath.detach_all(&run_dir).unwrap();
    fs::remove_dir_all(&run_dir).unwrap();
    measured.unwrap()
}

/// What the maps that are pinned in a directory take.
fn memory(pins: &Path) -> Vec<Memory> {
    let paths = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    let mut maps: Vec<_> = paths.map(|path| memory_of(&path)).collect();
    maps.sort_by(|one, other| one.map.cmp(&other.map));
    maps
}

fn memory_of(pin: &Path) -> Memory {
    let data = MapData::from_pin(pin).unwrap();
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd())).unwrap();
    let field = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let name = pin.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    Memory {
        map: name,
        bytes: field("memlock:").parse().unwrap(),
        entries: field("max_entries:").parse().unwrap(),
    }
}

/// Holds what was measured of the great mesh against the limits.
fn check(measured: &Measured) {
    let whole = measured.first.whole();
    assert!(whole < LIMITS.0, "the whole mesh took {whole:?}");
    // The best of several: the machine has other things to do.
    let best = measured.changes.iter().map(Steps::whole).min().unwrap();
    assert!(best < LIMITS.1, "one backend's change took {best:?}");
}

#[test]
fn a_great_mesh_in_memory() {
    check(&measure("in memory", GREAT, MemoryMaps::with_slots(slots_for(&GREAT.mesh()))));
}

#[test]
fn a_great_mesh_in_the_kernel() {
    check(&measure_in_the_kernel(GREAT));
}

/// Writes what it finds to the file that `MESH_SCALE_FIGURES` names.
#[test]
#[ignore = "a measurement: `cargo xtask bench scale` runs it"]
fn meshes_of_many_sizes_in_the_kernel() {
    let path =
        PathBuf::from(std::env::var_os("MESH_SCALE_FIGURES").expect("MESH_SCALE_FIGURES names no file"));
    let measured = SIZES.map(measure_in_the_kernel);
    fs::write(path, serde_json::to_string(&measured.as_slice()).unwrap()).unwrap();
}
