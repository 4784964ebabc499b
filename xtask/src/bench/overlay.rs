//! `cargo xtask bench overlay`: what the network between tasks carries, and what that costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::lab::remains;

use super::{
    PREFIX,
    compared::{self, Compared},
    findings::{Findings, Table, Target},
    load::{PingPong, Protocol, Transfer},
    machine::Machine,
    paths::{Balancer, Carrier, Family, Paths, Road, Wire},
    rounds::Rounds,
    watch::Watch,
};

/// How the mesh is to stand to the kernel's overlay, in TCP between tasks.
const FASTER: f64 = 1.3;
/// How its balanced roads are to stand to that between tasks.
const AS_FAST: f64 = 0.9;

/// What `bench overlay` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of every measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each transfer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Milliseconds of datagrams sent to and fro, one at a time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    milliseconds: u64,
    /// Only these wires between the hosts, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "packets,segments")]
    wires: Vec<Wire>,
    /// Only these families, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "ipv4,ipv6")]
    families: Vec<Family>,
}

/// What was measured of one road.
type Measured = Compared<Carried>;

/// What a carrier came to.
#[derive(Default)]
struct Carried {
    tcp: Rounds,
    tcp_work: Rounds,
    udp: Rounds,
    udp_work: Rounds,
    udp_lost: Rounds,
    median: Rounds,
    p99: Rounds,
    unanswered: usize,
}

/// Measures every road over every wire.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let mut measured = vec![];
    for &wire in &arguments.wires {
        measured.extend(measure_wire(wire, arguments)?);
        let gone = remains(PREFIX)?;
        ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    }
    let findings = Findings {
        suite: "overlay".to_owned(),
        title: "What the network between tasks carries".to_owned(),
        method: method(arguments),
        command: "cargo xtask bench overlay".to_owned(),
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
            "{} rounds; in each, every road is measured by every carrier in turn, the order reversed from round to round, and a \
             ratio is that of the same round. A figure is the median, and ± the greatest distance of a round from it.",
            arguments.rounds
        ),
        "All carriers are on one machine and one switch, and between as many namespaces: client task, its node, the switch, the \
         other node, server task. The mesh is meshd as it is installed. \"Kernel\" is what Docker's overlay is: on each node a \
         bridge with a `vxlan` device (no UDP checksum, no learning, the tasks' MAC addresses entered) and the tasks' veths as its \
         ports. Its virtual IP is nftables' DNAT in the client task's own namespace, where Docker has IPVS; its published port is \
         DNAT and masquerading at the entry node, as kube-proxy does it, into the same overlay. \"Bare\" is two routers that put \
         nothing around a packet; by them a client outside dials the task's own address, by way of the entry node. Mesh and kernel tunnel over IPv4 and give tasks an MTU of 1450 bytes, bare links have 1500. \
         Tasks' veths have the offloads that the kernel gives them."
            .to_owned(),
        "On the wire of packets, the hosts' interfaces have no offload for sending (`tx off tso off`), so that the sending kernel \
         cuts segments and finishes checksums, and GRO for receiving; the switch's ports merge nothing. On the wire of segments, \
         nothing is cut (`tx on tso on`); datagrams, which nothing cuts, are measured on the other one alone."
            .to_owned(),
        format!(
            "TCP and UDP by iperf3 for {} s, its client bound to the first processor and its server to the second; UDP as fast as the \
             sender can, in datagrams of 1400 bytes, and what counts is what arrives. Work is the time that all processors were busy \
             (/proc/stat: user, system, interrupts, softirqs) for a gigabyte that arrived, so it is right on a quiet machine alone. \
             Latency is that of one UDP datagram of 64 bytes to a server that sends it back, one after the other for {} ms.",
            arguments.seconds, arguments.milliseconds
        ),
    ]
}

fn measure_wire(wire: Wire, arguments: &Arguments) -> Result<Vec<Measured>> {
    let watch = Watch::new(wire.title());
    let tell = |text: &str| watch.now(text);
    compared::rounds(
        (wire, Balancer::Nftables),
        &arguments.families,
        arguments.rounds,
        tell,
        |road, paths, round| measure_road(road, paths, arguments, round),
    )
}

