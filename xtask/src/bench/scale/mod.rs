//! `cargo xtask bench scale`: what a packet costs and how much memory it all takes while the mesh grows.

mod applying;
mod flows;
mod packets;
mod reads;
mod services;

use anyhow::{Context as _, Result, ensure};
use mesh_common::abi::{Flow, FlowKey};
use mesh_tests::lab::remains;

use super::{
    PREFIX,
    figure::{Figure, number},
    findings::{Column, Findings, Row, Table, Target},
    machine::Machine,
    watch::Watch,
};

/// What `bench scale` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often the programs are loaded for each mesh: the same code is some nanoseconds faster or slower from load to load
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    loads: u16,
    /// Rounds for each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Packets of each path in a round
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    packets: u32,
}

/// What a mesh of ten thousand services may cost a packet more than one of a single service.
const GROWTH: f64 = 1.10;

/// Measures everything.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let applied = applying::measure()?;
    let watch = Watch::new("what a packet costs");
    let services = services::measure(arguments, &watch)?;
    let flows = flows::measure(arguments, &watch)?;
    watch.now("what a read of memory takes");
    let reads: Vec<_> =
        reads::SIZES.map(|bytes| (bytes, Figure::of(&reads::measure(bytes, arguments.rounds)))).into();
    drop(watch);
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));

    let mut tables = vec![services_table(&services), flows_table(&flows), reads_table(&reads)];
    tables.extend(applying::tables(&applied));
    tables.push(applying::memory_table(&applied));
    let mut targets = growth_targets(&services, &reads)?;
    targets.extend(flow_targets(&flows, &reads)?);
    targets.extend(memory_targets(&applied)?);
    let findings = Findings {
        suite: "scale".to_owned(),
        title: "What a packet costs, and what it all takes, while the mesh grows".to_owned(),
        method: method(arguments),
        command: "cargo xtask bench scale".to_owned(),
        machine: Machine::this(),
        took_seconds: 0.0,
        tables,
        targets,
        remarks: vec![],
    };
    Ok((findings, Ok(())))
}

fn method(arguments: &Arguments) -> Vec<String> {
    let Arguments { loads, rounds, packets } = arguments;
    vec![
        format!(
            "Each packet is run alone through the program (BPF_PROG_TEST_RUN with repeat = 1), with tables that a node's own agent \
             has filled from a file of that size. Service, client and flow are drawn anew for each packet, so that of the tables \
             no more is in the caches than so many services and flows leave there. What an empty program takes for the \
             same packets, right before, is taken off. A round's figure is the mean of {packets} packets without the highest and the lowest tenth (of new flows, 1,000); there are {rounds} \
             rounds for each of {loads} loads of the programs; shown is the median of the rounds, and the greatest distance from it."
        ),
        "\"One service of all\" asks the same great tables for one service alone: what is more than in a mesh of one is what the \
         program itself has to do more; the rest is what the caches do not hold. The table of reads says what memory takes on this \
         machine, without any program: a read at a place that the read before it names."
            .to_owned(),
        "A thousand thousand flows are more than the agent makes room for (131,072 with both directions): for them the \
         delivering node's programs get a table of their own. The flows are copies of one that its packets opened, answered and \
         proved, with other clients; that a copy is what the programs make of such a client is checked."
            .to_owned(),
        "Planning and applying are the agent's own functions, optimised, on empty maps in the kernel, and then with one \
         backend less and more. Memory is what the kernel says of each map (memlock in its fdinfo) after that."
            .to_owned(),
    ]
}

fn services_table(measured: &[services::Measured]) -> Table {
    let row = |measured: &services::Measured| Row {
        name: format!(
            "{} services, {} backends",
            number(f64::from(measured.services)),
            number(f64::from(measured.backends))
        ),
        cells: measured
            .rounds
            .iter()
            .map(|rounds| Figure::of(rounds))
            .chain([Some(Figure::exact(measured.restart))])
            .collect(),
    };
    let paths = services::PATHS.map(|path| Column::new(path, "ns"));
    Table {
        name: "services".to_owned(),
        title: "Nanoseconds of a packet over those of an empty program, by the size of the mesh".to_owned(),
        rows_are: "mesh".to_owned(),
        columns: paths.into_iter().chain([Column::new("agent started again", "s")]).collect(),
        rows: measured.iter().map(row).collect(),
        is_drawn: true,
    }
}

