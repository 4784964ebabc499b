//! The packet pipeline of the mesh, bound to kernel hooks and maps.

#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes every packet on.
#[xdp]
pub fn underlay_xdp(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
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
