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

/// The part of docs/programs.md that is about the machine that builds.
const HERE: &str = "The kernel of the machine that builds";

/// Loads every program of the object, prints their costs, and compares them with the recorded ones, or records them.
///
/// # Errors
/// As [`settle`].
pub(crate) fn report(built: &ebpf::Built, record: Option<&Record>) -> Result<()> {
    if !process::is_root() {
        if record.is_some() {
            bail!("only root may load the eBPF programs, which `--record` takes");
        }
        println!("What the eBPF programs cost is not shown: only root may load them.");
        return Ok(());
    }
    let table = table(&measure(&read(&built.object)?)?);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    settle(&Measured { title: HERE, kernel: kernel.trim(), table: &table }, built, record, "build")
}

/// Loads every program of an object on the kernel that runs here, and prints their costs as a table.
pub(crate) fn print_table(object: &Path) -> Result<()> {
    print!("{}", table(&measure(&read(object)?)?));
    Ok(())
}

/// What was measured on a kernel.
pub(crate) struct Measured<'a> {
    /// Under which title docs/programs.md has it.
    pub(crate) title: &'a str,
    /// The kernel's release.
    pub(crate) kernel: &'a str,
    /// The costs, as [`print_table`] prints them.
    pub(crate) table: &'a str,
}

/// Prints what programs cost on a kernel, and compares it with what is recorded of it, or records it, which `command` of
/// `cargo xtask` does with `--record`.
///
/// # Errors
/// If a program costs more than is recorded by more than the tolerance, with the same compiler on such a kernel; and if that is
/// to be recorded without a reason.
pub(crate) fn settle(
    measured: &Measured<'_>,
    built: &ebpf::Built,
    record: Option<&Record>,
    command: &str,
) -> Result<()> {
    print!("{}", measured.table);
    let path = project::programs_record();
    let document = fs::read_to_string(&path).unwrap_or_default();
    let text = section(&document, measured.title).unwrap_or_default();
    let (before, costs) = (recorded(text), recorded(measured.table));
    let now = circumstances(measured.kernel, &built.compiler);
    let growth = growth(&before, &costs);
    if let Some(record) = record {
        let reasons = record.reasons(&document, &growth)?;
        let text = format!("{now}\n\n{}", measured.table);
        fs::write(&path, with_section(&document, measured.title, &text, &reasons))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("recorded in {}", path.display());
        return Ok(());
    }
    if before.is_empty() {
        println!(
            "not compared: docs/programs.md records nothing of it (`cargo xtask {command} --record` does)"
        );
        return Ok(());
    }
    let differences = differences(&before, &costs);
    if differences.is_empty() {
        println!("within {TOLERANCE} % of what docs/programs.md records");
        return Ok(());
    }
    println!("\nDIFFERENT from what docs/programs.md records by more than {TOLERANCE} %:");
    for difference in &differences {
        println!("  {difference}");
    }
    let then = text.lines().find(|line| line.starts_with("Measured on ")).unwrap_or_default();
    if growth.is_empty() {
        println!("Nothing grew: `cargo xtask {command} --record` takes note of it.");
    } else if is_comparable(then, &now) {
        bail!(
            "the eBPF programs cost more than docs/programs.md records, by more than {TOLERANCE} %:\n  {}\n\
             Make them cheaper, or say why they must be dearer: `cargo xtask {command} --record --because REASON`",
            growth.join("\n  ")
        );
    } else {
        println!("That is let pass, as it was measured otherwise.\nthen: {then}\nnow:  {now}");
    }
    Ok(())
}

fn read(object: &Path) -> Result<Vec<u8>> {
    fs::read(object).with_context(|| format!("cannot read {}", object.display()))
}

/// How the costs are to be recorded.
pub(crate) struct Record {
    /// Why programs cost more than before, if they do.
    pub(crate) because: Option<String>,
}

