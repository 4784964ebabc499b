//! The kernel's side of the mesh: the eBPF object loaded, its maps and links pinned, its programs attached.
//!
//! Everything that matters is pinned under `<run_dir>/bpf`, so that packets flow on when the agent ends. An
//! agent that starts again takes the maps over as they are, and puts its own programs into the links that it
//! finds, each in one atomic step:
//!
//! ```text
//! bpf/maps/SERVICES-v1-…       the maps, by their layouts
//! bpf/links/endpoint_tc-7      a program on the ingress of interface 7, unless it is in a filter: see `clsact`
//! bpf/links/underlay_xdp-3-native
//! bpf/links/connect4           a program on the root of the control groups
//! ```
//!
//! Links know nothing of layouts: those of an earlier agent with other maps are taken over too, and their programs, which
//! keep the earlier maps alive, work on until then. See `takeover`.

mod abilities;
mod attach;
mod bpffs;
mod carry;
mod cgroup;
mod clsact;
mod error;
pub(crate) mod home;
mod layout;
mod log;
mod map;
mod planned;
mod slots;
mod sys;
mod takeover;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, ProgramArray},
    programs::{Program, ProgramError},
};
use mesh_common::abi;

pub use attach::{Attached, Hook, XdpOutcome};
pub use error::DatapathError;
pub use map::{ArrayTable, HashTable, PerCpuTable, Raw, TrieTable};
pub use planned::KernelMaps;
pub use takeover::{Progress, Report};

use self::log::ProgramLog;
use crate::apply::SLOTS;
use abilities::Abilities;
use bpffs::BpfFs;
use error::chain;
use slots::SlotTable;
use takeover::{Bridge, MAPS, NEXT, Preparation, TakeOver};

/// The arrays of programs that other programs call, and where each program stands in them.
const TAIL_CALLS: [(&str, u32, &str); 9] = [
    ("ENDPOINT_LONGER", 0, "endpoint_longer"),
    ("UNDERLAY_LONGER", 0, "underlay_longer"),
    ("REFUSE_TC", 0, "refuse_tc"),
    ("REFUSE_XDP", 0, "refuse_xdp"),
    ("UNKNOWN_TC", 0, "unknown_tc"),
    ("FRAGMENT_TC", abi::Hook::Endpoint as u32, "endpoint_fragment"),
    ("FRAGMENT_TC", abi::Hook::Host as u32, "host_fragment"),
    ("FRAGMENT_TC", abi::Hook::Underlay as u32, "underlay_fragment"),
    ("FRAGMENT_TC", abi::Hook::ALL.len() as u32 - 1, "fragment_tc"),
];

/// The loaded object. What it has pinned and attached stays when this is dropped.
#[derive(Debug)]
pub struct Datapath {
    fs: BpfFs,
    abilities: Abilities,
    ebpf: Ebpf,
    maps: BTreeMap<String, Map>,
    slots: SlotTable,
    log: Option<ProgramLog>,
    /// The take-over of another layout's data plane, until it is committed.
    takeover: Option<TakeOver>,
    /// What came of one whose programs bridge still.
    bridged: Option<Report>,
}

impl Datapath {
    /// Loads `object` for the network namespace with `netns_cookie`, with the maps that are pinned under
    /// `run_dir` if they are laid out as the object wants them. In the place of all others it makes new ones, with
    /// what the earlier ones hold; see [`Datapath::commit`].
    ///
    /// There will be room for `slots` slots of rings, or for more if the pinned table has it. A smaller one counts as laid
    /// out otherwise.
    ///
    /// The object's bytes must be aligned to four, as `aya::include_bytes_aligned!` makes them.
    pub fn open(run_dir: &Path, object: &[u8], netns_cookie: u64, slots: u32) -> Result<Self, DatapathError> {
        let abilities = Abilities::probe().map_err(|source| DatapathError::Probe { source })?;
        Self::open_with(run_dir, object, netns_cookie, slots, abilities)
    }

