//! What an interpreted program has of the kernel: its context, the packet, maps, helpers.
//!
//! Maps are read from the agent's, and what a program writes stays here. Helpers do what the kernel's do as far as the mesh's
//! programs depend on it; a packet that comes out otherwise than from the kernel is an error of the caller's to find.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{Ebpf, maps::MapData};
use mesh_tests::bpf;
use nix::time::{ClockId, clock_gettime};

use super::{code::Code, memory::Memory};

/// Room before and behind a packet.
const ROOM: usize = 256;
/// Before the network header.
const ETHERNET: usize = 14;
/// Bytes of the greatest context, a `struct __sk_buff`.
const CONTEXT: usize = 192;

/// What a helper came to.
pub(super) enum Call {
    /// Its name, and what it returned.
    Answered(String, u64),
    /// Its name, and the program that goes on.
    HandedOn(String, String),
}

/// The next hop of every packet; its MAC addresses are zero.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub(super) interface: u32,
    /// In bytes.
    pub(super) mtu: u16,
}

/// The kernel, as one packet meets it.
pub(super) struct Kernel<'a> {
    code: &'a Code,
    is_xdp: bool,
    pub(super) memory: Memory,
    /// Where the context lies; it is as a test gives it.
    context: u64,
    /// The region of the packet, where it begins in it and where it ends.
    packet: u64,
    start: usize,
    end: usize,
    hop: Hop,
    /// By the maps' numbers: pointers that stand for them, and the numbers by the pointers.
    names: HashMap<u64, usize>,
    pointers: BTreeMap<usize, u64>,
    pinned: BTreeMap<usize, MapData>,
    /// Those that are the loaded programs' own.
    own: BTreeMap<usize, &'a MapData>,
    /// What was read or written: where it lies, or nowhere.
    entries: HashMap<(usize, Vec<u8>), Option<u64>>,
}

impl<'a> Kernel<'a> {
    /// A kernel with the maps that are pinned, in which a packet comes in.
    pub(super) fn new(
        code: &'a Code,
        pins: &[PathBuf],
        loaded: &'a Ebpf,
        is_xdp: bool,
        context: &[u8],
        packet: &[u8],
        hop: Hop,
    ) -> Result<Self> {
        let mut memory = Memory::default();
        let mut bytes = context.to_vec();
        bytes.resize(CONTEXT, 0);
        let context = memory.add(bytes);
        let region = [&[0; ROOM], packet, &[0; ROOM]].concat();
        let region = memory.add(region);
        let mut own = BTreeMap::new();
        let (mut names, mut pointers, mut pinned) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        for (number, (name, map)) in code.maps.iter().enumerate() {
            let pin = pins.iter().find(|pin| {
                let file = pin.file_name().and_then(|file| file.to_str()?.split('-').next());
                file == Some(name.as_str()) && pin.parent().is_some_and(|parent| parent.ends_with("maps"))
            });
            if let Some(pin) = pin {
                pinned.insert(number, MapData::from_pin(pin)?);
            } else if let Some(aya::maps::Map::PerCpuArray(data) | aya::maps::Map::Array(data)) =
                loaded.map(name)
            {
                own.insert(number, data);
            }
            // A map's pointer points at its constants, if it holds such, and else at nothing that is read.
            let pointer = memory.add(map.data().to_vec());
            names.insert(pointer, number);
            pointers.insert(number, pointer);
        }
        Ok(Self {
            code,
            is_xdp,
            memory,
            context,
            packet: region,
            start: ROOM,
            end: ROOM + packet.len(),
            hop,
            names,
            pointers,
            pinned,
            own,
            entries: HashMap::new(),
        })
    }

    /// The packet as it is now.
    pub(super) fn packet(&self) -> Result<&[u8]> {
        self.memory.bytes(self.packet + self.start as u64, self.end - self.start)
    }

    /// The context's address.
    pub(super) fn context(&self) -> u64 {
        self.context
    }

    /// What stands for a map.
    pub(super) fn map(&self, number: i32) -> Result<u64> {
        let number = usize::try_from(number)?;
        self.pointers.get(&number).copied().with_context(|| format!("no map {number}"))
    }