impl Record {
    /// Why programs ever grew: what a document says of it, and what is to be added.
    fn reasons(&self, document: &str, growth: &[String]) -> Result<Vec<String>> {
        let earlier =
            document.lines().skip_while(|line| *line != REASONS).filter(|line| line.starts_with("- "));
        let mut reasons: Vec<_> = earlier.map(str::to_owned).collect();
        if growth.is_empty() {
            return Ok(reasons);
        }
        let Some(because) = self.because.as_deref().map(str::trim).filter(|because| !because.is_empty())
        else {
            bail!(
                "programs cost more than is recorded, by more than {TOLERANCE} %; `--record` wants to be told why, by \
                 `--because REASON`:\n  {}",
                growth.join("\n  ")
            );
        };
        reasons.push(format!("- {because} ({})", growth.join("; ")));
        Ok(reasons)
    }
}

/// The heading of the reasons in docs/programs.md.
const REASONS: &str = "## Why they grew";

/// Whether two lines of [`circumstances`] tell of the same compiler and of kernels of the same version, such as 6.18: other
/// compilers make other code, and other verifiers look at more or less of it.
fn is_comparable(then: &str, now: &str) -> bool {
    let parts = |line: &str| {
        let (kernel, rest) = line.strip_prefix("Measured on Linux ")?.split_once(' ')?;
        let version: Vec<_> = kernel.split('.').take(2).map(str::to_owned).collect();
        Some((version, rest.to_owned()))
    };
    parts(then).is_some_and(|then| Some(then) == parts(now))
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
                measure_with_pins(object, &pins, bridging, 1).context("loaded to bridge two layouts")?;
            }
            // As for kernels without the flags that name the family inside a tunnel.
            measure_with_pins(object, &pins, 0, 0).context("loaded for Linux before 6.3")?;
            measure_with_pins(object, &pins, 0, 1)
        });
        thread.join().unwrap_or_else(|_| bail!("the thread that measures the programs panicked"))
    })
}

fn measure_with_pins(object: &[u8], pins: &Path, bridging: u32, decap_flags: u32) -> Result<Vec<Cost>> {
    let mut ebpf: Ebpf = EbpfLoader::new()
        .default_map_pin_directory(pins)
        .override_global("BRIDGING", &bridging, true)
        .override_global("DECAP_FLAGS", &decap_flags, true)
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
fn circumstances(kernel: &str, compiler: &str) -> String {
    format!("Measured on Linux {kernel} ({}), compiled by {compiler}.", env::consts::ARCH)
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

/// What docs/programs.md says under a title, or nothing if it has no such title.
fn section<'a>(document: &'a str, title: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("\n## {title}\n"))?;
    Some(rest.split("\n## ").next().unwrap_or(rest).trim())
}

/// The whole of docs/programs.md, with a text under a title in the place of what stood there, if anything did.
fn with_section(document: &str, title: &str, text: &str, reasons: &[String]) -> String {
    let mut fresh = format!(
        "# What the eBPF programs cost\n\n\
         Written by `cargo xtask build --record` and, for the kernels of Debian, by `cargo xtask vm load --record`. Both compare\n\
         themselves with it otherwise, and fail if a program's instructions, or those verified, are more by more than {TOLERANCE} %\n\
         (with the same compiler, on a kernel of the same version). A program's instructions are the kernel's, after it has put\n\
         helpers and maps in place. The instructions verified are those that the verifier looked at over all paths: it gives up\n\
         at a million.\n"
    );
    let heading = REASONS.trim_start_matches("## ");
    let there: Vec<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|title| *title != heading)
        .collect();
    let new = (!there.contains(&title)).then_some(title);
    for known in there.into_iter().chain(new) {
        let body = if known == title { text } else { section(document, known).unwrap_or_default() };
        let _ = write!(fresh, "\n## {known}\n\n{}\n", body.trim());
    }
    if !reasons.is_empty() {
        let _ = write!(fresh, "\n{REASONS}\n\n{}\n", reasons.join("\n"));
    }
    fresh
}

/// The costs in a table.
fn recorded(table: &str) -> Vec<Cost> {
    table.lines().filter_map(row).collect()
}

