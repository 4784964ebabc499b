//! eBPF instructions, by hand: the programs here are too small for a compiler.

/// A register; `R1` holds the context when a program begins, `R0` what it answers, and helpers leave `R6` and those after it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
}

/// How much memory an instruction reads or writes, as its bits in the opcode.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Size {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// When a program leaves early.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum When {
    NotEqual = 0x50,
    /// Without sign.
    Greater = 0x20,
}

/// What is done to a register.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Operation {
    Add = 0x00,
    Or = 0x40,
    And = 0x50,
    ShiftRight = 0x70,
    Modulo = 0x90,
    ExclusiveOr = 0xa0,
}

/// The helper that tells the time, in nanoseconds.
pub(super) const KTIME_GET_NS: i32 = 5;
/// The helper that has a packet leave by an interface.
pub(super) const REDIRECT: i32 = 23;

/// One instruction as the kernel takes it (RFC 9669, section 3).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A program that grows. Jumps lead forward, to the next place where what leaves early arrives.
#[derive(Default)]
pub(super) struct Code {
    instructions: Vec<Instruction>,
    leaving: Vec<usize>,
}

impl Code {
    fn push(&mut self, opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { opcode, registers: to | from << 4, offset, immediate });
    }

    /// Two slots hold a number of 64 bits, or what the kernel makes of a map's descriptor.
    fn wide(&mut self, to: Register, from: u8, low: u32, high: u32) {
        self.push(0x18, to as u8, from, 0, low.cast_signed());
        self.push(0, 0, 0, 0, high.cast_signed());
    }

    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to as u8, 0, 0, value);
    }

    pub(super) fn set_wide(&mut self, to: Register, value: u64) {
        self.wide(to, 0, value as u32, (value >> 32) as u32);
    }

    /// The address of the first value of an array.
    pub(super) fn set_value(&mut self, to: Register, descriptor: i32) {
        self.wide(to, 2, descriptor.cast_unsigned(), 0);
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to as u8, from as u8, 0, 0);
    }

    pub(super) fn change(&mut self, operation: Operation, to: Register, value: i32) {
        self.push(0x07 | operation as u8, to as u8, 0, 0, value);
    }

    /// Swaps the lower two bytes into the network's order, or back, and clears the others.
    pub(super) fn swap_half(&mut self, to: Register) {
        self.push(0xdc, to as u8, 0, 0, 16);
    }

    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.push(0x61 | size as u8, to as u8, from as u8, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.push(0x63 | size as u8, to as u8, from as u8, offset, 0);
    }

    /// Adds to a number in memory, whoever else does so, and has it as it was before in `addend`.
    pub(super) fn fetch_add(&mut self, to: Register, offset: i16, addend: Register) {
        const ADD_AND_FETCH: i32 = 1;
        self.push(0xdb, to as u8, addend as u8, offset, ADD_AND_FETCH);
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    /// Leaves early if two registers compare so.
    pub(super) fn leave(&mut self, when: When, left: Register, right: Register) {
        self.leaving.push(self.instructions.len());
        self.push(0x0d | when as u8, left as u8, right as u8, 0, 0);
    }

    /// Leaves early if a register and a number compare so.
    pub(super) fn leave_if(&mut self, when: When, left: Register, value: i32) {
        self.leaving.push(self.instructions.len());
        self.push(0x05 | when as u8, left as u8, 0, 0, value);
    }

    /// Ends here with what `R0` holds.
    pub(super) fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// Here arrives what leaves early.
    pub(super) fn arrive(&mut self) {
        let here = self.instructions.len();
        for at in std::mem::take(&mut self.leaving) {
            // A jump counts from the instruction that follows it. These programs have a few dozen.
            self.instructions[at].offset = i16::try_from(here - at - 1).unwrap_or(i16::MAX);
        }
    }

    /// Ends with an answer.
    pub(super) fn answer(&mut self, answer: i32) {
        self.set(Register::R0, answer);
        self.exit();
    }

    /// The whole program.
    pub(super) fn finish(self) -> Vec<Instruction> {
        self.instructions
    }
}