    /// Where a map of constants lies.
    pub(super) fn data(&self, number: i32) -> Result<u64> {
        self.map(number)
    }

    /// A number from memory; of the context's fields those that point are made as wide as pointers, as the kernel does.
    pub(super) fn load(&self, at: u64, size: usize) -> Result<u64> {
        let Some(field) = at.checked_sub(self.context).filter(|field| *field < CONTEXT as u64) else {
            return self.memory.load(at, size);
        };
        let [data, data_end] = [self.start, self.end].map(|place| self.packet + place as u64);
        Ok(match (self.is_xdp, field) {
            (true, 0) | (false, 76) => data,
            (true, 4) | (false, 80) => data_end,
            (false, 0) => (self.end - self.start) as u64,
            _ => self.memory.load(at, size)?,
        })
    }

    /// A helper by its number (`enum bpf_func_id`).
    pub(super) fn call(&mut self, helper: i32, arguments: [u64; 5]) -> Result<Call> {
        let [first, second, third, fourth, fifth] = arguments;
        let ok = 0;
        let (name, value) = match helper {
            1 => {
                let (map, key) = self.named(first, second)?;
                let name = format!("lookup {}", self.name(map));
                return Ok(Call::Answered(name, self.entry(map, &key)?.unwrap_or(0)));
            }
            2 => {
                let (map, key) = self.named(first, second)?;
                let size = self.code.maps.get(map).map_or(0, |(_, map)| map.value_size());
                let value = self.memory.bytes(third, size as usize)?.to_vec();
                let place = self.memory.add(value);
                self.entries.insert((map, key), Some(place));
                return Ok(Call::Answered(format!("update {}", self.name(map)), ok));
            }
            3 => {
                let (map, key) = self.named(first, second)?;
                let there = self.entry(map, &key)?.is_some();
                self.entries.insert((map, key), None);
                let value = if there { ok } else { (-2_i64) as u64 };
                return Ok(Call::Answered(format!("delete {}", self.name(map)), value));
            }
            12 => {
                let map = *self.names.get(&second).context("no map of programs")?;
                let name = self.name(map).to_owned();
                ensure!(third == 0, "{name} holds several programs, which this machine does not know");
                // The arrays of one program are named after it.
                return Ok(Call::HandedOn(format!("tail call {name}"), name.to_lowercase()));
            }
            5 => ("ktime_get_ns", now(ClockId::CLOCK_MONOTONIC)?),
            160 => ("ktime_get_coarse_ns", now(ClockId::CLOCK_MONOTONIC_COARSE)?),
            7 => ("get_prandom_u32", 1),
            // Before all that the kernel has noted until when it holds.
            118 => ("jiffies64", 1),
            8 => ("get_smp_processor_id", 0),
            9 => {
                let bytes = self.memory.bytes(third, fourth as usize)?.to_vec();
                let at = self.packet + (self.start as u64) + second;
                self.memory.bytes_mut(at, bytes.len())?.copy_from_slice(&bytes);
                ("skb_store_bytes", ok)
            }
            11 => ("l4_csum_replace", self.replace_checksum(second as usize, third, fourth, fifth)?),
            23 => ("redirect", if self.is_xdp { 4 } else { 7 }),
            26 | 189 => {
                let at = self.packet + (self.start as u64) + second;
                let bytes = self.memory.bytes(at, fourth as usize)?.to_vec();
                self.memory.bytes_mut(third, bytes.len())?.copy_from_slice(&bytes);
                ("load_bytes", ok)
            }
            39 => ("skb_pull_data", ok),
            40 => ("csum_update", second),
            44 => {
                self.begin_at(second as i32)?;
                ("xdp_adjust_head", ok)
            }
            50 => {
                self.adjust_room(second as i32)?;
                ("skb_adjust_room", ok)
            }
            69 => {
                self.find_way(second)?;
                ("fib_lookup", ok)
            }
            152 => ("redirect_neigh", 7),
            155 => ("redirect_peer", 7),
            other => bail!("it calls helper {other}, which this machine does not know"),
        };
        Ok(Call::Answered(name.to_owned(), value))
    }

