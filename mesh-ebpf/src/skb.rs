//! A packet at a tc hook.

use core::mem::offset_of;

use aya_ebpf::{
    Global,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers,
};
use mesh_common::{
    Packet,
    abi::{Family, Pod},
    checksum::Sum,
    pipeline::overhead,
    wire::{ETHERNET, ether_type, ip_header},
};

use crate::access::{self, Bytes};

/// The most that headers take: two Ethernet and two IPv6 headers, UDP, VXLAN, TCP, and some options. So much is made
/// readable before the pipeline looks.
const HEADERS: u32 = 192;

/// Whether the kernel takes flags that name the family of the packet in a tunnel whose headers go; it does from Linux 6.3
/// on. Set at load; the other way is dead code to the verifier.
#[unsafe(no_mangle)]
static DECAP_FLAGS: Global<u32> = Global::new(1);

/// A packet at a tc hook.
#[derive(Clone, Copy)]
pub struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// Takes the packet of a hook, with its headers made readable.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        let this = Self { skb };
        let bytes = this.bytes();
        let length = this.length() as u32;
        let headers = if length < HEADERS { length } else { HEADERS };
        if !bytes.reach(headers as usize) {
            // SAFETY: the pointer is the hook's context. Failing leaves the packet as it was, and the pipeline then
            // finds it too short.
            unsafe { helpers::generated::bpf_skb_pull_data(skb, headers) };
        }
        this
    }

    #[inline(always)]
    fn bytes(&self) -> Bytes {
        Bytes::of::<_, { offset_of!(__sk_buff, data) }, { offset_of!(__sk_buff, data_end) }>(self.skb)
    }

    #[inline(always)]
    fn adjust_room(&self, bytes: i32, flags: u64) -> Option<()> {
        // SAFETY: the pointer is the hook's context.
        let result =
            unsafe { helpers::generated::bpf_skb_adjust_room(self.skb, bytes, BPF_ADJ_ROOM_MAC, flags) };
        (result == 0).then_some(())
    }

    /// `close` for a kernel that keeps the packet of the outer headers' family: the packet becomes one of the other first, by
    /// the helper that translates between the families. That makes the network header as long as the other family's, and
    /// touches nothing behind it; the size of the packets in an aggregate stays, and so does the kind of their inside.
    #[inline(always)]
    fn close_without_flags(&self, bytes: usize, inner: Family) -> Option<()> {
        // SAFETY: the pointer is the hook's context.
        let outer = unsafe { (*self.skb).protocol } as u16;
        let (ether_type, other) = match inner {
            Family::V4 => (ether_type::IPV4, Family::V6),
            Family::V6 => (ether_type::IPV6, Family::V4),
        };
        let mut change = -(bytes as i32);
        if outer != ether_type {
            // SAFETY: the pointer is the hook's context.
            let result = unsafe { helpers::generated::bpf_skb_change_proto(self.skb, ether_type, 0) };
            if result != 0 {
                return None;
            }
            change += ip_header(other) as i32 - ip_header(inner) as i32;
        }
        self.adjust_room(change, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO))
    }

    /// A checksum as it is sent: one of UDP that comes out as zero is sent as its other zero (RFC 768).
    #[inline(always)]
    fn finished(checksum: [u8; 2], udp: bool) -> [u8; 2] {
        if udp && checksum == [0, 0] { [0xff, 0xff] } else { checksum }
    }

    #[inline(always)]
    fn replace_checksum(&self, offset: usize, change: Sum, flags: u64) -> Option<()> {
        // SAFETY: the pointer is the hook's context; a size of 0 in the flags says that `to` is the change itself.
        let result = unsafe {
            helpers::generated::bpf_l4_csum_replace(
                self.skb,
                offset as u32,
                0,
                u64::from(change.folded32()),
                flags,
            )
        };
        (result == 0).then_some(())
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the pointer is the hook's context.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn is_aggregate(&self) -> bool {
        // SAFETY: the pointer is the hook's context.
        unsafe { (*self.skb).gso_size != 0 }
    }

    #[inline(always)]
    fn forget(&self, byte: u8) -> u8 {
        access::forget::<_, { offset_of!(__sk_buff, len) }>(self.skb, byte)
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
            unsafe { helpers::generated::bpf_skb_load_bytes(self.skb.cast(), offset as u32, to, length) }
        })
    }

    #[inline(always)]
    fn open(&mut self, outer: Family) -> Option<()> {
        let l3 = match outer {
            Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        };
        // The size of the packets inside stays as the sender cut them: without FIXED_GSO a UDP aggregate is refused.
        let flags = u64::from(l3)
            | u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
            | u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
            | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)
            | (ETHERNET as u64) << 56;
        self.adjust_room(overhead(outer) as i32, flags)
    }

    #[inline(always)]
    fn close(&mut self, bytes: usize, inner: Family) -> Option<()> {
        if DECAP_FLAGS.load() == 0 {
            return self.close_without_flags(bytes, inner);
        }
        let l3 = match inner {
            Family::V4 => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        };
        self.adjust_room(-(bytes as i32), u64::from(l3) | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO))
    }

    #[inline(always)]
    fn quote(&mut self, room: usize, kept: usize) -> Option<()> {
        self.resize(ETHERNET + kept)?;
        self.adjust_room(room as i32, 0)
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        // SAFETY: the pointer is the hook's context.
        let result = unsafe { helpers::generated::bpf_skb_change_tail(self.skb, length as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, pseudo: Option<Sum>, body: Sum, udp: bool) -> Option<()> {
        let mangled = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        if let Some(pseudo) = pseudo
            && !pseudo.is_zero()
        {
            let flags = mangled | u64::from(BPF_F_PSEUDO_HDR);
            self.replace_checksum(offset, pseudo, flags)?;
        }
        if !body.is_zero() {
            self.replace_checksum(offset, body, mangled)?;
        }
        Some(())
    }

    #[inline(always)]
    fn update_checksum_at_once(
        &mut self,
        offset: usize,
        pseudo: Option<Sum>,
        body: Sum,
        udp: bool,
    ) -> Option<()> {
        let before: [u8; 2] = self.read(offset)?;
        if udp && before == [0, 0] {
            return Some(());
        }
        let mangled = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let Some(pseudo) = pseudo.filter(|pseudo| !pseudo.is_zero()) else {
            return if body.is_zero() { Some(()) } else { self.replace_checksum(offset, body, mangled) };
        };
        self.replace_checksum(offset, pseudo, mangled | u64::from(BPF_F_PSEUDO_HDR))?;
        if body.is_zero() {
            return Some(());
        }
        // A sum that a card is to finish (CHECKSUM_PARTIAL) covers the addresses alone as yet, and stands there as it is; any
        // other as its complement. By which of the two the kernel has changed it, it is known what it is, and the kernel
        // need not be called again.
        let after: [u8; 2] = self.read(offset)?;
        if after != Self::finished(pseudo.update(before), udp) {
            return Some(());
        }
        self.write(offset, &Self::finished(body.update(after), udp))
    }

    #[inline(always)]
    fn changed(&mut self, by: Sum) {
        // SAFETY: the pointer is the hook's context. It fails where the card summed nothing up, which is well.
        unsafe { helpers::generated::bpf_csum_update(self.skb, by.folded32()) };
    }
}
