//! Every command a contributor types.

mod ebpf;
mod process;
mod project;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every command a contributor types, from the repository's root.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF object alone, into target/bpf/mesh-ebpf.o.
    BuildEbpf(ebpf::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::BuildEbpf(arguments) => ebpf::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
