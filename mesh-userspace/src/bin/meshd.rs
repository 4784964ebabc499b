//! The `meshd` command: the agent of a node.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::Parser;
use mesh_userspace::{
    agent::{self, AgentError, Options},
    config,
};
use tracing_subscriber::EnvFilter;

/// What a file with faults is answered with, like any wrong use.
const FAULTY: u8 = 2;

/// The eBPF object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT"));

/// Keeps this node of the mesh as its configuration says: overlay networks, virtual IPs and published ports, in eBPF.
#[derive(Debug, Parser)]
#[command(name = "meshd", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/mesh/mesh.yaml")]
    config: PathBuf,
    /// The entry of `nodes` that this node is; by default the one named like the host.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only check the file, and tell every fault of it as FILE:LINE:COLUMN: what is wrong.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        return check(&arguments);
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AgentError::Config(faults)) => {
            eprintln!("{faults}");
            ExitCode::from(FAULTY)
        }
        Err(error) => {
            eprintln!("meshd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Arguments) -> ExitCode {
    let checked = config::check(&arguments.config).and_then(|(_, table)| match &arguments.node {
        // The file is right or wrong whichever host checks it; a name that is told must be there.
        Some(told) => config::pick_node(&table, Some(told), &agent::hostname()).map(drop).map_err(Into::into),
        None => Ok(()),
    });
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(FAULTY)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { action: "start the threads", source })?;
    let options = Options { config: arguments.config, node: arguments.node, hostname: agent::hostname() };
    runtime.block_on(agent::run(options, OBJECT))
}
