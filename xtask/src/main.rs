//! Every command a contributor types.

mod bench;
mod build;
mod demo;
mod ebpf;
mod lab;
mod process;
mod programs;
mod progress;
mod project;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Every command that a contributor to the mesh types.
///
/// Each sets up by itself what it finds missing.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a mesh of three nodes at work: sets up what is missing, builds, checks each answer, cleans up
    Demo(demo::Arguments),
    /// The demo's hosts for hands-on work
    Lab(lab::Arguments),
    /// Install what building and testing takes, or say how to (on Debian 12 and later, as root, it installs)
    Setup(setup::Arguments),
    /// Build meshd and meshctl, with the eBPF programs inside, and show what the programs cost
    Build(build::Arguments),
    /// Build the eBPF programs alone, into target/bpf/mesh-ebpf.o
    BuildEbpf,
    /// Run the lints and every test
    Test(test::Arguments),
    /// Measure
    Bench(bench::Arguments),
    /// Run commands and tests under Debian's kernels, in a virtual machine
    Vm(vm::Arguments),
    /// Load every program of an eBPF object on this kernel and print what it costs: `vm load` runs it in its guests
    #[command(hide = true)]
    Programs {
        /// The object
        object: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::BuildEbpf => ebpf::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Programs { object } => programs::print_table(&object),
        Command::Test(arguments) => return test::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
