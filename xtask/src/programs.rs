//! What each eBPF program costs: its size, and what the kernel's verifier spends on it; printed by every build and
//! compared with what docs/programs.md records.

use std::{env, fmt::Write as _, fs, path::Path, thread};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader, programs::Program};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{ebpf, process, project};

/// A cost that differs from the recorded one by more than this many percent is pointed out.
const TOLERANCE: u64 = 5;

/// What one program costs on the kernel that runs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Its name.
    pub(crate) program: String,
    /// eBPF instructions, as the kernel translated them.
    pub(crate) instructions: u64,
    /// Bytes of machine code.
    pub(crate) jited: u64,
    /// Instructions that the verifier looked at, over all paths.
    pub(crate) verified: u64,
}

/// One figure of a cost: its column's title, and how to get it.
type Figure = (&'static str, fn(&Cost) -> u64);

const FIGURES: &[Figure] = &[
    ("instructions", |cost| cost.instructions),
    ("bytes JITed", |cost| cost.jited),
    ("instructions verified", |cost| cost.verified),
];

/// Loads every program of the object, prints their costs, and compares them with the recorded ones, or records them.
pub(crate) fn report(built: &ebpf::Built, record: bool) -> Result<()> {
    if !process::is_root() {
        if record {
            bail!("only root may load the eBPF programs, which `--record` takes");
        }
        println!("What the eBPF programs cost is not shown: only root may load them.");
        return Ok(());
    }
    let content =
        fs::read(&built.object).with_context(|| format!("cannot read {}", built.object.display()))?;
    let costs = measure(&content)?;
    print!("{}", table(&costs));
    let path = project::programs_record();
    if record {
        fs::write(&path, document(&costs, &circumstances(built)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("recorded in {}", path.display());
        return Ok(());
    }
    let Ok(text) = fs::read_to_string(&path) else {
        println!("not compared: {} is not there (`cargo xtask build --record` writes it)", path.display());
        return Ok(());
    };
    let differences = differences(&recorded(&text), &costs);
    if differences.is_empty() {
        println!("within {TOLERANCE} % of what docs/programs.md records");
        return Ok(());
    }
    println!("\nDIFFERENT from what docs/programs.md records by more than {TOLERANCE} %:");
    for difference in differences {
        println!("  {difference}");
    }
    if let Some(then) = text.lines().find(|line| line.starts_with("Measured on ")) {
        println!("then: {then}\nnow:  {}", circumstances(built));
    }
    println!("If that is meant: `cargo xtask build --record`, and say why in the commit.");
    Ok(())
}

/// Loads each program and asks the kernel what it made of it.
///
/// The object's maps want to be pinned: they are, in a mount namespace of a thread that ends with this.
pub(crate) fn measure(object: &[u8]) -> Result<Vec<Cost>> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pins = env::temp_dir();
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .context("cannot keep mounts to ourselves")?;
            mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>)
                .context("cannot mount a bpffs")?;
            // An upgrade loads them so for a moment each: see the eBPF crate's `bridge`.
            for bridging in [1, 2] {
                measure_with_pins(object, &pins, bridging).context("loaded to bridge two layouts")?;
            }
            measure_with_pins(object, &pins, 0)
        });
        thread.join().unwrap_or_else(|_| bail!("the thread that measures the programs panicked"))
    })
}

fn measure_with_pins(object: &[u8], pins: &Path, bridging: u32) -> Result<Vec<Cost>> {
    let mut ebpf: Ebpf = EbpfLoader::new()
        .default_map_pin_directory(pins)
        .override_global("BRIDGING", &bridging, true)
        .load(object)
        .context("the kernel does not take the eBPF object")?;
    let mut costs = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        load(program).with_context(|| format!("the kernel does not take the eBPF program `{name}`"))?;
        let info = program.info().with_context(|| format!("the kernel tells nothing of `{name}`"))?;
        let bytes = info.size_translated().context("the kernel hides the program's size: are we root?")?;
        costs.push(Cost {
            program: name.to_owned(),
            // Each takes eight bytes, or sixteen if it loads 64 bits at once, which counts twice here as in the kernel.
            instructions: u64::from(bytes / 8),
            jited: u64::from(info.size_jitted()),
            verified: u64::from(
                info.verified_instruction_count().context("this kernel does not count (before 5.16)")?,
            ),
        });
    }
    costs.sort_by(|left, right| left.program.cmp(&right.program));
    Ok(costs)
}