fn flows_table(measured: &[flows::Measured]) -> Table {
    let row = |measured: &flows::Measured| Row {
        name: number(f64::from(measured.flows)),
        cells: measured.rounds.iter().map(|rounds| Figure::of(rounds)).collect(),
    };
    Table {
        name: "flows".to_owned(),
        title: "Nanoseconds of a packet over those of an empty program, by the number of live flows"
            .to_owned(),
        rows_are: "flows".to_owned(),
        columns: flows::PATHS.map(|path| Column::new(path, "ns")).to_vec(),
        rows: measured.iter().map(row).collect(),
        is_drawn: true,
    }
}

fn reads_table(reads: &[(usize, Option<Figure>)]) -> Table {
    let row = |(bytes, figure): &(usize, Option<Figure>)| Row {
        name: format!("{} KiB", number((bytes >> 10) as f64)),
        cells: vec![figure.clone()],
    };
    Table {
        name: "reads".to_owned(),
        title: "A read of this machine's memory, at places by chance in so much of it".to_owned(),
        rows_are: "memory".to_owned(),
        columns: vec![Column::new("a read", "ns")],
        rows: reads.iter().map(row).collect(),
        is_drawn: false,
    }
}

/// How much more a packet costs in the greatest mesh than in the smallest.
fn growth_targets(measured: &[services::Measured], reads: &[(usize, Option<Figure>)]) -> Result<Vec<Target>> {
    let (small, great) = measured.first().zip(measured.last()).context("no mesh was measured")?;
    let median = |of: &services::Measured, path: usize| -> Result<f64> {
        let rounds = of.rounds.get(path).context("no such path")?;
        Ok(Figure::of(rounds).context("a path was not measured")?.median)
    };
    let alone = median(great, 1)?;
    let target = |path: usize| -> Result<Target> {
        let (before, after) = (median(small, path)?, median(great, path)?);
        let what =
            format!("{}: 10,000 services against one", services::PATHS.get(path).context("no such path")?);
        let found =
            Figure::exact(after / before).with_note(format!("{} ns to {} ns", number(before), number(after)));
        Ok(Target::at_most(&what, GROWTH, "times", found).bounded_by(format!(
            "caches, not the work: asked for one service of the same ten thousand, it takes {} ns. {}",
            number(alone),
            told_reads(reads)
        )))
    };
    [0, 2, 3].into_iter().map(target).collect()
}

/// The same for flows.
fn flow_targets(measured: &[flows::Measured], reads: &[(usize, Option<Figure>)]) -> Result<Vec<Target>> {
    let (few, many) = measured.first().zip(measured.last()).context("no flows were measured")?;
    let mut targets = Vec::new();
    for ((path, before), after) in flows::PATHS.iter().zip(&few.rounds).zip(&many.rounds) {
        let (before, after) = Figure::of(before).zip(Figure::of(after)).context("a path was not measured")?;
        let what = format!("{path}: 1,000,000 flows against one");
        let shown = format!("{} ns to {} ns", number(before.median), number(after.median));
        let found = Figure::exact(after.median / before.median).with_note(shown);
        targets.push(
            Target::at_most(&what, GROWTH, "times", found)
                .bounded_by(format!("what it must read of a flow is in no cache. {}", told_reads(reads))),
        );
    }
    Ok(targets)
}

/// What reads take, in a sentence.
fn told_reads(reads: &[(usize, Option<Figure>)]) -> String {
    let told = |(bytes, figure): &(usize, Option<Figure>)| {
        let nanoseconds = figure.as_ref().map(|figure| number(figure.median))?;
        Some(format!("{nanoseconds} ns in {} KiB", number((bytes >> 10) as f64)))
    };
    let told: Vec<_> = reads.iter().filter_map(told).collect();
    format!("A read at a place by chance takes {} of this machine's memory.", told.join(", "))
}

/// What a flow and a slot take.
fn memory_targets(measured: &[applying::Measured]) -> Result<Vec<Target>> {
    let (small, great) = measured.first().zip(measured.last()).context("no mesh was measured")?;
    let flows = great.memory("FLOWS")?;
    let (entry, key, value) = (flows.of_entry(), size_of::<FlowKey>(), size_of::<Flow>());
    let own = entry - key as f64 - value as f64;
    // One entry for each direction.
    let flow = Figure::exact(2.0 * entry);
    let slot = Figure::exact(great.memory("SLOTS")?.of_one_more(small.memory("SLOTS")?));
    Ok(vec![
        Target::at_most("memory of a flow", 64.0, "bytes", flow).bounded_by(format!(
            "a flow has an entry for each direction, and an entry takes {} bytes: {key} of its key, {value} of its value, and {} \
             that the kernel's table adds to find it and to know which one was used last",
            number(entry),
            number(own)
        )),
        Target::at_most("memory of one more slot of a ring", 8.0, "bytes", slot),
    ])
}
