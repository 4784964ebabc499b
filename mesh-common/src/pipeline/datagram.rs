//! Reading an IP packet's headers: who speaks to whom.

use network_types::ip::Ipv4Hdr;

use crate::{
    Packet, Reason,
    abi::{Address, Family, FlowKey, Handover, Space},
    wire::{ETHERNET, ether_type, icmp, ip_header, protocol},
};

/// How many IPv6 extension headers are looked through for the transport header.
const EXTENSIONS: usize = 4;

/// TCP flags, as they stand in the header's fourteenth byte.
pub(super) mod tcp {
    pub(in super::super) const FIN: u8 = 1;
    pub(in super::super) const SYN: u8 = 2;
    pub(in super::super) const RST: u8 = 4;
    pub(in super::super) const ACK: u8 = 16;
}

/// An IP packet's headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    /// Who speaks to whom; the scope is the asker's to fill in. An ICMP error about a flow goes by the flow's key, in the
    /// direction that the error goes: it finds its way, and is translated, as the flow's own packets are.
    pub(super) key: FlowKey,
    pub(super) family: Family,
    /// Where the transport header begins: sixteen bits, so that the verifier knows that it is not negative.
    l4: u16,
    /// Where the transport header begins that an ICMP error quotes, or 0 if this is none about a flow.
    quoted_l4: u16,
    /// The error comes from a router on the way: its own source is not the key's.
    pub(super) is_from_router: bool,
    /// Whether the key's ports are the packet's: TCP, UDP, or an ICMP echo. A fragment has none before they are
    /// [found](super::fragment).
    pub(super) has_ports: bool,
    /// A fragment of a longer packet.
    pub(super) is_fragment: bool,
    /// One that is not the first, and has no transport header.
    pub(super) is_later: bool,
    /// TCP's flags; otherwise 0.
    pub(super) tcp_flags: u8,
    /// ICMP's type; otherwise 0.
    pub(super) icmp_type: u8,
    /// Type of service or traffic class.
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
}

impl Datagram {
    /// Nothing read yet. `parse` fills it in where it stands: the stack of a program has no room for copies.
    pub(super) const UNREAD: Self = Self {
        key: FlowKey {
            source: Address::UNSPECIFIED,
            destination: Address::UNSPECIFIED,
            source_port: [0, 0],
            destination_port: [0, 0],
            scope: 0,
            protocol: 0,
            reserved: [0; 7],
        },
        family: Family::V4,
        l4: 0,
        quoted_l4: 0,
        is_from_router: false,
        has_ports: false,
        is_fragment: false,
        is_later: false,
        tcp_flags: 0,
        icmp_type: 0,
        traffic_class: 0,
        hop_limit: 0,
    };

    /// Reads the headers of the packet whose network header stands at `l3`.
    #[inline(always)]
    pub(super) fn parse<P: Packet>(&mut self, packet: &P, l3: usize, ether_type: u16) -> Result<(), Reason> {
        match ether_type {
            ether_type::IPV4 => self.parse_v4(packet, l3)?,
            ether_type::IPV6 => self.parse_v6(packet, l3)?,
            _ => return Err(Reason::UnknownProtocol),
        }
        self.forget(packet);
        Ok(())
    }

    /// Makes the verifier forget by which way through the headers the datagram was read: it would follow each to the end
    /// of the program apart.
    #[inline(always)]
    pub(super) fn forget<P: Packet>(&mut self, packet: &P) {
        let forget = |value: bool| packet.forget(u8::from(value)) & 1 != 0;
        self.family = if forget(self.family == Family::V6) { Family::V6 } else { Family::V4 };
        self.is_from_router = forget(self.is_from_router);
        self.has_ports = forget(self.has_ports);
        self.is_fragment = forget(self.is_fragment);
        self.is_later = forget(self.is_later);
        self.tcp_flags = packet.forget(self.tcp_flags);
        self.icmp_type = packet.forget(self.icmp_type);
        self.key.protocol = packet.forget(self.key.protocol);
        let [a, b] = self.quoted_l4.to_ne_bytes();
        self.quoted_l4 = u16::from_ne_bytes([packet.forget(a), packet.forget(b)]);
        self.key.source_port = self.key.source_port.map(|byte| packet.forget(byte));
        self.key.destination_port = self.key.destination_port.map(|byte| packet.forget(byte));
    }

    #[inline(never)]
    fn parse_v4<P: Packet>(&mut self, packet: &P, l3: usize) -> Result<(), Reason> {
        let header: Ipv4Hdr = packet.read(l3).ok_or(Reason::Malformed)?;
        let header_len = usize::from(header.vihl & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes(header.tot_len));
        if header.vihl >> 4 != 4
            || header_len < ip_header(Family::V4)
            || total < header_len
            || l3 + total > packet.length()
        {
            return Err(Reason::Malformed);
        }
        let fragment = u16::from_be_bytes(header.frags);
        self.key.source = Address::from_v4(header.src_addr);
        self.key.destination = Address::from_v4(header.dst_addr);
        self.key.protocol = header.proto;
        self.family = Family::V4;
        self.l4 = (l3 + header_len) as u16;
        self.is_fragment = fragment & 0x3fff != 0;
        self.is_later = fragment & 0x1fff != 0;
        self.traffic_class = header.tos;
        self.hop_limit = header.ttl;
        if !self.is_later { self.parse_transport(packet, l3 + total) } else { Ok(()) }
    }

