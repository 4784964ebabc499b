//! `cargo xtask bench prog`: what each path through the programs costs a packet.

mod explain;
pub(super) mod frame;
pub(super) mod path;
mod scenario;
pub(super) mod stage;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{
    bpf,
    lab::{Underlay, remains},
};

use self::{
    explain::Explainer,
    frame::Frame,
    path::{Path, Site, Supply, Wanted},
    scenario::{Families, Inner},
    stage::{ENTRY, Stage},
};
use super::{
    PREFIX,
    figure::{Figure, number},
    findings::{Column, Findings, Row, Table, Target},
    machine::Machine,
    watch::Watch,
};
use crate::{
    ebpf,
    programs::{self, Cost},
};

/// What `bench prog` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Flows that are live in the second column
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=110_000))]
    flows: u32,
    /// How often the programs are loaded: the same code is some nanoseconds faster or slower from load to load
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=20))]
    loads: u16,
    /// Rounds for each load
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Packets of each path in a round
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    packets: u32,
    /// Only these paths, separated by commas: published, in-turn, virtual-ip, between-tasks, foreign, published-over-ipv6,
    /// between-tasks-over-ipv6
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Instead of measuring, show which lines of the source a packet of each path runs through, and how many instructions that
    /// is; only of paths whose names hold this text, if one is given
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "")]
    explain: Option<String>,
}

impl Arguments {
    /// The text in the names of the paths to explain, if that is what is asked for.
    pub(super) fn explained(&self) -> Option<&str> {
        self.explain.as_deref()
    }
}

/// New flows of each round: few enough that those which live keep their places in the table.
const NEW: u32 = 1000;

/// The number of the new flow that is counted but not timed: none of those that are.
const ASIDE: u32 = 1 << 20;

/// What opens flows, and tells of the paths of their packets.
type Open = fn(&Stage, Families, u32) -> Result<Vec<Path>>;

/// Paths of the same flows.
struct Scenario {
    /// As it is typed.
    name: &'static str,
    underlay: Underlay,
    open: Open,
}

/// Everything. Those over one family of the underlay stand side by side.
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "published", underlay: Underlay::V4, open: scenario::published },
    Scenario { name: "in-turn", underlay: Underlay::V4, open: scenario::in_turn },
    Scenario { name: "virtual-ip", underlay: Underlay::V4, open: scenario::virtual_ip },
    Scenario { name: "between-tasks", underlay: Underlay::V4, open: scenario::between_tasks },
    Scenario { name: "foreign", underlay: Underlay::V4, open: scenario::foreign },
    Scenario { name: "published-over-ipv6", underlay: Underlay::V6, open: scenario::published },
    Scenario { name: "between-tasks-over-ipv6", underlay: Underlay::V6, open: scenario::between_tasks },
];

/// What Katran's published data plane takes over an empty program, in nanoseconds, with IPIP and its LRU: the middle of 117 to
/// 125, measured by this method on a machine of this kind.
const KATRAN: f64 = 121.0;

/// Rounds of one path, with one flow and with many.
struct Measured {
    name: String,
    rounds: [Vec<f64>; 2],
    /// Of one packet, with one flow: instructions run, lookups, other calls of helpers.
    counts: Option<[u64; 3]>,
}

/// All that was measured.
struct Rounds {
    explainer: Explainer,
    paths: Vec<Measured>,
    /// Of each control, absolute.
    controls: [Vec<f64>; 2],
    /// What could not be counted.
    remarks: Vec<String>,
}

/// Measures each path.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let watch = Watch::new("what each path costs");
    let explainer = Explainer::new(&explain::object()?)?;
    let mut rounds = Rounds { explainer, paths: vec![], controls: [vec![], vec![]], remarks: vec![] };
    let chosen = chosen(&arguments.only)?;
    for of_underlay in chosen.chunk_by(|one, next| one.underlay == next.underlay) {
        let underlay = of_underlay.first().map_or(Underlay::V4, |scenario| scenario.underlay);
        watch.now(&format!("builds a mesh over {underlay:?}"));
        let stage = Stage::new(stage::mesh(underlay), arguments.loads, None)?;
        let measured = of_underlay
            .iter()
            .try_for_each(|scenario| rounds.measure_scenario(&stage, scenario, arguments, &watch));
        if measured.is_err() {
            stage.lab.print_logs();
        }
        measured?;
    }
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    drop(watch);
    Ok((rounds.findings(arguments)?, Ok(())))
}

