//! Flows while an agent takes over the data plane of one whose table of flows is laid out otherwise.
//!
//! The programs of a node are replaced one by one, and for as long as old ones run, each must find the flows that any other
//! opened. So the agent attaches programs first that are loaded to bridge: they read the older table, as the older programs
//! do, and write to both. When no older program is left and all is carried over, it replaces them by programs that read
//! the new table and still write to both, and those by programs that know of one table alone. Any two that run side by side
//! then agree on a table that has everything. For the last ones, all of this is dead code to the verifier.

use core::{cell::UnsafeCell, mem, ptr};

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers,
};
use mesh_common::abi::{
    Flow, FlowKey, Pod,
    layout::{FlowBefore, LayOut as _},
};

use crate::maps;

/// Which tables there are, by [`ALONE`] and [`BEFORE`]; with any other number there are two and the new
/// one is read. Set at load.
#[unsafe(no_mangle)]
static BRIDGING: Global<u32> = Global::new(ALONE);

/// One table of flows alone.
const ALONE: u32 = 0;
/// Two, and the older is read.
const BEFORE: u32 = 1;

/// Processors that have places of their own: as many as Linux is built for at most on the machines that the mesh is for.
const PROCESSORS: usize = 1024;

/// A place for each processor. Not a map of the kind that the kernel keeps for each: each look-up there is one more way for the
/// verifier to follow, and its key costs stack, of which the deepest ways have none to spare.
#[repr(transparent)]
struct Places<T>(UnsafeCell<[T; PROCESSORS]>);

// SAFETY: each processor touches its own place alone, and a program at a hook is not interrupted by another at it.
unsafe impl<T> Sync for Places<T> {}

impl<T: Pod> Places<T> {
    const fn new() -> Self {
        // SAFETY: any bytes are a value of such a type.
        Self(UnsafeCell::new(unsafe { mem::zeroed() }))
    }

    /// This processor's.
    #[inline(always)]
    fn own(&'static self) -> *mut T {
        // SAFETY: no arguments; the place is within the array.
        unsafe {
            let processor = helpers::generated::bpf_get_smp_processor_id() as usize % PROCESSORS;
            self.0.get().cast::<T>().add(processor)
        }
    }
}

/// The flow that was last looked up in the older table.
#[unsafe(no_mangle)]
static RECALLED: Places<Flow> = Places::new();

/// A flow on its way into the older table.
#[unsafe(no_mangle)]
static LAID_OUT: Places<FlowBefore> = Places::new();

/// Whether there are two tables of flows.
#[inline(always)]
pub fn is_bridging() -> bool {
    BRIDGING.load() != ALONE
}

/// Whether the older one is read.
#[inline(always)]
pub fn reads_before() -> bool {
    BRIDGING.load() == BEFORE
}

/// A flow of the older table: as it stands there if it is laid out as this version has it, and otherwise copied to where the
/// next call copies another.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: as in `tables`.
    let before = unsafe { maps::FLOWS_BEFORE.get(key) }?;
    Some(before.as_laid_out(|before| {
        // SAFETY: see `Places`.
        let place = unsafe { &mut *RECALLED.own() };
        before.lay_out(place);
        place
    }))
}

/// Remembers a flow in both tables: if `is_new`, only if it is not known. Says whether it did.
#[inline(always)]
pub fn put(key: &FlowKey, flow: &Flow, is_new: bool) -> bool {
    // SAFETY: see `Places`.
    let before = unsafe { &mut *LAID_OUT.own() };
    flow.lay_out(before);
    let before = &*before;
    let how = u64::from(if is_new { BPF_NOEXIST } else { BPF_ANY });
    // The table that is read says whether the flow is new.
    if reads_before() {
        maps::FLOWS_BEFORE.insert(key, before, how).is_ok()
            && maps::FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_ok()
    } else {
        maps::FLOWS.insert(key, flow, how).is_ok()
            && maps::FLOWS_BEFORE.insert(key, before, u64::from(BPF_ANY)).is_ok()
    }
}

/// Notes in the older table when a flow was seen and which flags it has.
#[inline(always)]
pub fn mark(key: &FlowKey, seen: u64, flags: u32) {
    if let Some(flow) = maps::FLOWS_BEFORE.get_ptr_mut(key) {
        // SAFETY: the pointer is the map's; words are written whole, and each writer's value is a right one.
        unsafe {
            ptr::write_volatile(&raw mut (*flow).seen, seen);
            ptr::write_volatile(&raw mut (*flow).flags, flags);
        }
    }
}

/// Forgets a flow of the older table.
#[inline(always)]
pub fn remove(key: &FlowKey) {
    // It may have gone by itself in the meantime.
    let _ = maps::FLOWS_BEFORE.remove(key);
}
