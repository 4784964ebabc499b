//! The `meshctl` command.

use std::process::ExitCode;

use clap::Parser;
use mesh_userspace::cli::{self, Cli};

fn main() -> ExitCode {
    cli::main(&Cli::parse())
}