/// The cost in a line `| name | 1 | 2 | 3 |`; other lines hold none.
fn row(line: &str) -> Option<Cost> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let program = cells.next()?.to_owned();
    let mut number = || cells.next()?.parse().ok();
    Some(Cost { program, instructions: number()?, jited: number()?, verified: number()? })
}

/// Every way in which programs cost more than is recorded by more than the tolerance, as sentences. Machine code counts for
/// nothing: how much of it an instruction becomes is the kernel's affair. Neither does a program that is new.
fn growth(recorded: &[Cost], now: &[Cost]) -> Vec<String> {
    let mut growth = Vec::new();
    for cost in now {
        let Some(before) = recorded.iter().find(|before| before.program == cost.program) else { continue };
        for (title, was, is) in [
            ("instructions", before.instructions, cost.instructions),
            ("instructions verified", before.verified, cost.verified),
        ] {
            if is * 100 > was * (100 + TOLERANCE) {
                growth.push(format!("{}: {title} were {was}, are {is}", cost.program));
            }
        }
    }
    growth
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
        let here = [cost("endpoint_tc", 1_200, 7_000, 3_400), cost("underlay_xdp", 2, 20, 2)];
        let elsewhere = [cost("endpoint_tc", 1_200, 7_001, 5_000)];
        let document = with_section("", "Here", &table(&here), &["- Because.".to_owned()]);
        let document = with_section(&document, "Elsewhere", &table(&elsewhere), &["- Because.".to_owned()]);
        let read = |document: &str, title: &str| section(document, title).map(recorded);
        assert_eq!(read(&document, "Here"), Some(here.to_vec()));
        assert_eq!(read(&document, "Elsewhere"), Some(elsewhere.to_vec()));
        assert_eq!(read(&document, "Else"), None);
        assert_eq!(document.matches(REASONS).count(), 1, "{document}");
        // Recording one leaves the other as it was, and the order as well.
        let again = with_section(&document, "Here", &table(&elsewhere), &[]);
        assert_eq!(read(&again, "Here"), Some(elsewhere.to_vec()));
        assert_eq!(read(&again, "Elsewhere"), Some(elsewhere.to_vec()));
        assert_eq!(with_section(&again, "Here", &table(&here), &["- Because.".to_owned()]), document);
    }

    #[test]
    fn what_grew_is_recorded_with_a_reason_alone() -> Result<()> {
        let before = [cost("a", 100, 1_000, 1_000), cost("b", 100, 10, 10)];
        let grown = [cost("a", 106, 9_000, 1_050), cost("b", 50, 10, 11), cost("c", 1, 1, 1)];
        let growth = growth(&before, &grown);
        assert_eq!(growth, ["a: instructions were 100, are 106", "b: instructions verified were 10, are 11"]);

        let silent =
            Record { because: None }.reasons("", &growth).expect_err("no reason was given").to_string();
        assert!(
            silent.contains("a: instructions were 100, are 106") && silent.contains("--because"),
            "{silent}"
        );
        let told = Record { because: Some("Fragments.".to_owned()) }.reasons("", &growth)?;
        let document = with_section("", HERE, &table(&grown), &told);
        assert_eq!(section(&document, HERE).map(recorded), Some(grown.to_vec()));
        // What was told before stays, whether or not anything grows again.
        assert_eq!(Record { because: None }.reasons(&document, &[])?, told);
        assert_eq!(Record { because: Some("More.".to_owned()) }.reasons(&document, &growth)?.len(), 2);
        Ok(())
    }

    #[test]
    fn only_costs_of_one_compiler_and_kernel_version_are_compared() {
        let line = "Measured on Linux 6.18.44-a (x86_64), compiled by rustc 1.96.0.";
        assert!(is_comparable(line, "Measured on Linux 6.18.5 (x86_64), compiled by rustc 1.96.0."));
        assert!(!is_comparable(line, "Measured on Linux 6.1.44-a (x86_64), compiled by rustc 1.96.0."));
        assert!(!is_comparable(line, "Measured on Linux 6.18.44-a (x86_64), compiled by rustc 1.97.0."));
        assert!(!is_comparable("", ""));
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
