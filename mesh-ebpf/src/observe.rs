//! Counting what becomes of packets, and tracing some of them.

use aya_ebpf::{EbpfContext, helpers};
use aya_log_ebpf::info;
use mesh_common::{
    Verdict,
    abi::{Counter, Hook, Outcome, Settings, Shortage, TRACE_BYTES, Trace},
};

use crate::maps;

/// Says that a packet was lost for a reason for which this processor had lost none: once for each reason and processor while
/// the maps live, so that a log shows when a kind of loss began, and no flood can fill it. The agent makes a sentence of the
/// two numbers.
#[inline(never)]
fn announce(context: &impl EbpfContext, hook: Hook, reason: u32) {
    info!(context, "first loss {} {}", hook as u8, reason);
}

/// Counts a packet that came in with `length` bytes.
#[inline(always)]
pub fn count(context: &impl EbpfContext, hook: Hook, verdict: Verdict, length: usize) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(Counter::index(hook, verdict.outcome())) {
        // SAFETY: the entry is this processor's own, and a program at a hook is not interrupted by another at it.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += length as u64;
        }
    }
    if matches!(verdict.outcome(), Outcome::Drop | Outcome::Refuse)
        && let Some(drops) = maps::DROPS.get_ptr_mut(verdict.detail())
    {
        // SAFETY: as above.
        let before = unsafe { *drops };
        if before == 0 {
            announce(context, hook, verdict.detail());
        }
        // SAFETY: as above.
        unsafe { *drops = before + 1 };
    }
}

/// Counts that there was no room.
#[inline(always)]
pub fn count_shortage(shortage: Shortage) {
    if let Some(count) = maps::SHORTAGES.get_ptr_mut(shortage as u32) {
        // SAFETY: the entry is this processor's own.
        unsafe { *count += 1 };
    }
}

/// Whether this packet is one of those to trace.
#[inline(always)]
pub fn is_sampled(settings: Option<&Settings>) -> bool {
    let Some(settings) = settings else { return false };
    // SAFETY: no arguments.
    settings.trace_every != 0
        && unsafe { helpers::generated::bpf_get_prandom_u32() } % settings.trace_every == 0
}

/// Puts a packet into the ring of traces; `load` copies so many of its first bytes and says whether it could.
#[inline(always)]
pub fn trace(
    hook: Hook,
    verdict: Verdict,
    ifindex: u32,
    length: usize,
    load: impl Fn(&mut [u8; TRACE_BYTES]) -> u8,
) {
    let Some(mut entry) = maps::TRACES.reserve::<Trace>(0) else {
        count_shortage(Shortage::Traces);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring's entry is as long as the record, and every field is written before it is handed over.
    unsafe {
        (*record).time = helpers::generated::bpf_ktime_get_ns();
        (*record).ifindex = ifindex;
        (*record).detail = verdict.detail();
        (*record).length = length as u32;
        (*record).hook = hook as u8;
        (*record).outcome = verdict.outcome() as u8;
        (*record).reserved = 0;
        (*record).bytes = [0; TRACE_BYTES];
        (*record).captured = load(&mut (*record).bytes);
    }
    entry.submit(0);
}
