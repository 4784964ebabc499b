//! The packet pipeline of the mesh, bound to kernel hooks and maps.
//!
//! Nothing is decided here: `mesh_common::pipeline` does that. This crate fetches, carries out and counts.

#![no_std]
#![no_main]
#![expect(
    internal_features,
    reason = "the kernel's fetch-and-add has no stable name on this target: see `tables`"
)]
#![feature(core_intrinsics)]
// For the loads of `access`.
#![feature(asm_experimental_arch)]

mod access;
mod bridge;
mod clock;
mod fragment;
mod frame;
mod handover;
mod maps;
mod observe;
mod skb;
mod socket;
mod tables;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mesh_common::{
    Packet as _, Reason, Tables as _, Verdict,
    abi::{Hook, Outcome, TRACE_BYTES},
    pipeline,
};

use crate::{frame::Frame, skb::Skb, tables::KernelTables};

/// Frames from tasks: ingress of the host side of each task's veth pair. What is not of a known flow goes on to
/// `endpoint_longer`.
#[classifier]
pub fn endpoint_tc(context: TcContext) -> i32 {
    let (skb, tables) = at_tc::<false>(&context);
    let length = skb.length();
    // SAFETY: the pointer is the hook's context.
    let ifindex = unsafe { (*context.skb.skb).ingress_ifindex };
    match pipeline::known_from_endpoint(&mut { skb }, &tables, ifindex) {
        Some(verdict) => at_tc_end(Hook::Endpoint, &context, tables, length, verdict),
        None => handover::go_the_longer_way(&context, &maps::ENDPOINT_LONGER),
    }
}

/// The frames from tasks that go the longer way.
#[classifier]
pub fn endpoint_longer(context: TcContext) -> i32 {
    from_endpoint::<false>(&context)
}

/// Packets from the node itself: ingress of the inner side of `mesh0`.
#[classifier]
pub fn host_tc(context: TcContext) -> i32 {
    from_host::<false>(&context)
}

/// Packets from the wire: ingress of each underlay interface. What is not of a known flow goes on to `underlay_longer`.
#[classifier]
pub fn underlay_tc(context: TcContext) -> i32 {
    let (skb, tables) = at_tc::<false>(&context);
    let length = skb.length();
    match pipeline::known_from_underlay(&mut { skb }, &tables) {
        Some(verdict) => at_tc_end(Hook::Underlay, &context, tables, length, verdict),
        None => handover::go_the_longer_way(&context, &maps::UNDERLAY_LONGER),
    }
}

/// The packets from the wire that go the longer way.
#[classifier]
pub fn underlay_longer(context: TcContext) -> i32 {
    from_underlay::<false>(&context)
}

/// Fragments, whichever of the programs at tc hooks met them: finds their ports.
#[classifier]
pub fn fragment_tc(context: TcContext) -> i32 {
    let hook = fragment::met_by(&context);
    let (skb, tables) = at_tc::<false>(&context);
    let length = skb.length();
    let Some(verdict) = pipeline::find_ports(&skb, &tables) else {
        fragment::send_on(&context, hook);
        return TC_ACT_SHOT;
    };
    match verdict.outcome() {
        Outcome::Release => fragment::release(context.skb.skb, verdict.detail()),
        _ => fragment::hold(context.skb.skb, verdict.detail()),
    }
    at_tc_end(hook, &context, tables, length, verdict)
}

/// Fragments among the frames from tasks, with their ports.
#[classifier]
pub fn endpoint_fragment(context: TcContext) -> i32 {
    from_endpoint::<true>(&context)
}

/// Fragments among the packets from the node itself, with their ports.
#[classifier]
pub fn host_fragment(context: TcContext) -> i32 {
    from_host::<true>(&context)
}

/// Fragments among the packets from the wire, with their ports.
#[classifier]
pub fn underlay_fragment(context: TcContext) -> i32 {
    from_underlay::<true>(&context)
}

