//! Packets as a test speaks of them, made and read by an implementation that is not the pipeline's.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TcpHeader, TransportSlice,
};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// Congestion marks.
pub(crate) const NOT_ECT: u8 = 0;
pub(crate) const ECT_1: u8 = 1;
pub(crate) const ECT_0: u8 = 2;
pub(crate) const CE: u8 = 3;

const ETHERNET: usize = 14;

pub(crate) type Mac = [u8; 6];

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) body: Body,
    pub(crate) hops: u8,
    /// Type of service, or traffic class.
    pub(crate) class: u8,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        from: u16,
        to: u16,
        flags: u8,
    },
    Udp {
        from: u16,
        to: u16,
    },
    /// An echo request's identifier.
    Ask(u16),
    /// An echo reply's.
    Answer(u16),
    /// Another ICMP message, with the four bytes behind its checksum.
    Icmp {
        kind: u8,
        code: u8,
        word: u32,
    },
    /// Another protocol.
    Other(u8),
}

impl Message {
    fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self { source, destination, body, hops: 64, class: 0, payload: b"payload of an odd length".to_vec() }
    }

    pub(crate) fn tcp(source: IpAddr, from: u16, destination: IpAddr, to: u16, flags: u8) -> Self {
        Self::new(source, destination, Body::Tcp { from, to, flags })
    }

    pub(crate) fn udp(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> Self {
        Self::new(source, destination, Body::Udp { from, to })
    }

    pub(crate) fn ask(source: IpAddr, destination: IpAddr, id: u16) -> Self {
        Self::new(source, destination, Body::Ask(id))
    }

    /// The answer that whoever gets this message gives.
    pub(crate) fn reply(&self) -> Self {
        let body = match self.body {
            Body::Tcp { from, to, flags } => {
                Body::Tcp { from: to, to: from, flags: if flags == SYN { SYN | ACK } else { ACK } }
            }
            Body::Udp { from, to } => Body::Udp { from: to, to: from },
            Body::Ask(id) => Body::Answer(id),
            other => other,
        };
        Self { source: self.destination, destination: self.source, body, hops: 64, ..self.clone() }
    }

    pub(crate) fn to(self, destination: IpAddr) -> Self {
        Self { destination, ..self }
    }

    pub(crate) fn by(self, source: IpAddr) -> Self {
        Self { source, ..self }
    }

    pub(crate) fn with_hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    pub(crate) fn with_class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    pub(crate) fn with_payload(self, length: usize) -> Self {
        Self { payload: (0..length).map(|index| index as u8).collect(), ..self }
    }

    /// With other TCP flags; other protocols have none.
    pub(crate) fn with_flags(self, flags: u8) -> Self {
        let body = match self.body {
            Body::Tcp { from, to, .. } => Body::Tcp { from, to, flags },
            other => other,
        };
        Self { body, ..self }
    }

    /// With another destination port.
    pub(crate) fn for_port(self, to: u16) -> Self {
        let body = match self.body {
            Body::Tcp { from, flags, .. } => Body::Tcp { from, to, flags },
            Body::Udp { from, .. } => Body::Udp { from, to },
            other => other,
        };
        Self { body, ..self }
    }

    /// With another source port, or another identifier.
    pub(crate) fn by_port(self, from: u16) -> Self {
        let body = match self.body {
            Body::Tcp { to, flags, .. } => Body::Tcp { from, to, flags },
            Body::Udp { to, .. } => Body::Udp { from, to },
            Body::Ask(_) => Body::Ask(from),
            Body::Answer(_) => Body::Answer(from),
            other => other,
        };
        Self { body, ..self }
    }

    /// The source port, or the identifier of an echo.
    pub(crate) fn source_port(&self) -> u16 {
        match self.body {
            Body::Tcp { from, .. } | Body::Udp { from, .. } => from,
            Body::Ask(id) | Body::Answer(id) => id,
            Body::Icmp { .. } | Body::Other(_) => panic!("{self:?} has no ports"),
        }
    }

    /// A frame with this packet, its checksums right.
    pub(crate) fn frame(&self, source: Mac, destination: Mac) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header =
                    Ipv4Header::new(0, self.hops, IpNumber(0), source.octets(), destination.octets());
                let mut header = header.expect("it is empty");
                header.dont_fragment = true;
                header.identification = 0x1234;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(0xabcde).expect("it has 20 bits"),
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            _ => panic!("{self:?} is of two families"),
        };
        let v4 = self.source.is_ipv4();
        let packet = ethernet.ip(ip);
        let mut bytes = vec![];
        match self.body {
            Body::Tcp { from, to, flags } => {
                let mut header = TcpHeader::new(from, to, 1000, 0xfff0);
                header.fin = flags & FIN != 0;
                header.syn = flags & SYN != 0;
                header.rst = flags & RST != 0;
                header.ack = flags & ACK != 0;
                packet.tcp_header(header).write(&mut bytes, &self.payload)
            }
            Body::Udp { from, to } => packet.udp(from, to).write(&mut bytes, &self.payload),
            Body::Ask(id) if v4 => packet.icmpv4_echo_request(id, 7).write(&mut bytes, &self.payload),
            Body::Ask(id) => packet.icmpv6_echo_request(id, 7).write(&mut bytes, &self.payload),
            Body::Answer(id) if v4 => packet.icmpv4_echo_reply(id, 7).write(&mut bytes, &self.payload),
            Body::Answer(id) => packet.icmpv6_echo_reply(id, 7).write(&mut bytes, &self.payload),
            Body::Icmp { kind, code, word } if v4 => {
                packet.icmpv4_raw(kind, code, word.to_be_bytes()).write(&mut bytes, &self.payload)
            }
            Body::Icmp { kind, code, word } => {
                packet.icmpv6_raw(kind, code, word.to_be_bytes()).write(&mut bytes, &self.payload)
            }
            Body::Other(protocol) => packet.write(&mut bytes, IpNumber(protocol), &self.payload),
        }
        .expect("a vector takes everything");
        if v4 {
            bytes[ETHERNET + 1] = self.class;
            finish_v4(&mut bytes);
        }
        bytes
    }

    /// The packet in a frame. Every length and every checksum in it is right, or this panics.
    pub(crate) fn read(frame: &[u8]) -> Self {
        let sliced =
            SlicedPacket::from_ethernet(frame).unwrap_or_else(|error| panic!("{error}: {frame:02x?}"));
        let (source, destination, hops, class, payload, length) = match sliced.net.as_ref() {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                let right = header.calc_header_checksum();
                assert_eq!(header.header_checksum, right, "IPv4's header checksum of {frame:02x?}");
                let (source, destination) = (IpAddr::from(header.source), IpAddr::from(header.destination));
                let length = usize::from(header.total_len);
                (source, destination, header.time_to_live, frame[ETHERNET + 1], ip.payload(), length)
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                let (source, destination) = (IpAddr::from(header.source), IpAddr::from(header.destination));
                let length = usize::from(header.payload_length) + 40;
                (source, destination, header.hop_limit, header.traffic_class, ip.payload(), length)
            }
            _ => panic!("no IP packet: {frame:02x?}"),
        };
        assert_eq!(frame.len(), ETHERNET + length, "the length of {frame:02x?}");
        let (body, payload) = match sliced.transport.as_ref() {
            Some(transport) => read_transport(transport, source, destination),
            None => (Body::Other(payload.ip_number.0), payload.payload.to_vec()),
        };
        Self { source, destination, body, hops, class, payload }
    }
}

