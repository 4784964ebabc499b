//! Carrying the entries of a map over to another that is laid out otherwise.

use std::{io, os::fd::BorrowedFd};

use aya_obj::generated::bpf_map_type;
use mesh_common::abi::{
    Flow, FlowKey,
    layout::{self, FlowBefore, LayOut as _},
};

use super::{
    layout::Layout,
    sys::{self, Batch},
};

/// How many entries are read and written in one system call.
const BATCH: u32 = 1024;

/// How a value of the old layout becomes one of the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// As it is.
    Copy,
    /// By the types of [`mesh_common::abi::layout`].
    Flows,
}

/// How the entries of a map are carried from one layout to another, if that is known.
pub(super) fn conversion(map: &str, from: &Layout, to: &Layout) -> Option<Conversion> {
    if from.has_entries_of(to) {
        return Some(Conversion::Copy);
    }
    (map == FLOWS && is_before(from)).then_some(Conversion::Flows)
}

/// The map of flows.
pub(super) const FLOWS: &str = "FLOWS";

/// Whether a table of flows has the layout that programs loaded to bridge take for the older one.
pub(super) fn is_before(layout: &Layout) -> bool {
    (layout.version, size(layout.key), size(layout.value))
        == (layout::FLOWS_BEFORE, size_of::<FlowKey>(), size_of::<FlowBefore>())
}

/// Writes what the old map holds and the new one does not, or not so; returns how many entries the old one holds that are
/// not zero, and how many were written.
pub(super) fn carry(
    conversion: Conversion,
    (old, from): (BorrowedFd<'_>, &Layout),
    (new, to): (BorrowedFd<'_>, &Layout),
) -> io::Result<(usize, usize)> {
    let key_size = size(from.key).max(1);
    let is_array = to.is(bpf_map_type::BPF_MAP_TYPE_ARRAY);
    let (mut held, mut written) = (0, 0);
    let mut batch = Batch::new(from.key, from.value, BATCH);
    let mut current = vec![0; size(to.value)];
    while let Some((keys, values)) = batch.next(old)? {
        let mut fresh = (Vec::new(), Vec::new());
        for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(size(from.value).max(1))) {
            if is_array {
                // What an array has in each place that is not used.
                if value.iter().all(|byte| *byte == 0) {
                    continue;
                }
                if sys::from_bytes(key).is_none_or(|index: u32| index >= to.entries) {
                    return Err(io::Error::other(format!("its entry {key:?} has no place in the new one")));
                }
            }
            held += 1;
            let value = convert(conversion, value)?;
            if !sys::lookup_bytes(new, key, &mut current)? || current != value {
                fresh.0.extend_from_slice(key);
                fresh.1.extend_from_slice(&value);
                written += 1;
            }
        }
        sys::update_batch(new, &fresh.0, &fresh.1, fresh.0.len() / key_size)?;
    }
    Ok((held, written))
}

fn convert(conversion: Conversion, value: &[u8]) -> io::Result<Vec<u8>> {
    Ok(match conversion {
        Conversion::Copy => value.to_vec(),
        Conversion::Flows => {
            let before: FlowBefore = sys::from_bytes(value)
                .ok_or_else(|| io::Error::other("a flow is not as long as its layout says"))?;
            let mut flow = Flow::default();
            before.lay_out(&mut flow);
            sys::to_bytes(&flow).to_vec()
        }
    })
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
