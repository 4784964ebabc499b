//! The cluster's keys, of which only those who install them ever say what they are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key of the cluster's keyring, by what it is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterKey {
    /// 16 hexadecimal digits that are derived from the key, and do not give it away.
    pub id: String,
    /// Whether this node seals with it.
    pub in_use: bool,
    /// On how many of the living nodes it is; none where that is not known, because the key came by their files.
    pub nodes: Option<usize>,
}

/// A key for every node's keyring: `POST /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyInstall {
    /// 32 bytes in base64.
    pub key: KeyText,
}

/// What becomes of a key: `PUT /v1/keys/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUse {
    /// Every node seals with it; must be true, because a key goes out of use when another comes into use.
    pub in_use: bool,
}

/// The text of a key, which is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(pub String);

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(…)")
    }
}

impl From<String> for KeyText {
    fn from(text: String) -> Self {
        Self(text)
    }
}
