//! Types that are nothing but their bytes.

/// A type that may be read from, and written to, any bytes.
///
/// # Safety
/// Every bit pattern must be a valid value, and the type must have no padding.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! pod {
    ($($type:ty),+ $(,)?) => { $(
        // SAFETY: integers and repr(C) structures of integers and byte arrays, without padding: each is
        // held to its size by the tests of its module, or stands in network-types as a wire format.
        unsafe impl crate::abi::Pod for $type {}
    )+ };
}
pub(crate) use pod;

pod!(u8, u16, u32, u64);

// SAFETY: an array of such a type has no padding between its elements.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}
