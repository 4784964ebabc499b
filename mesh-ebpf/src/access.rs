//! The one place where a program touches a packet's bytes.

use core::{arch::asm, mem::MaybeUninit, ptr};

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
