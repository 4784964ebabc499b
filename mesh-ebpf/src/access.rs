//! The one place where a program touches a packet's bytes.

use core::ptr;

use mesh_common::abi::Pod;

/// How far into a packet a header may begin: far beyond the deepest one, and small enough for the verifier to see
/// that an offset cannot overflow.
const REACH: usize = 0x3ff;

/// The bytes of a packet that a program may touch: from `start` up to `end`, as the hook's context gave them.
#[derive(Clone, Copy)]
pub struct Bytes {
    pub start: usize,
    pub end: usize,
}

impl Bytes {
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
