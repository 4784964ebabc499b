//! `cargo xtask bench connect`: short connections, as many as there can be in a second.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::lab::remains;

use super::{
    PREFIX,
    compared::{self, Compared},
    findings::{Findings, Table, Target},
    load::Visits,
    machine::Machine,
    paths::{Carrier, Family, Paths, Road, Wire},
    rounds::Rounds,
    watch::Watch,
};

/// How the mesh is to stand to nftables' DNAT.
const FASTER: f64 = 1.3;

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
}

/// What was measured of one road.
type Measured = Compared<Carried>;

/// What a carrier came to.
#[derive(Default)]
struct Carried {
    per_second: Rounds,
    median: Rounds,
    p99: Rounds,
    work: Rounds,
    failed: usize,
}

/// Measures every road.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let measured = measure_all(arguments)?;
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    let findings = Findings {
        suite: "connect".to_owned(),
        title: "Short connections".to_owned(),
        method: method(arguments),
        command: "cargo xtask bench connect".to_owned(),
        machine: Machine::this(),
        took_seconds: 0.0,
        tables: tables(&measured),
        targets: targets(&measured),
        remarks: remarks(&measured),
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
            "{} rounds of {} ms; in each, every road is measured by every carrier in turn, the order reversed from round to \
             round, and a ratio is that of the same round. A figure is the median, and ± the greatest distance of a round from it. \
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
    ]
}

fn measure_all(arguments: &Arguments) -> Result<Vec<Measured>> {
    let watch = Watch::new("connections");
    compared::rounds(Wire::Packets, &arguments.families, arguments.rounds, &watch, |road, paths, round| {
        measure_road(road, paths, arguments, round)
    })
}

fn measure_road(road: &mut Measured, paths: &Paths, arguments: &Arguments, round: u32) -> Result<()> {
    let (way, family) = (road.road, road.family);
    for (carrier, carried) in road.in_turn(round) {
        let (client, address) = paths.ends(carrier, way, family)?;
        let lasting = Duration::from_millis(arguments.milliseconds);
        let at_once = usize::from(arguments.at_once);
        let visits = Visits::run(client, Paths::short(way, address), at_once, lasting)?;
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