/// Shows the lines that a packet of each path whose name holds a text runs through.
pub(super) fn explain(arguments: &Arguments, text: &str) -> Result<()> {
    let explainer = Explainer::new(&ebpf::build_with_lines()?)?;
    let mut found = false;
    for of_underlay in chosen(&arguments.only)?.chunk_by(|one, next| one.underlay == next.underlay) {
        let underlay = of_underlay.first().map_or(Underlay::V4, |scenario| scenario.underlay);
        let stage = Stage::new(stage::mesh(underlay), 1, None)?;
        for scenario in of_underlay {
            for inner in [Inner::V4, Inner::V6] {
                stage.forget()?;
                for path in (scenario.open)(&stage, Families { inner, underlay }, 1)? {
                    if path.name.contains(text) {
                        let explained = explainer.explain(&stage, &path, ASIDE);
                        println!("\n{}", explainer.shown(&explained.with_context(|| path.name.clone())?));
                        found = true;
                    }
                }
            }
        }
    }
    ensure!(found, "no path's name holds {text:?}; `cargo xtask bench prog` lists them");
    Ok(())
}

/// The scenarios of these names; all, if none is named.
fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    for name in names {
        ensure!(
            known.contains(&name.as_str()),
            "there are no paths {name:?}; there are {}",
            known.join(", ")
        );
    }
    let is_chosen = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

impl Rounds {
    fn measure_scenario(
        &mut self,
        stage: &Stage,
        scenario: &Scenario,
        arguments: &Arguments,
        watch: &Watch,
    ) -> Result<()> {
        for inner in [Inner::V4, Inner::V6] {
            for (column, flows) in [1, arguments.flows].into_iter().enumerate() {
                watch.now(&format!("{}, {inner:?}, flows: {}", scenario.name, number(f64::from(flows))));
                stage.forget()?;
                let paths = (scenario.open)(stage, Families { inner, underlay: scenario.underlay }, flows)?;
                if column == 0 {
                    self.count(stage, &paths);
                }
                self.measure_paths(stage, &paths, column, arguments)?;
            }
        }
        Ok(())
    }

    /// Runs one packet of each path an instruction at a time. Where the programs use what the interpreter does not know, the
    /// nanoseconds stand alone, and a remark says so.
    fn count(&mut self, stage: &Stage, paths: &[Path]) {
        for path in paths {
            match self.explainer.explain(stage, path, ASIDE) {
                Ok(explained) => {
                    let [lookups, others] = explained.calls();
                    self.of(path).counts = Some([explained.instructions(), lookups, others]);
                }
                Err(error) => self.remarks.push(format!("{}: not counted: {error:#}", path.name)),
            }
        }
    }

    /// Each load's rounds, in each of which every path and both controls have their turn.
    fn measure_paths(
        &mut self,
        stage: &Stage,
        paths: &[Path],
        column: usize,
        arguments: &Arguments,
    ) -> Result<()> {
        let mut begun = 0;
        for load in 0..stage.loads() {
            for round in 0..u32::from(arguments.rounds) {
                let controls = self.measure_controls(stage, paths, arguments.packets)?;
                for path in paths {
                    let fresh;
                    let frames = match &path.supply {
                        Supply::Known(frames) => turns(frames, round, arguments.packets),
                        Supply::New(newcomers) => {
                            fresh = newcomers(stage, begun, NEW)?;
                            begun += NEW;
                            fresh.iter().collect()
                        }
                    };
                    let time = stage.time(path.site, load, &frames, path.wanted);
                    let time = time.with_context(|| path.name.clone())?;
                    let baseline = path.site.baseline();
                    let over = time - controls.get(baseline).context("no such control")?;
                    self.of(path).rounds.get_mut(column).context("no such column")?.push(over);
                }
            }
        }
        Ok(())
    }