fn read_transport(transport: &TransportSlice<'_>, source: IpAddr, destination: IpAddr) -> (Body, Vec<u8>) {
    let (body, is_right, payload) = match transport {
        TransportSlice::Tcp(tcp) => {
            let right = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4(a.octets(), b.octets()),
                (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6(a.octets(), b.octets()),
                _ => panic!("two families"),
            };
            let flag = |is_set, flag| if is_set { flag } else { 0 };
            let flags =
                flag(tcp.fin(), FIN) | flag(tcp.syn(), SYN) | flag(tcp.rst(), RST) | flag(tcp.ack(), ACK);
            let body = Body::Tcp { from: tcp.source_port(), to: tcp.destination_port(), flags };
            (body, right == Ok(tcp.checksum()), tcp.payload())
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let right = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload())
                }
                _ => panic!("two families"),
            };
            let body = Body::Udp { from: udp.source_port(), to: udp.destination_port() };
            (body, udp.checksum() == 0 || right == Ok(udp.checksum()), udp.payload())
        }
        TransportSlice::Icmpv4(icmp) => {
            let right = icmp.icmp_type().calc_checksum(icmp.payload());
            let body = icmp_body(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), [8, 0]);
            (body, icmp.checksum() == right, icmp.payload())
        }
        TransportSlice::Icmpv6(icmp) => {
            let right = match (source, destination) {
                (IpAddr::V6(a), IpAddr::V6(b)) => icmp.is_checksum_valid(a.octets(), b.octets()),
                _ => panic!("ICMPv6 over IPv4"),
            };
            let body = icmp_body(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), [128, 129]);
            // Its payload begins where an echo's would.
            (body, right, &icmp.slice()[8..])
        }
        other => panic!("{other:?}"),
    };
    assert!(is_right, "a wrong checksum in {transport:?} from {source} to {destination}");
    (body, payload.to_vec())
}