/// Has the kernel verify a program of any type that the mesh has.
fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        other => bail!(
            "programs of type {:?} are new to `cargo xtask build`: teach it to load them",
            other.prog_type()
        ),
    }
    Ok(())
}

/// On what the costs depend, besides the source.
fn circumstances(built: &ebpf::Built) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Measured on Linux {} ({}), compiled by {}.", kernel.trim(), env::consts::ARCH, built.compiler)
}

/// The costs as a Markdown table, which is as good to read in a terminal.
fn table(costs: &[Cost]) -> String {
    let width = costs.iter().map(|cost| cost.program.len()).chain([7]).max().unwrap_or(7);
    let mut text = format!("| {:width$} |", "program");
    for (title, _) in FIGURES {
        let _ = write!(text, " {title} |");
    }
    let _ = write!(text, "\n|{}|", "-".repeat(width + 2));
    for (title, _) in FIGURES {
        let _ = write!(text, "{}:|", "-".repeat(title.len() + 1));
    }
    text.push('\n');
    for cost in costs {
        let _ = write!(text, "| {:width$} |", cost.program);
        for (title, figure) in FIGURES {
            let _ = write!(text, " {:>1$} |", figure(cost), title.len());
        }
        text.push('\n');
    }
    text
}

/// The whole of docs/programs.md.
fn document(costs: &[Cost], circumstances: &str) -> String {
    format!(
        "# What the eBPF programs cost\n\n\
         Written by `cargo xtask build --record`; every build compares itself with it. A program's instructions are the\n\
         kernel's, after it has put helpers and maps in place. The instructions verified are those that the verifier\n\
         looked at over all paths: it gives up at a million.\n\n\
         {circumstances}\n\n{}",
        table(costs)
    )
}

/// The costs in a document's table.
fn recorded(document: &str) -> Vec<Cost> {
    document.lines().filter_map(row).collect()
}

/// The cost in a line `| name | 1 | 2 | 3 |`; other lines hold none.
fn row(line: &str) -> Option<Cost> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let program = cells.next()?.to_owned();
    let mut number = || cells.next()?.parse().ok();
    Some(Cost { program, instructions: number()?, jited: number()?, verified: number()? })
}

/// Every way in which the costs differ from the recorded ones by more than the tolerance, as sentences.
fn differences(recorded: &[Cost], now: &[Cost]) -> Vec<String> {
    let mut differences = Vec::new();
    for cost in now {
        let Some(before) = recorded.iter().find(|before| before.program == cost.program) else {
            differences.push(format!("{} is new", cost.program));
            continue;
        };
        for (title, figure) in FIGURES {
            let (was, is) = (figure(before), figure(cost));
            if was.abs_diff(is) * 100 > was * TOLERANCE {
                let sign = if is > was { "+" } else { "-" };
                let percent = (was.abs_diff(is) * 100)
                    .checked_div(was)
                    .map_or_else(String::new, |part| format!(" ({sign}{part} %)"));
                differences.push(format!("{}: {title} were {was}, are {is}{percent}", cost.program));
            }
        }
    }
    for before in recorded {
        if !now.iter().any(|cost| cost.program == before.program) {
            differences.push(format!("{} is gone", before.program));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(program: &str, instructions: u64, jited: u64, verified: u64) -> Cost {
        Cost { program: program.to_owned(), instructions, jited, verified }
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let costs = [cost("endpoint_tc", 1_200, 7_000, 3_400), cost("underlay_xdp", 2, 20, 2)];
        assert_eq!(recorded(&document(&costs, "Measured on Linux 6.18.")), costs);
    }

    #[test]
    fn only_more_than_five_percent_is_a_difference() {
        let before = [cost("a", 100, 1_000, 1_000), cost("b", 10, 10, 10)];
        assert!(differences(&before, &[cost("a", 105, 950, 1_050), cost("b", 10, 10, 10)]).is_empty());
        let found = differences(&before, &[cost("a", 106, 1_000, 900), cost("c", 1, 1, 1)]);
        assert_eq!(
            found,
            [
                "a: instructions were 100, are 106 (+6 %)",
                "a: instructions verified were 1000, are 900 (-10 %)",
                "c is new",
                "b is gone"
            ]
        );
    }
}
