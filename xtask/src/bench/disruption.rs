//! `cargo xtask bench disruption`: which flows break when the mesh changes, by this way to balance load and by others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{
    disruption::{self, Event, FAIL_FAST, Mode, Options, Outcome, events, mesh},
    lab::remains,
};

use super::{
    PREFIX,
    figure::Figure,
    findings::{Column, Findings, Row, Table, Target},
    machine::Machine,
    watch::Watch,
};

/// How many of the broken flows of an event are shown one by one.
const SHOWN: usize = 5;

/// What `bench disruption` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Live TCP flows, half of them by IPv6
    #[arg(long, default_value_t = 2000)]
    tcp: usize,
    /// Live UDP flows, half of them by IPv6
    #[arg(long, default_value_t = 1000)]
    udp: usize,
    /// Milliseconds between two requests of a flow
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=2000))]
    interval: u64,
    /// What all that is random begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these ways to keep flows with their backends, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "second-chance,node,entry-cache,none")]
    modes: Vec<Mode>,
    /// Only the events whose names hold one of these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    only: Vec<String>,
}

/// What one way to balance load came to.
struct Measured {
    mode: Mode,
    outcomes: Vec<Outcome>,
}

/// Measures each mode in a lab of its own.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let options = Options {
        tcp: arguments.tcp,
        udp: arguments.udp,
        interval: Duration::from_millis(arguments.interval),
        seed: arguments.seed,
    };
    let is_wanted = |event: &Event| {
        arguments.only.is_empty() || arguments.only.iter().any(|text| event.name.contains(text.as_str()))
    };
    let chosen: Vec<_> = events().into_iter().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no event's name holds {}", arguments.only.join(" or "));
    let measured: Vec<_> =
        arguments.modes.iter().map(|mode| measure_mode(*mode, &options, &chosen)).collect::<Result<_>>()?;
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));

    let ours = measured.iter().filter(|measured| measured.mode == Mode::SecondChance);
    let verdict = ours.clone().try_for_each(Measured::ensure_clean);
    let broken: usize = ours.clone().flat_map(|measured| &measured.outcomes).map(Outcome::broken).sum();
    let targets = ours.map(|measured| {
        let what = format!("{}: flows broken, save those whose own task died", measured.mode.title());
        Target::at_most(&what, 0.0, "flows", Figure::exact(broken as f64))
            .bounded_by("the flows are told above, one by one")
    });
    let findings = Findings {
        suite: "disruption".to_owned(),
        title: "What breaks when the mesh changes".to_owned(),
        method: vec![
            format!(
                "{} TCP and {} UDP flows, half of them by IPv6, each of which asks every {} ms, from a client behind a \
                 router with a route over several entry nodes (ECMP); seed {}. Nodes hear of each change up to 200 ms apart.",
                options.tcp, options.udp, arguments.interval, options.seed
            ),
            "In each column the same events happen to the same mesh; what keeps a flow with its backend is chosen by \
             `options: {continuity: …}`: all of this mesh's means; what a delivering node remembers of its own flows; a \
             cache on the entry node, as Maglev-style balancers have it; or nothing but the hash. A flow that breaks is \
             opened again, so that each event meets as many."
                .to_owned(),
            "\"Drained, then gone\" and the rolling replacement take a task away with the flows that it has left, as an \
             engine does that stops containers; those flows are in the second table. What the delivering node remembers \
             keeps a flow only where its old and its new backend are on one node; and a weight that changes moves most \
             slots where the ring's size doubles with it."
                .to_owned(),
        ],
        command: "cargo xtask bench disruption".to_owned(),
        machine: Machine::this(),
        took_seconds: 0.0,
        tables: vec![broken_flows(&chosen, &measured), bereft_flows(&chosen, &measured)],
        targets: targets.collect(),
        remarks: vec![],
    };
    Ok((findings, verdict))
}

/// Measures a mode, and tells what goes on meanwhile.
fn measure_mode(mode: Mode, options: &Options, events: &[Event]) -> Result<Measured> {
    let watch = Watch::new(mode.title());
    let mut lab = mesh(mode).up(PREFIX)?;
    let outcomes = disruption::run(&mut lab, options, events, |text| watch.now(text));
    if outcomes.is_err() {
        lab.print_logs();
    }
    let outcomes = outcomes.with_context(|| mode.title())?;
    let broken: usize = outcomes.iter().map(Outcome::broken).sum();
    drop(watch);
    println!("{}: {} events, {broken} flows broke", mode.title(), outcomes.len());
    Ok(Measured { mode, outcomes })
}

fn broken_flows(events: &[Event], measured: &[Measured]) -> Table {
    let cell = |outcome: &Outcome| {
        let mut causes: Vec<_> =
            outcome.causes().into_iter().map(|(cause, count)| format!("{count} {}", cause.word())).collect();
        causes.insert(0, format!("of {}", outcome.live));
        Figure::exact(outcome.broken() as f64).with_note(causes.join(", "))
    };
    Table {
        name: "disruption".to_owned(),
        title: "Live flows that each event breaks, of those whose backend lived through it".to_owned(),
        rows_are: "event".to_owned(),
        columns: measured.iter().map(|measured| Column::new(measured.mode.title(), "flows")).collect(),
        rows: rows(events, measured, |_| true, cell),
        is_drawn: true,
    }
}

fn bereft_flows(events: &[Event], measured: &[Measured]) -> Table {
    let cell = |outcome: &Outcome| {
        Figure::exact(outcome.bereft as f64).with_note(format!("in {} ms", outcome.slowest.as_millis()))
    };
    Table {
        name: "bereft".to_owned(),
        title: "Flows whose own backend died, and the longest that one of them took to know".to_owned(),
        rows_are: "event".to_owned(),
        columns: measured.iter().map(|measured| Column::new(measured.mode.title(), "flows")).collect(),
        rows: rows(events, measured, |outcome| outcome.bereft > 0, cell),
        is_drawn: false,
    }
}

/// A row for each event that one of the modes has something to tell of.
fn rows(
    events: &[Event],
    measured: &[Measured],
    is_told: impl Fn(&Outcome) -> bool,
    cell: impl Fn(&Outcome) -> Figure,
) -> Vec<Row> {
    let outcomes = |number: usize| measured.iter().map(move |measured| measured.outcomes.get(number));
    let is_of_interest = |number: usize| outcomes(number).flatten().any(&is_told);
    let row = |(number, event): (usize, &Event)| {
        let cells = outcomes(number).map(|outcome| outcome.map(&cell)).collect();
        is_of_interest(number).then(|| Row { name: event.name.to_owned(), cells })
    };
    events.iter().enumerate().filter_map(row).collect()
}

impl Measured {
    /// This mesh breaks no flow, and who loses his backend knows at once.
    fn ensure_clean(&self) -> Result<()> {
        let told: Vec<_> = self
            .outcomes
            .iter()
            .filter(|outcome| !outcome.is_clean())
            .map(|outcome| {
                let mut told = format!("{}: {} broken", outcome.event, outcome.broken());
                if !outcome.late.is_empty() {
                    let late = outcome.late.len();
                    told += &format!(", {late} knew only after {FAIL_FAST:?} that their backend died");
                }
                for broken in outcome.breaks.iter().take(SHOWN).chain(outcome.late.iter().take(SHOWN)) {
                    told += &format!("\n    {broken}");
                }
                told
            })
            .collect();
        ensure!(told.is_empty(), "{} breaks flows:\n  {}", self.mode.title(), told.join("\n  "));
        Ok(())
    }
}