/// Packets from the wire, before the kernel has made a socket buffer of them. What cannot be finished here goes on,
/// untouched, to `underlay_tc`.
#[xdp]
pub fn underlay_xdp(context: XdpContext) -> u32 {
    let mut frame = Frame::new(context.ctx);
    let tables = KernelTables::<true> { context: context.as_ptr() };
    let length = frame.length();
    let mut verdict = pipeline::from_underlay(&mut frame, &tables);
    if let Some(refusal) = verdict.refusal() {
        handover::hand_on_at_xdp(&context, refusal);
        verdict = refusal.dropped();
    }
    at_xdp_end(&context, frame, tables, length, verdict)
}

/// What `underlay_xdp` refuses.
#[xdp]
pub fn refuse_xdp(context: XdpContext) -> u32 {
    let Some(refusal) = handover::taken_at_xdp() else { return XDP_DROP };
    let mut frame = Frame::new(context.ctx);
    let tables = KernelTables::<true> { context: context.as_ptr() };
    let length = frame.length();
    // SAFETY: the pointer is the hook's context.
    let ingress = unsafe { (*context.ctx).ingress_ifindex };
    let verdict = pipeline::refuse(&mut frame, &tables, refusal, ingress);
    at_xdp_end(&context, frame, tables, length, verdict)
}

/// What the programs at tc hooks find to be of a flow that this node does not know.
#[classifier]
pub fn unknown_tc(context: TcContext) -> i32 {
    let hook = handover::hook_at_tc(&context);
    let (skb, tables) = at_tc::<false>(&context);
    let length = skb.length();
    let Some(arrival) = tables.handed_on() else { return TC_ACT_SHOT };
    let verdict = pipeline::unknown(&mut { skb }, &tables, &arrival);
    at_tc_hook_end(hook, &context, tables, length, verdict)
}

/// What the programs at tc hooks refuse.
#[classifier]
pub fn refuse_tc(context: TcContext) -> i32 {
    let (refusal, hook) = handover::taken_at_tc(&context);
    let (skb, tables) = at_tc::<false>(&context);
    let length = skb.length();
    // SAFETY: the pointer is the hook's context.
    let ingress = unsafe { (*context.skb.skb).ingress_ifindex };
    let verdict = pipeline::refuse(&mut { skb }, &tables, refusal, ingress);
    at_tc_end(hook, &context, tables, length, verdict)
}

#[inline(always)]
fn from_endpoint<const FRAGMENTS: bool>(context: &TcContext) -> i32 {
    let (skb, tables) = at_tc::<FRAGMENTS>(context);
    let length = skb.length();
    // SAFETY: the pointer is the hook's context.
    let ifindex = unsafe { (*context.skb.skb).ingress_ifindex };
    let verdict = pipeline::from_endpoint(&mut { skb }, &tables, ifindex);
    at_tc_hook_end(Hook::Endpoint, context, tables, length, verdict)
}

#[inline(always)]
fn from_host<const FRAGMENTS: bool>(context: &TcContext) -> i32 {
    let (skb, tables) = at_tc::<FRAGMENTS>(context);
    let length = skb.length();
    let verdict = pipeline::from_host(&mut { skb }, &tables);
    at_tc_hook_end(Hook::Host, context, tables, length, verdict)
}

#[inline(always)]
fn from_underlay<const FRAGMENTS: bool>(context: &TcContext) -> i32 {
    let (skb, tables) = at_tc::<FRAGMENTS>(context);
    let length = skb.length();
    let verdict = pipeline::from_underlay(&mut { skb }, &tables);
    at_tc_hook_end(Hook::Underlay, context, tables, length, verdict)
}

#[inline(always)]
fn at_xdp_end(
    context: &XdpContext,
    frame: Frame,
    tables: KernelTables<true>,
    length: usize,
    verdict: Verdict,
) -> u32 {
    observe::count(context, Hook::Xdp, verdict, length);
    // SAFETY: the pointer is the hook's context.
    let ingress = unsafe { (*context.ctx).ingress_ifindex };
    if observe::is_sampled(tables.settings()) {
        observe::trace(Hook::Xdp, verdict, ingress, length, |bytes| {
            let captured = frame.length().min(TRACE_BYTES);
            load(bytes, captured, |to, size| {
                // SAFETY: the buffer has room for as many bytes.
                unsafe { helpers::generated::bpf_xdp_load_bytes(context.ctx, 0, to.cast(), size) }
            })
        });
    }
    match verdict.outcome() {
        Outcome::Pass => XDP_PASS,
        Outcome::Reply | Outcome::Refuse => XDP_TX,
        Outcome::Transmit if verdict.detail() == ingress => XDP_TX,
        // SAFETY: plain numbers.
        Outcome::Transmit => (unsafe { helpers::generated::bpf_redirect(verdict.detail(), 0) }) as u32,
        // This hook delivers nothing: `KernelTables::<true>::DELIVERS` is false.
        Outcome::Drop
        | Outcome::Deliver
        | Outcome::Host
        | Outcome::Learn
        | Outcome::Hold
        | Outcome::Release => XDP_DROP,
    }
}

