//! The one place where a program touches a packet's bytes.

use core::{arch::asm, ptr};

use mesh_common::{abi::Pod, packet::REACH};

/// The bytes of a packet that a program may touch: from `start` up to `end`, as the hook's context gave them.
#[derive(Clone, Copy)]
pub struct Bytes {
    start: usize,
    end: usize,
}

/// Reads the field at `FIELD` bytes of a hook's context, which holds a pointer in 32 bits.
///
/// In assembler, because the compiler believes that such a field is a number: it would copy it in 32 bits, and the verifier
/// would then no longer take it for a pointer.
#[inline(always)]
fn pointer<T, const FIELD: usize>(context: *const T) -> usize {
    let pointer: u64;
    // SAFETY: callers name a field of the context; the kernel turns the load into one of the whole pointer.
    unsafe {
        asm!(
            "{pointer} = *(u32 *)({context} + {field})",
            pointer = out(reg) pointer,
            context = in(reg) context,
            field = const FIELD,
            options(pure, readonly, nostack),
        );
    }
    pointer as usize
}

impl Bytes {
    /// The bytes of a context whose fields at `START` and `END` say where they begin and end.
    #[inline(always)]
    pub fn of<T, const START: usize, const END: usize>(context: *const T) -> Self {
        Self { start: pointer::<T, START>(context), end: pointer::<T, END>(context) }
    }

    /// Whether there are at least so many.
    #[inline(always)]
    pub fn reach(self, length: usize) -> bool {
        self.start + length <= self.end
    }

    /// How many there are.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn at<T: Pod>(self, offset: usize) -> Option<*mut T> {
        if offset > REACH {
            return None;
        }
        let pointer = self.start + offset;
        if pointer + size_of::<T>() > self.end {
            return None;
        }
        Some(pointer as *mut T)
    }

    #[inline(always)]
    pub fn read<T: Pod>(self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked that the value lies within the packet, and every bit pattern is a valid `Pod`. The
        // verifier holds us to both.
        self.at(offset).map(|pointer| unsafe { ptr::read_unaligned(pointer) })
    }

    #[inline(always)]
    pub fn write<T: Pod>(self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: as in `read`; no reference into the packet is ever held.
        self.at(offset).map(|pointer| unsafe { ptr::write_unaligned(pointer, *value) })
    }
}
