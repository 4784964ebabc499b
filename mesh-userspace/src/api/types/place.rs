//! An end of a flow: an address, with or without a port.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `fd00::1`, `[fd00::1]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The port, in the machine's order.
    pub port: Option<u16>,
}

/// A text that is no [`Place`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no address with or without a port; write 192.0.2.1:80 or [fd00::1]:80")]
pub struct PlaceError(String);

impl Place {
    /// An address with a port.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port: Some(port) }
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::new(address.ip(), address.port()));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let address = bare.parse().map_err(|_| PlaceError(text.to_owned()))?;
        Ok(Self { address, port: None })
    }
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form() {
        for (text, shown, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:80", "192.0.2.1:80", Some(80)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1]:80", "[fd00::1]:80", Some(80)),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.port, port, "{text}");
            assert_eq!(place.to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "localhost", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:-1", "[::1", "1.2.3"] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{text}` is no address")), "{error}");
        }
    }
}