    fn measure_controls(&mut self, stage: &Stage, paths: &[Path], packets: u32) -> Result<[f64; 2]> {
        let bytes = paths.iter().find_map(|path| match &path.supply {
            Supply::Known(frames) => frames.first().map(|frame| frame.bytes.clone()),
            Supply::New(_) => None,
        });
        let bytes = bytes.context("no packet for the controls")?;
        let frame = Frame { bytes, interface: stage.uplink(ENTRY)? };
        let frames = vec![&frame; packets as usize];
        let wanted = [Wanted::XDP_PASS, Wanted::TC_OK];
        let mut found = [0.0; 2];
        for (index, ((site, wanted), found)) in
            Site::CONTROLS.into_iter().zip(wanted).zip(&mut found).enumerate()
        {
            *found = stage.time(site, 0, &frames, wanted)?;
            self.controls.get_mut(index).context("no such control")?.push(*found);
        }
        Ok(found)
    }

    /// All in the form of the report.
    fn findings(&self, arguments: &Arguments) -> Result<Findings> {
        let object = std::fs::read(bpf::object()).context("cannot read the eBPF object")?;
        let costs = programs::measure(&object)?;
        Ok(Findings {
            suite: "prog".to_owned(),
            title: "What each path through the programs costs a packet".to_owned(),
            method: method(arguments),
            command: "cargo xtask bench prog".to_owned(),
            machine: Machine::this(),
            took_seconds: 0.0,
            tables: vec![self.table(arguments), self.count_table(), self.control_table(), size_table(&costs)],
            targets: self.targets()?,
            remarks: self.remarks.clone(),
        })
    }

    fn table(&self, arguments: &Arguments) -> Table {
        let row = |path: &Measured| Row {
            name: path.name.clone(),
            cells: path.rounds.iter().map(|rounds| Figure::of(rounds)).collect(),
        };
        let many = format!("{} flows", number(f64::from(arguments.flows)));
        Table {
            name: "paths".to_owned(),
            title: "Nanoseconds of a packet over those of an empty program at the same hook".to_owned(),
            rows_are: "path".to_owned(),
            columns: ["1 flow".to_owned(), many].map(|title| Column::new(title, "ns")).to_vec(),
            rows: self.paths.iter().map(row).collect(),
            is_drawn: true,
        }
    }

    fn count_table(&self) -> Table {
        let row = |path: &Measured| Row {
            name: path.name.clone(),
            cells: match path.counts {
                Some(counts) => counts.map(|count| Some(Figure::exact(count as f64))).to_vec(),
                None => vec![None; 3],
            },
        };
        Table {
            name: "counts".to_owned(),
            title: "What one packet runs through, where there is one flow".to_owned(),
            rows_are: "path".to_owned(),
            columns: [("eBPF instructions", ""), ("map lookups", ""), ("other helpers", "")]
                .map(|(title, unit)| Column::new(title, unit))
                .to_vec(),
            rows: self.paths.iter().map(row).collect(),
            is_drawn: false,
        }
    }

    fn control_table(&self) -> Table {
        let row = |(site, rounds): (&Site, &Vec<f64>)| Row {
            name: site.program.to_owned(),
            cells: vec![Figure::of(rounds)],
        };
        Table {
            name: "controls".to_owned(),
            title: "What an empty program takes, clocks included: above, this is taken off".to_owned(),
            rows_are: "control".to_owned(),
            columns: vec![Column::new("packet", "ns")],
            rows: Site::CONTROLS.iter().zip(&self.controls).map(row).collect(),
            is_drawn: false,
        }
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for (path, what, bound) in [
            ("mh port: entry node, XDP, IPv4", "published port without state", KATRAN / 4.0),
            (
                "mh port: delivering node, tc, known flow, IPv4",
                "known flow at the delivering node",
                KATRAN / 2.0,
            ),
            ("mh port: delivering node, tc, new flow, IPv4", "new flow at the delivering node", 150.0),
        ] {
            let measured = self.paths.iter().find(|measured| measured.name == path);
            // Not among those that were asked for.
            let Some(measured) = measured else { continue };
            let bounded_by = match measured.counts {
                Some([instructions, lookups, helpers]) => format!(
                    "the packet runs through {} eBPF instructions, {lookups} map lookups and {helpers} other helpers (counted \
                     above); `cargo xtask bench prog --explain \"{path}\"` shows in which lines.",
                    number(instructions as f64)
                ),
                None => "its instructions could not be counted in this run.".to_owned(),
            };
            for (rounds, flows) in measured.rounds.iter().zip(["1 flow", "many flows"]) {
                let found = Figure::of(rounds).with_context(|| format!("{path} was not measured"))?;
                let target = Target::at_most(&format!("{what}, {flows}"), bound, "ns over empty", found);
                targets.push(target.bounded_by(bounded_by.as_str()));
            }
        }
        Ok(targets)
    }

