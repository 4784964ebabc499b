//! The first bytes of a frame in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flows;
use crate::api::types::{Datagram, Place, Tunnel};

const ETHERNET: usize = 14;
const VLAN: usize = 4;
const UDP: usize = 8;
const VXLAN: usize = 8;

/// EtherTypes (IEEE 802 numbers).
mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const QINQ: u16 = 0x88a8;
    pub(super) const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
mod ip {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION: u8 = 60;
}

/// A frame in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The tunnel around it.
    pub(super) tunnel: Option<Tunnel>,
    /// What is in the tunnel, or the packet itself.
    pub(super) packet: Datagram,
}

/// Reads a frame as far as it goes; none where not even its EtherType is there. Tunnels are told by their port.
pub(super) fn read(frame: &[u8], vxlan_port: u16) -> Option<Frame> {
    let (outer, payload) = datagram(frame)?;
    let tunnel = (outer.protocol == "udp")
        .then(|| tunnel(&outer, payload, vxlan_port))
        .flatten()
        .and_then(|(tunnel, inner)| Some((tunnel, datagram(inner)?.0)));
    Some(match tunnel {
        Some((tunnel, inner)) => Frame { tunnel: Some(tunnel), packet: inner },
        None => Frame { tunnel: None, packet: outer },
    })
}

/// The tunnel that a UDP packet is, and what is in it.
fn tunnel<'a>(outer: &Datagram, udp: &'a [u8], vxlan_port: u16) -> Option<(Tunnel, &'a [u8])> {
    let (source, destination) = (outer.source?, outer.destination?);
    if destination.port != Some(vxlan_port) {
        return None;
    }
    let vni = array::<4>(udp, UDP + 4)?;
    let inner = udp.get(UDP + VXLAN..)?;
    let tunnel = Tunnel {
        vni: u32::from_be_bytes(vni) >> 8,
        source: source.address,
        destination: destination.address,
    };
    Some((tunnel, inner))
}

/// An Ethernet frame's packet, and what follows its IP header.
fn datagram(frame: &[u8]) -> Option<(Datagram, &[u8])> {
    let mut at = ETHERNET;
    let mut kind = u16::from_be_bytes(array(frame, at - 2)?);
    while matches!(kind, ether_type::VLAN | ether_type::QINQ) {
        at += VLAN;
        kind = u16::from_be_bytes(array(frame, at - 2)?);
    }
    let packet = frame.get(at..)?;
    let read = match kind {
        ether_type::IPV4 => ipv4(packet),
        ether_type::IPV6 => ipv6(packet),
        ether_type::ARP => arp(packet).map(|arp| (arp, &[][..])),
        _ => None,
    };
    Some(read.unwrap_or_else(|| {
        let protocol = match kind {
            ether_type::IPV4 => "ipv4".to_owned(),
            ether_type::IPV6 => "ipv6".to_owned(),
            ether_type::ARP => "arp".to_owned(),
            other => format!("{other:#06x}"),
        };
        (Datagram { protocol, source: None, destination: None, detail: None }, &[])
    }))
}

fn arp(packet: &[u8]) -> Option<Datagram> {
    let address = |at| Some(Place { address: Ipv4Addr::from(array::<4>(packet, at)?).into(), port: None });
    let detail = match u16::from_be_bytes(array(packet, 6)?) {
        1 => "request".to_owned(),
        2 => "reply".to_owned(),
        other => format!("operation {other}"),
    };
    Some(Datagram {
        protocol: "arp".to_owned(),
        source: Some(address(14)?),
        destination: Some(address(24)?),
        detail: Some(detail),
    })
}

fn ipv4(packet: &[u8]) -> Option<(Datagram, &[u8])> {
    let [first] = array(packet, 0)?;
    let header = usize::from(first & 0xf) * 4;
    let fragment = u16::from_be_bytes(array(packet, 6)?);
    let [protocol] = array(packet, 9)?;
    let source = Ipv4Addr::from(array::<4>(packet, 12)?).into();
    let destination = Ipv4Addr::from(array::<4>(packet, 16)?).into();
    let payload = packet.get(header..).unwrap_or_default();
    // The offset alone: a first fragment has the ports.
    let is_later = fragment & 0x1fff != 0;
    Some((transport(protocol, source, destination, payload, is_later), payload))
}

