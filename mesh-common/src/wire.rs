//! Numbers and layouts of the wire that network-types does not name.

use network_types::{
    arp::ArpHdr,
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::abi::Family;

crate::abi::pod::pod!(EthHdr, Ipv4Hdr, Ipv6Hdr, UdpHdr, ArpHdr);

/// Bytes of an Ethernet header: where the network header of every frame begins.
pub const ETHERNET: usize = 14;

/// Bytes of a TCP header without options.
pub const TCP_HEADER: u8 = 20;

/// EtherTypes, as `EthHdr` holds them: in network byte order.
pub mod ether_type {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800u16.to_be();
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806u16.to_be();
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86ddu16.to_be();

    /// The one of a family.
    #[inline(always)]
    pub const fn of(family: crate::abi::Family) -> u16 {
        match family {
            crate::abi::Family::V4 => IPV4,
            crate::abi::Family::V6 => IPV6,
        }
    }
}

/// IP protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200).
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// ICMP types.
pub mod icmp {
    /// ICMP echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMP destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code "port unreachable".
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Its code "fragmentation needed and DF set".
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// ICMP time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// ICMP parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// ICMP echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// ICMPv6 destination unreachable.
    pub const V6_UNREACHABLE: u8 = 1;
    /// Its code "port unreachable".
    pub const V6_PORT_UNREACHABLE: u8 = 4;
    /// ICMPv6 packet too big.
    pub const V6_TOO_BIG: u8 = 2;
    /// ICMPv6 parameter problem; the error between them is time exceeded.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// ICMPv6 echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// ICMPv6 neighbour solicitation (RFC 4861).
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    /// ICMPv6 neighbour advertisement (RFC 4861).
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// The hop limit of packets that the mesh makes.
pub const HOP_LIMIT: u8 = 64;

/// Bytes of an IP header without options or extensions.
#[inline(always)]
pub const fn ip_header(family: Family) -> usize {
    match family {
        Family::V4 => size_of::<Ipv4Hdr>(),
        Family::V6 => size_of::<Ipv6Hdr>(),
    }
}

/// The checksum of an IPv4 header without options, whose own checksum field is taken as zero.
#[inline(always)]
pub fn ipv4_checksum(header: &Ipv4Hdr) -> [u8; 2] {
    crate::checksum::Sum::ZERO
        .plus16([header.vihl, header.tos])
        .plus16(header.tot_len)
        .plus16(header.id)
        .plus16(header.frags)
        .plus16([header.ttl, header.proto])
        .plus32(header.src_addr)
        .plus32(header.dst_addr)
        .checksum()
}
