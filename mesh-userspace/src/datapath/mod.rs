//! The kernel's side of the mesh: the eBPF object loaded, its maps and links pinned, its programs attached.
//!
//! Everything that matters is pinned under `<run_dir>/bpf`, so that packets flow on when the agent ends. An
//! agent that starts again takes the maps over as they are, and puts its own programs into the links that it
//! finds, each in one atomic step:
//!
//! ```text
//! bpf/maps/SERVICES-v1-…       the maps, by their layouts
//! bpf/links/endpoint_tc-7      a program on the ingress of interface 7
//! bpf/links/underlay_xdp-3-native
//! bpf/links/connect4           a program on the root of the control groups
//! ```
//!
//! Links know nothing of layouts: those of an earlier agent with other maps are taken over too, and their programs, which
//! keep the earlier maps alive, work on until then. See `takeover`.

mod attach;
mod bpffs;
mod carry;
mod cgroup;
mod error;
mod home;
mod layout;
mod log;
mod map;
mod planned;
mod sys;
mod takeover;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, os::fd::AsFd, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{Program, ProgramError},
};

pub use attach::{Attached, Hook, XdpOutcome};
pub use error::DatapathError;
pub use map::{ArrayTable, HashTable, PerCpuTable, Raw, TrieTable};
pub use planned::KernelMaps;
pub use takeover::Report;

use self::log::ProgramLog;
use bpffs::BpfFs;
use error::chain;
use takeover::{MAPS, NEXT, Preparation, TakeOver};

/// The loaded object. What it has pinned and attached stays when this is dropped.
#[derive(Debug)]
pub struct Datapath {
    fs: BpfFs,
    ebpf: Ebpf,
    maps: BTreeMap<String, Map>,
    log: Option<ProgramLog>,
    /// The take-over of another layout's data plane, until it is committed.
    takeover: Option<TakeOver>,
}

impl Datapath {
    /// Loads `object` for the network namespace with `netns_cookie`, with the maps that are pinned under
    /// `run_dir` if they are laid out as the object wants them. In the place of all others it makes new ones, with
    /// what the earlier ones hold; see [`Datapath::commit`].
    ///
    /// The object's bytes must be aligned to four, as `aya::include_bytes_aligned!` makes them.
    pub fn open(run_dir: &Path, object: &[u8], netns_cookie: u64) -> Result<Self, DatapathError> {
        let fs = BpfFs::open(run_dir)?;
        fs.make_directory(attach::LINKS)?;
        fs.keep_only(&[MAPS, NEXT, attach::LINKS])?;
        let preparation = Preparation::new(&fs, object)?;
        Self::load(&fs, object, netns_cookie, &preparation)
            .and_then(|(ebpf, maps, log)| {
                let takeover = preparation.fill(&fs)?;
                Ok((ebpf, maps, log, takeover))
            })
            .inspect_err(|_| give_up(&fs))
            .and_then(|(ebpf, maps, log, takeover)| {
                let datapath = Self { fs, ebpf, maps, log, takeover };
                datapath.sweep()?;
                Ok(datapath)
            })
    }

    /// Whether the maps of another layout are still those that hold, and new ones stand beside them.
    #[must_use]
    pub fn is_taking_over(&self) -> bool {
        self.takeover.is_some()
    }

    /// Ends a take-over, once the tables are filled and the programs attached: carries over what has changed since, and
    /// makes the new maps those that hold. Returns what came of it; none if there was nothing to take over.
    ///
    /// The programs may have to be attached once more after it: see [`Report::attach_again`].
    ///
    /// # Errors
    /// When programs of the earlier agent still run, or the kernel refuses. Nothing of what holds is changed then.
    pub fn commit(&mut self, object: &[u8], netns_cookie: u64) -> Result<Option<Report>, DatapathError> {
        let Some(mut takeover) = self.takeover.take() else { return Ok(None) };
        let settled = self.settle(&mut takeover).inspect_err(|_| give_up(&self.fs));
        settled?;
        let bridges = takeover.bridges;
        let mut report = takeover.commit(&self.fs)?;
        if bridges {
            // The same programs without the bridge; they find everything pinned.
            let preparation = Preparation::new(&self.fs, object)?;
            let (ebpf, maps, log) = Self::load(&self.fs, object, netns_cookie, &preparation)?;
            self.takeover = preparation.fill(&self.fs)?;
            (self.ebpf, self.maps, self.log) = (ebpf, maps, log);
            report.attach_again = true;
        }
        Ok(Some(report))
    }

