//! `cargo xtask bench director`: what it costs to forward a packet to a service, by the mesh and by what else does it.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{
    director::{self, Case, Options, Outcome, cases},
    lab::remains,
};

// DEV
const PREFIX: &str = "dirdev";

/// What `bench director` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Packets of each round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    packets: u32,
    /// Rounds of each case
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Only the cases whose names hold one of these texts; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Measure on this machine, and print what was found as JSON: how a virtual machine is told what to do
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

/// Measures on this machine, and prints the outcomes for a program.
pub(super) fn here(arguments: &Arguments) -> Result<()> {
    let outcomes = measure_here(arguments, |text| eprintln!("director: {text}"))?;
    println!("{}", serde_json::to_string(&outcomes)?);
    Ok(())
}

fn measure_here(arguments: &Arguments, tell: impl FnMut(&str)) -> Result<Vec<Outcome>> {
    let options = Options {
        packets: arguments.packets,
        rounds: usize::try_from(arguments.rounds).context("--rounds")?,
    };
    let is_wanted = |case: &Case| {
        let name = case.to_string();
        arguments.only.is_empty() || arguments.only.iter().any(|text| name.contains(text.as_str()))
    };
    let chosen: Vec<_> = cases().into_iter().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no case's name holds {}", arguments.only.join(" or "));
    let outcomes = director::measure(PREFIX, &chosen, &options, tell)?;
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    Ok(outcomes)
}