fn icmp_body(kind: u8, code: u8, word: [u8; 4], [ask, answer]: [u8; 2]) -> Body {
    let id = u16::from_be_bytes([word[0], word[1]]);
    match kind {
        kind if kind == ask => Body::Ask(id),
        kind if kind == answer => Body::Answer(id),
        _ => Body::Icmp { kind, code, word: u32::from_be_bytes(word) },
    }
}

/// Writes the checksum of a frame's IPv4 header.
pub(crate) fn finish_v4(frame: &mut [u8]) {
    let (header, _) = Ipv4Header::from_slice(&frame[ETHERNET..]).expect("a test's own header");
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

/// The source and the destination of a frame.
pub(crate) fn macs(frame: &[u8]) -> (Mac, Mac) {
    let mac = |at: usize| Mac::try_from(&frame[at..at + 6]).expect("six bytes are six");
    (mac(6), mac(0))
}

/// A frame in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) class: u8,
    pub(crate) hops: u8,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    pub(crate) flags: u8,
    pub(crate) vni: u32,
    /// How often the packet inside was passed on.
    pub(crate) errand: u8,
    pub(crate) inner: Vec<u8>,
}

impl Tunnel {
    pub(crate) fn new(source: IpAddr, destination: IpAddr, vni: u32, inner: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            class: 0,
            hops: 64,
            source_port: 50_000,
            port: 4789,
            flags: 8,
            vni,
            errand: 0,
            inner,
        }
    }

    /// The frame on the wire.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let [_, a, b, c] = self.vni.to_be_bytes();
        let payload = [&[self.flags, 0, 0, 0, a, b, c, self.errand], &self.inner[..]].concat();
        let udp = Message {
            payload,
            hops: self.hops,
            class: self.class,
            ..Message::udp(self.source, self.source_port, self.destination, self.port)
        };
        let mut bytes = udp.frame([0x02, 0, 0, 0, 1, 1], [0x02, 0, 0, 0, 0, 1]);
        let checksum = ETHERNET + if self.source.is_ipv4() { 20 } else { 40 } + 6;
        bytes[checksum..checksum + 2].fill(0);
        bytes
    }

    /// The tunnel around a frame, of which everything that is no choice is as it must be.
    pub(crate) fn read(frame: &[u8]) -> Self {
        let udp = Message::read(frame);
        let is_v4 = udp.source.is_ipv4();
        let l4 = ETHERNET + if is_v4 { 20 } else { 40 };
        if is_v4 {
            assert_eq!(frame[ETHERNET], 0x45, "no options");
            assert_eq!(frame[ETHERNET + 6..ETHERNET + 8], [0x40, 0], "don't fragment, and no fragment");
        }
        assert_eq!(frame[l4 + 6..l4 + 8], [0, 0], "no UDP checksum");
        let Body::Udp { from: source_port, to: port } = udp.body else { panic!("no tunnel: {udp:?}") };
        let length = u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]);
        assert_eq!(usize::from(length), frame.len() - l4, "UDP's length");
        let [flags, r0, r1, r2, a, b, c, errand, ..] = udp.payload[..] else {
            panic!("no VXLAN header: {udp:?}")
        };
        assert_eq!([r0, r1, r2], [0; 3], "reserved bytes");
        Self {
            source: udp.source,
            destination: udp.destination,
            class: udp.class,
            hops: udp.hops,
            source_port,
            port,
            flags,
            vni: u32::from_be_bytes([0, a, b, c]),
            errand,
            inner: udp.payload[8..].to_vec(),
        }
    }

    /// The packet inside.
    pub(crate) fn message(&self) -> Message {
        Message::read(&self.inner)
    }
}
