//! A small machine for eBPF (RFC 9669, the instructions of version 3): it runs a program for one packet and counts what it does.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::{
    code::{Code, Instruction},
    kernel::{Call, Kernel},
    memory::Memory,
};

/// Instructions after which a program is taken for lost.
const PATIENCE: u64 = 1_000_000;
/// Bytes of each function's stack.
const STACK: usize = 512;

/// What a program did with a packet.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Of each program that ran, how often each of its instructions did.
    pub(super) executed: BTreeMap<String, Vec<u64>>,
    /// Which helper each of its instructions called, and how often.
    pub(super) calls: BTreeMap<(String, usize), (String, u64)>,
}

impl Profile {
    /// Instructions in all.
    pub(super) fn instructions(&self) -> u64 {
        self.executed.values().flatten().sum()
    }

    /// Calls of helpers by their names; those of maps also by the map's.
    pub(super) fn helpers(&self) -> BTreeMap<&str, u64> {
        let mut helpers = BTreeMap::new();
        for (name, count) in self.calls.values() {
            *helpers.entry(name.as_str()).or_default() += count;
        }
        helpers
    }
}

/// Runs a program, and those that it hands on to; gives what it returned.
pub(super) fn run(code: &Code, program: &str, kernel: &mut Kernel<'_>) -> Result<(u32, Profile)> {
    let mut profile = Profile::default();
    let mut next = program.to_owned();
    loop {
        let mut machine = Machine { code, program: next, kernel, profile: &mut profile, spent: 0 };
        let ended = machine.run().with_context(|| format!("in {}", machine.program))?;
        match ended {
            Ended::Returned(value) => return Ok((value as u32, profile)),
            Ended::HandedOn(to) => next = to,
        }
    }
}

enum Ended {
    Returned(u64),
    HandedOn(String),
}

struct Machine<'a, 'b> {
    code: &'a Code,
    program: String,
    kernel: &'a mut Kernel<'b>,
    profile: &'a mut Profile,
    spent: u64,
}

/// Where a function goes on after a call, and what it finds again in its registers.
struct Frame {
    back: usize,
    saved: [u64; 5],
}

impl Machine<'_, '_> {
    fn run(&mut self) -> Result<Ended> {
        let program = self.code.programs.get(&self.program);
        let program = program.with_context(|| format!("no program {}", self.program))?;
        let mut executed = vec![0; program.instructions.len()];
        let mut registers = [0_u64; 11];
        registers[1] = self.kernel.context();
        registers[10] = self.kernel.memory.add(vec![0; STACK]) + STACK as u64;
        let mut frames: Vec<Frame> = Vec::new();
        let mut at = 0;
        let ended = loop {
            let instruction = *program.instructions.get(at).context("it ran off its end")?;
            if let Some(count) = executed.get_mut(at) {
                *count += 1;
            }
            self.spent += 1;
            if self.spent > PATIENCE {
                bail!("it does not end");
            }
            let mut next = at + 1;
            let Instruction { code, target, source, offset, immediate } = instruction;
            let operand = if code & 0x08 == 0 { immediate as i64 as u64 } else { registers[source] };
            match code & 0x07 {
                0x07 => registers[target] = arithmetic(code, registers[target], operand, immediate, true)?,
                0x04 => registers[target] = arithmetic(code, registers[target], operand, immediate, false)?,
                0x00 if code == 0x18 => {
                    let second = program.instructions.get(at + 1).context("half an instruction")?;
                    registers[target] = match source {
                        0 => u64::from(immediate as u32) | u64::from(second.immediate as u32) << 32,
                        1 => self.kernel.map(immediate)?,
                        2 => self.kernel.data(immediate)? + u64::from(second.immediate as u32),
                        other => bail!("a constant of the kind {other}"),
                    };
                    next += 1;
                }
                0x01 => {
                    let from = registers[source].wrapping_add_signed(i64::from(offset));
                    registers[target] = self.kernel.load(from, size(code))?;
                }
                0x02 | 0x03 => {
                    let to = registers[target].wrapping_add_signed(i64::from(offset));
                    if code & 0xe0 == 0xc0 {
                        self.atomic(&mut registers, instruction, to)?;
                    } else {
                        let value =
                            if code & 0x07 == 0x02 { immediate as i64 as u64 } else { registers[source] };
                        self.kernel.memory.store(to, size(code), value)?;
                    }
                }
                _ if code == 0x95 => match frames.pop() {
                    None => break Ended::Returned(registers[0]),
                    Some(frame) => {
                        registers[6..=10].copy_from_slice(&frame.saved);
                        next = frame.back;
                    }
                },
                _ if code == 0x85 && source == 1 => {
                    let mut saved = [0; 5];
                    saved.copy_from_slice(&registers[6..=10]);
                    frames.push(Frame { back: next, saved });
                    registers[10] = self.kernel.memory.add(vec![0; STACK]) + STACK as u64;
                    next = next.checked_add_signed(immediate as isize).context("a call to nowhere")?;
                }
                _ if code == 0x85 => {
                    let arguments = [1, 2, 3, 4, 5].map(|number: usize| registers[number]);
                    let called = self.kernel.call(immediate, arguments)?;
                    let name = match &called {
                        Call::Answered(name, _) | Call::HandedOn(name, _) => name.clone(),
                    };
                    let call = self.profile.calls.entry((self.program.clone(), at)).or_insert((name, 0));
                    call.1 += 1;
                    match called {
                        Call::Answered(_, value) => registers[0] = value,
                        Call::HandedOn(_, program) => break Ended::HandedOn(program),
                    }
                }
                0x05 | 0x06 if code == 0x05 || jumps(code, registers[target], operand)? => {
                    next = next.checked_add_signed(isize::from(offset)).context("a jump to nowhere")?;
                }
                0x05 | 0x06 => {}
                _ => bail!("an instruction that is not known: {instruction:?}"),
            }
            at = next;
        };
        let sum =
            self.profile.executed.entry(self.program.clone()).or_insert_with(|| vec![0; executed.len()]);
        for (sum, count) in sum.iter_mut().zip(executed) {
            *sum += count;
        }
        Ok(ended)
    }

