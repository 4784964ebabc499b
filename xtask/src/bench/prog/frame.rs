//! The frames that the suite sends: UDP datagrams of 18 bytes, which make the shortest Ethernet frame over IPv4.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use etherparse::PacketBuilder;

/// Bytes that each datagram carries.
const PAYLOAD: [u8; 18] = [0x2e; 18];
/// Bytes before the network header.
const ETHERNET: usize = 14;

/// A frame, and the interface that it comes in by.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Frame {
    pub(in crate::bench) bytes: Vec<u8>,
    pub(in crate::bench) interface: u32,
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Talk {
    /// Source, destination.
    pub(in crate::bench) macs: [[u8; 6]; 2],
    /// Source, destination.
    pub(in crate::bench) addresses: [IpAddr; 2],
    /// Source, destination.
    pub(in crate::bench) ports: [u16; 2],
}

impl Talk {
    /// A UDP datagram.
    pub(in crate::bench) fn datagram(&self) -> Result<Vec<u8>> {
        let ([from, to], [source, destination]) = (self.macs, self.ports);
        let ethernet = PacketBuilder::ethernet2(from, to);
        let network = match self.addresses {
            [IpAddr::V4(from), IpAddr::V4(to)] => ethernet.ipv4(from.octets(), to.octets(), 64),
            [IpAddr::V6(from), IpAddr::V6(to)] => ethernet.ipv6(from.octets(), to.octets(), 64),
            [from, to] => bail!("{from} and {to} are of two families"),
        };
        let builder = network.udp(source, destination);
        let mut bytes = Vec::with_capacity(builder.size(PAYLOAD.len()));
        builder.write(&mut bytes, &PAYLOAD)?;
        Ok(bytes)
    }
}

/// What whoever gets this UDP datagram answers with: sender and receiver trade places, on which no checksum depends.
pub(in crate::bench) fn answer(frame: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = frame.to_vec();
    let (addresses, length) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (ETHERNET + 12, 4),
        Some([0x86, 0xdd]) => (ETHERNET + 8, 16),
        other => bail!("a frame of the type {other:02x?} has no IP addresses"),
    };
    let ports = addresses + 2 * length;
    ensure!(bytes.len() >= ports + 4, "a frame of {} bytes has no ports", bytes.len());
    for (at, length) in [(0, 6), (addresses, length), (ports, 2)] {
        if let Some(pair) = bytes.get_mut(at..at + 2 * length) {
            pair.rotate_left(length);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_the_receiver_would_send() -> Result<()> {
        for addresses in [["192.0.2.1", "10.0.9.2"], ["2001:db8::1", "fd00:9::2"]] {
            let [from, to] = addresses.map(|text| text.parse().expect("an address"));
            let asked = Talk { macs: [[2; 6], [4; 6]], addresses: [from, to], ports: [1000, 80] };
            let answered = Talk { macs: [[4; 6], [2; 6]], addresses: [to, from], ports: [80, 1000] };
            assert_eq!(answer(&asked.datagram()?)?, answered.datagram()?);
        }
        Ok(())
    }

    #[test]
    fn over_ipv4_a_frame_is_the_shortest_there_is() -> Result<()> {
        let [from, to] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().expect("an address"));
        let talk = Talk { macs: [[2; 6]; 2], addresses: [from, to], ports: [1, 2] };
        assert_eq!(talk.datagram()?.len(), 60);
        Ok(())
    }
}
