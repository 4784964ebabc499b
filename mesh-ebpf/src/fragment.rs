//! Fragments: handing them on to the program that deals with them, by a tail call, and keeping those that wait for the first of
//! their datagram.
//!
//! A program can make no packet. So a first fragment that others have waited for is sent back to where it came in, and then
//! lends its buffer to each of them in turn, which is sent there too.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers,
    programs::TcContext,
};
use mesh_common::abi::{Held, Hook, capacity};

use crate::{access, handover, maps};

/// Ends the program, unless the other one is not there. The packet is untouched.
#[inline(always)]
pub fn hand_on(context: &TcContext, hook: Hook) {
    let skb = context.skb.skb;
    // SAFETY: the pointer is the hook's context, whose control block is a program's to use; nothing is held that would have
    // to be let go of.
    unsafe {
        ptr::write_volatile(&raw mut (*skb).cb[1], hook as u32);
        maps::FRAGMENT_TC.tail_call(context, Hook::ALL.len() as u32 - 1);
    }
}

/// The hook whose program has handed a packet on.
#[inline(always)]
pub fn met_by(context: &TcContext) -> Hook {
    handover::hook_at_tc(context)
}

/// Ends the program, unless the one that fragments at the hook go to with their ports is not there. The packet is untouched.
#[inline(always)]
pub fn send_on(context: &TcContext, hook: Hook) {
    // SAFETY: nothing is held that would have to be let go of.
    unsafe { maps::FRAGMENT_TC.tail_call(context, hook as u32) };
}

/// The place of the fragment with a turn.
#[inline(always)]
pub fn place(turn: u32) -> Option<*mut Held> {
    maps::HELD.get_ptr_mut(turn % capacity::HELD)
}

/// Keeps a packet in the place that was found for it.
#[inline(always)]
pub fn hold(skb: *mut __sk_buff, turn: u32) {
    let Some(held) = place(turn) else { return };
    // SAFETY: the pointers are the hook's context and the map's. No other packet is given the place before as many more have
    // come as there are places; the turn is written last, without which nobody reads the rest.
    unsafe {
        let Some(length) = access::size::<{ Held::BYTES as u32 }>((*skb).len) else { return };
        let bytes = (&raw mut (*held).bytes).cast();
        if helpers::generated::bpf_skb_load_bytes(skb.cast(), 0, bytes, length) == 0 {
            (*held).length = length;
            ptr::write_volatile(&raw mut (*held).turn, turn);
        }
    }
}

/// Has a packet come in once more, and behind it those that have waited for it: the one with the turn `last`, and those before.
#[inline(always)]
pub fn release(skb: *mut __sk_buff, last: u32) {
    let mut turn = last;
    // SAFETY: the pointers are the hook's context and the map's. What a helper refuses is lost, as on any wire.
    unsafe {
        let ingress = (*skb).ifindex;
        helpers::generated::bpf_clone_redirect(skb, ingress, u64::from(BPF_F_INGRESS));
        for _ in 0..Held::MOST {
            let Some(held) = place(turn) else { return };
            // Another one's by now, and so are the places of those before it.
            if turn == 0 || ptr::read_volatile(&raw const (*held).turn) != turn {
                return;
            }
            ptr::write_volatile(&raw mut (*held).turn, 0);
            let Some(length) = access::size::<{ Held::BYTES as u32 }>((*held).length) else { return };
            let bytes = (&raw const (*held).bytes).cast();
            let is_lent = helpers::generated::bpf_skb_change_tail(skb, length, 0) == 0
                && helpers::generated::bpf_skb_store_bytes(
                    skb,
                    0,
                    bytes,
                    length,
                    u64::from(BPF_F_RECOMPUTE_CSUM),
                ) == 0;
            if is_lent {
                helpers::generated::bpf_clone_redirect(skb, ingress, u64::from(BPF_F_INGRESS));
            }
            turn = (*held).before;
        }
    }
}
