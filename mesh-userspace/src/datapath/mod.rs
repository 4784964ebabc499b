//! The kernel's side of the mesh: the eBPF object loaded, its maps and links pinned, its programs attached.
//!
//! Everything that matters is pinned under `<run_dir>/bpf`, so that packets flow on when the agent ends. An
//! agent that starts again takes the maps over as they are, and puts its own programs into the links that it
//! finds, each in one atomic step:
//!
//! ```text
//! bpf/v1/SERVICES …            the maps, by the version of their layout
//! bpf/links/endpoint_tc-7      a program on the ingress of interface 7
//! bpf/links/underlay_xdp-3-native
//! bpf/links/connect4           a program on the root of the control groups
//! ```
//!
//! Links are not under the version: those of an older layout are taken over too, and their programs, which
//! keep the older maps alive, work on until then.

mod attach;
mod bpffs;
mod cgroup;
mod error;
mod home;
mod log;
mod map;
mod planned;
mod slots;
mod sys;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fs, io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, MapInfo, ProgramArray},
    programs::{Program, ProgramError},
    sys::SyscallError,
};
use aya_obj::{EbpfSectionKind, Object, generated::bpf_map_type};
use mesh_common::abi::{self, LAYOUT_VERSION};

pub use attach::{Attached, Hook, XdpOutcome};
pub use error::DatapathError;
pub use map::{ArrayTable, HashTable, PerCpuTable, Raw, TrieTable};
pub use planned::KernelMaps;

use self::log::ProgramLog;
use crate::apply::SLOTS;
use bpffs::BpfFs;
use error::chain;
use slots::SlotTable;

/// The arrays of programs that other programs call, and where each program stands in them.
const TAIL_CALLS: [(&str, u32, &str); 6] = [
    ("REFUSE_TC", 0, "refuse_tc"),
    ("REFUSE_XDP", 0, "refuse_xdp"),
    ("FRAGMENT_TC", abi::Hook::Endpoint as u32, "endpoint_fragment"),
    ("FRAGMENT_TC", abi::Hook::Host as u32, "host_fragment"),
    ("FRAGMENT_TC", abi::Hook::Underlay as u32, "underlay_fragment"),
    ("FRAGMENT_TC", abi::Hook::ALL.len() as u32 - 1, "fragment_tc"),
];

/// The loaded object. What it has pinned and attached stays when this is dropped.
#[derive(Debug)]
pub struct Datapath {
    fs: BpfFs,
    ebpf: Ebpf,
    maps: BTreeMap<String, Map>,
    slots: SlotTable,
    log: Option<ProgramLog>,
}

impl Datapath {
    /// Loads `object` for the network namespace with `netns_cookie`, with the maps that are pinned under
    /// `run_dir` if there are any of the same shape, and fresh ones in the place of all others.
    ///
    /// There will be room for `slots` slots of rings, or for more if the pinned table has it. A smaller one is replaced
    /// by one that holds the same, and every program that is attached already by one that reads that.
    ///
    /// The object's bytes must be aligned to four, as `aya::include_bytes_aligned!` makes them.
    pub fn open(run_dir: &Path, object: &[u8], netns_cookie: u64, slots: u32) -> Result<Self, DatapathError> {
        let fs = BpfFs::open(run_dir)?;
        let layout = format!("v{LAYOUT_VERSION}");
        fs.make_directory(&layout)?;
        fs.make_directory(attach::LINKS)?;
        fs.keep_only(&[&layout, attach::LINKS])?;

        let mut defined = pinnable_maps(object)?;
        let mut outgrown = None;
        if let Some(shape) = defined.get_mut(SLOTS) {
            let path = fs.path(&layout).join(SLOTS);
            let found = found_shape(&path)
                .ok()
                .flatten()
                .filter(|found| Shape { entries: shape.entries, ..*found } == *shape);
            let room = found.and_then(|found| found.entries).unwrap_or_default();
            if room > 0 && room < slots {
                outgrown = Some(pinned_slots(&path)?);
            }
            shape.entries = Some(room.max(slots));
        }
        let mut loader = EbpfLoader::new();
        for (name, shape) in &defined {
            let path = fs.path(&layout).join(name);
            discard_if_unlike(&path, name, *shape)?;
            loader.map_pin_path(name.as_str(), path);
            if let Some(entries) = shape.entries {
                loader.map_max_entries(name.as_str(), entries);
            }
        }
        loader.override_global("NETNS_COOKIE", &netns_cookie, true);
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
        let table = maps.get(SLOTS).ok_or_else(|| map::missing(SLOTS))?;
        let datapath = Self { fs, ebpf, slots: SlotTable::of(table)?, maps, log };
        datapath.sweep()?;
        if let Some(old) = outgrown {
            datapath.slots.copy(&old)?;
            // Before any service leads to slots that the old table has not.
            datapath.take_over()?;
        }
        Ok(datapath)
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

/// What must agree before a pinned map is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    flags: u32,
    /// None for a ring, whose size in bytes aya rounds to what the machine's pages allow.
    entries: Option<u32>,
}

/// The object's maps that outlive the agent: all but its constants, which are each load's own, and those of
/// aya-log, which belong to one agent.
fn pinnable_maps(object: &[u8]) -> Result<BTreeMap<String, Shape>, DatapathError> {
    let object = Object::parse(object).map_err(|error| DatapathError::Load { why: chain(&error) })?;
    Ok(object
        .maps
        .into_iter()
        .filter(|(name, map)| {
            let constants = matches!(
                map.section_kind(),
                EbpfSectionKind::Rodata | EbpfSectionKind::Data | EbpfSectionKind::Bss
            );
            !constants && !name.starts_with("AYA_LOG")
        })
        .map(|(name, map)| {
            let ring = map.map_type() == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
            let shape = Shape {
                kind: map.map_type(),
                key: map.key_size(),
                value: map.value_size(),
                flags: map.map_flags(),
                entries: (!ring).then(|| map.max_entries()),
            };
            (name, shape)
        })
        .collect())
}

/// The shape of a pinned map; none where nothing is pinned.
fn found_shape(path: &Path) -> Result<Option<Shape>, MapError> {
    match MapInfo::from_pin(path) {
        Ok(info) => Ok(Some(Shape {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key: info.key_size(),
            value: info.value_size(),
            flags: info.map_flags(),
            entries: Some(info.max_entries()),
        })),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Removes a pin whose map is not of this shape: aya would take it over unseen.
fn discard_if_unlike(path: &Path, name: &str, wanted: Shape) -> Result<(), DatapathError> {
    let found = match found_shape(path) {
        Ok(Some(found)) => Some(Shape { entries: wanted.entries.and(found.entries), ..found }),
        Ok(None) => return Ok(()),
        // Not a map at all.
        Err(_) => None,
    };
    if found == Some(wanted) {
        return Ok(());
    }
    tracing::warn!(map = name, ?found, ?wanted, "a pinned map of another shape is replaced by a fresh one");
    fs::remove_file(path)
        .map_err(|source| DatapathError::File { doing: format!("remove the pin of the map {name}"), source })
}

/// The table of slots that is pinned.
fn pinned_slots(path: &Path) -> Result<SlotTable, DatapathError> {
    let shape = |error: &MapError| DatapathError::Shape { map: SLOTS.to_owned(), why: chain(error) };
    let data = MapData::from_pin(path).map_err(|error| shape(&error))?;
    SlotTable::of(&Map::Array(data))
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