    #[inline(never)]
    fn parse_v6<P: Packet>(&mut self, packet: &P, l3: usize) -> Result<(), Reason> {
        // Field by field: the whole header would lie on the stack.
        let [version, flow, ..]: [u8; 4] = packet.read(l3).ok_or(Reason::Malformed)?;
        let [length_a, length_b, mut next, hop_limit]: [u8; 4] =
            packet.read(l3 + 4).ok_or(Reason::Malformed)?;
        self.key.source = packet.read(l3 + 8).ok_or(Reason::Malformed)?;
        self.key.destination = packet.read(l3 + 24).ok_or(Reason::Malformed)?;
        // An IPv4 address mapped into IPv6 is never on a wire (RFC 4291, section 2.5.5.2), and would be taken for IPv4 here.
        if self.key.source.family() == Family::V4 || self.key.destination.family() == Family::V4 {
            return Err(Reason::Malformed);
        }
        let end = l3 + ip_header(Family::V6) + usize::from(u16::from_be_bytes([length_a, length_b]));
        if version >> 4 != 6 || end > packet.length() {
            return Err(Reason::Malformed);
        }
        self.family = Family::V6;
        self.traffic_class = version << 4 | flow >> 4;
        self.hop_limit = hop_limit;
        let mut l4 = l3 + ip_header(Family::V6);
        let mut is_first = true;
        for _ in 0..EXTENSIONS {
            let is_extension = matches!(
                next,
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::FRAGMENT
            );
            if !is_extension || !is_first {
                break;
            }
            let extension: [u8; 4] = packet.read(l4).ok_or(Reason::Malformed)?;
            if next == protocol::FRAGMENT {
                let fragment = u16::from_be_bytes([extension[2], extension[3]]);
                self.is_fragment |= fragment & 0xfff9 != 0;
                is_first = fragment & 0xfff8 == 0;
                l4 += 8;
            } else {
                l4 += 8 + usize::from(extension[1]) * 8;
            }
            next = extension[0];
        }
        if l4 > end {
            return Err(Reason::Malformed);
        }
        self.key.protocol = next;
        self.l4 = l4 as u16;
        self.is_later = !is_first;
        if is_first { self.parse_transport(packet, end) } else { Ok(()) }
    }

