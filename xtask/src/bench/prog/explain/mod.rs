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
        let mut kernel = Kernel::new(&self.code, &pins, site.is_xdp(), &context, &frame.bytes, hop)?;
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

    /// Of each line that a packet ran through: how many instructions it ran there, and what it called; by files.
    pub(super) fn shown(&self, explained: &Explained) -> String {
        /// What a line came to.
        #[derive(Default)]
        struct Sum {
            executed: u64,
            calls: BTreeMap<String, u64>,
        }
        let mut files: BTreeMap<&str, BTreeMap<&Line, Sum>> = BTreeMap::new();
        let unknown = Line { file: "(unknown)".to_owned(), number: 0, text: String::new() };
        for (name, executed) in &explained.profile.executed {
            let Some(program) = self.code.programs.get(name) else { continue };
            for (at, (count, line)) in executed.iter().zip(&program.lines).enumerate() {
                if *count == 0 {
                    continue;
                }
                let line = line.as_ref().unwrap_or(&unknown);
                let sum = files.entry(line.file.as_str()).or_default().entry(line).or_default();
                sum.executed += count;
                if let Some((call, times)) = explained.profile.calls.get(&(name.clone(), at)) {
                    *sum.calls.entry(call.clone()).or_default() += times;
                }
            }
        }
        let mut files: Vec<_> = files.into_iter().collect();
        files
            .sort_by_key(|(_, lines)| std::cmp::Reverse(lines.values().map(|sum| sum.executed).sum::<u64>()));
        let mut text = format!(
            "{}, from {}: {} eBPF instructions run\n",
            explained.path,
            explained.program,
            explained.instructions()
        );
        for (helper, count) in explained.profile.helpers() {
            let _ = writeln!(text, "{count:>6} × {helper}");
        }
        for (file, lines) in files {
            let executed: u64 = lines.values().map(|sum| sum.executed).sum();
            let _ = writeln!(text, "\n{executed:>6}  {}", short(file));
            for (line, sum) in lines {
                let calls: Vec<_> =
                    sum.calls.iter().map(|(name, count)| format!("{count} × {name}")).collect();
                let calls =
                    if calls.is_empty() { String::new() } else { format!("   [{}]", calls.join(", ")) };
                let _ = writeln!(text, "{:>6}  {:>5}  {}{calls}", sum.executed, line.number, line.text);
            }
        }
        text
    }
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

/// A file's path from the crate's name on.
fn short(file: &str) -> &str {
    let root = crate::project::root().display().to_string();
    file.strip_prefix(&root).map_or(file, |rest| rest.trim_start_matches('/'))
}

/// The object that agents hold, or the same with lines.
pub(super) fn object() -> Result<Vec<u8>> {
    std::fs::read(bpf::object()).context("cannot read the eBPF object")
}
