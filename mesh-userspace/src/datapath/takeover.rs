//! Taking the data plane over from an earlier agent whose tables are laid out otherwise: old and new side by side, until
//! every program is replaced and every flow carried over.
//!
//! What packets need is on three sides, and each is taken over in its own way:
//!
//! - Tables that the agent fills. They hold each other's numbers, so all of them are taken over as they are, or all are made
//!   new, with what the old ones hold: the old programs' world stays as it was until the last of them is gone.
//! - Tables that the programs fill (flows, sockets that dialled): each by itself. Programs that are loaded to bridge keep an
//!   old and a new table of flows alike while old programs still run.
//! - Counters, fragments that wait, and arrays of programs: they begin anew.
//!
//! ```text
//! bpf/maps/FLOWS-v1-…      what holds
//! bpf/next/FLOWS-v2-…      what will hold; until `commit`, a crash or a fault leaves all as it was
//! ```

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use aya_obj::generated::bpf_map_type;

use super::{
    DatapathError,
    bpffs::BpfFs,
    carry::{self, Conversion},
    layout::{Layout, pinned_maps},
    sys,
};
use crate::apply::SLOTS;

/// The directory of the maps' pins.
pub(super) const MAPS: &str = "maps";
/// The directory of the pins of maps that are not filled yet.
pub(super) const NEXT: &str = "next";

/// The tables by whose numbers the others, and the flows, name things.
const NUMBERED: [&str; 4] = ["NODES", "BACKENDS", "SLOTS", "SERVICES"];
/// Arrays and hashes that the programs fill, besides those with an order of last use.
const FILLED_BY_PROGRAMS: [&str; 3] = ["CURSORS", "NEW_FLOWS", "NEW_FLOWS_TURN"];
/// Tables that the programs fill with what is forgotten within seconds: datagrams that are under way in fragments.
const SHORT_LIVED: [&str; 3] = ["FRAGMENTS", "HELD", "HELD_TURN"];
/// The tables of flows that programs bridge, and the maps in the object that stand for the older ones.
const BRIDGED: [(&str, &str); 1] = [(carry::FLOWS, "FLOWS_BEFORE")];

/// After so many passes, what still changes is not waited for.
const PASSES: usize = 16;

/// Who fills a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    ByAgent,
    ByPrograms,
    /// It holds nothing that is worth carrying over.
    Afresh,
}

fn filled(name: &str, layout: &Layout) -> Filled {
    use bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH};
    let is = |kinds: &[bpf_map_type]| kinds.iter().any(|kind| layout.is(*kind));
    if SHORT_LIVED.contains(&name) {
        Filled::Afresh
    } else if is(&[BPF_MAP_TYPE_LRU_HASH]) || FILLED_BY_PROGRAMS.contains(&name) {
        Filled::ByPrograms
    } else if is(&[BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE]) {
        Filled::ByAgent
    } else {
        Filled::Afresh
    }
}

/// A map that the object wants, and what there is of it.
#[derive(Debug)]
struct Wanted {
    name: String,
    layout: Layout,
    /// The pin of an earlier one that differs, and its layout.
    earlier: Option<(String, Layout)>,
    /// Whether it is pinned already as it should be, and taken over.
    is_kept: bool,
}

/// What is to be done before the object is loaded.
#[derive(Debug)]
pub(super) struct Preparation {
    wanted: Vec<Wanted>,
    /// Whether there is a data plane to be taken over.
    is_first: bool,
    /// Why the flows cannot be carried over, if there are any to carry.
    loss: Option<String>,
}

impl Preparation {
    /// Compares what the object wants, with room for so many slots, with what is pinned. Nothing that holds is changed.
    pub(super) fn new(fs: &BpfFs, object: &[u8], slots: u32) -> Result<Self, DatapathError> {
        for directory in [MAPS, NEXT] {
            fs.make_directory(directory)?;
        }
        // What an agent left that did not finish.
        fs.clear(NEXT)?;
        let mut pins = Vec::new();
        for pin in fs.list(MAPS)? {
            match Layout::parse(&pin) {
                Some((map, layout)) if layout.is_true_of(&fs.path(MAPS).join(&pin)) => {
                    pins.push((map.to_owned(), layout, pin.clone()));
                }
                _ => {
                    tracing::warn!(pin, "what is pinned here is no map of the mesh's, and is left out");
                    fs.remove_pin(&format!("{MAPS}/{pin}"))?;
                }
            }
        }
        let wanted = pinned_maps(object)?.into_iter().map(|(name, mut layout)| {
            let of_name = || pins.iter().filter(|(map, ..)| *map == name);
            if name == SLOTS {
                // The only map that grows with what it holds, and it never shrinks.
                let found =
                    of_name().filter(|(_, found, _)| Layout { entries: layout.entries, ..*found } == layout);
                layout.entries =
                    found.map(|(_, found, _)| found.entries).max().unwrap_or_default().max(slots);
            }
            // An array of programs belongs to those that were loaded with it.
            let is_kept = !layout.is(bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY)
                && of_name().any(|(_, found, _)| *found == layout);
            let earlier = of_name().find(|(_, found, _)| *found != layout);
            let earlier = earlier.filter(|_| !is_kept).map(|(_, found, pin)| (pin.clone(), *found));
            Wanted { name, layout, earlier, is_kept }
        });
        let mut preparation = Self { wanted: wanted.collect(), is_first: pins.is_empty(), loss: None };
        preparation.separate(&pins);
        Ok(preparation)
    }

