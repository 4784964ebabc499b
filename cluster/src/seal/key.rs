//! Keys and rings of keys, as people write them down.

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_LENGTH: usize = 32;
/// The most keys of a ring: a rotation has two, and somebody may have forgotten to remove some.
pub const MOST_KEYS: usize = 16;

/// What a key is known by without being known: a part of what is derived from it, in 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for KeyId {
    type Err = KeyFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = if is_plain { u64::from_str_radix(text, 16).ok() } else { None };
        id.map(Self).ok_or(KeyFault::Id)
    }
}

/// A key. It is wiped from memory when it goes, and shown only where it is asked for by [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    bytes: Zeroizing<[u8; KEY_LENGTH]>,
    id: KeyId,
}

impl Secret {
    /// A key of 32 bytes, which must have come from a good source of chance.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LENGTH]) -> Self {
        let mut secret = Self { bytes: Zeroizing::new(bytes), id: KeyId(0) };
        let [a, b, c, d, e, f, g, h, ..] = *secret.derive(&[b"id"]);
        secret.id = KeyId(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        secret
    }

    /// What it is known by.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key in base64, as a keyring has it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes.as_slice()))
    }

    /// Derives something from it, by HKDF (RFC 5869) with SHA-256.
    pub(super) fn derive(&self, purpose: &[&[u8]]) -> Zeroizing<[u8; KEY_LENGTH]> {
        let mut derived = Zeroizing::new([0; KEY_LENGTH]);
        let result = Hkdf::<Sha256>::new(Some(b"mesh gossip 1"), self.bytes.as_slice())
            .expand_multi_info(purpose, derived.as_mut_slice());
        debug_assert!(result.is_ok(), "HKDF refuses only what is longer than 8,160 bytes");
        derived
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, …)", self.id)
    }
}

/// 32 bytes in base64, as a line of a keyring has them.
impl FromStr for Secret {
    type Err = KeyFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyFault::Base64)?);
        let bytes: [u8; KEY_LENGTH] =
            decoded.as_slice().try_into().map_err(|_| KeyFault::Length(decoded.len()))?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(KeyFault::Zero);
        }
        Ok(Self::new(bytes))
    }
}

/// What is wrong with a key, as the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is not in base64.
    #[error("it is not in base64")]
    Base64,
    /// It has not 32 bytes.
    #[error("it stands for {0} bytes, and a key has {KEY_LENGTH}")]
    Length(usize),
    /// It is nothing but zeros.
    #[error("it is all zeros, which is no secret")]
    Zero,
    /// It is no key's id.
    #[error("a key's id has 16 hexadecimal digits")]
    Id,
}

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// It has no key.
    #[error("it has no key")]
    Empty,
    /// It has more keys than anybody needs.
    #[error("it has more than {MOST_KEYS} keys")]
    Full,
    /// It has a key twice.
    #[error("it has the key {0} twice")]
    Twice(KeyId),
}

/// Keys, each of which opens. The first is in use: it seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring(Vec<Secret>);

impl Ring {
    /// A ring of keys, the first of which is in use.
    ///
    /// # Errors
    /// There is none, one twice, or too many.
    pub fn new(keys: Vec<Secret>) -> Result<Self, RingFault> {
        if keys.is_empty() {
            return Err(RingFault::Empty);
        }
        if keys.len() > MOST_KEYS {
            return Err(RingFault::Full);
        }
        let mut seen = BTreeSet::new();
        match keys.iter().find(|key| !seen.insert(key.id())) {
            Some(twice) => Err(RingFault::Twice(twice.id())),
            None => Ok(Self(keys)),
        }
    }

    /// The keys, the one in use first.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Secret> {
        self.0.iter()
    }

    /// What the keys are known by, the one in use first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = KeyId> {
        self.0.iter().map(Secret::id)
    }

    /// A key by its id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Secret> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// What the key in use is known by.
    #[must_use]
    pub fn in_use(&self) -> KeyId {
        // A ring has at least one key.
        self.0.first().map_or(KeyId(0), Secret::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_down_and_read_back() {
        let key = Secret::new([7; KEY_LENGTH]);
        assert_eq!(key.reveal().parse(), Ok(key.clone()));
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
        assert_ne!(key.id(), Secret::new([8; KEY_LENGTH]).id());
    }

    #[test]
    fn a_key_is_not_shown_by_accident() {
        let key = Secret::new([7; KEY_LENGTH]);
        let ring = Ring::new(vec![key.clone()]).unwrap();
        let shown = format!("{key:?} {ring:?} {ring:#?}");
        assert!(!shown.contains(key.reveal().as_str()), "{shown}");
        assert!(!shown.contains("7, 7"), "{shown}");
        assert!(shown.contains(&key.id().to_string()), "{shown}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, fault) in [
            ("", KeyFault::Length(0)),
            ("not base64!", KeyFault::Base64),
            ("AAAA", KeyFault::Length(3)),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", KeyFault::Zero),
        ] {
            assert_eq!(text.parse::<Secret>(), Err(fault), "{text:?}");
        }
        for text in ["", "123", "+123456789abcdef", "zzzzzzzzzzzzzzzz", "0123456789abcdef0"] {
            assert_eq!(text.parse::<KeyId>(), Err(KeyFault::Id), "{text:?}");
        }
    }

    #[test]
    fn a_ring_has_some_keys_each_once() {
        let key = |byte| Secret::new([byte; KEY_LENGTH]);
        assert_eq!(Ring::new(Vec::new()), Err(RingFault::Empty));
        assert_eq!(Ring::new(vec![key(1), key(2), key(1)]), Err(RingFault::Twice(key(1).id())));
        assert_eq!(Ring::new((1..=17).map(key).collect()), Err(RingFault::Full));
        let ring = Ring::new(vec![key(2), key(1)]).unwrap();
        assert_eq!(ring.in_use(), key(2).id());
        assert_eq!(ring.get(key(1).id()), Some(&key(1)));
    }
}
