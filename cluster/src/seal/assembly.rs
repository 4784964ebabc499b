//! A stream's message out of its parts.

use std::net::SocketAddr;

use super::wire::{PartHeader, Session};
use crate::output::MOST_MESSAGE;

/// A part of a message, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The address that its sender is reached at.
    pub from: SocketAddr,
    pub(super) session: Session,
    pub(super) header: PartHeader,
    pub(super) bytes: Vec<u8>,
}

/// A part that does not continue its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part does not continue its stream")]
pub struct OutOfOrder;

/// The message of which a stream has brought the beginning.
#[derive(Debug, Default)]
pub struct Assembly(Option<Begun>);

#[derive(Debug)]
struct Begun {
    session: Session,
    message: u64,
    length: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Takes the stream's next part; returns the message if it is whole now.
    ///
    /// # Errors
    /// It is not the next part of the message that was begun; the stream is to be closed.
    pub fn add(&mut self, part: Part) -> Result<Option<(SocketAddr, Vec<u8>)>, OutOfOrder> {
        let header = part.header;
        if header.length as usize > MOST_MESSAGE || part.bytes.is_empty() && header.length > 0 {
            return Err(OutOfOrder);
        }
        let mut begun = self.0.take().unwrap_or_else(|| Begun {
            session: part.session,
            message: header.message,
            length: header.length,
            bytes: Vec::new(),
        });
        let continues = (begun.session, begun.message, begun.length, begun.bytes.len())
            == (part.session, header.message, header.length, header.offset as usize);
        if !continues || begun.bytes.len() + part.bytes.len() > begun.length as usize {
            return Err(OutOfOrder);
        }
        begun.bytes.extend(part.bytes);
        if begun.bytes.len() == begun.length as usize {
            return Ok(Some((part.from, begun.bytes)));
        }
        self.0 = Some(begun);
        Ok(None)
    }

    /// Whether a message has begun and is not whole.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(message: u64, offset: u32, length: u32, bytes: &[u8]) -> Part {
        Part {
            from: ([192, 0, 2, 1], 7946).into(),
            session: Session([1; 16]),
            header: PartHeader { message, offset, length },
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn parts_come_in_order_or_not_at_all() {
        let mut assembly = Assembly::default();
        let whole = |bytes: &[u8]| Ok(Some((([192, 0, 2, 1], 7946).into(), bytes.to_vec())));
        assert_eq!(assembly.add(part(1, 0, 5, b"abc")), Ok(None));
        assert!(assembly.has_begun());
        assert_eq!(assembly.add(part(1, 3, 5, b"de")), whole(b"abcde"));
        assert_eq!(assembly.add(part(2, 0, 0, b"")), whole(b""));
        assert!(!assembly.has_begun());

        let begun = part(1, 0, 5, b"abc");
        let other_session = Part { session: Session([2; 16]), ..part(1, 3, 5, b"de") };
        for (first, next) in [
            (Some(&begun), part(2, 3, 5, b"de")),
            (Some(&begun), part(1, 0, 5, b"abc")),
            (Some(&begun), part(1, 4, 5, b"e")),
            (Some(&begun), part(1, 3, 6, b"de")),
            (Some(&begun), part(1, 3, 5, b"def")),
            (Some(&begun), part(1, 3, 5, b"")),
            (Some(&begun), other_session),
            (None, part(1, 3, 5, b"de")),
            (None, part(1, 0, 1 << 20 | 1, b"a")),
        ] {
            let mut assembly = Assembly::default();
            if let Some(first) = first {
                assert_eq!(assembly.add(first.clone()), Ok(None));
            }
            assert_eq!(assembly.add(next.clone()), Err(OutOfOrder), "{next:?}");
        }
    }
}
