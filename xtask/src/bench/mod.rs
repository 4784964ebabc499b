//! `cargo xtask bench`: what the mesh can do, in figures.

mod chart;
mod compared;
mod connect;
mod converge;
mod counted;
mod director;
mod disruption;
mod dns;
mod figure;
mod findings;
mod load;
mod machine;
mod overlay;
mod paths;
mod prog;
mod report;
mod rounds;
mod scale;
mod table;
mod watch;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use self::findings::Findings;
use crate::{build::Profile, lab, progress, project};

/// The prefix of the benches' labs.
const PREFIX: &str = "bench";

/// The suites, in the order of the report.
const SUITES: [&str; 8] =
    ["prog", "director", "overlay", "connect", "scale", "converge", "dns", "disruption"];

/// What `bench` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Every suite, one after the other, if none is named
    #[command(subcommand)]
    suite: Option<Suite>,
    /// Write every figure to this file; with several suites, an object with a field for each
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write tables and charts into docs/benchmarks too
    #[arg(long, global = true)]
    record: bool,
}

#[derive(Subcommand)]
enum Suite {
    /// What each path through the programs costs a packet
    Prog(prog::Arguments),
    /// What it costs to forward a packet to a service, by the mesh, by IPVS and by nftables and iptables
    Director(director::Arguments),
    /// Throughput, latency and work between tasks on two nodes, through virtual IPs and through published ports
    Overlay(overlay::Arguments),
    /// Short connections through virtual IPs and published ports
    Connect(connect::Arguments),
    /// What a packet costs, and how much memory it all takes, while services, backends and flows grow
    Scale(scale::Arguments),
    /// How long a change takes to hold: from the command to the first packet that obeys it
    Converge(converge::Arguments),
    /// How many questions for names one core answers
    Dns(dns::Arguments),
    /// How many live flows each change of the mesh breaks, and how many it would break by other ways to balance load
    Disruption(disruption::Arguments),
}

/// Builds, measures, and shows what was found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(measured) = arguments.suite.as_ref().and_then(Suite::here) {
        return measured;
    }
    // What is measured is what people install.
    lab::prepare(Profile::Release)?;
    lab::clean_up_when_interrupted(PREFIX)?;
    if let Some(Suite::Prog(of_prog)) = &arguments.suite
        && let Some(text) = of_prog.explained()
    {
        return prog::explain(of_prog, text);
    }
    let suites = match &arguments.suite {
        Some(suite) => std::slice::from_ref(suite),
        None => &all()?,
    };
    let directory = project::target().join("bench");
    let mut found = serde_json::Map::new();
    let mut missed = Vec::new();
    for suite in suites {
        let began = Instant::now();
        let (mut findings, verdict) = suite.measure()?;
        findings.took_seconds = began.elapsed().as_secs_f64();
        report::print(&findings);
        report::write(&findings, &directory)?;
        if arguments.record {
            report::write(&findings, &project::root().join("docs/benchmarks"))?;
        }
        report::write_index(&directory, &SUITES)?;
        println!("\nIt took {}.", progress::took(began.elapsed()));
        found.insert(findings.suite.clone(), serde_json::to_value(&findings)?);
        missed.extend(verdict.err());
    }
    println!("The report is in {}.", directory.join("index.html").display());
    if let Some(path) = &arguments.json {
        let figures = match found.values().next() {
            Some(only) if found.len() == 1 => only.clone(),
            _ => found.into(),
        };
        std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("Every figure is in {}.", path.display());
    }
    missed.into_iter().next().map_or(Ok(()), Err)
}

/// Every suite, as it is measured if nothing is said.
fn all() -> Result<Vec<Suite>> {
    /// A suite as it is typed.
    #[derive(clap::Parser)]
    struct Typed {
        #[command(subcommand)]
        suite: Suite,
    }
    let typed = |suite: &&str| clap::Parser::try_parse_from(["bench", suite]).map(|typed: Typed| typed.suite);
    SUITES.iter().map(typed).collect::<Result<_, _>>().context("a suite does not run without arguments")
}

impl Suite {
    /// Measures in the virtual machine that this already runs in, if it is asked to.
    fn here(&self) -> Option<Result<()>> {
        match self {
            Self::Director(arguments) => arguments.here.then(|| director::here(arguments)),
            Self::Connect(arguments) => arguments.here.then(|| connect::here(arguments)),
            _ => None,
        }
    }

    /// What the suite finds, and whether that is as it must be: a suite that fails at that is shown all the same.
    fn measure(&self) -> Result<(Findings, Result<()>)> {
        match self {
            Self::Prog(arguments) => prog::measure(arguments),
            Self::Director(arguments) => director::measure(arguments),
            Self::Overlay(arguments) => overlay::measure(arguments),
            Self::Connect(arguments) => connect::measure(arguments),
            Self::Scale(arguments) => scale::measure(arguments),
            Self::Converge(arguments) => converge::measure(arguments),
            Self::Dns(arguments) => dns::measure(arguments),
            Self::Disruption(arguments) => disruption::measure(arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_runs_without_arguments() -> Result<()> {
        assert_eq!(all()?.len(), SUITES.len());
        Ok(())
    }
}
