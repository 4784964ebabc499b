//! The object's instructions as they are run: functions and maps in place, and for each the line of the source that it comes from.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result};
use aya_obj::{Map, Object, generated::bpf_insn};

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
            let instructions = function.instructions.iter().map(instruction).collect();
            programs.insert(name.clone(), Program { instructions, lines });
        }
        Ok(Self { programs, maps })
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
