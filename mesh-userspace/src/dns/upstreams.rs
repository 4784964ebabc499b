//! The host's own resolvers, as its resolv.conf names them.

use std::{
    fs::{self, Metadata},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::resolv_conf::is_ours;

/// How many resolvers are asked at most, as by the C libraries.
const MOST: usize = 3;
/// The file is looked at again after this time at the earliest.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// DNS's port.
const PORT: u16 = 53;

/// The resolvers of a file, which is read again when it has changed.
#[derive(Debug)]
pub(super) struct Upstreams {
    file: PathBuf,
    read: Mutex<Read>,
}

/// What was read.
#[derive(Debug, Default)]
struct Read {
    looked: Option<Instant>,
    version: Option<Version>,
    addresses: Vec<SocketAddr>,
}

/// What tells one state of a file from another.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Upstreams {
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, read: Mutex::default() }
    }

    /// The resolvers, in the file's order; none where it names none, or cannot be read.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = read.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY);
        if !is_recent {
            read.looked = Some(Instant::now());
            let version = fs::metadata(&self.file).ok().map(|metadata| Version::of(&metadata));
            if read.version != version {
                let text = fs::read(&self.file).unwrap_or_default();
                read.addresses = parse(&String::from_utf8_lossy(&text));
                read.version = version;
                tracing::info!(resolvers = ?read.addresses, file = %self.file.display(), "the host's resolvers");
            }
        }
        read.addresses.clone()
    }
}

/// The resolvers of a resolv.conf (resolv.conf(5)). One that meshd wrote leads back to meshd, so it names none.
fn parse(text: &str) -> Vec<SocketAddr> {
    if is_ours(text) {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(address)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses.truncate(MOST);
    addresses
}

/// An address, of which one of a link says its interface, by name or by number.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT));
    };
    let scope = match interface.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(interface).ok()?,
    };
    Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_in_their_order() {
        let text = "# A comment.\nsearch example.org\nnameserver 192.0.2.53\nnameserver\t2001:db8::53 # near\n\
                    nameserver nonsense\n;nameserver 192.0.2.9\nnameserver 192.0.2.53\nnameserver fe80::1%1\n\
                    nameserver 192.0.2.54\noptions timeout:1\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.53:53", "[2001:db8::53]:53", "[fe80::1%1]:53"]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn what_meshd_wrote_leads_nowhere() {
        let text = super::super::resolv_conf::text(
            std::path::Path::new("/run/mesh"),
            &["10.0.9.1".parse().unwrap()],
        );
        assert!(parse(&text).is_empty(), "{text}");
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let directory = crate::agent::testing::Directory::new();
        let file = directory.path().join("resolv.conf");
        let upstreams = Upstreams::of(file.clone());
        let soon = || {
            upstreams.read.lock().unwrap().looked = None;
            upstreams.addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(soon(), [""; 0]);
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(soon(), ["192.0.2.1:53"]);
        fs::write(file.with_extension("new"), "nameserver 192.0.2.2\n").unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
        assert_eq!(upstreams.addresses()[0].to_string(), "192.0.2.1:53", "it was looked at just now");
        assert_eq!(soon(), ["192.0.2.2:53"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(soon(), [""; 0]);
    }
}