    /// Sees to it that no map is taken over that holds numbers of one that is not.
    fn separate(&mut self, pins: &[(String, Layout, String)]) {
        if self.is_first {
            return;
        }
        let numbers = self.wanted.iter().find(|map| {
            let is_carried = map
                .earlier
                .as_ref()
                .is_some_and(|(_, earlier)| carry::conversion(&map.name, earlier, &map.layout).is_some());
            NUMBERED.contains(&map.name.as_str()) && !map.is_kept && !is_carried
        });
        if let Some(numbers) = numbers {
            self.loss = Some(format!("what the map {} holds cannot be read any more", numbers.name));
        }
        let renews =
            self.wanted.iter().any(|map| filled(&map.name, &map.layout) == Filled::ByAgent && !map.is_kept);
        for map in &mut self.wanted {
            let is_agents = filled(&map.name, &map.layout) == Filled::ByAgent;
            if map.is_kept && (is_agents && renews || self.loss.is_some()) {
                map.is_kept = false;
                let own = pins.iter().find(|(name, layout, _)| *name == map.name && *layout == map.layout);
                map.earlier = own.map(|(_, layout, pin)| (pin.clone(), *layout));
            }
            if self.loss.is_some() {
                map.earlier = None;
            }
        }
        let flows = self.wanted.iter().find(|map| map.name == carry::FLOWS);
        if let Some((_, earlier)) = flows.and_then(|flows| flows.earlier.as_ref())
            && flows.is_some_and(|flows| carry::conversion(&flows.name, earlier, &flows.layout).is_none())
        {
            self.loss = Some(format!("their layout ({earlier}) is not known to this meshd"));
        }
    }

    /// How many entries a map is to have.
    pub(super) fn entries(&self, name: &str) -> Option<u32> {
        self.wanted.iter().find(|map| map.name == name).map(|map| map.layout.entries)
    }

    /// Where the loader finds a map, or pins the one that it makes.
    pub(super) fn paths(&self, fs: &BpfFs) -> Vec<(String, PathBuf)> {
        let mut paths: Vec<(String, PathBuf)> = self
            .wanted
            .iter()
            .map(|map| {
                let directory = if map.is_kept || self.is_first { MAPS } else { NEXT };
                (map.name.clone(), fs.path(directory).join(map.layout.pin_name(&map.name)))
            })
            .collect();
        if self.bridges() {
            for (name, before) in BRIDGED {
                let map = self.wanted.iter().find(|map| map.name == name);
                if let Some((pin, _)) = map.and_then(|map| map.earlier.as_ref()) {
                    paths.push((before.to_owned(), fs.path(MAPS).join(pin)));
                }
            }
        }
        paths
    }

    /// Whether the programs are to be loaded to bridge.
    pub(super) fn bridges(&self) -> bool {
        let is_bridged = |name: &str| BRIDGED.iter().any(|(bridged, _)| *bridged == name);
        self.wanted.iter().any(|map| {
            is_bridged(&map.name) && map.earlier.as_ref().is_some_and(|(_, layout)| carry::is_before(layout))
        })
    }

    /// Fills the maps that are new with what the earlier ones hold, for programs that bridge so. None if nothing is new.
    pub(super) fn fill(self, fs: &BpfFs, bridge: Bridge) -> Result<Option<TakeOver>, DatapathError> {
        if self.is_first || self.wanted.iter().all(|map| map.is_kept) {
            // Of an agent that ended just after it had committed.
            let names: Vec<String> = self.wanted.iter().map(|map| map.layout.pin_name(&map.name)).collect();
            fs.keep_only_in(MAPS, &names)?;
            return Ok(None);
        }
        let paths = self.paths(fs);
        let mut takeover = TakeOver {
            began: Instant::now(),
            bridge,
            paths,
            again: Vec::new(),
            pins: self.wanted.iter().map(|map| map.layout.pin_name(&map.name)).collect(),
            report: Report { loss: self.loss, ..Report::default() },
        };
        for map in self.wanted {
            takeover.fill(fs, map)?;
        }
        Ok(Some(takeover))
    }
}