    /// Gives a take-over up: what held holds on.
    pub fn abandon(&mut self) {
        if self.takeover.take().is_some() {
            give_up(&self.fs);
        }
    }

    fn settle(&mut self, takeover: &mut TakeOver) -> Result<(), DatapathError> {
        let links = self.foreign()?;
        if !links.is_empty() {
            return Err(DatapathError::NotReplaced { links });
        }
        takeover.settle()?;
        if takeover.bridges {
            // From here on the new table of flows is the one that is read.
            let phase = self.maps.get("PHASE");
            let Some(Map::Array(phase)) = phase else {
                return Err(DatapathError::Missing { what: "map", name: "PHASE".to_owned() });
            };
            sys::update(phase.fd().as_fd(), &0_u32, &1_u32).map_err(takeover::phase_fault)?;
        }
        Ok(())
    }

    /// Loads the object with the maps that were prepared.
    fn load(
        fs: &BpfFs,
        object: &[u8],
        netns_cookie: u64,
        preparation: &Preparation,
    ) -> Result<Loaded, DatapathError> {
        let paths = preparation.paths(fs);
        let bridging = u32::from(preparation.bridges());
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name.as_str(), path.as_path());
        }
        loader.override_global("NETNS_COOKIE", &netns_cookie, true);
        loader.override_global("BRIDGING", &bridging, true);
        let mut ebpf = loader.load(object).map_err(|error| DatapathError::Load { why: chain(&error) })?;
        let mut programs: Vec<(&str, &mut Program)> = ebpf.programs_mut().collect();
        programs.sort_unstable_by_key(|(name, _)| *name);
        for (name, program) in programs {
            load(name, program)?;
        }
        let log = ProgramLog::of(&mut ebpf);
        let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        let maps = names.into_iter().filter_map(|name| ebpf.take_map(&name).map(|map| (name, map))).collect();
        Ok((ebpf, maps, log))
    }

    /// Tells what the programs have logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Takes away everything that is attached and pinned under `run_dir`, whoever left it there, and the
    /// file system that it was pinned in. It is no error if there is nothing.
    pub fn remove(run_dir: &Path) -> Result<(), DatapathError> {
        BpfFs::remove(run_dir)
    }
}

/// The object in the kernel, its maps by name, and what its programs say.
type Loaded = (Ebpf, BTreeMap<String, Map>, Option<ProgramLog>);

/// Takes the maps away that were made for a take-over that came to nothing.
fn give_up(fs: &BpfFs) {
    if let Err(error) = fs.clear(NEXT) {
        tracing::warn!(%error, "maps that are not needed stay pinned until the next start");
    }
}

fn load(name: &str, program: &mut Program) -> Result<(), DatapathError> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        other => {
            return Err(DatapathError::Load {
                why: format!(
                    "the program {name} is of a type that the mesh does not use ({:?})",
                    other.prog_type()
                ),
            });
        }
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => DatapathError::Refused {
            program: name.to_owned(),
            source: io_error,
            log: last_lines(&verifier_log.to_string()),
        },
        other => DatapathError::Load { why: format!("the program {name}: {}", chain(&other)) },
    })
}

/// The end of the verifier's log, which says what it refused and where; the whole may have megabytes.
fn last_lines(log: &str) -> String {
    const KEPT: usize = 40;
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(KEPT)..).unwrap_or_default().join("\n")
}