    /// A map by its pointer, and the key at another.
    fn named(&self, map: u64, key: u64) -> Result<(usize, Vec<u8>)> {
        let map = *self.names.get(&map).context("what is looked into is no map")?;
        let size = self.code.maps.get(map).map_or(0, |(_, map)| map.key_size());
        Ok((map, self.memory.bytes(key, size as usize)?.to_vec()))
    }

    fn name(&self, map: usize) -> &str {
        self.code.maps.get(map).map_or("?", |(name, _)| name.as_str())
    }

    /// Where a map's value for a key lies, if it has one.
    fn entry(&mut self, map: usize, key: &[u8]) -> Result<Option<u64>> {
        if let Some(known) = self.entries.get(&(map, key.to_vec())) {
            return Ok(*known);
        }
        let data = self.pinned.get(&map).or_else(|| self.own.get(&map).copied());
        let data = data.with_context(|| format!("{} is neither pinned nor an array", self.name(map)))?;
        let value = bpf::lookup(data, key).with_context(|| format!("cannot read {}", self.name(map)))?;
        let size = self.code.maps.get(map).map_or(0, |(_, map)| map.value_size()) as usize;
        let value = value.map(|value| of_one_processor(&value, size));
        let place = value.map(|value| self.memory.add(value));
        self.entries.insert((map, key.to_vec()), place);
        Ok(place)
    }

    /// Moves what lies before the network header, so that there is more or less room behind it.
    fn adjust_room(&mut self, change: i32) -> Result<()> {
        let ethernet = self.memory.bytes(self.packet + self.start as u64, ETHERNET)?.to_vec();
        self.begin_at(change.wrapping_neg())?;
        self.memory.bytes_mut(self.packet + self.start as u64, ETHERNET)?.copy_from_slice(&ethernet);
        Ok(())
    }

    /// Has the packet begin so many bytes later.
    fn begin_at(&mut self, change: i32) -> Result<()> {
        let start = usize::try_from(i64::try_from(self.start)? + i64::from(change)).ok();
        self.start = start.filter(|start| *start < self.end).context("no room before the packet")?;
        Ok(())
    }

    /// `bpf_l4_csum_replace`: by a difference alone, as the mesh uses it.
    fn replace_checksum(&mut self, at: usize, from: u64, change: u64, flags: u64) -> Result<u64> {
        /// `BPF_F_MARK_MANGLED_0`: a checksum of zero says that there is none.
        const MARK_MANGLED_0: u64 = 1 << 5;
        /// The last bits say how long the fields are that are compared; none.
        const SIZE: u64 = 0x0f;
        ensure!(from == 0 && flags & SIZE == 0, "a checksum is replaced otherwise than by a difference");
        let place = self.packet + (self.start + at) as u64;
        let before = self.memory.load(place, 2)?;
        if before == 0 && flags & MARK_MANGLED_0 != 0 {
            return Ok(0);
        }
        let mut sum = (!before & 0xffff) + (change & 0xffff) + (change >> 16 & 0xffff);
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let after = !sum & 0xffff;
        let after = if after == 0 && flags & MARK_MANGLED_0 != 0 { 0xffff } else { after };
        self.memory.store(place, 2, after)?;
        Ok(0)
    }

    /// Answers a `struct bpf_fib_lookup`.
    fn find_way(&mut self, query: u64) -> Result<()> {
        let Hop { interface, mtu } = self.hop;
        self.memory.store(query + 6, 2, u64::from(mtu))?;
        self.memory.store(query + 8, 4, u64::from(interface))?;
        self.memory.bytes_mut(query + 52, 12)?.fill(0);
        Ok(())
    }
}

/// A map's value; where each processor has its own, that of the first for which there is one.
fn of_one_processor(values: &[u8], size: usize) -> Vec<u8> {
    let mut each = values.chunks(size.next_multiple_of(8).max(1));
    let set = each.clone().find(|value| value.iter().any(|byte| *byte != 0)).or_else(|| each.next());
    let value = set.unwrap_or_default();
    value.get(..size).unwrap_or(value).to_vec()
}

fn now(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}
