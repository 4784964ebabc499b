//! The one place where a program touches a packet's bytes.

use core::{arch::asm, intrinsics::is_val_statically_known, mem::MaybeUninit, ptr};

use aya_ebpf::{cty::c_void, helpers};
use mesh_common::{
    abi::Pod,
    checksum::Sum,
    packet::{REACH, SUMMED},
};

use crate::maps;

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

/// The same byte, of which the verifier knows nothing more: a number that it does not know, the field at `FIELD` bytes of a
/// hook's context, is mixed in and out again.
#[inline(always)]
pub fn forget<T, const FIELD: usize>(context: *const T, byte: u8) -> u8 {
    let mut value = u64::from(byte);
    // SAFETY: callers name a field of the context that is a number of 32 bits.
    unsafe {
        asm!(
            "{number} = *(u32 *)({context} + {field})",
            "{value} ^= {number}",
            "{value} ^= {number}",
            number = out(reg) _,
            value = inout(reg) value,
            context = in(reg) context,
            field = const FIELD,
            options(pure, readonly, nostack),
        );
    }
    value as u8
}

/// A length that a helper takes as a size: none unless it is one of 1..=`MOST`, which must be a power of two.
///
/// The compiler checks both ends at once, on the length less one; verifiers before Linux 6.12 do not see what that says of
/// the length itself, and those before 6.8 learn nothing from "is not zero". So the bounds are made once more, in assembler.
#[inline(always)]
pub fn size<const MOST: u32>(length: u32) -> Option<u32> {
    const { assert!(MOST.is_power_of_two()) };
    if length == 0 || length > MOST {
        return None;
    }
    let mut less_one = u64::from(length - 1);
    // SAFETY: changes nothing but the number, and that neither, for a length of these.
    unsafe {
        asm!(
            "{less_one} &= {mask}",
            less_one = inout(reg) less_one,
            mask = const MOST - 1,
            options(pure, nomem, nostack),
        );
    }
    Some(less_one as u32 + 1)
}

/// The same number, which the compiler takes for another: what is then found out of it, is found out of this very number.
/// Verifiers before Linux 6.11 do not see what a number says of another that it was added up from.
#[inline(always)]
fn itself(mut number: usize) -> usize {
    // SAFETY: does nothing.
    unsafe { asm!("/* {number} */", number = inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// The sum of so many bytes of a packet, at most [`SUMMED`], which `load` copies.
///
/// By the kernel: the verifier would follow each turn of a loop over them.
#[inline(always)]
pub fn sum(length: usize, load: impl FnOnce(*mut c_void, u32) -> i64) -> Option<Sum> {
    /// What the helper takes at once before Linux 6.13.
    const PART: u32 = SUMMED as u32 / 2;

    let length = size::<{ SUMMED as u32 }>(length as u32)?;
    let bytes = maps::SUMMED.get_ptr_mut(0)?;
    if load(bytes.cast(), length) != 0 {
        return None;
    }
    let part = |offset: u32, length: u32| {
        let Some(length) = size::<PART>(length) else { return Some(Sum::ZERO) };
        // SAFETY: the map's entry is this processor's own, and long enough.
        let sum = unsafe {
            let words = bytes.cast::<u8>().add(offset as usize).cast();
            helpers::generated::bpf_csum_diff(ptr::null_mut(), 0, words, length, 0)
        };
        (sum >= 0).then(|| Sum::ZERO.plus32((sum as u32).to_ne_bytes()))
    };
    let first = if length < PART { length } else { PART };
    Some(part(0, first)?.plus(part(PART, length - first)?))
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
        // Where the compiler knows the offset, it is checked while compiling.
        let offset = if is_val_statically_known(offset) { offset } else { itself(offset) };
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
        let from = self.at::<T>(offset)?.cast::<u8>();
        let mut value = MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast::<u8>();
        // SAFETY: `at` has checked that the value lies within the packet, and the pieces make up the whole of it, so that all
        // of it is initialised; every bit pattern is a valid `Pod`. The verifier holds us to the bounds.
        unsafe {
            let mut done = 0;
            while size_of::<T>() - done >= 8 {
                to.add(done).cast::<u64>().write_unaligned(load64(from.add(done)));
                done += 8;
            }
            if size_of::<T>() - done >= 4 {
                to.add(done).cast::<u32>().write_unaligned(load32(from.add(done)));
                done += 4;
            }
            if size_of::<T>() - done >= 2 {
                to.add(done).cast::<u16>().write_unaligned(load16(from.add(done)));
                done += 2;
            }
            if size_of::<T>() - done == 1 {
                to.add(done).write(from.add(done).read());
            }
            Some(value.assume_init())
        }
    }

    #[inline(always)]
    pub fn write<T: Pod>(self, offset: usize, value: &T) -> Option<()> {
        let to = self.at::<T>(offset)?.cast::<u8>();
        let from = ptr::from_ref(value).cast::<u8>();
        // SAFETY: as in `read`; no reference into the packet is ever held.
        unsafe {
            let mut done = 0;
            while size_of::<T>() - done >= 8 {
                store64(to.add(done), from.add(done).cast::<u64>().read_unaligned());
                done += 8;
            }
            if size_of::<T>() - done >= 4 {
                store32(to.add(done), from.add(done).cast::<u32>().read_unaligned());
                done += 4;
            }
            if size_of::<T>() - done >= 2 {
                store16(to.add(done), from.add(done).cast::<u16>().read_unaligned());
                done += 2;
            }
            if size_of::<T>() - done == 1 {
                to.add(done).write(from.add(done).read());
            }
        }
        Some(())
    }
}

/// Loads and stores of whole words at any address of a packet, which the kernel's machines can do; the compiler, which does
/// not know that, would go byte by byte.
macro_rules! words {
    ($($load:ident $store:ident $type:ty, $size:literal;)+) => { $(
        /// # Safety
        /// The pointer must be into a packet, with as many bytes behind it.
        #[inline(always)]
        unsafe fn $load(from: *const u8) -> $type {
            let word: u64;
            // SAFETY: as the caller promises.
            unsafe {
                asm!(
                    concat!("{word} = *(", $size, " *)({from} + 0)"),
                    word = out(reg) word,
                    from = in(reg) from,
                    options(readonly, nostack),
                );
            }
            word as $type
        }

        /// # Safety
        /// The pointer must be into a packet, with as many bytes behind it.
        #[inline(always)]
        unsafe fn $store(to: *mut u8, word: $type) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(
                    concat!("*(", $size, " *)({to} + 0) = {word}"),
                    word = in(reg) u64::from(word),
                    to = in(reg) to,
                    options(nostack),
                );
            }
        }
    )+ };
}

words! {
    load16 store16 u16, "u16";
    load32 store32 u32, "u32";
    load64 store64 u64, "u64";
}
