//! AES-256-GCM (NIST SP 800-38D) under a key that is derived for one session.

use aes_gcm::{
    AeadInOut, Aes256Gcm, KeyInit, Nonce,
    aead::{consts::U12, inout::InOutBuf},
};

use super::{
    key::Secret,
    wire::{HEADER, Session, TAG},
};

/// Seals and opens what one session seals with one key. Its nonces are the session's counter, so that none comes twice:
/// the session is drawn anew at each start, and with it the key that is derived.
#[derive(Clone)]
pub(super) struct Cipher(Aes256Gcm);

impl Cipher {
    pub(super) fn new(key: &Secret, session: Session) -> Self {
        let derived = key.derive(&[b"session", &session.0]);
        Self(Aes256Gcm::new(&(*derived).into()))
    }

    /// Seals what follows the header in place, and appends the tag. False where it is longer than AES-GCM takes, which is
    /// 64 GiB.
    #[must_use]
    pub(super) fn seal(&self, counter: u64, bytes: &mut Vec<u8>) -> bool {
        let Some((header, plain)) = bytes.split_first_chunk_mut::<HEADER>() else { return false };
        let sealed = self.0.encrypt_inout_detached(&nonce(counter), header, InOutBuf::from(plain));
        sealed.map(|tag| bytes.extend_from_slice(&tag)).is_ok()
    }

    /// What was sealed, if the header and all of it are as they were.
    pub(super) fn open(&self, counter: u64, header: &[u8; HEADER], sealed: &[u8]) -> Option<Vec<u8>> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut opened = sealed.to_vec();
        let whole = InOutBuf::from(opened.as_mut_slice());
        self.0.decrypt_inout_detached(&nonce(counter), header, whole, &(*tag).into()).ok()?;
        Some(opened)
    }
}

fn nonce(counter: u64) -> Nonce<U12> {
    let mut nonce = [0; 12];
    let counter = counter.to_be_bytes();
    for (to, from) in nonce.iter_mut().skip(4).zip(counter) {
        *to = from;
    }
    nonce.into()
}
