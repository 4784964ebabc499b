//! `cargo xtask bench disruption`: which flows break when the mesh changes, by this way to balance load and by others.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mesh_tests::{
    disruption::{self, Event, FAIL_FAST, Mode, Options, Outcome, events, mesh},
    lab::remains,
};
use serde_json::{Value, json};

use super::{
    chart::{Bar, Chart, Group},
    machine::Machine,
    table,
};
use crate::{lab, progress, project};

/// The prefix of the bench's lab.
const PREFIX: &str = "bench";

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
    /// Write every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one way to balance load came to.
struct Column {
    mode: Mode,
    outcomes: Vec<Outcome>,
}

/// Builds, measures each mode in a lab of its own, and shows the figures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    lab::prepare()?;
    lab::clean_up_when_interrupted(PREFIX)?;
    let began = Instant::now();
    let machine = Machine::this();
    let options = Options {
        tcp: arguments.tcp,
        udp: arguments.udp,
        interval: Duration::from_millis(arguments.interval),
        seed: arguments.seed,
    };
    let load = format!(
        "{} TCP and {} UDP flows, half of them by IPv6, each asks every {} ms; seed {}",
        options.tcp, options.udp, arguments.interval, options.seed
    );
    println!("\n{}\n{load}\n", machine.shown());
    let is_wanted = |event: &Event| {
        arguments.only.is_empty() || arguments.only.iter().any(|text| event.name.contains(text.as_str()))
    };
    let chosen: Vec<_> = events().into_iter().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no event's name holds {}", arguments.only.join(" or "));
    let columns: Vec<_> =
        arguments.modes.iter().map(|mode| measure(*mode, &options, &chosen)).collect::<Result<_>>()?;
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));

    println!("\nBroken flows, of those whose backend lived through the event:\n");
    table::lines(&rows(&chosen, &columns)).iter().for_each(|line| println!("{line}"));
    let bereft = bereft_rows(&chosen, &columns);
    if bereft.len() > 1 {
        println!("\nFlows whose own backend died, and the longest that one of them took to know:\n");
        table::lines(&bereft).iter().for_each(|line| println!("{line}"));
    }

    let chart = project::target().join("bench/disruption.svg");
    write(&chart, &svg(&chosen, &columns, &load, &machine))?;
    println!("\nThe chart is in {}.", chart.display());
    if let Some(path) = &arguments.json {
        let figures = json!({
            "machine": machine.json(),
            "seed": options.seed,
            "tcp": options.tcp,
            "udp": options.udp,
            "interval_ms": arguments.interval,
            "modes": columns.iter().map(Column::json).collect::<Vec<_>>(),
        });
        write(path, &(serde_json::to_string_pretty(&figures)? + "\n"))?;
        println!("Every figure is in {}.", path.display());
    }
    println!("It took {}.", progress::took(began.elapsed()));
    columns.iter().filter(|column| column.mode == Mode::SecondChance).try_for_each(Column::ensure_clean)
}

