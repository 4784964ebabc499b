//! Handing a packet on to another program by a tail call: what that takes of the verifier's patience and of the stack is
//! its own. A refused packet goes to the program that answers it, one of an unknown flow to the one that asks for it.
//!
//! Where the call fails, since the agent has not put the program into its array, the caller drops the packet.

use core::ptr;

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use mesh_common::{Refusal, abi::Hook};

use crate::maps;

/// Ends the program, unless the other one is not there. The packet is untouched.
#[inline(always)]
pub fn hand_on_at_tc(context: &TcContext, refusal: Refusal, hook: Hook) {
    let skb = context.skb.skb;
    // SAFETY: the pointer is the hook's context, whose control block is a program's to use; nothing is held that would have
    // to be let go of.
    unsafe {
        ptr::write_volatile(&raw mut (*skb).cb[0], refusal.number());
        ptr::write_volatile(&raw mut (*skb).cb[1], hook as u32);
        maps::REFUSE_TC.tail_call(context, 0);
    }
}

/// What was handed on, and by which hook's program.
#[inline(always)]
pub fn taken_at_tc(context: &TcContext) -> (Refusal, Hook) {
    // SAFETY: the pointer is the hook's context.
    let number = unsafe { ptr::read_volatile(&raw const (*context.skb.skb).cb[0]) };
    (Refusal::from_number(number), hook_at_tc(context))
}

/// Has the program of the longer way go on with an untouched packet; where it is not there, the packet is lost.
#[inline(always)]
pub fn go_the_longer_way(context: &TcContext, longer: &ProgramArray) -> i32 {
    // SAFETY: nothing is held that would have to be let go of.
    unsafe { longer.tail_call(context, 0) };
    TC_ACT_SHOT
}

/// Ends the program, unless the other one is not there. How the packet came is in the tables.
#[inline(always)]
pub fn hand_on_unknown(context: &TcContext, hook: Hook) {
    // SAFETY: as above.
    unsafe {
        ptr::write_volatile(&raw mut (*context.skb.skb).cb[1], hook as u32);
        maps::UNKNOWN_TC.tail_call(context, 0);
    }
}

/// The hook whose program handed a packet on.
#[inline(always)]
pub fn hook_at_tc(context: &TcContext) -> Hook {
    // SAFETY: the pointer is the hook's context.
    let hook = unsafe { ptr::read_volatile(&raw const (*context.skb.skb).cb[1]) };
    if hook == Hook::Endpoint as u32 {
        Hook::Endpoint
    } else if hook == Hook::Host as u32 {
        Hook::Host
    } else {
        Hook::Underlay
    }
}

/// Ends the program, unless the other one is not there. The packet is untouched.
#[inline(always)]
pub fn hand_on_at_xdp(context: &XdpContext, refusal: Refusal) {
    let Some(place) = maps::REFUSALS.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this processor's own, and no other program runs at the hook between this one and the one that
    // takes it; nothing is held that would have to be let go of.
    unsafe {
        *place = refusal.number();
        maps::REFUSE_XDP.tail_call(context, 0);
    }
}

/// What was handed on.
#[inline(always)]
pub fn taken_at_xdp() -> Option<Refusal> {
    maps::REFUSALS.get(0).map(|number| Refusal::from_number(*number))
}
