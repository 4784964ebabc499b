//! How what is sealed lies on the wire. Numbers are in network byte order.
//!
//! ```text
//!  0  version, 1
//!  1  kind: 1 hello, 2 welcome, 3 datagram, 4 part of a stream's message
//!  2  id of the key (8)
//! 10  session of the sender (16)
//! 26  session of the receiver (16); zeros in a hello, whose sender does not know it
//! 42  counter (8): the nonce
//! 50  sealed:
//!       address that the sender is reached at: 4 or 6, address (16, an IPv4 address first and zeros after it), port (2)
//!       id of the key that the sender has in use (8)
//!       hello: zeros (8); welcome: the counter of the hello (8);
//!       datagram: the message; part: number of the message (8), where it lies in it (4), the message's length (4), the bytes
//!  -  tag (16)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::key::KeyId;

const VERSION: u8 = 1;

/// Bytes before what is sealed.
pub(super) const HEADER: usize = 50;
/// Bytes of the tag.
pub(super) const TAG: usize = 16;
/// Bytes at the beginning of everything sealed.
const PREFIX: usize = 19 + 8;
/// Bytes that sealing adds to a message.
pub const OVERHEAD: usize = HEADER + PREFIX + TAG;
/// Bytes of a hello, and of the welcome that answers it.
pub const GREETING: usize = OVERHEAD + 8;
/// Bytes that sealing adds to a part of a stream's message.
pub const PART_OVERHEAD: usize = OVERHEAD + 16;

/// A life of a node: drawn by chance at each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub [u8; 16]);

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Asks whom it reaches for its session.
    Hello,
    /// Answers it.
    Welcome,
    /// A message in a datagram.
    Datagram,
    /// A part of a message in a stream.
    Part,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Welcome),
            3 => Some(Self::Datagram),
            4 => Some(Self::Part),
            _ => None,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Datagram => 3,
            Self::Part => 4,
        }
    }
}

/// What stands before what is sealed, and is authenticated with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) key: KeyId,
    pub(super) sender: Session,
    pub(super) receiver: Session,
    pub(super) counter: u64,
}

impl Header {
    pub(super) fn write(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 6] = [
            &[VERSION, self.kind.byte()],
            &self.key.0.to_be_bytes(),
            &self.sender.0,
            &self.receiver.0,
            &self.counter.to_be_bytes(),
            &[],
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// The header, and what is sealed behind it.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8; HEADER], &[u8])> {
        let (header, sealed) = bytes.split_first_chunk::<HEADER>()?;
        let mut rest = Rest(header);
        let [version, kind] = rest.take()?;
        if version != VERSION {
            return None;
        }
        let read = Self {
            kind: Kind::of(kind)?,
            key: KeyId(u64::from_be_bytes(rest.take()?)),
            sender: Session(rest.take()?),
            receiver: Session(rest.take()?),
            counter: u64::from_be_bytes(rest.take()?),
        };
        Some((read, header, sealed))
    }
}

/// What stands at the beginning of everything sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// The address that the sender is reached at.
    pub(super) address: SocketAddr,
    /// The key that it has in use.
    pub(super) in_use: KeyId,
}

impl Prefix {
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        match self.address.ip() {
            IpAddr::V4(address) => {
                into.push(4);
                into.extend(address.octets());
                into.extend([0; 12]);
            }
            IpAddr::V6(address) => {
                into.push(6);
                into.extend(address.octets());
            }
        }
        into.extend(self.address.port().to_be_bytes());
        into.extend(self.in_use.0.to_be_bytes());
    }

    /// The beginning, and what follows it.
    pub(super) fn read(opened: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = Rest(opened);
        let [family] = rest.take()?;
        let octets: [u8; 16] = rest.take()?;
        let ip: IpAddr = match (family, octets) {
            (4, [a, b, c, d, zeros @ ..]) if zeros == [0; 12] => Ipv4Addr::new(a, b, c, d).into(),
            (6, octets) => Ipv6Addr::from(octets).into(),
            _ => return None,
        };
        let port = u16::from_be_bytes(rest.take()?);
        let in_use = KeyId(u64::from_be_bytes(rest.take()?));
        Some((Self { address: SocketAddr::new(ip, port), in_use }, rest.0))
    }
}

/// Where a part of a message lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartHeader {
    /// The message, by a number that no other of the session has.
    pub(super) message: u64,
    pub(super) offset: u32,
    /// The length of the whole message.
    pub(super) length: u32,
}

impl PartHeader {
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        into.extend(self.message.to_be_bytes());
        into.extend(self.offset.to_be_bytes());
        into.extend(self.length.to_be_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = Rest(bytes);
        let read = Self {
            message: u64::from_be_bytes(rest.take()?),
            offset: u32::from_be_bytes(rest.take()?),
            length: u32::from_be_bytes(rest.take()?),
        };
        Some((read, rest.0))
    }
}

/// A number, of which nothing may follow.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let kinds = prop::sample::select(vec![Kind::Hello, Kind::Welcome, Kind::Datagram, Kind::Part]);
        (kinds, any::<u64>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u64>()).prop_map(
            |(kind, key, sender, receiver, counter)| Header {
                kind,
                key: KeyId(key),
                sender: Session(sender),
                receiver: Session(receiver),
                counter,
            },
        )
    }

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_written(header in header(), rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = header.write().to_vec();
            bytes.extend(&rest);
            let (read, raw, sealed) = Header::read(&bytes).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(&raw[..], &bytes[..HEADER]);
            prop_assert_eq!(sealed, &rest[..]);
        }

        #[test]
        fn prefixes_are_read_as_they_were_written(ip: IpAddr, port: u16, key: u64) {
            let prefix = Prefix { address: SocketAddr::new(ip, port), in_use: KeyId(key) };
            let mut bytes = Vec::new();
            prefix.write(&mut bytes);
            prop_assert_eq!(bytes.len(), PREFIX);
            prop_assert_eq!(Prefix::read(&bytes), Some((prefix, &[][..])));
        }
    }

    #[test]
    fn other_versions_and_kinds_are_none() {
        let header = Header {
            kind: Kind::Hello,
            key: KeyId(1),
            sender: Session([1; 16]),
            receiver: Session::default(),
            counter: 0,
        };
        for (place, byte) in [(0, 0), (0, 2), (1, 0), (1, 5)] {
            let mut bytes = header.write();
            bytes[place] = byte;
            assert_eq!(Header::read(&bytes), None);
        }
        assert_eq!(Header::read(&header.write()[..HEADER - 1]), None);
    }
}
