//! Frames as clients and tasks send them, and what is read of those that arrive: by another implementation than the pipeline's.

use mesh_common::{
    abi::{Address, Family},
    wire::protocol,
};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const TCP: usize = 20;

/// A TCP segment or a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) protocol: u8,
    /// TCP's flags.
    pub(crate) flags: u8,
    /// Eight bytes of payload, by which a packet is known again.
    pub(crate) token: u64,
}

impl Message {
    /// The answer of whoever got this.
    pub(crate) const fn reply(&self, flags: u8) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            from: self.to,
            to: self.from,
            flags,
            ..*self
        }
    }

    /// The frame between two MAC addresses.
    pub(crate) fn frame(&self, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
        let mut transport = Vec::with_capacity(TCP + 8);
        transport.extend(self.from.to_be_bytes());
        transport.extend(self.to.to_be_bytes());
        let checksum_at = if self.protocol == protocol::TCP {
            transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            transport.extend(((UDP + 8) as u16).to_be_bytes());
            transport.extend([0, 0]);
            6
        };
        transport.extend(self.token.to_be_bytes());
        let sum = match checksum(self.pseudo(transport.len()), &transport) {
            0 if self.protocol == protocol::UDP => 0xffff,
            sum => sum,
        };
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        ip_frame(source, destination, self.source, self.destination, self.protocol, &transport)
    }

    /// What the sum begins with.
    fn pseudo(&self, length: usize) -> u32 {
        let addresses = [self.source, self.destination].map(|address| sum(0, &packed(address)));
        addresses[0] + addresses[1] + u32::from(self.protocol) + length as u32
    }

    /// Reads a frame, whose checksums must be right.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        let (source, destination, protocol, transport) = match ip.first()? >> 4 {
            4 => {
                if checksum(0, ip.get(..20)?) != 0 {
                    return None;
                }
                let length = usize::from(u16::from_be_bytes(array(ip.get(2..4)?)));
                (
                    Address::from_v4(array(ip.get(12..16)?)),
                    Address::from_v4(array(ip.get(16..20)?)),
                    ip[9],
                    ip.get(20..length)?,
                )
            }
            _ => {
                let length = usize::from(u16::from_be_bytes(array(ip.get(4..6)?)));
                (
                    Address::from_v6(array(ip.get(8..24)?)),
                    Address::from_v6(array(ip.get(24..40)?)),
                    ip[6],
                    ip.get(40..40 + length)?,
                )
            }
        };
        let header = if protocol == protocol::TCP { TCP } else { UDP };
        let token = transport.get(header..header + 8).map_or(0, |token| u64::from_be_bytes(array(token)));
        let message = Self {
            source,
            destination,
            from: u16::from_be_bytes(array(transport.get(..2)?)),
            to: u16::from_be_bytes(array(transport.get(2..4)?)),
            protocol,
            flags: if protocol == protocol::TCP { *transport.get(13)? } else { 0 },
            token,
        };
        (checksum(message.pseudo(transport.len()), transport) == 0).then_some(message)
    }
}

/// A frame with a UDP datagram without a checksum, as tunnels have it.
pub(crate) fn datagram(source: Address, destination: Address, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut transport = Vec::with_capacity(UDP + payload.len());
    transport.extend(51234u16.to_be_bytes());
    transport.extend(port.to_be_bytes());
    transport.extend(((UDP + payload.len()) as u16).to_be_bytes());
    transport.extend([0, 0]);
    transport.extend(payload);
    ip_frame([2; 6], [4; 6], source, destination, protocol::UDP, &transport)
}

/// The destination of a tunnel's frame, and the errand that its VXLAN header tells of; none if it is no tunnel's.
pub(crate) fn tunnel(frame: &[u8], port: u16) -> Option<(Address, u8)> {
    let ip = frame.get(ETHERNET..)?;
    let (destination, protocol, header) = match ip.first()? >> 4 {
        4 => (Address::from_v4(array(ip.get(16..20)?)), ip[9], 20),
        _ => (Address::from_v6(array(ip.get(24..40)?)), ip[6], 40),
    };
    let is_tunnel =
        protocol == protocol::UDP && u16::from_be_bytes(array(ip.get(header + 2..header + 4)?)) == port;
    Some((destination, *ip.get(header + UDP + 7)?)).filter(|_| is_tunnel)
}

fn ip_frame(
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    source: Address,
    destination: Address,
    protocol: u8,
    transport: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(160);
    frame.extend(destination_mac);
    frame.extend(source_mac);
    match source.family() {
        Family::V4 => {
            frame.extend([8, 0]);
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&((20 + transport.len()) as u16).to_be_bytes());
            header[8..10].copy_from_slice(&[64, protocol]);
            header[12..16].copy_from_slice(&source.v4_octets());
            header[16..].copy_from_slice(&destination.v4_octets());
            let sum = checksum(0, &header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
    }
    frame.extend(transport);
    frame
}

/// An address's bytes as they are on the wire, those of IPv4 behind zeroes.
fn packed(address: Address) -> [u8; 16] {
    match address.family() {
        Family::V4 => {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&address.v4_octets());
            bytes
        }
        Family::V6 => address.octets(),
    }
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, word| {
        let low = word.get(1).copied().unwrap_or(0);
        sum + u32::from(u16::from_be_bytes([word[0], low]))
    })
}

/// The Internet checksum (RFC 1071) of bytes behind what was summed up before.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum(start, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|index| bytes[index])
}