/// Measures a mode, and tells what goes on meanwhile.
fn measure(mode: Mode, options: &Options, events: &[Event]) -> Result<Column> {
    let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
    if let Some(bar) = &bar {
        bar.set_style(ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")?);
        bar.set_prefix(mode.title());
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    let mut lab = mesh(mode).up(PREFIX)?;
    let outcomes = disruption::run(&mut lab, options, events, |text| match &bar {
        Some(bar) => bar.set_message(text.to_owned()),
        None => println!("{}: {text}", mode.title()),
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    if outcomes.is_err() {
        lab.print_logs();
    }
    let outcomes = outcomes.with_context(|| mode.title())?;
    let broken: usize = outcomes.iter().map(Outcome::broken).sum();
    println!("{}: {} events, {broken} flows broke", mode.title(), outcomes.len());
    Ok(Column { mode, outcomes })
}

fn rows(events: &[Event], columns: &[Column]) -> Vec<Vec<String>> {
    rows_of(events, columns, |_| true, |outcome| format!("{} / {}", outcome.broken(), outcome.live))
}

fn bereft_rows(events: &[Event], columns: &[Column]) -> Vec<Vec<String>> {
    rows_of(
        events,
        columns,
        |outcome| outcome.bereft > 0,
        |outcome| format!("{}, {} ms", outcome.bereft, outcome.slowest.as_millis()),
    )
}

/// A row for each event that one of the columns has something to tell of.
fn rows_of(
    events: &[Event],
    columns: &[Column],
    is_told: impl Fn(&Outcome) -> bool,
    cell: impl Fn(&Outcome) -> String,
) -> Vec<Vec<String>> {
    let titles = columns.iter().map(|column| column.mode.title().to_owned());
    let mut rows = vec![std::iter::once("event".to_owned()).chain(titles).collect()];
    for (number, event) in events.iter().enumerate() {
        let outcomes: Vec<_> = columns.iter().filter_map(|column| column.outcomes.get(number)).collect();
        if outcomes.iter().any(|outcome| is_told(outcome)) {
            let cells = outcomes.into_iter().map(&cell);
            rows.push(std::iter::once(event.name.to_owned()).chain(cells).collect());
        }
    }
    rows
}

fn svg(events: &[Event], columns: &[Column], load: &str, machine: &Machine) -> String {
    let bar = |outcome: &Outcome| {
        let share = if outcome.live == 0 { 0.0 } else { outcome.broken() as f64 / outcome.live as f64 };
        Bar { share, label: format!("{} of {}", outcome.broken(), outcome.live) }
    };
    let group = |(number, event): (usize, &Event)| Group {
        name: event.name.to_owned(),
        bars: columns.iter().filter_map(|column| column.outcomes.get(number)).map(bar).collect(),
    };
    let groups: Vec<_> = events.iter().enumerate().map(group).collect();
    let series: Vec<_> = columns.iter().map(|column| column.mode.title().to_owned()).collect();
    Chart {
        title: "Live flows that each event breaks",
        subtitle: &format!("{load}. {}", machine.shown()),
        series: &series,
        groups: &groups,
    }
    .svg()
}

impl Column {
    fn json(&self) -> Value {
        let outcomes = self.outcomes.iter().map(|outcome| {
            let causes =
                outcome.causes().into_iter().map(|(cause, count)| (cause.word().to_owned(), json!(count)));
            let by_tcp = outcome.breaks.iter().filter(|broken| broken.is_tcp).count();
            json!({
                "event": outcome.event,
                "live": outcome.live,
                "broken": outcome.broken(),
                "broken_tcp": by_tcp,
                "broken_udp": outcome.broken() - by_tcp,
                "causes": causes.collect::<serde_json::Map<_, _>>(),
                "breaks": outcome.breaks.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "bereft": outcome.bereft,
                "bereft_late": outcome.late,
                "bereft_slowest_ms": outcome.slowest.as_secs_f64() * 1000.0,
            })
        });
        json!({ "mode": self.mode.name(), "title": self.mode.title(), "events": outcomes.collect::<Vec<_>>() })
    }

    /// This mesh breaks no flow, and who loses his backend knows at once.
    fn ensure_clean(&self) -> Result<()> {
        let told: Vec<_> = self
            .outcomes
            .iter()
            .filter(|outcome| !outcome.is_clean())
            .map(|outcome| {
                let mut told = format!("{}: {} broken", outcome.event, outcome.broken());
                if outcome.late > 0 {
                    told +=
                        &format!(", {} knew only after {FAIL_FAST:?} that their backend died", outcome.late);
                }
                for broken in outcome.breaks.iter().take(SHOWN) {
                    told += &format!("\n    {broken}");
                }
                told
            })
            .collect();
        ensure!(told.is_empty(), "{} breaks flows:\n  {}", self.mode.title(), told.join("\n  "));
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
