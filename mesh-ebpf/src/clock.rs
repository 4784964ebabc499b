//! The kernel's clock, asked once a tick: a helper that is called costs more than what most packets need of it.

use core::{cell::UnsafeCell, ptr};

use aya_ebpf::helpers;

const NANOSECONDS: u64 = 1_000_000_000;

/// The last tick of the kernel's timer at which the clock was asked, and the second that it told: the lower 32 bits of each,
/// in one word, so that every processor reads what one has written as a whole.
#[repr(transparent)]
struct Told(UnsafeCell<u64>);

// SAFETY: a word is read and written whole, and each writer's value is a right one.
unsafe impl Sync for Told {}

#[unsafe(no_mangle)]
static TOLD: Told = Told(UnsafeCell::new(0));

/// Seconds of the monotonic clock. The kernel moves its coarse clock with its ticks, so that nothing is lost; and counts those
/// where the program reads the count without a call.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: see `Told`; the helpers take no arguments.
    unsafe {
        let tick = helpers::generated::bpf_jiffies64() << 32;
        let told = ptr::read_volatile(TOLD.0.get());
        if told != 0 && told & !u64::from(u32::MAX) == tick {
            return told & u64::from(u32::MAX);
        }
        let now = helpers::generated::bpf_ktime_get_coarse_ns() / NANOSECONDS;
        ptr::write_volatile(TOLD.0.get(), tick | now & u64::from(u32::MAX));
        now
    }
}