    /// The same, on a kernel that can do this.
    fn open_with(
        run_dir: &Path,
        object: &[u8],
        netns_cookie: u64,
        slots: u32,
        abilities: Abilities,
    ) -> Result<Self, DatapathError> {
        let fs = BpfFs::open(run_dir)?;
        fs.make_directory(attach::LINKS)?;
        fs.keep_only(&[MAPS, NEXT, attach::LINKS])?;
        let preparation = Preparation::new(&fs, object, slots)?;
        let paths = preparation.paths(&fs);
        let entries = preparation.entries(SLOTS);
        let load = |bridge| {
            Self::load(object, netns_cookie, abilities, &paths, entries, bridge)
                .map(|loaded| (loaded, bridge))
        };
        let first = if preparation.bridges() { Bridge::Before } else { Bridge::Alone };
        let (loaded, takeover) = match load(first) {
            // A kernel whose verifier takes less than the one that the object was built on.
            Err(error @ DatapathError::Refused { .. }) if first != Bridge::Alone => {
                tracing::warn!(
                    %error,
                    "flows that open in the moment in which the programs are replaced may be lost: the kernel does not \
                     take programs that know two tables of flows"
                );
                load(Bridge::Alone)
            }
            other => other,
        }
        .and_then(|(loaded, bridge)| Ok((loaded, preparation.fill(&fs, bridge)?)))
        .inspect_err(|_| give_up(&fs))?;
        let Loaded { ebpf, maps, slots, log } = loaded;
        let datapath = Self { fs, abilities, ebpf, maps, slots, log, takeover, bridged: None };
        datapath.sweep()?;
        Ok(datapath)
    }

    /// Whether the tables of another layout are still those that hold, and new ones stand beside them.
    #[must_use]
    pub fn is_taking_over(&self) -> bool {
        self.takeover.as_ref().is_some_and(TakeOver::renews)
    }

    /// Takes the next step of a take-over, once the tables are filled and the programs attached: carries over what has
    /// changed since, and makes the new maps those that hold. Programs that bridge are replaced by others, step by step,
    /// which are to be attached in turn.
    ///
    /// # Errors
    /// When programs of the earlier agent still run, or the kernel refuses. What holds is not changed then.
    pub fn commit(&mut self, object: &[u8], netns_cookie: u64) -> Result<Progress, DatapathError> {
        let Some(mut takeover) = self.takeover.take() else { return Ok(Progress::Nothing) };
        self.check_replaced(&takeover)?;
        let slots = Some(self.slots.count());
        match takeover.bridge {
            Bridge::Before => {
                // While the older table of flows is still pinned.
                let loaded = takeover
                    .settle()
                    .and_then(|()| self.reload(object, netns_cookie, &takeover.paths, slots, Bridge::After))
                    .inspect_err(|_| give_up(&self.fs))?;
                self.replace(loaded);
                takeover.commit(&self.fs)?;
                takeover.bridge = Bridge::After;
                self.takeover = Some(takeover);
                Ok(Progress::Attach)
            }
            Bridge::After => {
                // Everything is pinned, as at any other start.
                let preparation = Preparation::new(&self.fs, object, self.slots.count())?;
                let paths = preparation.paths(&self.fs);
                let loaded = self.reload(object, netns_cookie, &paths, slots, Bridge::Alone)?;
                self.takeover = preparation.fill(&self.fs, Bridge::Alone)?;
                self.replace(loaded);
                self.bridged = Some(takeover.report());
                Ok(Progress::Attach)
            }
            Bridge::Alone => {
                takeover.settle().inspect_err(|_| give_up(&self.fs))?;
                takeover.commit(&self.fs)?;
                Ok(Progress::Done(self.bridged.take().unwrap_or_else(|| takeover.report())))
            }
        }
    }

    fn reload(
        &self,
        object: &[u8],
        netns_cookie: u64,
        paths: &[(String, PathBuf)],
        slots: Option<u32>,
        bridge: Bridge,
    ) -> Result<Loaded, DatapathError> {
        Self::load(object, netns_cookie, self.abilities, paths, slots, bridge)
    }

