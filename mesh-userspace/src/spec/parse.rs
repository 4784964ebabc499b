//! Values as people write them, in the file and on the command line.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;

/// A MAC address.
pub type Mac = [u8; 6];

/// Where `ip netns` keeps the namespaces that have a name.
pub(crate) const NETNS_DIRECTORY: &str = "/run/netns";

/// A MAC address as six pairs of hexadecimal digits, with colons or hyphens between them.
#[must_use]
pub fn mac(text: &str) -> Option<Mac> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A network namespace: a name under `/run/netns`, or an absolute path.
#[must_use]
pub fn netns(text: &str) -> Option<PathBuf> {
    match text {
        "" | "." | ".." => None,
        path if path.starts_with('/') => Some(PathBuf::from(path)),
        path if path.contains('/') => None,
        name => Some([NETNS_DIRECTORY, name].iter().collect()),
    }
}

/// A range of clients: an address, or one with the length of its prefix.
///
/// # Errors
/// A sentence without its beginning, which says what it must be.
pub fn source(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write an address, or one with a prefix length, such as 10.0.0.0/8 or 2001:db8::/32")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(mac("02:42:0a:00:09:0B"), Some([2, 0x42, 10, 0, 9, 11]));
        assert_eq!(mac("02-42-0a-00-09-0b"), Some([2, 0x42, 10, 0, 9, 11]));
        for wrong in [
            "",
            "02:42:0a:00:09",
            "02:42:0a:00:09:0b:0c",
            "2:42:a:0:9:b",
            "02:42:0a:00:09:0g",
            "+2:42:0a:00:09:0b",
        ] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sources() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(source(text).unwrap().to_string(), shown);
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "all"] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn namespaces() {
        assert_eq!(netns("search1").as_deref(), Some(Path::new("/run/netns/search1")));
        assert_eq!(netns("/proc/7/ns/net").as_deref(), Some(Path::new("/proc/7/ns/net")));
        for wrong in ["", ".", "..", "a/b", "./a"] {
            assert_eq!(netns(wrong), None, "{wrong}");
        }
    }
}
