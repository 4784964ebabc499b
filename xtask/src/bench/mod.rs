//! `cargo xtask bench`: what the mesh can do, in figures.

mod chart;
mod disruption;
mod machine;
mod table;

use anyhow::Result;
use clap::Subcommand;

/// What `bench` takes.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// How many live flows each change of the mesh breaks, and how many it would break by other ways to balance load
    Disruption(disruption::Arguments),
}

/// Runs a suite.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.suite {
        Suite::Disruption(arguments) => disruption::run(arguments),
    }
}
