//! `cargo xtask bench connect`: short connections, as many as there can be in a second.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::lab::remains;
use serde::{Deserialize, Serialize};

use super::{
    PREFIX,
    compared::{self, Compared},
    counted,
    findings::{Findings, Table, Target},
    load::Visits,
    machine::Machine,
    paths::{Balancer, Carrier, Family, Paths, Road, Wire},
    rounds::Rounds,
    watch::Watch,
};
use crate::{
    setup::{self, Purpose},
    vm::Kernel,
};

/// How the mesh is to stand to nftables' DNAT.
const FASTER: f64 = 1.3;
/// How it is to stand to IPVS.
const FASTER_THAN_IPVS: f64 = 1.5;
/// How much shorter a measurement is where the clock counts instructions: it is emulated, and exact.
const SHORTER_COUNTED: u64 = 5;
/// Rounds there, at most.
const ROUNDS_COUNTED: u32 = 3;
/// Which part of a measurement's time comes before it, and does not count.
const WARMING: u32 = 5;

/// What `bench connect` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of every measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    milliseconds: u64,
    /// Connections that are open at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    at_once: u16,
    /// Only these families, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "ipv4,ipv6")]
    families: Vec<Family>,
    /// A kernel with IPVS to compare with, in a virtual machine whose clock counts instructions; may be given more than once, and
    /// is all of them otherwise
    #[arg(long = "kernel", value_enum, default_values_t = Kernel::ALL)]
    kernels: Vec<Kernel>,
    /// Measure on this machine alone, with IPVS, and print what was found as JSON: so a virtual machine is told what to do
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

/// What was measured of one road.
type Measured = Compared<Carried>;

/// What was found beside IPVS, as a virtual machine tells it.
#[derive(Deserialize, Serialize)]
struct Told {
    kernel: String,
    roads: Vec<Measured>,
}

/// What a carrier came to.
#[derive(Default, Deserialize, Serialize)]
struct Carried {
    per_second: Rounds,
    median: Rounds,
    p99: Rounds,
    work: Rounds,
    failed: usize,
}

/// Measures on this machine, with IPVS, and prints what was found for a program.
pub(super) fn here(arguments: &Arguments) -> Result<()> {
    counted::warm_up()?;
    let roads = measure_all(arguments, Balancer::Ipvs, |text| println!("{text}"))?;
    counted::tell(&Told { kernel: counted::release()?, roads })
}

/// Measures every road, on this machine beside nftables, and in virtual machines beside IPVS.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    setup::ensure(Purpose::Vm)?;
    let told = arguments.kernels.iter().map(|&kernel| measure_in_guest(arguments, kernel));
    let told = told.collect::<Result<Vec<_>>>()?;
    let watch = Watch::new("connections");
    let measured = measure_all(arguments, Balancer::Nftables, |text| watch.now(text))?;
    drop(watch);
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    let findings = Findings {
        suite: "connect".to_owned(),
        title: "Short connections".to_owned(),
        method: method(arguments),
        command: "cargo xtask bench connect".to_owned(),
        machine: Machine::this().with_guests(told.iter().map(|told| told.kernel.clone())),
        took_seconds: 0.0,
        tables: tables(&measured).into_iter().chain(told.iter().map(table_of_ipvs)).collect(),
        targets: targets(&measured).into_iter().chain(told.iter().flat_map(targets_of_ipvs)).collect(),
        remarks: remarks(&measured).into_iter().chain(told.iter().flat_map(remarks_of_ipvs)).collect(),
    };
    Ok((findings, Ok(())))
}

fn method(arguments: &Arguments) -> Vec<String> {
    vec![
        format!(
            "A client keeps {} connections going: it connects, sends 64 bytes, reads 256 to their end, and closes. The server \
             closes after its answer, as HTTP/1.0 has it, and the client answers that with a reset, so that no side remembers the \
             connection and no rate is bounded by the number of ports. Client and server are the same for every carrier: a thread \
             each, the client's on the first processor, the server's on the second.",
            arguments.at_once
        ),
        format!(
            "{} rounds; in each, every road is measured by every carrier in turn for {} ms, after a fifth of that time which does not \
             count, the order reversed from round to round, and a ratio is that of the same round. A figure is the median, and ± the greatest distance of a round from it. \
             Work is the time that all processors were busy (/proc/stat) for a connection: client, path and server together, so \
             it is right on a quiet machine alone.",
            arguments.rounds, arguments.milliseconds
        ),
        "The carriers are those of the suite `overlay`, over its wire of packets: the mesh; the kernel's vxlan and bridge, with \
         nftables' DNAT and connection tracking for the virtual IP (in the client task's namespace, where Docker has IPVS) and the \
         published port (at the entry node, with masquerading, as kube-proxy does it); bare links, by which a client outside dials \
         the task's own address by way of the entry node. \"Task to task\" is not \
         balanced by anybody, and shows what the path alone takes."
            .to_owned(),
        format!(
            "Beside IPVS, all of that is measured in virtual machines with Debian's kernels, with IPVS (`rr`, NAT, as Docker has it) in \
             the place of nftables' DNAT. There one virtual nanosecond is one instruction of the guest's one processor (QEMU's \
             `-icount shift=0`), so connections in a virtual second are connections in a billion instructions, client and server \
             included, whatever else the machine does; cache misses do not show. {} rounds of {} virtual ms.",
            rounds_counted(arguments),
            milliseconds_counted(arguments)
        ),
    ]
}