/// A table that the programs fill, which is carried over once more when all of them are replaced.
#[derive(Debug)]
struct Carried {
    name: String,
    conversion: Conversion,
    old: (OwnedFd, Layout),
    new: (OwnedFd, Layout),
}

impl Carried {
    fn carry(&self) -> Result<(usize, usize), DatapathError> {
        let (old, new) = ((self.old.0.as_fd(), &self.old.1), (self.new.0.as_fd(), &self.new.1));
        carry::carry(self.conversion, old, new)
            .map_err(|source| DatapathError::Carry { map: self.name.clone(), source })
    }
}

/// A take-over that is under way.
#[derive(Debug)]
pub(super) struct TakeOver {
    began: Instant,
    pub(super) bridge: Bridge,
    /// As [`Preparation::paths`] gave them.
    pub(super) paths: Vec<(String, PathBuf)>,
    again: Vec<Carried>,
    /// The names of the pins that are to be there in the end.
    pins: Vec<String>,
    report: Report,
}

/// What came of a take-over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The names of the maps that were taken over as they were.
    pub kept: Vec<String>,
    /// The names of those that were made new and filled with what the earlier ones held.
    pub carried: Vec<String>,
    /// Those that began empty.
    pub fresh: Vec<String>,
    /// How many directions of flows were carried over, if they were not just kept.
    pub flows: usize,
    /// How often the programs' tables were gone through once all programs were replaced.
    pub passes: usize,
    /// From the loading of the programs until the new tables were all that is.
    pub took: Duration,
    /// Why flows were lost, if they were.
    pub loss: Option<String>,
}

/// How the programs treat two tables of flows, by the numbers of the eBPF crate's `bridge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bridge {
    /// There is one alone.
    Alone = 0,
    /// They read the older and write both.
    Before = 1,
    /// They read the new one and write both.
    After = 2,
}

/// What there is to do after a step of a take-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There are other programs now, which are to be attached in the place of those before.
    Attach,
    /// It is done; this came of it.
    Done(Report),
    /// There was nothing to take over.
    Nothing,
}

impl TakeOver {
    fn fill(&mut self, fs: &BpfFs, map: Wanted) -> Result<(), DatapathError> {
        let Wanted { name, layout, earlier, is_kept } = map;
        if is_kept {
            self.report.kept.push(name);
            return Ok(());
        }
        if layout.is(bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY) {
            return Ok(());
        }
        let filled = filled(&name, &layout);
        let carried = earlier.filter(|_| filled != Filled::Afresh).and_then(|(pin, earlier)| {
            carry::conversion(&name, &earlier, &layout).map(|conversion| (pin, earlier, conversion))
        });
        let Some((pin, earlier, conversion)) = carried else {
            self.report.fresh.push(name);
            return Ok(());
        };
        let open = |path: PathBuf| {
            sys::get_pinned(&path).map_err(|source| DatapathError::Carry { map: name.clone(), source })
        };
        let carried = Carried {
            old: (open(fs.path(MAPS).join(pin))?, earlier),
            new: (open(fs.path(NEXT).join(layout.pin_name(&name)))?, layout),
            conversion,
            name: name.clone(),
        };
        let (held, _) = carried.carry()?;
        if name == carry::FLOWS {
            self.report.flows = held;
        }
        self.report.carried.push(name.clone());
        if filled == Filled::ByPrograms && !FILLED_BY_PROGRAMS.contains(&name.as_str()) {
            self.again.push(carried);
        }
        Ok(())
    }

    /// Whether there are new tables, rather than only other programs.
    pub(super) fn renews(&self) -> bool {
        !(self.report.carried.is_empty() && self.report.fresh.is_empty())
    }

    /// Carries over what the programs wrote since, until nothing is left to carry. All programs must have been replaced.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        for _ in 0..PASSES {
            self.report.passes += 1;
            let mut changed = 0;
            for map in &self.again {
                let (held, written) = map.carry()?;
                if map.name == carry::FLOWS {
                    self.report.flows = held;
                }
                changed += written;
            }
            if changed == 0 {
                return Ok(());
            }
        }
        tracing::warn!(
            passes = self.report.passes,
            "flows changed faster than they were carried over; the last changes of some may not be known"
        );
        Ok(())
    }

    /// Makes the new maps those that hold.
    pub(super) fn commit(&mut self, fs: &BpfFs) -> Result<(), DatapathError> {
        for pin in fs.list(NEXT)? {
            fs::rename(fs.path(NEXT).join(&pin), fs.path(MAPS).join(&pin)).map_err(|source| {
                DatapathError::File { doing: format!("make {pin} the pin that holds"), source }
            })?;
        }
        fs.keep_only_in(MAPS, &self.pins)?;
        self.report.took = self.began.elapsed();
        Ok(())
    }

    /// What came of it.
    pub(super) fn report(self) -> Report {
        self.report
    }
}