#[inline(always)]
fn at_tc<const FRAGMENTS: bool>(context: &TcContext) -> (Skb, KernelTables<false, FRAGMENTS>) {
    (Skb::new(context.skb.skb), KernelTables { context: context.as_ptr() })
}

/// Has the sender of a refused packet told and unknown flows asked for, and carries any other verdict out.
#[inline(always)]
fn at_tc_hook_end<const FRAGMENTS: bool>(
    hook: Hook,
    context: &TcContext,
    tables: KernelTables<false, FRAGMENTS>,
    length: usize,
    verdict: Verdict,
) -> i32 {
    let mut verdict = verdict;
    if let Some(refusal) = verdict.refusal() {
        handover::hand_on_at_tc(context, refusal, hook);
        verdict = refusal.dropped();
    }
    if !FRAGMENTS && verdict.is_for_fragments() {
        fragment::hand_on(context, hook);
        verdict = Verdict::drop(Reason::Portless);
    }
    if verdict.is_unknown() {
        handover::hand_on_unknown(context, hook);
        verdict = Verdict::drop(Reason::NoFlow);
    }
    at_tc_end(hook, context, tables, length, verdict)
}

/// Counts, traces and carries out a verdict.
#[inline(always)]
fn at_tc_end<const FRAGMENTS: bool>(
    hook: Hook,
    context: &TcContext,
    tables: KernelTables<false, FRAGMENTS>,
    length: usize,
    verdict: Verdict,
) -> i32 {
    let skb = context.skb.skb;
    // SAFETY: the pointer is the hook's context.
    let ingress = unsafe { (*skb).ifindex };
    observe::count(context, hook, verdict, length);
    if observe::is_sampled(tables.settings()) {
        observe::trace(hook, verdict, ingress, length, |bytes| {
            // SAFETY: the pointer is the hook's context.
            let captured = unsafe { (*skb).len as usize }.min(TRACE_BYTES);
            load(bytes, captured, |to, size| {
                // SAFETY: the buffer has room for as many bytes.
                unsafe { helpers::generated::bpf_skb_load_bytes(skb.cast(), 0, to.cast(), size) }
            })
        });
    }
    // SAFETY: plain numbers, and no parameters for the neighbour, which the kernel then finds by the packet's route.
    let result = unsafe {
        match verdict.outcome() {
            // Not "accepted": then programs and filters of others behind this one would not be called.
            Outcome::Pass => return TC_ACT_UNSPEC,
            Outcome::Drop | Outcome::Learn | Outcome::Hold | Outcome::Release => return TC_ACT_SHOT,
            Outcome::Reply | Outcome::Refuse => helpers::generated::bpf_redirect(ingress, 0),
            Outcome::Host => helpers::generated::bpf_redirect(verdict.detail(), 0),
            Outcome::Deliver => helpers::generated::bpf_redirect_peer(verdict.detail(), 0),
            Outcome::Transmit => {
                helpers::generated::bpf_redirect_neigh(verdict.detail(), core::ptr::null_mut(), 0, 0)
            }
        }
    };
    result as i32
}

/// Copies a packet's first bytes by the hook's own helper; says how many.
#[inline(always)]
fn load(bytes: &mut [u8; TRACE_BYTES], captured: usize, copy: impl Fn(*mut u8, u32) -> i64) -> u8 {
    let Some(size) = access::size::<{ TRACE_BYTES as u32 }>(captured as u32) else { return 0 };
    if copy(bytes.as_mut_ptr(), size) == 0 { captured as u8 } else { 0 }
}

/// No program of ours can panic; the language asks for the handler all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel reads before it lends its GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
