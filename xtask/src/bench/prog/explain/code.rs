//! The object's instructions as they are run: functions and maps in place, and for each the line of the source that it comes from.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result};
use aya_obj::{Function, Map, Object, generated::bpf_insn};

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) target: usize,
    pub(super) source: usize,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// A line of the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) file: String,
    pub(super) number: u32,
    pub(super) text: String,
}

/// Every program, and the maps that they name by their place in the list.
pub(super) struct Code {
    pub(super) programs: BTreeMap<String, Program>,
    pub(super) maps: Vec<(String, Map)>,
}

/// A program with all that it calls.
pub(super) struct Program {
    pub(super) instructions: Vec<Instruction>,
    /// Of each instruction, if it is known.
    pub(super) lines: Vec<Option<Line>>,
    /// The functions that it is made of, in their order: where each begins, and its name.
    pub(super) functions: Vec<(usize, String)>,
}

impl Program {
    /// The function that an instruction is of: where it begins, where it ends, and its name.
    pub(super) fn function_of(&self, at: usize) -> (usize, usize, &str) {
        let next = self.functions.partition_point(|(first, _)| *first <= at);
        let end = self.functions.get(next).map_or(self.instructions.len(), |(first, _)| *first);
        let (first, name) = next
            .checked_sub(1)
            .and_then(|own| self.functions.get(own))
            .map_or((0, ""), |(first, name)| (*first, name.as_str()));
        (first, end, name)
    }
}

impl Code {
    /// Reads an object; lines are known if it has BTF.
    pub(super) fn read(object: &[u8]) -> Result<Self> {
        let mut object = Object::parse(object)?;
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let mut maps: Vec<_> = object.maps.iter().map(|(name, map)| (name.clone(), map.clone())).collect();
        maps.sort_by(|(left, _), (right, _)| left.cmp(right));
        let numbered = maps.iter().zip(0..).map(|((name, map), number)| (name.as_str(), number, map));
        object.relocate_maps(numbered, &sections)?;
        let parts: Vec<_> =
            object.functions.values().map(|part| (part.name.clone(), instructions(part))).collect();
        object.relocate_calls(&sections)?;
        let strings = object.btf.as_ref().map(|btf| strings(&btf.to_bytes())).unwrap_or_default();
        let mut programs = BTreeMap::new();
        for (name, program) in &object.programs {
            let function = object.functions.get(&program.function_key());
            let function = function.with_context(|| format!("{name} has no instructions"))?;
            let mut lines = vec![None; function.instructions.len()];
            let infos = &function.line_info.line_info;
            for (at, info) in infos.iter().enumerate() {
                let next = infos.get(at + 1).map_or(lines.len(), |next| next.insn_off as usize);
                let line = Line {
                    file: string(&strings, info.file_name_off),
                    number: info.line_col >> 10,
                    text: string(&strings, info.line_off).trim().to_owned(),
                };
                for place in lines.get_mut(info.insn_off as usize..next).into_iter().flatten() {
                    *place = Some(line.clone());
                }
            }
            let instructions = instructions(function);
            let functions = functions(&instructions, name, &parts);
            programs.insert(name.clone(), Program { instructions, lines, functions });
        }
        Ok(Self { programs, maps })
    }
}

fn instructions(function: &Function) -> Vec<Instruction> {
    function.instructions.iter().map(instruction).collect()
}

/// Where the functions of a program begin, found by what is called in it, and their names, found by what they are: but for the
/// calls, whose targets have moved, they are the object's.
fn functions(
    program: &[Instruction],
    name: &str,
    parts: &[(String, Vec<Instruction>)],
) -> Vec<(usize, String)> {
    let targets = program.iter().enumerate().filter(|(_, instruction)| instruction.is_call());
    let starts: BTreeSet<_> =
        targets.filter_map(|(at, call)| (at + 1).checked_add_signed(call.immediate as isize)).collect();
    let is_it = |start: usize, part: &[Instruction]| {
        program
            .get(start..start + part.len())
            .is_some_and(|own| own.iter().zip(part).all(|(own, part)| own.is_as(part)))
    };
    let named = |start| {
        let longest = parts.iter().filter(|(_, part)| is_it(start, part)).max_by_key(|(_, part)| part.len());
        (start, longest.map_or_else(|| format!("function at {start}"), |(name, _)| demangled(name)))
    };
    std::iter::once((0, name.to_owned())).chain(starts.into_iter().map(named)).collect()
}

/// The path in a symbol's name, without the types that the function is made for.
fn demangled(symbol: &str) -> String {
    let path = format!("{:#}", rustc_demangle::demangle(symbol));
    path.split("::<").next().unwrap_or_default().trim_start_matches('<').replace(">::", "::")
}

impl Instruction {
    /// Whether it calls a function of the program.
    fn is_call(&self) -> bool {
        self.code == 0x85 && self.source == 1
    }

    /// Whether it is the same, wherever it calls.
    fn is_as(&self, other: &Self) -> bool {
        let but_target = |of: &Self| (of.code, of.target, of.source, of.offset);
        but_target(self) == but_target(other) && (self.is_call() || self.immediate == other.immediate)
    }
}

fn instruction(from: &bpf_insn) -> Instruction {
    Instruction {
        code: from.code,
        target: usize::from(from.dst_reg()),
        source: usize::from(from.src_reg()),
        offset: from.off,
        immediate: from.imm,
    }
}

/// The strings behind the types, whose place the header of BTF tells (`struct btf_header`).
fn strings(btf: &[u8]) -> Vec<u8> {
    let word = |at: usize| Some(u32::from_le_bytes(btf.get(at..at + 4)?.try_into().ok()?) as usize);
    let found = (|| {
        let (header, at, length) = (word(4)?, word(16)?, word(20)?);
        btf.get(header + at..header + at + length)
    })();
    found.unwrap_or_default().to_vec()
}

fn string(strings: &[u8], at: u32) -> String {
    let bytes = strings.get(at as usize..).unwrap_or_default();
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_names_a_path() {
        let symbol = "_RINvNtNtCs6FppptaoTfj_11mesh_common8pipeline6lookup3vipINtNtCsaZpei8slzGW_9mesh_ebpf6tables12\
                      KernelTablesKb0_Kb1_EEBW_";
        assert_eq!(demangled(symbol), "mesh_common::pipeline::lookup::vip");
        let symbol = "_RINvMNtNtCs6FppptaoTfj_11mesh_common8pipeline8datagramNtB3_8Datagram8parse_v4NtNtCsaZpei8slzGW_9\
                      mesh_ebpf3skb3SkbEB1h_";
        assert_eq!(demangled(symbol), "mesh_common::pipeline::datagram::Datagram::parse_v4");
        assert_eq!(demangled("memset"), "memset");
    }

    #[test]
    fn functions_are_found_by_what_is_called() {
        let plain = |code| Instruction { code, target: 0, source: 0, offset: 0, immediate: 7 };
        let call = |immediate| Instruction { code: 0x85, target: 0, source: 1, offset: 0, immediate };
        let parts = [
            ("main".to_owned(), vec![call(5), plain(0x95)]),
            ("leaf".to_owned(), vec![plain(0xb7), plain(0x95)]),
        ];
        // The call goes over the end of its own function to the one behind it.
        let program = [call(1), plain(0x95), plain(0xb7), plain(0x95)];
        assert_eq!(functions(&program, "main", &parts), [(0, "main".to_owned()), (2, "leaf".to_owned())]);
    }
}