    /// Reads what of the transport header tells flows apart. `end` is where the IP packet says that it ends.
    #[inline(always)]
    fn parse_transport<P: Packet>(&mut self, packet: &P, end: usize) -> Result<(), Reason> {
        let l4 = self.l4();
        let minimum = match self.key.protocol {
            protocol::TCP => 20,
            protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
            _ => return Ok(()),
        };
        // A first fragment may be shorter than its transport header (RFC 8200, section 5, forbids it to IPv6).
        if l4 + minimum > end {
            return if self.is_fragment { Ok(()) } else { Err(Reason::Malformed) };
        }
        let words: [[u8; 2]; 4] = packet.read(l4).ok_or(Reason::Malformed)?;
        match self.key.protocol {
            protocol::TCP => {
                let flags: [u8; 2] = packet.read(l4 + 12).ok_or(Reason::Malformed)?;
                self.tcp_flags = flags[1];
                self.take_ports(words[0], words[1]);
            }
            protocol::UDP => self.take_ports(words[0], words[1]),
            _ => {
                self.icmp_type = words[0][0];
                match (self.key.protocol, self.icmp_type) {
                    (protocol::ICMP, icmp::ECHO_REQUEST) | (protocol::ICMPV6, icmp::V6_ECHO_REQUEST) => {
                        self.take_ports(words[2], [0, 0]);
                    }
                    (protocol::ICMP, icmp::ECHO_REPLY) | (protocol::ICMPV6, icmp::V6_ECHO_REPLY) => {
                        self.take_ports([0, 0], words[2]);
                    }
                    (protocol::ICMP, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM)
                    | (protocol::ICMPV6, icmp::V6_UNREACHABLE..=icmp::V6_PARAMETER_PROBLEM)
                        if !self.is_fragment =>
                    {
                        self.parse_quote(packet);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads the packet that an ICMP error quotes. The error goes by that packet's flow if it goes to who sent the packet, as
    /// each true one does; a quote that cannot be read, or is a fragment, leaves the datagram without ports.
    #[inline(never)]
    fn parse_quote<P: Packet>(&mut self, packet: &P) -> Option<()> {
        let l3 = self.l4() + 8;
        let (source, destination, protocol, l4): (Address, Address, u8, usize) = match self.family {
            Family::V4 => {
                let [version, _, ..]: [u8; 4] = packet.read(l3)?;
                let [fragment_a, fragment_b, _, protocol]: [u8; 4] = packet.read(l3 + 6)?;
                if version >> 4 != 4 || version & 0xf < 5 || (fragment_a & 0x1f | fragment_b) != 0 {
                    return None;
                }
                let source = Address::from_v4(packet.read(l3 + 12)?);
                let destination = Address::from_v4(packet.read(l3 + 16)?);
                (source, destination, protocol, l3 + usize::from(version & 0xf) * 4)
            }
            Family::V6 => {
                let [version, ..]: [u8; 4] = packet.read(l3)?;
                let [protocol, _]: [u8; 2] = packet.read(l3 + 6)?;
                if version >> 4 != 6 {
                    return None;
                }
                (packet.read(l3 + 8)?, packet.read(l3 + 24)?, protocol, l3 + ip_header(Family::V6))
            }
        };
        if source != self.key.destination || destination.family() != self.family {
            return None;
        }
        let words: [[u8; 2]; 4] = packet.read(l4)?;
        // The key of the answers to the quoted packet: its own, turned round.
        let (source_port, destination_port) = match (protocol, words[0][0]) {
            (protocol::TCP | protocol::UDP, _) => (words[1], words[0]),
            (protocol::ICMP, icmp::ECHO_REQUEST) | (protocol::ICMPV6, icmp::V6_ECHO_REQUEST) => {
                ([0, 0], words[2])
            }
            (protocol::ICMP, icmp::ECHO_REPLY) | (protocol::ICMPV6, icmp::V6_ECHO_REPLY) => {
                (words[2], [0, 0])
            }
            _ => return None,
        };
        self.is_from_router = self.key.source != destination;
        self.key.source = destination;
        self.key.source_port = source_port;
        self.key.destination_port = destination_port;
        self.key.protocol = protocol;
        self.quoted_l4 = l4 as u16;
        self.has_ports = true;
        Some(())
    }

    #[inline(always)]
    fn take_ports(&mut self, source: [u8; 2], destination: [u8; 2]) {
        self.has_ports = !self.is_fragment;
        if self.has_ports {
            self.key.source_port = source;
            self.key.destination_port = destination;
        }
    }

    /// Takes a packet for none in fragments, as it is known to be: the verifier need not look at what only those come to.
    #[inline(always)]
    pub(super) fn take_for_whole(&mut self) {
        self.is_fragment = false;
        self.is_later = false;
    }

    /// Takes a fragment for what the search for its ports has found.
    #[inline(always)]
    pub(super) fn take_for_fragment(&mut self, found: &Handover) {
        self.key.source_port = found.source_port;
        self.key.destination_port = found.destination_port;
        self.has_ports = found.has_ports != 0;
        // No fragment is of interest for anything else.
        self.is_fragment = true;
        self.quoted_l4 = 0;
        self.is_from_router = false;
        self.tcp_flags = 0;
        self.icmp_type = 0;
    }

    /// Where the network header begins, given that it did so behind an Ethernet header only.
    pub(super) const L3: usize = ETHERNET;

    /// Where the transport header begins.
    #[inline(always)]
    pub(super) fn l4(&self) -> usize {
        usize::from(self.l4)
    }

    /// Whether this is an ICMP error about a flow, whose key it then has.
    #[inline(always)]
    pub(super) fn is_error(&self) -> bool {
        self.quoted_l4 != 0
    }

    /// Where the transport header begins that an error quotes.
    #[inline(always)]
    pub(super) fn quoted_l4(&self) -> usize {
        usize::from(self.quoted_l4)
    }

    /// Takes note that so many bytes before the packet were taken away.
    #[inline(always)]
    pub(super) fn move_forward(&mut self, bytes: usize) {
        self.l4 = self.l4.wrapping_sub(bytes as u16);
        if self.is_error() {
            self.quoted_l4 = self.quoted_l4.wrapping_sub(bytes as u16);
        }
    }

    /// The key in a scope.
    #[inline(always)]
    pub(super) fn key_in(&mut self, space: Space, vni: u32) -> &FlowKey {
        self.key.scope = FlowKey::scope(space, vni);
        &self.key
    }

    /// Whether this opens a connection.
    #[inline(always)]
    pub(super) fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether this asks for an echo.
    #[inline(always)]
    pub(super) fn is_echo_request(&self) -> bool {
        self.has_ports
            && !self.is_error()
            && match self.key.protocol {
                protocol::ICMP => self.icmp_type == icmp::ECHO_REQUEST,
                protocol::ICMPV6 => self.icmp_type == icmp::V6_ECHO_REQUEST,
                _ => false,
            }
    }

    /// Whether a flow may begin with it.
    #[inline(always)]
    pub(super) fn may_open(&self) -> bool {
        self.has_ports && !self.is_error()
    }

    /// Whether a flow begins with it, as far as it tells: a datagram may always be a flow's first.
    #[inline(always)]
    pub(super) fn may_begin(&self) -> bool {
        self.may_open() && (self.key.protocol != protocol::TCP || self.is_syn())
    }

    /// Whether it is TCP or UDP, and may thus ask for a service's port.
    #[inline(always)]
    pub(super) fn is_transport(&self) -> bool {
        matches!(self.key.protocol, protocol::TCP | protocol::UDP)
    }
}
