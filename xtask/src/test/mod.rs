//! `cargo xtask test`: the lints and every test, and at the end how many passed.

mod tally;

use std::{
    io::{self, IsTerminal as _},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    build::{self, Binaries, Profile},
    process, programs, progress, project,
    setup::{self, Purpose},
    vm::{self, Guest, Kernel},
};
use tally::Tally;

/// The package of the whole-system tests.
const SYSTEM_TESTS: &str = "mesh-tests";

/// The oldest kernel that the mesh runs on, and so the one without tcx, is where the tests of the whole system run a second
/// time. An emulated processor takes most of a minute for each, so it is some of them: of these files of tests/tests …
const OLDEST: Kernel = Kernel::V6_1;
const OLDEST_SUITES: &[&str] = &["interop", "published", "vip"];
/// … these tests.
const OLDEST_TESTS: &[&str] = &[
    "a_kernels_device_over_an_ipv4_underlay",
    "any_tcp_port_reaches_the_backends",
    "it_answers_ping",
    "round_robin_goes_in_turn_through_every_node",
    "the_node_itself_reaches_a_published_port",
];

/// How long they may take, on a machine that has other things to do as well.
const OLDEST_TIMEOUT: Duration = Duration::from_secs(1800);

/// What `test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the tests whose names hold one of these, and no lints
    filters: Vec<String>,
}

/// A part of the whole, and how it went.
struct Phase {
    name: String,
    took: Duration,
    outcome: Result<Tally>,
}

/// A part that failed as a whole counts as one failed test: the sum shall not look better than the exit code.
const BROKEN: Tally = Tally { passed: 0, failed: 1, skipped: 0 };

/// Every part so far.
#[derive(Default)]
struct Phases(Vec<Phase>);

/// Runs everything, also after a part failed, unless nothing could come of it. The last line that it prints is
/// `N passed, N failed`.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut phases = Phases::default();
    if let Some(binaries) = prepare(&mut phases) {
        if arguments.filters.is_empty() {
            lint(&mut phases);
        }
        test(&mut phases, &binaries, &arguments.filters);
        if arguments.filters.is_empty() {
            other_kernels(&mut phases, &binaries);
        }
    }
    phases.conclude()
}

/// Sets up and builds.
fn prepare(phases: &mut Phases) -> Option<Binaries> {
    phases.run("setup", || setup::ensure(Purpose::Test).map(|()| Tally::default()))?;
    let mut binaries = None;
    phases.run("build", || {
        build::build_layouts(Profile::Dev)?;
        binaries = Some(build::build(Profile::Dev)?);
        Ok(Tally::default())
    })?;
    if let Some(built) = &binaries {
        // Programs that cost more than they should still work: the tests go on.
        phases.run("costs of the eBPF programs", || {
            programs::report(&built.ebpf, None).map(|()| Tally::default())
        });
    }
    binaries
}

/// What the compiler and rustfmt say of the source.
fn lint(phases: &mut Phases) {
    let cargo = |arguments: &[&str]| {
        let mut cargo = process::command(project::cargo());
        // The eBPF crate uses unstable features, which the stable compiler takes only so; to the other crates it is all one.
        cargo.current_dir(project::root()).args(arguments).env("RUSTC_BOOTSTRAP", "mesh_ebpf");
        move || process::run(&mut cargo).map(|()| Tally::default())
    };
    phases.run("formatting", cargo(&["fmt", "--all", "--check"]));
    phases.run("formatting, eBPF", cargo(&["fmt", "--check", "--manifest-path", "mesh-ebpf/Cargo.toml"]));
    phases.run("clippy", cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]));
    // clippy comes with rustup's toolchains, and Debian's compiler has none: the eBPF crate is checked as if it were
    // compiled for this machine, which to the lints is the same.
    let target = project::target().join("bpf-clippy").display().to_string();
    phases.run(
        "clippy, eBPF",
        cargo(&[
            "clippy",
            "--quiet",
            "--manifest-path",
            "mesh-ebpf/Cargo.toml",
            "--target-dir",
            &target,
            "--",
            "-Dwarnings",
        ]),
    );
}

