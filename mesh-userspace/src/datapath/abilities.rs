//! What this kernel can do of what not every kernel can, found out by trying.

use std::{io, os::fd::AsFd as _};

use aya_obj::generated::bpf_func_id;

use super::sys;

/// What this kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Links of programs on the ingress of an interface (tcx, Linux 6.6). Without them there are filters.
    pub(super) tcx: bool,
    /// Telling `bpf_skb_adjust_room` of which family a packet is once a tunnel's headers are gone (Linux 6.3).
    pub(super) decap_flags: bool,
}

impl Abilities {
    /// Asks the kernel.
    pub(super) fn probe() -> io::Result<Self> {
        Ok(Self { tcx: has_tcx()?, decap_flags: has_decap_flags()? })
    }
}

/// Asks what is attached to an interface that is in every network namespace.
fn has_tcx() -> io::Result<bool> {
    const LOOPBACK: u32 = 1;
    match sys::query_tcx(LOOPBACK) {
        Ok(()) => Ok(true),
        // What a kernel says of a way to attach that it has never heard of.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has a program take room from a packet with such a flag.
fn has_decap_flags() -> io::Result<bool> {
    let program = sys::load_classifier(&[
        // The context is in the first register already.
        instruction(MOVE, 2, -ROOM),
        instruction(MOVE, 3, BEHIND_MAC),
        instruction(MOVE, 4, DECAP_L3_IPV4),
        instruction(CALL, 0, bpf_func_id::BPF_FUNC_skb_adjust_room as i32),
        instruction(EXIT, 0, 0),
    ])?;
    // An IPv4 packet that is long enough.
    let mut frame = [0; 14 + 20 + 100];
    for (to, byte) in frame.iter_mut().skip(12).zip([0x08, 0x00, 0x45]) {
        *to = byte;
    }
    Ok(sys::test_run(program.as_fd(), &frame)? == 0)
}

/// How many bytes the program takes.
const ROOM: i32 = 20;
/// `BPF_ADJ_ROOM_MAC` of linux/bpf.h: behind the Ethernet header.
const BEHIND_MAC: i32 = 1;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` of the same.
const DECAP_L3_IPV4: i32 = 1 << 7;

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE: u8 = 0xb7;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

/// An instruction of eBPF (RFC 9669, section 3): its operation, its destination register, and a number.
const fn instruction(operation: u8, register: u8, number: i32) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [operation, register, 0, 0, a, b, c, d]
}
