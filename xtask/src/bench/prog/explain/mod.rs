//! `cargo xtask bench prog --explain`: which lines of the source a packet runs through, how many instructions each of them is,
//! and what is looked up.

mod code;
mod kernel;
mod machine;
mod memory;

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::bpf;

use self::{
    code::{Code, Line},
    kernel::{Hop, Kernel},
    machine::Profile,
};
use super::{
    frame::Frame,
    path::{Path, Supply},
    stage::Stage,
};

/// The programs' instructions, to be run one by one.
pub(super) struct Explainer {
    code: Code,
}

/// What one packet of a path does.
pub(super) struct Explained {
    pub(super) path: String,
    program: &'static str,
    profile: Profile,
}

impl Explainer {
    /// Reads an object; where it has lines of the source, they are told.
    pub(super) fn new(object: &[u8]) -> Result<Self> {
        Ok(Self { code: Code::read(object)? })
    }

    /// Runs one packet of a path, here and through the kernel, which must make the same of it.
    pub(super) fn explain(&self, stage: &Stage, path: &Path, begun: u32) -> Result<Explained> {
        let fresh;
        let frame: &Frame = match &path.supply {
            Supply::Known(frames) => frames.first(),
            Supply::New(newcomers) => {
                fresh = newcomers(stage, begun, 1)?;
                fresh.first()
            }
        }
        .context("no packet to explain")?;
        let site = path.site;
        let pins = stage.lab.node(site.node).pins()?;
        let context = site.context(frame);
        let hop = Hop { interface: frame.interface, mtu: stage.mtu() };
        let mut kernel = Kernel::new(
            &self.code,
            &pins,
            stage.loaded(site.node)?,
            site.is_xdp(),
            &context,
            &frame.bytes,
            hop,
        )?;
        // Before the kernel's turn, which opens the flow.
        let (code, profile) = machine::run(&self.code, site.program, &mut kernel)?;
        let mut ours = kernel.packet()?.to_vec();
        let out = stage.through(site, std::slice::from_ref(frame), path.wanted)?;
        let out = out.into_iter().next().context("the kernel gave no packet")?;
        // Only the kernel knows the MAC addresses on the way that it chose.
        if let (Some(macs), Some(known)) = (ours.get_mut(..12), out.get(..12))
            && macs.iter().all(|byte| *byte == 0)
        {
            macs.copy_from_slice(known);
        }
        ensure!(
            code == path.wanted.code,
            "the program returns {code} here, in the kernel {}",
            path.wanted.code
        );
        ensure!(ours == out, "the packet comes out otherwise than from the kernel:\n{ours:02x?}\n{out:02x?}");
        Ok(Explained { path: path.name.clone(), program: site.program, profile })
    }

    /// Of each function that a packet ran through, and of each line in it: how many instructions it ran there, and what it called.
    pub(super) fn shown(&self, explained: &Explained) -> String {
        let mut functions: Vec<_> = self.functions(&explained.profile).into_values().collect();
        functions.sort_by_key(|function| std::cmp::Reverse(function.executed()));
        let total = explained.instructions();
        let mut text =
            format!("{}, from {}: {total} eBPF instructions run\n", explained.path, explained.program);
        for (helper, count) in explained.profile.helpers() {
            let _ = writeln!(text, "{count:>6} × {helper}");
        }
        let _ = writeln!(text, "\n   run  times   size  function");
        for function in &functions {
            let Ran { name, size, entered, .. } = function;
            let _ = writeln!(text, "{:>6} {entered:>6} {size:>6}  {name}", function.executed());
        }
        for function in &functions {
            let _ = writeln!(text, "\n{:>6}  {}", function.executed(), function.name);
            for (line, sum) in &function.lines {
                let calls: Vec<_> =
                    sum.calls.iter().map(|(name, count)| format!("{count} × {name}")).collect();
                let calls =
                    if calls.is_empty() { String::new() } else { format!("   [{}]", calls.join(", ")) };
                let place = format!("{}:{}", short(&line.file), line.number);
                let _ = writeln!(text, "{:>6}  {place:<48}  {}{calls}", sum.executed, line.text);
            }
        }
        text
    }

    /// What was run, by programs and where their functions begin.
    fn functions(&self, profile: &Profile) -> BTreeMap<(String, usize), Ran> {
        let unknown = Line { file: "?".to_owned(), number: 0, text: String::new() };
        let mut functions = BTreeMap::new();
        for (name, executed) in &profile.executed {
            let Some(program) = self.code.programs.get(name) else { continue };
            for (at, (count, line)) in executed.iter().zip(&program.lines).enumerate() {
                if *count == 0 {
                    continue;
                }
                let (first, end, function) = program.function_of(at);
                let ran = functions.entry((name.clone(), first)).or_insert_with(|| Ran {
                    name: if function == name { name.clone() } else { format!("{name}: {function}") },
                    size: end - first,
                    entered: executed.get(first).copied().unwrap_or(0),
                    lines: BTreeMap::new(),
                });
                let line = line.as_ref().unwrap_or(&unknown);
                let sum = ran.lines.entry(line.clone()).or_default();
                sum.executed += count;
                if let Some((call, times)) = profile.calls.get(&(name.clone(), at)) {
                    *sum.calls.entry(call.clone()).or_default() += times;
                }
            }
        }
        functions
    }
}

/// What was run of a function.
struct Ran {
    name: String,
    /// Instructions that it is.
    size: usize,
    /// How often it was called.
    entered: u64,
    lines: BTreeMap<Line, Sum>,
}

impl Ran {
    fn executed(&self) -> u64 {
        self.lines.values().map(|sum| sum.executed).sum()
    }
}

/// What was run of a line.
#[derive(Default)]
struct Sum {
    executed: u64,
    calls: BTreeMap<String, u64>,
}

impl Explained {
    /// Instructions that the packet ran through.
    pub(super) fn instructions(&self) -> u64 {
        self.profile.instructions()
    }

    /// Lookups in maps, and calls of other helpers.
    pub(super) fn calls(&self) -> [u64; 2] {
        let mut sums = [0; 2];
        for (name, count) in self.profile.helpers() {
            let [lookups, others] = &mut sums;
            *if name.starts_with("lookup ") { lookups } else { others } += count;
        }
        sums
    }
}

/// A file's path from the project's root, or its last three parts.
fn short(file: &str) -> String {
    let root = crate::project::root();
    std::path::Path::new(file).strip_prefix(root).map_or_else(
        |_| {
            let parts: Vec<_> = file.rsplit('/').take(3).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("/")
        },
        |path| path.display().to_string(),
    )
}

/// The object that agents hold.
pub(super) fn object() -> Result<Vec<u8>> {
    std::fs::read(bpf::object()).context("cannot read the eBPF object")
}