/// The tests: of each crate, of the examples in the documentation, of the whole system.
fn test(phases: &mut Phases, binaries: &Binaries, filters: &[String]) {
    let nextest = process::find("cargo-nextest").is_some();
    phases.run("tests of the crates", || {
        tally(runner(nextest, &["--workspace", "--exclude", SYSTEM_TESTS], filters))
    });
    if nextest {
        // cargo test runs them with the others.
        phases.run("examples in the documentation", || tally(documentation(filters)));
    }
    phases.run("tests of the whole system", || {
        if !process::is_root() {
            bail!("only root may make network namespaces and load eBPF programs: run this as root");
        }
        let mut command = runner(nextest, &["--package", SYSTEM_TESTS], filters);
        command
            .env("MESHD", &binaries.meshd)
            .env("MESHCTL", &binaries.meshctl)
            .env("MESH_EBPF_OBJECT", &binaries.ebpf.object);
        tally(command)
    });
}

/// In virtual machines: whether Debian's kernels take the programs, and some tests of the whole system on the oldest.
fn other_kernels(phases: &mut Phases, binaries: &Binaries) {
    for kernel in Kernel::ALL {
        phases.run(&format!("programs on Linux {}", kernel.name()), || {
            vm::load(kernel, &binaries.ebpf, None).map(|()| Tally::default())
        });
    }
    phases.run(&format!("whole system on Linux {}", OLDEST.name()), || {
        let suites = vm::Suites::build(OLDEST_SUITES)?;
        let mut tally = Tally::default();
        let status =
            suites.run(Guest::new(OLDEST).timeout(OLDEST_TIMEOUT), binaries, OLDEST_TESTS, |line| {
                println!("{line}");
                tally.read(line);
            })?;
        if status != 0 && tally.failed == 0 {
            bail!("the tests failed in the guest (exit status {status}), and no test did");
        }
        // What these files have besides was run elsewhere.
        tally.skipped = 0;
        let run = tally.passed + tally.failed;
        ensure!(run == OLDEST_TESTS.len() as u64, "{run} tests have the names of {}", OLDEST_TESTS.len());
        Ok(tally)
    });
}

/// The command that runs the tests of some packages.
fn runner(nextest: bool, packages: &[&str], filters: &[String]) -> Command {
    let mut command = process::command(project::cargo());
    command.current_dir(project::root());
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass", "--hide-progress-bar"]);
        command.args(packages).args(filters);
    } else {
        // The tests of the whole system want the machine for themselves; .config/nextest.toml says the same.
        let threads: &[&str] = if packages.contains(&"--package") { &["--test-threads=1"] } else { &[] };
        command.args(["test", "--no-fail-fast"]).args(packages).arg("--").args(threads).args(filters);
    }
    coloured(command)
}

fn documentation(filters: &[String]) -> Command {
    let mut command = process::command(project::cargo());
    command.current_dir(project::root());
    command.args(["test", "--doc", "--no-fail-fast", "--workspace", "--quiet", "--"]).args(filters);
    coloured(command)
}

/// We stand between the runner and the terminal; it shall paint as if we did not.
fn coloured(mut command: Command) -> Command {
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// Runs a runner of tests, shows what it prints, and counts.
fn tally(command: Command) -> Result<Tally> {
    let shown = process::shown(&command);
    let mut tally = Tally::default();
    let status = process::run_lines(command, |line| {
        println!("{line}");
        tally.read(line);
    })?;
    if !status.success() && tally.failed == 0 {
        bail!("`{shown}` failed ({status}), and no test did");
    }
    Ok(tally)
}

impl Phases {
    /// Runs a part, and says its name before and its time after; `None` if it failed.
    fn run(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) -> Option<()> {
        println!("\n── {name}");
        let began = Instant::now();
        let outcome = work();
        let took = began.elapsed();
        match &outcome {
            Ok(tally) => println!("── {name}: {} ({})", told(*tally), progress::took(took)),
            Err(error) => println!("── {name}: FAILED ({}): {error:#}", progress::took(took)),
        }
        let good = outcome.is_ok();
        self.0.push(Phase { name: name.to_owned(), took, outcome });
        good.then_some(())
    }

    /// Prints how each part went and, last, the number of tests; says whether all is well.
    fn conclude(self) -> ExitCode {
        println!();
        let mut sum = Tally::default();
        for Phase { name, took, outcome } in self.0 {
            let failed = outcome.is_err();
            let tally = outcome.unwrap_or(BROKEN);
            let word = if failed { "FAILED".to_owned() } else { told(tally) };
            println!("  {name:30} {:>12}  {word}", progress::took(took));
            sum += tally;
        }
        if sum.skipped > 0 {
            println!("  not run: {}", sum.skipped);
        }
        println!("\n{sum}");
        if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How a part went: in tests, if it had any.
fn told(tally: Tally) -> String {
    if tally == Tally::default() { "ok".to_owned() } else { tally.to_string() }
}
