//! `cargo xtask setup`: from a bare machine to one that builds, runs the lab and tests.

mod install;
mod needs;

use anyhow::Result;

use crate::{
    process,
    toolchain::{Linker, Toolchain},
};
use needs::Missing;
pub(crate) use needs::Purpose;

/// What `setup` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What the machine is to be ready for; each includes the ones before it.
    #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
    purpose: Purpose,
    /// Install nothing: print what is missing, and fail if anything is.
    #[arg(long)]
    check: bool,
}

/// Installs what is missing, and says what is there.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let missing = needs::survey(arguments.purpose);
    if !missing.is_empty() {
        if arguments.check {
            return Err(explain(&missing));
        }
        provide(arguments.purpose, &missing)?;
    }
    if let Some(linker) = Linker::find()
        && let Some(toolchain) = Toolchain::find(linker.llvm)
    {
        println!("eBPF programs: {}, {}", toolchain.name, linker.name);
    }
    if process::find("cargo-nextest").is_none() {
        println!("cargo-nextest is not installed: the tests will run with `cargo test`, which is slower");
    }
    println!("everything is in place");
    Ok(())
}

/// Installs what a command needs; says nothing if nothing is missing.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = needs::survey(purpose);
    if missing.is_empty() { Ok(()) } else { provide(purpose, &missing) }
}

/// Installs what is missing, and looks whether it is there now.
fn provide(purpose: Purpose, missing: &[Missing]) -> Result<()> {
    if !install::possible(missing) {
        return Err(explain(missing));
    }
    println!("missing here: {}", listed(missing));
    install::install(missing)?;
    let still = needs::survey(purpose);
    if still.is_empty() { Ok(()) } else { Err(explain(&still).context("installed, and yet not usable")) }
}

/// The error that names each missing thing, and the commands that provide them.
fn explain(missing: &[Missing]) -> anyhow::Error {
    let mut text = String::from("this machine lacks:\n");
    for one in missing {
        text.push_str(&format!("  {}\n", one.what));
    }
    text.push_str("Install it with:");
    for command in install::commands(missing) {
        text.push_str(&format!("\n  {command}"));
    }
    anyhow::Error::msg(text)
}

fn listed(missing: &[Missing]) -> String {
    missing.iter().map(|one| one.what.as_str()).collect::<Vec<_>>().join(", ")
}