fn measure_road(road: &mut Measured, paths: &Paths, arguments: &Arguments, round: u32) -> Result<()> {
    let (way, family) = (road.road, road.family);
    // Nothing cuts a datagram: the wires are the same to it.
    let is_for_datagrams = road.wire == Wire::Packets;
    for (carrier, carried) in road.in_turn(round) {
        if !is_for_datagrams {
            break;
        }
        let (client, address) = paths.ends(carrier, way, family)?;
        let lasting = Duration::from_millis(arguments.milliseconds);
        let trips = PingPong::run(client, Paths::echo(address), lasting)?;
        carried.median.push(trips.median);
        carried.p99.push(trips.p99);
        carried.unanswered += trips.lost;
    }
    let protocols: &[_] = if is_for_datagrams { &[Protocol::Tcp, Protocol::Udp] } else { &[Protocol::Tcp] };
    for &protocol in protocols {
        for (carrier, carried) in road.in_turn(round) {
            let (client, address) = paths.ends(carrier, way, family)?;
            let transfer = Transfer::run(client, address, protocol, arguments.seconds)?;
            let (rate, work) = match protocol {
                Protocol::Tcp => (&mut carried.tcp, &mut carried.tcp_work),
                Protocol::Udp => {
                    carried.udp_lost.push(transfer.lost);
                    (&mut carried.udp, &mut carried.udp_work)
                }
            };
            rate.push(transfer.gigabits_per_second);
            work.push(transfer.seconds_per_gigabyte);
        }
    }
    Ok(())
}

fn title(road: &Measured) -> String {
    format!("{}, {}", road.title(), road.wire.title())
}

fn tables(measured: &[Measured]) -> Vec<Table> {
    let table = |name: &str, heading: &str, unit: &str, of: fn(&Carried) -> &Rounds| {
        compared::table(name, heading, unit, measured, title, of)
    };
    // The roads that have figures of UDP, in the order of the rows.
    let with_udp = measured.iter().filter(|road| road.wire == Wire::Packets);
    let mut udp = table("udp", "UDP: what arrives", "Gbit/s", |carried| &carried.udp);
    for (row, road) in udp.rows.iter_mut().zip(with_udp) {
        for (cell, &carrier) in row.cells.iter_mut().zip(&Carrier::ALL) {
            let lost = road.by(carrier).and_then(|carried| carried.udp_lost.figure());
            let shown = cell.take().zip(lost);
            *cell =
                shown.map(|(figure, lost)| figure.with_note(format!("({:.0} % lost)", lost.median * 100.0)));
        }
    }
    let mut tables = vec![
        table("overlay", "TCP", "Gbit/s", |carried| &carried.tcp),
        table("tcp-work", "Work for a gigabyte of TCP", "s", |carried| &carried.tcp_work),
        udp,
        table("udp-work", "Work for a gigabyte of UDP that arrives", "s", |carried| &carried.udp_work),
        table("latency", "Round trip of a datagram: the median", "µs", |carried| &carried.median),
        table("latency-p99", "Round trip of a datagram: one of a hundred takes longer", "µs", |carried| {
            &carried.p99
        }),
    ];
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn targets(measured: &[Measured]) -> Vec<Target> {
    measured
        .iter()
        .filter_map(|road| match road.road {
            Road::Task => faster(road),
            Road::Vip | Road::Published => {
                let task = measured.iter().find(|other| {
                    (other.road, other.wire, other.family) == (Road::Task, road.wire, road.family)
                });
                as_fast(road, task?)
            }
        })
        .collect()
}

/// The mesh between tasks against the kernel.
fn faster(road: &Measured) -> Option<Target> {
    let against_kernel = |carrier| road.over(carrier, Carrier::Kernel, |carried| &carried.tcp);
    let what = format!("TCP {}: the mesh, of the kernel's overlay", title(road));
    Some(Target::at_least(&what, FASTER, "times", against_kernel(Carrier::Mesh)?).bounded_by(format!(
        "bare links, with nothing around the packets, come to {} times the kernel's overlay in the same rounds; the rest is what \
         sender, receiver and wire cost whoever carries the packets",
        against_kernel(Carrier::Bare)?.shown()
    )))
}

/// The mesh on a road that is balanced against itself between tasks.
fn as_fast(road: &Measured, task: &Measured) -> Option<Target> {
    let share = |carrier| road.by(carrier)?.tcp.over(&task.by(carrier)?.tcp);
    let target = Target::at_least(
        &format!("TCP {}: the mesh, of its own task to task", title(road)),
        AS_FAST,
        "times",
        share(Carrier::Mesh)?,
    );
    let others: Vec<_> = [Carrier::Kernel, Carrier::Bare]
        .into_iter()
        .filter_map(|carrier| Some(format!("{} {} times", carrier.title(), share(carrier)?.shown())))
        .collect();
    let why = match road.road {
        Road::Published => {
            "a client outside is one wire further from the task than another task is, and this machine does the work of both; by \
             the same way, and of their own task to task, the others come to"
        }
        Road::Task | Road::Vip => "of their own task to task, the others come to",
    };
    Some(target.bounded_by(format!("{why}: {}", others.join(", "))))
}

fn remarks(measured: &[Measured]) -> Vec<String> {
    let mut remarks = vec![];
    for road in measured {
        for &carrier in road.road.carriers() {
            let unanswered = road.by(carrier).map_or(0, |carried| carried.unanswered);
            if unanswered > 0 {
                let (name, carrier) = (title(road), carrier.title());
                remarks.push(format!("{name}: {unanswered} datagrams were not answered by {carrier}."));
            }
        }
    }
    remarks
}