/// Measures in a virtual machine whose clock counts instructions.
fn measure_in_guest(arguments: &Arguments, kernel: Kernel) -> Result<Told> {
    let mut words = ["connect", "--here"].map(str::to_owned).to_vec();
    words.push(format!("--rounds={}", rounds_counted(arguments)));
    words.push(format!("--milliseconds={}", milliseconds_counted(arguments)));
    words.push(format!("--at-once={}", arguments.at_once));
    counted::ask(kernel, &words)
}

fn rounds_counted(arguments: &Arguments) -> u32 {
    arguments.rounds.min(ROUNDS_COUNTED)
}

fn milliseconds_counted(arguments: &Arguments) -> u64 {
    (arguments.milliseconds / SHORTER_COUNTED).max(10)
}

fn measure_all(arguments: &Arguments, balancer: Balancer, tell: impl Fn(&str)) -> Result<Vec<Measured>> {
    let over = (Wire::Packets, balancer);
    compared::rounds(over, &arguments.families, arguments.rounds, tell, |road, paths, round| {
        measure_road(road, paths, arguments, round)
    })
}

fn measure_road(road: &mut Measured, paths: &Paths, arguments: &Arguments, round: u32) -> Result<()> {
    let (way, family) = (road.road, road.family);
    for (carrier, carried) in road.in_turn(round) {
        let (client, address) = paths.ends(carrier, way, family)?;
        let lasting = Duration::from_millis(arguments.milliseconds);
        let at_once = usize::from(arguments.at_once);
        let server = Paths::short(way, address);
        // What is done for the first time (modules, neighbours, caches) is not measured.
        Visits::run(client, server, at_once, lasting / WARMING)?;
        let visits = Visits::run(client, server, at_once, lasting)?;
        carried.per_second.push(visits.per_second);
        carried.median.push(visits.median);
        carried.p99.push(visits.p99);
        carried.work.push(visits.work);
        carried.failed += visits.failed;
    }
    Ok(())
}

fn tables(measured: &[Measured]) -> Vec<Table> {
    let table = |name: &str, heading: &str, unit: &str, of: fn(&Carried) -> &Rounds| {
        compared::table(name, heading, unit, measured, Compared::title, of)
    };
    vec![
        table("connect", "Connections", "per second", |carried| &carried.per_second),
        table("work", "Work for a connection", "µs", |carried| &carried.work),
        table("latency", "From connecting to the answer's end: the median", "µs", |carried| &carried.median),
        table(
            "latency-p99",
            "From connecting to the answer's end: one of a hundred takes longer",
            "µs",
            |carried| &carried.p99,
        ),
    ]
}

fn targets(measured: &[Measured]) -> Vec<Target> {
    let balanced = measured.iter().filter(|road| road.road != Road::Task);
    let target = |road: &Measured| {
        let kernel = &road.by(Carrier::Kernel)?.per_second;
        let found = road.by(Carrier::Mesh)?.per_second.over(kernel)?;
        let what = format!("connections {}: the mesh, of nftables' DNAT", road.title());
        let task = measured.iter().find(|other| other.road == Road::Task && other.family == road.family)?;
        let bare = task.by(Carrier::Bare)?.per_second.over(kernel)?;
        Some(Target::at_least(&what, FASTER, "times", found).bounded_by(format!(
            "bare links between two tasks, which balance nothing, come to {} times nftables' DNAT in the same rounds; the rest is \
             what client and server cost",
            bare.shown()
        )))
    };
    balanced.filter_map(target).collect()
}

fn table_of_ipvs(told: &Told) -> Table {
    let version: Vec<&str> = told.kernel.splitn(3, '.').take(2).collect();
    let name = format!("connect-ipvs-{}", version.join("."));
    let title = format!("Connections beside IPVS, under Linux {}", told.kernel);
    let unit = "in a billion instructions";
    compared::table(&name, &title, unit, &told.roads, Compared::title, |carried| &carried.per_second)
}

fn targets_of_ipvs(told: &Told) -> Vec<Target> {
    let balanced = told.roads.iter().filter(|road| road.road != Road::Task);
    let target = |road: &Measured| {
        let found = road.over(Carrier::Mesh, Carrier::Kernel, |carried| &carried.per_second)?;
        let what = format!("connections {} under Linux {}: the mesh, of IPVS", road.title(), told.kernel);
        let task = told.roads.iter().find(|other| other.road == Road::Task && other.family == road.family)?;
        let bare = task.by(Carrier::Bare)?.per_second.over(&road.by(Carrier::Kernel)?.per_second)?;
        Some(Target::at_least(&what, FASTER_THAN_IPVS, "times", found).bounded_by(format!(
            "bare links between two tasks, which balance nothing, come to {} times IPVS in the same rounds; the rest is what client \
             and server cost",
            bare.shown()
        )))
    };
    balanced.filter_map(target).collect()
}

fn remarks_of_ipvs(told: &Told) -> Vec<String> {
    let remarks = remarks(&told.roads);
    remarks.into_iter().map(|remark| format!("Under Linux {}: {remark}", told.kernel)).collect()
}

fn remarks(measured: &[Measured]) -> Vec<String> {
    let mut remarks = vec![];
    for road in measured {
        for &carrier in road.road.carriers() {
            let failed = road.by(carrier).map_or(0, |carried| carried.failed);
            if failed > 0 {
                let (name, carrier) = (road.title(), carrier.title());
                remarks.push(format!("{name}: {failed} connections by {carrier} failed."));
            }
        }
    }
    remarks
}
