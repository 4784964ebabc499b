//! The headers of a packet that the mesh makes of another, for its sender.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    Packet,
    abi::{Address, Family},
    checksum::Sum,
    wire::{ETHERNET, HOP_LIMIT, ip_header, ipv4_checksum, protocol},
};

/// Who tells whom.
pub(super) struct Answer {
    /// The Ethernet header of the packet that is answered.
    pub(super) ethernet: EthHdr,
    pub(super) family: Family,
    /// The source of the answer.
    pub(super) speaker: Address,
    /// Its destination.
    pub(super) client: Address,
}

impl Answer {
    /// Where the transport header begins.
    #[inline(always)]
    pub(super) fn l4(&self) -> usize {
        ETHERNET + ip_header(self.family)
    }

    /// Writes the Ethernet and IP headers before so many bytes of a protocol.
    #[inline(never)]
    pub(super) fn write_headers<P: Packet>(&self, packet: &mut P, protocol: u8, length: u16) -> Option<()> {
        let EthHdr { dst_addr, src_addr, ether_type } = self.ethernet;
        packet.write(0, &EthHdr { dst_addr: src_addr, src_addr: dst_addr, ether_type })?;
        match self.family {
            Family::V4 => {
                let mut header = Ipv4Hdr {
                    vihl: 0x45,
                    tos: 0,
                    tot_len: (length + ip_header(Family::V4) as u16).to_be_bytes(),
                    id: [0, 0],
                    // Don't fragment: without that it would need an identification of its own (RFC 6864).
                    frags: [0x40, 0],
                    ttl: HOP_LIMIT,
                    proto: protocol,
                    check: [0, 0],
                    src_addr: self.speaker.v4_octets(),
                    dst_addr: self.client.v4_octets(),
                };
                header.check = ipv4_checksum(&header);
                packet.write(ETHERNET, &header)
            }
            Family::V6 => packet.write(
                ETHERNET,
                &Ipv6Hdr {
                    vcf: [0x60, 0, 0, 0],
                    payload_len: length.to_be_bytes(),
                    next_hdr: protocol,
                    hop_limit: HOP_LIMIT,
                    src_addr: self.speaker.octets(),
                    dst_addr: self.client.octets(),
                },
            ),
        }
    }

    /// What the transport checksum covers besides so many bytes of a protocol (RFC 9293, section 3.1; RFC 8200, section 8.1).
    /// That of ICMP for IPv4 covers nothing else.
    #[inline(always)]
    pub(super) fn pseudo_header(&self, protocol: u8, length: u16) -> Sum {
        if protocol == protocol::ICMP {
            return Sum::ZERO;
        }
        Sum::ZERO
            .plus_address(self.speaker)
            .plus_address(self.client)
            .plus16(length.to_be_bytes())
            .plus16([0, protocol])
    }
}

/// Where the IP packet says that it ends. It was found to be no lie.
#[inline(always)]
pub(super) fn end<P: Packet>(packet: &P, family: Family) -> Option<usize> {
    let (field, before) = match family {
        Family::V4 => (2, 0),
        Family::V6 => (4, ip_header(Family::V6)),
    };
    let length: [u8; 2] = packet.read(ETHERNET + field)?;
    Some(ETHERNET + before + usize::from(u16::from_be_bytes(length)))
}
