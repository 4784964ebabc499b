//! `cargo xtask vm`: Debian's kernels in a virtual machine, with the project's programs and tests inside.

mod boot;
mod bzimage;
mod cpio;
mod guest;
mod image;
mod kernel;
mod load;
mod modules;
mod suites;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{
    build::{self, Profile},
    programs::Record,
    setup::{self, Purpose},
};
pub(crate) use guest::Guest;
pub(crate) use kernel::Kernel;
pub(crate) use load::load;
pub(crate) use suites::Suites;

/// What `vm` takes.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command of this machine under another kernel; what it writes to files is lost
    Run {
        /// The kernel
        #[arg(long, value_enum, default_value = "6.1")]
        kernel: Kernel,
        #[command(flatten)]
        hardware: Hardware,
        /// The command, by the same paths as here
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build, and run tests of the whole system under other kernels
    Test {
        /// A kernel; may be given more than once, and is all of them otherwise
        #[arg(long = "kernel", value_enum, default_values_t = Kernel::ALL)]
        kernels: Vec<Kernel>,
        #[command(flatten)]
        hardware: Hardware,
        /// A file of tests/tests, as `published`; all of them otherwise
        suite: Option<String>,
        /// Run only the tests whose names hold this
        filter: Option<String>,
    },
    /// Build, load every eBPF program under other kernels, and show what the programs cost there
    Load {
        /// A kernel; may be given more than once, and is all of them otherwise
        #[arg(long = "kernel", value_enum, default_values_t = Kernel::ALL)]
        kernels: Vec<Kernel>,
        /// Record the costs in docs/programs.md
        #[arg(long)]
        record: bool,
        /// Why they cost more than was recorded, if they do
        #[arg(long, value_name = "REASON", requires = "record")]
        because: Option<String>,
    },
}

/// What a guest is given.
#[derive(clap::Args)]
struct Hardware {
    /// Have every clock count instructions: a virtual nanosecond is one instruction, in every run the same
    #[arg(long)]
    icount: bool,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = Guest::MEMORY)]
    memory: u32,
    /// Show what the kernel says, on standard error
    #[arg(long)]
    console: bool,
    /// How long the command may take, in seconds of this machine
    #[arg(long, value_name = "SECONDS", default_value_t = Guest::TIMEOUT.as_secs())]
    timeout: u64,
}

/// Does what was asked.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Vm)?;
    match &arguments.command {
        Command::Test { kernels, hardware, suite, filter } => {
            let binaries = build::build(Profile::Dev)?;
            let suites = Suites::build(suite.as_slice())?;
            let mut failed = Vec::new();
            for &kernel in kernels {
                println!("── Linux {}", kernel.name());
                let guest = hardware.guest(kernel);
                let status = suites.run(guest, &binaries, filter.as_slice(), |line| println!("{line}"))?;
                if status != 0 {
                    failed.push(kernel.name());
                }
            }
            if !failed.is_empty() {
                bail!("tests failed under Linux {}", failed.join(" and "));
            }
            Ok(())
        }
        Command::Load { kernels, record, because } => {
            let record = record.then(|| Record { because: because.clone() });
            let ebpf = build::build(Profile::Dev)?.ebpf;
            for &kernel in kernels {
                println!("\nUnder Linux {}:", kernel.name());
                load(kernel, &ebpf, record.as_ref())?;
            }
            Ok(())
        }
        Command::Run { kernel, hardware, command } => {
            let status = hardware.guest(*kernel).run_lines(command, |line| println!("{line}"))?;
            if status != 0 {
                bail!("the command failed in the guest (exit status {status})");
            }
            Ok(())
        }
    }
}

impl Hardware {
    fn guest(&self, kernel: Kernel) -> Guest {
        Guest::new(kernel)
            .icount(self.icount)
            .console(self.console)
            .memory(self.memory)
            .timeout(Duration::from_secs(self.timeout))
    }
}
