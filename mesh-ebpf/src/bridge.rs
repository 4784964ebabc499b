//! Flows while an agent takes over the data plane of one whose table of flows is laid out otherwise.
//!
//! The programs of a node are replaced one by one, and for as long as old ones run, each must find the flows that any other
//! opened. So the agent attaches programs first that are loaded to bridge: they read the older table, as the older programs
//! do, and write to both. When no older program is left and all is carried over, it replaces them by programs that read
//! the new table and still write to both, and those by programs that know of one table alone. Any two that run side by side
//! then agree on a table that has everything. For the last ones, all of this is dead code to the verifier.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers,
};
use mesh_common::abi::{
    Flow, FlowKey,
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

/// The key of the first entry of an array. Where it stands costs no stack, of which the deepest ways have none to spare.
#[unsafe(no_mangle)]
static FIRST: Global<u32> = Global::new(0);

/// The first entry of an array map, or null. It lives as long as the map; of a per-CPU array it is this processor's own, and a
/// program at a hook is not interrupted by another at it.
#[inline(always)]
fn first<M, V>(map: &'static M) -> *mut V {
    // SAFETY: every caller passes a map whose keys are of four bytes.
    unsafe {
        helpers::generated::bpf_map_lookup_elem(
            ptr::from_ref(map).cast_mut().cast::<c_void>(),
            ptr::from_ref(&FIRST).cast::<c_void>(),
        )
        .cast::<V>()
    }
}

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

/// A flow of the older table, copied to where the next call copies another.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: the map's values are of this type; see `first`.
    if recall(key) { unsafe { first::<_, Flow>(&maps::RECALLED).as_ref() } } else { None }
}

/// Copies a flow of the older table to this processor's place for it; false if it is not known.
#[inline(always)]
fn recall(key: &FlowKey) -> bool {
    // SAFETY: the map's values are of this type; see `first`.
    let Some(place) = (unsafe { first::<_, Flow>(&maps::RECALLED).as_mut() }) else { return false };
    // SAFETY: as in `tables`.
    let Some(before) = (unsafe { maps::FLOWS_BEFORE.get(key) }) else { return false };
    before.lay_out(place);
    true
}

/// Remembers a flow in both tables: if `is_new`, only if it is not known. Says whether it did.
#[inline(always)]
pub fn put(key: &FlowKey, flow: &Flow, is_new: bool) -> bool {
    // SAFETY: the map's values are of this type; see `first`.
    let Some(before) = (unsafe { first::<_, FlowBefore>(&maps::LAID_OUT).as_mut() }) else { return false };
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
