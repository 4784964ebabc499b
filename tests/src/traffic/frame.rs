//! The frame that a source sends: a UDP datagram of 18 bytes, the least that fills an Ethernet frame by IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use etherparse::{IpNumber, PacketBuilder};

/// What ends each frame of a source's, by which a sink knows it again.
pub(super) const MARK: u64 = u64::from_le_bytes(*b"traffic\n");

/// The payload: what makes up for the flow's number in the checksums, zeros, and the mark.
const PAYLOAD: usize = 18;
/// The lowest source port; the flow's number takes the fifteen bits below.
pub(super) const LOWEST_PORT: u16 = 0x8000;

/// Where frames go to.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// The MAC address that sends.
    pub from: [u8; 6],
    /// The MAC address of the interface at the other end of the cable.
    pub to: [u8; 6],
    /// The destination.
    pub destination: SocketAddr,
}

/// How many flows the packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// So many, taking turns.
    Some(u32),
    /// Each packet begins one, up to 2^31 of them.
    New,
}

/// A frame of the first flow.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    is_v4: bool,
}

/// Where in a frame stands what differs from flow to flow. The network's checksums are sums in ones' complement, in which a
/// number and its complement add up to nothing (RFC 1071): so each part of a flow's number stands in a frame twice, once as it
/// is and once complemented, and no checksum changes.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// The lowest two bytes of the source address.
    pub(super) address: i16,
    /// Their complement in the IP header, if that has a checksum.
    pub(super) identification: Option<i16>,
    /// Their complement in the payload, for UDP's checksum.
    pub(super) address_complement: i16,
    /// The source port.
    pub(super) port: i16,
    /// Its complement in the payload.
    pub(super) port_complement: i16,
    /// Where the headers and these places end, at a multiple of eight.
    pub(super) end: usize,
}

impl Frame {
    /// A frame of the first flow. Sources are of the networks for benchmarks (RFC 2544, RFC 5180): 198.18.0.0/16 and
    /// 2001:2::/112.
    ///
    /// # Errors
    /// If the destination is of no family of its own.
    pub fn new(aim: &Aim) -> Result<Self> {
        let is_v4 = aim.destination.is_ipv4();
        let mut payload = [0; PAYLOAD];
        payload[..2].copy_from_slice(&(!LOWEST_PORT).to_be_bytes());
        payload[2..4].copy_from_slice(&[0xff; 2]);
        payload[PAYLOAD - 8..].copy_from_slice(&MARK.to_le_bytes());
        let ethernet = PacketBuilder::ethernet2(aim.from, aim.to);
        let packet = match aim.destination.ip() {
            IpAddr::V4(destination) => {
                let source = Ipv4Addr::new(198, 18, 0, 0).octets();
                let length = u16::try_from(8 + PAYLOAD)?;
                let mut header =
                    etherparse::Ipv4Header::new(length, 64, IpNumber::UDP, source, destination.octets())?;
                header.identification = u16::MAX;
                header.dont_fragment = false;
                ethernet.ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
            }
            IpAddr::V6(destination) => {
                let source: Ipv6Addr = "2001:2::".parse()?;
                ethernet.ipv6(source.octets(), destination.octets(), 64)
            }
        };
        let mut bytes = Vec::new();
        let packet = packet.udp(LOWEST_PORT, aim.destination.port());
        packet.write(&mut bytes, &payload).context("cannot make a frame")?;
        Ok(Self { bytes, is_v4 })
    }

    /// Its bytes, from the destination's MAC address on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn places(&self) -> Places {
        let (address, identification, udp) = if self.is_v4 { (28, Some(18), 34) } else { (36, None, 54) };
        let payload = udp + 8;
        Places {
            address,
            identification,
            address_complement: payload + 2,
            port: udp,
            port_complement: payload,
            end: (payload.unsigned_abs() as usize + 4).next_multiple_of(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    /// Writes a flow's number into a frame, as a source does.
    fn of_flow(frame: &Frame, port: u16, address: u16) -> Vec<u8> {
        let places = frame.places();
        let mut bytes = frame.bytes().to_vec();
        let pairs = [
            (Some(places.port), port),
            (Some(places.port_complement), !port),
            (Some(places.address), address),
            (Some(places.address_complement), !address),
            (places.identification, !address),
        ];
        for (place, value) in pairs {
            if let Some(place) = place {
                let place = usize::try_from(place).expect("a place in the frame");
                bytes[place..place + 2].copy_from_slice(&value.to_be_bytes());
            }
        }
        bytes
    }

    #[test]
    fn the_checksums_are_right_whatever_the_flow() -> Result<()> {
        for (destination, length) in [("198.51.100.1:5300", 60), ("[2001:db8:64::1]:5300", 80)] {
            let destination = destination.parse()?;
            let frame = Frame::new(&Aim { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2], destination })?;
            assert_eq!(frame.bytes().len(), length);
            assert_eq!(of_flow(&frame, LOWEST_PORT, 0), frame.bytes(), "a frame is of the first flow");
            assert!(frame.places().end <= length - 8, "the mark stays");
            for (port, address) in [(LOWEST_PORT, 0), (0xffff, 0), (0x9c40, 1), (0x8001, 0xffff)] {
                let bytes = of_flow(&frame, port, address);
                let packet = PacketHeaders::from_ethernet_slice(&bytes)?;
                let Some(TransportHeader::Udp(udp)) = &packet.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port, udp.destination_port), (port, destination.port()));
                let checksum = match &packet.net {
                    Some(NetHeaders::Ipv4(ip, _)) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        assert_eq!(ip.source, [198, 18, (address >> 8) as u8, address as u8]);
                        udp.calc_checksum_ipv4(ip, packet.payload.slice())?
                    }
                    Some(NetHeaders::Ipv6(ip, _)) => udp.calc_checksum_ipv6(ip, packet.payload.slice())?,
                    _ => panic!("no IP"),
                };
                assert_eq!(udp.checksum, checksum, "{destination} from port {port}, address {address}");
            }
        }
        Ok(())
    }
}