    fn replace(&mut self, loaded: Loaded) {
        let Loaded { ebpf, maps, slots, log } = loaded;
        (self.ebpf, self.maps, self.slots, self.log) = (ebpf, maps, slots, log);
    }

    /// Gives a take-over up: what held holds on.
    pub fn abandon(&mut self) {
        if self.takeover.take().is_some() {
            give_up(&self.fs);
        }
    }

    /// Whether no program of another agent's, or of a step before, runs where it would miss the new tables.
    fn check_replaced(&self, takeover: &TakeOver) -> Result<(), DatapathError> {
        if !takeover.renews() {
            return Ok(());
        }
        let links = self.foreign().inspect_err(|_| give_up(&self.fs))?;
        if links.is_empty() {
            return Ok(());
        }
        give_up(&self.fs);
        Err(DatapathError::NotReplaced { links })
    }

    /// Loads the object, with the maps at these paths, room for so many slots, and programs that bridge so.
    fn load(
        object: &[u8],
        netns_cookie: u64,
        abilities: Abilities,
        paths: &[(String, PathBuf)],
        slots: Option<u32>,
        bridge: Bridge,
    ) -> Result<Loaded, DatapathError> {
        let mut loader = EbpfLoader::new();
        for (name, path) in paths {
            loader.map_pin_path(name.as_str(), path.as_path());
        }
        if let Some(slots) = slots {
            loader.map_max_entries(SLOTS, slots);
        }
        let bridge = bridge as u32;
        loader.override_global("NETNS_COOKIE", &netns_cookie, true);
        loader.override_global("BRIDGING", &bridge, true);
        let decap_flags = u32::from(abilities.decap_flags);
        loader.override_global("DECAP_FLAGS", &decap_flags, true);
        let mut ebpf = loader.load(object).map_err(|error| DatapathError::Load { why: chain(&error) })?;
        let mut programs: Vec<(&str, &mut Program)> = ebpf.programs_mut().collect();
        programs.sort_unstable_by_key(|(name, _)| *name);
        for (name, program) in programs {
            load(name, program)?;
        }
        let log = ProgramLog::of(&mut ebpf);
        let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        let mut maps: BTreeMap<String, Map> =
            names.into_iter().filter_map(|name| ebpf.take_map(&name).map(|map| (name, map))).collect();
        // Before anything is attached that calls them.
        set_tail_calls(&ebpf, &mut maps)?;
        let slots = SlotTable::of(maps.get(SLOTS).ok_or_else(|| map::missing(SLOTS))?)?;
        Ok(Loaded { ebpf, maps, slots, log })
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
struct Loaded {
    ebpf: Ebpf,
    maps: BTreeMap<String, Map>,
    slots: SlotTable,
    log: Option<ProgramLog>,
}

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

/// Puts the programs that others call into their arrays, in the place of those of an agent before. An array forgets its
/// programs when no agent has it open and no pin is left of it.
fn set_tail_calls(ebpf: &Ebpf, maps: &mut BTreeMap<String, Map>) -> Result<(), DatapathError> {
    for (array, index, name) in TAIL_CALLS {
        let missing = |what, name: &str| DatapathError::Missing { what, name: name.to_owned() };
        let fault =
            |why| DatapathError::Load { why: format!("the program {name} in the map {array}: {why}") };
        let program = ebpf.program(name).ok_or_else(|| missing("program", name))?;
        let program = program.fd().map_err(|error| fault(chain(&error)))?;
        let map = maps.get_mut(array).ok_or_else(|| missing("map", array))?;
        ProgramArray::try_from(map)
            .and_then(|mut map| map.set(index, program, 0))
            .map_err(|error| fault(chain(&error)))?;
    }
    Ok(())
}

/// The end of the verifier's log, which says what it refused and where; the whole may have megabytes.
fn last_lines(log: &str) -> String {
    const KEPT: usize = 40;
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(KEPT)..).unwrap_or_default().join("\n")
}
