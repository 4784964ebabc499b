//! Keys on the command line: made here, and read from where they are not seen.

use std::io::{self, Read};

use serde::Serialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    api::types::KeyText,
    gossip::{generate_key, keyring_text, parse_keyring},
    spec::Faults,
};
use mesh_cluster::seal::Ring;

/// More than any keyring, in bytes.
const LONGEST: u64 = 64 << 10;

/// Why there is no key.
#[derive(Debug, Error)]
pub(super) enum KeyFailure {
    #[error("cannot read standard input: {0}; give a keyring to it")]
    Input(io::Error),
    #[error("{0}")]
    Keyring(Faults),
    #[error("the keyring on standard input has {0} keys; give one at a time")]
    Many(usize),
    #[error("the system gives no random numbers: {0}; try again")]
    Chance(io::Error),
}

/// A key that was made. This alone ever shows one.
#[derive(Serialize)]
pub(super) struct Fresh {
    id: String,
    key: String,
    /// A keyring with it.
    #[serde(skip)]
    pub(super) keyring: String,
}

/// Makes a key.
pub(super) fn generate() -> Result<Fresh, KeyFailure> {
    let key = generate_key().map_err(KeyFailure::Chance)?;
    let (id, text) = (key.id().to_string(), key.reveal().to_string());
    // One key is a ring.
    let keyring = Ring::new(vec![key]).map(|ring| keyring_text(&ring).to_string()).unwrap_or_default();
    Ok(Fresh { id, key: text, keyring })
}

/// The key of an argument, which may name standard input.
pub(super) fn given(argument: &KeyText) -> Result<KeyText, KeyFailure> {
    if argument.0 != "-" {
        return Ok(argument.clone());
    }
    let mut text = Zeroizing::new(String::new());
    io::stdin().take(LONGEST).read_to_string(&mut text).map_err(KeyFailure::Input)?;
    let ring = parse_keyring("standard input", &text).map_err(KeyFailure::Keyring)?;
    match ring.keys().len() {
        1 => Ok(KeyText(ring.keys().map(|key| key.reveal().to_string()).collect())),
        many => Err(KeyFailure::Many(many)),
    }
}
