//! Flows while an agent takes over the data plane of one whose table of flows is laid out otherwise.
//!
//! The programs of a node are replaced one by one, and for as long as old ones run, each must find the flows that any other
//! opened. So the agent attaches programs first that are loaded to bridge: they read where `PHASE` says, at first what the
//! older programs write, and they write to both tables. When no older program is left and all is carried over, the agent
//! turns the phase, and then replaces these programs by the same ones loaded not to bridge, for which the verifier finds
//! all of this to be dead code.

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

/// Whether the programs bridge: 1 or 0. Set at load.
#[unsafe(no_mangle)]
static BRIDGING: Global<u32> = Global::new(0);

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
    BRIDGING.load() != 0
}

/// A flow, copied to where the next call copies another.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: the map's values are of this type; see `first`.
    if recall(key) { unsafe { first::<_, Flow>(&maps::RECALLED).as_ref() } } else { None }
}

/// Copies a flow to this processor's place for it; false if it is not known.
#[inline(always)]
fn recall(key: &FlowKey) -> bool {
    // SAFETY: the map's values are of this type; see `first`.
    let Some(place) = (unsafe { first::<_, Flow>(&maps::RECALLED).as_mut() }) else { return false };
    if reads_before() {
        // SAFETY: as in `tables`.
        let Some(before) = (unsafe { maps::FLOWS_BEFORE.get(key) }) else { return false };
        before.lay_out(place);
    } else {
        // SAFETY: as in `tables`.
        let Some(flow) = (unsafe { maps::FLOWS.get(key) }) else { return false };
        *place = *flow;
    }
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

/// Whether the older table is the one that is read.
#[inline(always)]
fn reads_before() -> bool {
    // SAFETY: the map's values are of this type; see `first`.
    unsafe { first::<_, u32>(&maps::PHASE).as_ref() }.is_none_or(|phase| *phase == 0)
}