    fn of(&mut self, path: &Path) -> &mut Measured {
        let at = self.paths.iter().position(|measured| measured.name == path.name);
        let at = at.unwrap_or_else(|| {
            self.paths.push(Measured { name: path.name.clone(), rounds: [vec![], vec![]], counts: None });
            self.paths.len() - 1
        });
        &mut self.paths[at]
    }
}

/// So many frames, each flow's in its turn, and no two neighbours one after the other.
fn turns(frames: &[Frame], round: u32, packets: u32) -> Vec<&Frame> {
    /// A prime greater than what a cache line or a bucket holds, so that no cache guesses what comes next.
    const STRIDE: usize = 7919;
    let first = (round * packets) as usize;
    (first..first + packets as usize).filter_map(|turn| frames.get(turn * STRIDE % frames.len())).collect()
}

fn method(arguments: &Arguments) -> Vec<String> {
    let Arguments { loads, rounds, packets, .. } = arguments;
    vec![
        format!(
            "Each packet is run alone through the program (BPF_PROG_TEST_RUN with repeat = 1, as more would feed the program \
             what it has made), fresh from the sender, 60 bytes long over IPv4. The nanoseconds are the kernel's own, from its \
             look at the clock before the program to that after it; what an empty program takes between the two, in the same \
             round, is taken off. A round's figure is the mean of {packets} packets ({NEW} where each opens a flow) without the \
             highest and the lowest tenth, since a median is no finer than the clock; there are \
             {rounds} rounds for each of {loads} loads of the programs, in which paths and controls have their turns, on one \
             processor; shown is the median of the rounds' and the greatest distance from it."
        ),
        "The tables are those of agents in a mesh of two nodes with their daemons, filled by these; services have four backends. \
         Every flow was opened, answered and proved by running its packets through the programs themselves. Each packet's \
         verdict and length is checked: one that is lost, or left to the kernel, fails the suite. What the kernel does after \
         the program (transmission, redirection) is not in the figures, as it is not in those of an empty one."
            .to_owned(),
        "With many flows, each flow's packet comes once before any comes again, in an order that no cache guesses. A packet's \
         own bytes are in the cache, since the kernel has just copied them; between two packets the kernel does a system call's \
         work, which a driver's loop does not. The test's socket buffers have 64 bytes before the frame: a tunnel over IPv6 \
         at tc does not fit there, so that its figures hold a reallocation that the network's buffers do not need."
            .to_owned(),
        format!(
            "Katran cannot be measured by this command. It took 117 to 125 ns over an empty program (IPIP with its LRU, one flow; \
             here {KATRAN}) when it was measured earlier by the same method, in one run with an empty program, on a machine of \
             this kind."
        ),
    ]
}

fn size_table(costs: &[Cost]) -> Table {
    let row = |cost: &Cost| Row {
        name: cost.program.clone(),
        cells: [cost.instructions, cost.jited, cost.verified]
            .map(|count| Some(Figure::exact(count as f64)))
            .to_vec(),
    };
    Table {
        name: "sizes".to_owned(),
        title: "What the programs are, and what the verifier spent on them".to_owned(),
        rows_are: "program".to_owned(),
        columns: [("instructions", ""), ("JITed", "bytes"), ("verified", "instructions")]
            .map(|(title, unit)| Column::new(title, unit))
            .to_vec(),
        rows: costs.iter().map(row).collect(),
        is_drawn: false,
    }
}