fn ipv6(packet: &[u8]) -> Option<(Datagram, &[u8])> {
    let [mut next] = array(packet, 6)?;
    let source = Ipv6Addr::from(array::<16>(packet, 8)?).into();
    let destination = Ipv6Addr::from(array::<16>(packet, 24)?).into();
    let mut payload = packet.get(40..)?;
    let mut is_later = false;
    while let ip::HOP_BY_HOP | ip::ROUTING | ip::DESTINATION | ip::FRAGMENT = next {
        let Some([following, length]) = array(payload, 0) else { break };
        let length = if next == ip::FRAGMENT {
            is_later = array(payload, 2).is_some_and(|offset| u16::from_be_bytes(offset) & 0xfff8 != 0);
            8
        } else {
            (usize::from(length) + 1) * 8
        };
        next = following;
        payload = payload.get(length..).unwrap_or_default();
        if is_later {
            break;
        }
    }
    Some((transport(next, source, destination, payload, is_later), payload))
}

fn transport(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8], is_later: bool) -> Datagram {
    let has_ports = matches!(protocol, ip::TCP | ip::UDP) && !is_later;
    let port = |at| if has_ports { array(payload, at).map(u16::from_be_bytes) } else { None };
    let detail = match protocol {
        _ if is_later => Some("fragment".to_owned()),
        ip::TCP => array(payload, 13).map(|[flags]| tcp_flags(flags)),
        ip::ICMP => array(payload, 0).map(|[kind, code]| icmp(kind, code)),
        ip::ICMPV6 => array(payload, 0).map(|[kind, code]| icmpv6(kind, code)),
        _ => None,
    };
    Datagram {
        protocol: flows::protocol(protocol),
        source: Some(Place { address: source, port: port(0) }),
        destination: Some(Place { address: destination, port: port(2) }),
        detail,
    }
}

/// The flags by their names (RFC 9293, section 3.1), as `SYN ACK`.
fn tcp_flags(flags: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = NAMES.into_iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    set.map(|(_, name)| name).collect::<Vec<_>>().join(" ")
}

/// IANA's names of the ICMP messages that a mesh sees.
fn icmp(kind: u8, code: u8) -> String {
    match (kind, code) {
        (0, _) => "echo reply".to_owned(),
        (3, 4) => "fragmentation needed".to_owned(),
        (3, _) => format!("unreachable, code {code}"),
        (8, _) => "echo request".to_owned(),
        (11, _) => "time exceeded".to_owned(),
        _ => format!("type {kind}, code {code}"),
    }
}

/// The same of ICMPv6.
fn icmpv6(kind: u8, code: u8) -> String {
    match kind {
        1 => format!("unreachable, code {code}"),
        2 => "packet too big".to_owned(),
        3 => "time exceeded".to_owned(),
        128 => "echo request".to_owned(),
        129 => "echo reply".to_owned(),
        130 => "listener query".to_owned(),
        131 | 143 => "listener report".to_owned(),
        133 => "router solicitation".to_owned(),
        135 => "neighbour solicitation".to_owned(),
        136 => "neighbour advertisement".to_owned(),
        _ => format!("type {kind}, code {code}"),
    }
}

