//! A packet at the XDP hook.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, helpers};
use mesh_common::{
    Packet,
    abi::{Family, Pod},
    checksum::Sum,
    pipeline::overhead,
    wire::ETHERNET,
};

use crate::access::{self, Bytes};

/// A packet at the XDP hook.
#[derive(Clone, Copy)]
pub struct Frame {
    context: *mut xdp_md,
}

impl Frame {
    /// Takes the packet of a hook.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn bytes(&self) -> Bytes {
        Bytes::of::<_, { offset_of!(xdp_md, data) }, { offset_of!(xdp_md, data_end) }>(self.context)
    }

    #[inline(always)]
    fn adjust_head(&self, bytes: i32) -> Option<()> {
        // SAFETY: the pointer is the hook's context.
        let result = unsafe { helpers::generated::bpf_xdp_adjust_head(self.context, bytes) };
        (result == 0).then_some(())
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.bytes().len()
    }

    #[inline(always)]
    fn is_aggregate(&self) -> bool {
        false
    }

    #[inline(always)]
    fn forget(&self, byte: u8) -> u8 {
        access::forget::<_, { offset_of!(xdp_md, ingress_ifindex) }>(self.context, byte)
    }

    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        self.bytes().read(offset)
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        self.bytes().write(offset, value)
    }

    #[inline(always)]
    fn sum_of(&self, offset: usize, length: usize) -> Option<Sum> {
        access::sum(length, |to, length| {
            // SAFETY: the pointers are the hook's context and the map's, whose entry has room for as many bytes.
            unsafe { helpers::generated::bpf_xdp_load_bytes(self.context, offset as u32, to, length) }
        })
    }

    #[inline(always)]
    fn open(&mut self, outer: Family) -> Option<()> {
        self.adjust_head(-(overhead(outer) as i32))
    }

    #[inline(always)]
    fn close(&mut self, bytes: usize, _inner: Family) -> Option<()> {
        self.adjust_head(bytes as i32)
    }

    #[inline(always)]
    fn quote(&mut self, room: usize, kept: usize) -> Option<()> {
        // Not at the tail: some drivers leave no room there.
        self.adjust_head(-(room as i32))?;
        self.resize(ETHERNET + room + kept)
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        let change = length as i32 - self.length() as i32;
        // SAFETY: the pointer is the hook's context.
        let result = unsafe { helpers::generated::bpf_xdp_adjust_tail(self.context, change) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, pseudo: Option<Sum>, body: Sum, udp: bool) -> Option<()> {
        let old: [u8; 2] = self.read(offset)?;
        if udp && old == [0, 0] {
            return Some(());
        }
        let change = match pseudo {
            Some(pseudo) => pseudo.plus(body),
            None => body,
        };
        let new = change.update(old);
        // A UDP checksum that comes out as zero is sent as its other zero (RFC 768).
        self.write(offset, &if udp && new == [0, 0] { [0xff, 0xff] } else { new })
    }

    #[inline(always)]
    fn changed(&mut self, _by: Sum) {}
}
