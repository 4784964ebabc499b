//! The section `cluster`: where to gossip, whom to join by, and with which keys.

use std::net::{IpAddr, SocketAddr};

use super::{
    ClusterConfig,
    keys::Keys,
    reader::Reader,
    yaml::{Entry, Node},
};
use crate::gossip::PORT;

/// Reads the section, whose faults are told at its parts.
pub(super) fn cluster(reader: &mut Reader, entry: &Entry) -> Option<ClusterConfig> {
    let want = "a mapping such as {join: [192.0.2.2:7946], keyring: /etc/mesh/keyring}";
    let keys = Keys::of(reader, &entry.value, "The section cluster".to_owned(), want)?;
    let mut keys = keys.missing_at(entry.at);
    let listen = keys.take("listen").and_then(|node| {
        let want = "an address of this node such as 192.0.2.1:7946";
        place(reader, node, "The address listen", want, |_| true)
    });
    let mut join = Vec::new();
    if let Some(node) = keys.take("join") {
        for item in reader.one_or_many(node) {
            let want = "the address of another node such as 192.0.2.2:7946";
            join.extend(place(reader, item, "An address to join by", want, |address| {
                !address.is_unspecified()
            }));
        }
    }
    let keyring = keys
        .need("keyring", "write the file with the cluster's keys, as in keyring: /etc/mesh/keyring")
        .and_then(|node| reader.path(node, "The file keyring", "/etc/mesh/keyring"));
    keys.finish(reader);
    Some(ClusterConfig { listen, join, keyring: keyring? })
}

/// An address, with or without a port.
fn place(
    reader: &mut Reader,
    node: &Node,
    what: &str,
    want: &str,
    is_good: impl Fn(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let read = |text: &str| {
        let place: SocketAddr = text
            .parse()
            .or_else(|_| text.parse().map(|address: IpAddr| SocketAddr::new(address, PORT)))
            .ok()?;
        (place.port() != 0 && !place.ip().is_multicast() && is_good(place.ip())).then_some(place)
    };
    reader.value(node, what, want, read).map(|given| given.value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{self, ClusterConfig};

    fn read(cluster: &str) -> ClusterConfig {
        let text = format!("nodes: {{n1: {{address: 192.0.2.1}}}}\ncluster: {cluster}\n");
        config::parse("mesh.yaml", text.as_bytes()).unwrap().local.cluster.unwrap()
    }

    #[test]
    fn what_is_given_and_what_is_not() {
        let full = read("{listen: 192.0.2.1:7000, join: [192.0.2.2, \"[2001:db8::1]:8000\"], keyring: /k}");
        assert_eq!(full.listen, Some("192.0.2.1:7000".parse().unwrap()));
        assert_eq!(full.join, ["192.0.2.2:7946", "[2001:db8::1]:8000"].map(|place| place.parse().unwrap()));
        assert_eq!(full.keyring.value, Path::new("/k"));
        let least = read("{keyring: /k}");
        assert_eq!((least.listen, least.join.len()), (None, 0));
        assert_eq!(read("{join: 192.0.2.2, keyring: /k}").join, ["192.0.2.2:7946".parse().unwrap()]);
        assert_eq!(least, read("\n  keyring: /k"), "it is the same at another place");
        assert_ne!(least, full);
    }
}