/// So many bytes from a place.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: u16 = 4789;

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &kind.to_be_bytes(), payload].concat()
    }

    fn v4(protocol: u8, fragment: u16, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend("fd00:9::b".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd00:9::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0x9c, 0x40, 0x23, 0xf0];
        header.extend([0; 9]);
        header.push(flags);
        header.extend([0; 6]);
        header
    }

    fn text(frame: &[u8]) -> String {
        let Some(Frame { tunnel, packet }) = read(frame, PORT) else { return "unreadable".to_owned() };
        let place = |place: Option<Place>| place.map_or_else(|| "?".to_owned(), |place| place.to_string());
        let tunnel =
            tunnel.map_or_else(String::new, |t| format!("{} {}>{} ", t.vni, t.source, t.destination));
        let detail = packet.detail.map_or_else(String::new, |detail| format!(" {detail}"));
        format!("{tunnel}{} {}>{}{detail}", packet.protocol, place(packet.source), place(packet.destination))
    }

    #[test]
    fn packets_of_each_sort() {
        let [a, b] = [[10, 0, 9, 11], [10, 0, 9, 2]];
        let ip4 = |packet: &[u8]| text(&ethernet(0x0800, packet));
        let ip6 = |packet: &[u8]| text(&ethernet(0x86dd, packet));
        assert_eq!(ip4(&v4(6, 0, a, b, &tcp(0x12))), "tcp 10.0.9.11:40000>10.0.9.2:9200 SYN ACK");
        assert_eq!(ip4(&v4(1, 0, a, b, &[8, 0])), "icmp 10.0.9.11>10.0.9.2 echo request");
        assert_eq!(ip4(&v4(1, 0, a, b, &[3, 4])), "icmp 10.0.9.11>10.0.9.2 fragmentation needed");
        assert_eq!(ip4(&v4(47, 0, a, b, &[])), "47 10.0.9.11>10.0.9.2");
        assert_eq!(ip4(&v4(17, 0x2000, a, b, &[0, 53, 0, 54])), "udp 10.0.9.11:53>10.0.9.2:54");
        assert_eq!(ip4(&v4(17, 0x2001, a, b, &[0, 53, 0, 54])), "udp 10.0.9.11>10.0.9.2 fragment");
        assert_eq!(ip6(&v6(6, &tcp(2))), "tcp [fd00:9::b]:40000>[fd00:9::2]:9200 SYN");
        assert_eq!(ip6(&v6(58, &[135, 0])), "icmpv6 fd00:9::b>fd00:9::2 neighbour solicitation");
        let options = [&[6, 0, 0, 0, 0, 0, 0, 0][..], &tcp(1)].concat();
        assert_eq!(ip6(&v6(0, &options)), "tcp [fd00:9::b]:40000>[fd00:9::2]:9200 FIN");
        let later = [&[6, 0, 0, 0x08, 0, 0, 0, 1][..], &tcp(1)].concat();
        assert_eq!(ip6(&v6(44, &later)), "tcp fd00:9::b>fd00:9::2 fragment");
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend([0; 6]);
        arp.extend(a);
        arp.extend([0; 6]);
        arp.extend(b);
        assert_eq!(text(&ethernet(0x0806, &arp)), "arp 10.0.9.11>10.0.9.2 request");
        let tagged = [&[0, 7][..], &0x0806_u16.to_be_bytes(), &arp].concat();
        assert_eq!(text(&ethernet(0x8100, &tagged)), "arp 10.0.9.11>10.0.9.2 request");
        assert_eq!(text(&ethernet(0x88cc, &[])), "0x88cc ?>?");
        assert_eq!(text(&ethernet(0x0800, &[0x45])), "ipv4 ?>?");
        assert_eq!(text(&[0; 13]), "unreadable");
    }

    #[test]
    fn tunnels_are_looked_into() {
        let [n1, n2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
        let inner = ethernet(0x86dd, &v6(6, &tcp(2)));
        let outer = |port: u16| {
            let mut udp = vec![0xc0, 0];
            udp.extend(port.to_be_bytes());
            udp.extend([0; 4]);
            udp.extend([8, 0, 0, 0, 0, 0x10, 1, 0]);
            udp.extend(&inner);
            ethernet(0x0800, &v4(17, 0, n1, n2, &udp))
        };
        let tunnelled = outer(PORT);
        assert_eq!(text(&tunnelled), "4097 192.0.2.1>192.0.2.2 tcp [fd00:9::b]:40000>[fd00:9::2]:9200 SYN");
        // Another port is no tunnel, and a tunnel that is cut within is told as what is left of it.
        assert_eq!(text(&outer(4790)), "udp 192.0.2.1:49152>192.0.2.2:4790");
        assert_eq!(text(&tunnelled[..tunnelled.len() - 55]), "4097 192.0.2.1>192.0.2.2 ipv6 ?>?");
        assert_eq!(text(&tunnelled[..14 + 20 + 8 + 8 + 5]), "udp 192.0.2.1:49152>192.0.2.2:4789");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut frame in prop::collection::vec(any::<u8>(), 0..128),
            kind in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x0806, 0x8100])
        ) {
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            let told = read(&frame, PORT);
            // A tag needs room of its own.
            if kind != 0x8100 {
                prop_assert_eq!(told.is_some(), frame.len() >= 14);
            }
        }
    }
}