    fn atomic(&mut self, registers: &mut [u64; 11], instruction: Instruction, at: u64) -> Result<()> {
        let memory: &mut Memory = &mut self.kernel.memory;
        let size = size(instruction.code);
        let (before, operand) = (memory.load(at, size)?, registers[instruction.source]);
        let after = match instruction.immediate & !1 {
            0x00 => before.wrapping_add(operand),
            0x40 => before | operand,
            0x50 => before & operand,
            0xa0 => before ^ operand,
            0xe0 => operand,
            0xf0 => {
                if before == registers[0] {
                    memory.store(at, size, operand)?;
                }
                registers[0] = before;
                return Ok(());
            }
            other => bail!("an atomic operation that is not known: {other:#x}"),
        };
        if instruction.immediate & 1 != 0 {
            registers[instruction.source] = before;
        }
        memory.store(at, size, after)
    }
}

/// Bytes of a load or a store.
fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn arithmetic(code: u8, left: u64, right: u64, immediate: i32, is_wide: bool) -> Result<u64> {
    let bits = if is_wide { 63 } else { 31 };
    let shift = (right & bits) as u32;
    // To turn bytes about has a width of its own.
    let is_wide = is_wide || code & 0xf0 == 0xd0;
    let (left, right) = if is_wide { (left, right) } else { (left & 0xffff_ffff, right & 0xffff_ffff) };
    let value = match code & 0xf0 {
        0x00 => left.wrapping_add(right),
        0x10 => left.wrapping_sub(right),
        0x20 => left.wrapping_mul(right),
        0x30 => left.checked_div(right).unwrap_or(0),
        0x40 => left | right,
        0x50 => left & right,
        0x60 => left << shift,
        0x70 => left >> shift,
        0x80 => left.wrapping_neg(),
        0x90 => left.checked_rem(right).unwrap_or(left),
        0xa0 => left ^ right,
        0xb0 => right,
        0xc0 if is_wide => ((left as i64) >> shift) as u64,
        0xc0 => u64::from(((left as i32) >> shift) as u32),
        // To little endian is to cut off; to big endian is to turn about.
        0xd0 => match (code & 0x08 != 0, immediate) {
            (false, 16) => u64::from(left as u16),
            (false, 32) => u64::from(left as u32),
            (true, 16) => u64::from((left as u16).swap_bytes()),
            (true, 32) => u64::from((left as u32).swap_bytes()),
            (true, 64) => left.swap_bytes(),
            _ => left,
        },
        other => bail!("an operation that is not known: {other:#x}"),
    };
    Ok(if is_wide { value } else { value & 0xffff_ffff })
}

fn jumps(code: u8, left: u64, right: u64) -> Result<bool> {
    let is_wide = code & 0x07 == 0x05;
    let (left, right) = if is_wide { (left, right) } else { (left & 0xffff_ffff, right & 0xffff_ffff) };
    let signed = |value: u64| if is_wide { value as i64 } else { i64::from(value as i32) };
    Ok(match code & 0xf0 {
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        0x60 => signed(left) > signed(right),
        0x70 => signed(left) >= signed(right),
        0xa0 => left < right,
        0xb0 => left <= right,
        0xc0 => signed(left) < signed(right),
        0xd0 => signed(left) <= signed(right),
        other => bail!("a jump that is not known: {other:#x}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_operations_leave_no_high_bits() -> Result<()> {
        // w1 += -1, w1 s>>= 4, r1 s>>= 4, be16, le32.
        assert_eq!(arithmetic(0x04, 0, u64::MAX, -1, false)?, 0xffff_ffff);
        assert_eq!(arithmetic(0xc4, 0x8000_0000, 4, 4, false)?, 0xf800_0000);
        assert_eq!(arithmetic(0xc7, 1 << 63, 4, 4, true)?, 0xf8 << 56);
        assert_eq!(arithmetic(0xdc, 0x1234, 0, 16, false)?, 0x3412);
        assert_eq!(arithmetic(0xdc, 1, 0, 64, false)?, 1 << 56);
        assert_eq!(arithmetic(0xdc, 0x0102_0304_0506_0708, 0, 64, false)?, 0x0807_0605_0403_0201);
        assert_eq!(arithmetic(0xd4, u64::MAX, 0, 32, false)?, 0xffff_ffff);
        assert_eq!(arithmetic(0x37, 7, 0, 0, true)?, 0);
        Ok(())
    }

    #[test]
    fn jumps_compare_as_they_say() -> Result<()> {
        // if r1 > -1, if r1 s> -1, if w1 s< 0.
        assert!(!jumps(0x25, 5, u64::MAX)?);
        assert!(jumps(0x65, 5, u64::MAX)?);
        assert!(jumps(0xc6, 0xffff_ffff, 0)?);
        assert!(!jumps(0xc5, 0xffff_ffff, 0)?);
        Ok(())
    }
}
