//! Networks.

use super::{addresses, names};
use crate::{
    api::types::Network,
    cli::screen::{Paint, facts, table},
};

/// A list.
pub(in crate::cli) fn networks(networks: &[Network], paint: Paint) -> String {
    if networks.is_empty() {
        return "There are no networks: `meshctl networks create NAME --subnet 10.0.9.0/24` makes one.\n"
            .to_owned();
    }
    table(
        paint,
        ["NAME", "VNI", "SUBNETS", "MTU", "INTERNAL", "SERVICES", "ENDPOINTS"],
        networks.iter().map(|network| {
            [
                network.name.as_str().into(),
                network.vni.to_string().into(),
                subnets(network).into(),
                mtu(network).into(),
                yes(network.internal).into(),
                network.services.len().to_string().into(),
                network.endpoints.len().to_string().into(),
            ]
        }),
    )
}

/// One in full.
pub(in crate::cli) fn network(network: &Network) -> String {
    facts([
        ("name", network.name.clone()),
        ("VNI", network.vni.to_string()),
        ("subnets", subnets(network)),
        ("gateways", addresses(&network.gateways)),
        ("MTU", mtu(network)),
        ("internal", yes(network.internal).to_owned()),
        ("services", names(&network.services)),
        ("endpoints", names(&network.endpoints)),
    ])
}

/// What was made.
pub(in crate::cli) fn network_created(network: &Network) -> String {
    format!(
        "network {} created: VNI {}, {}, gateway {}\n",
        network.name,
        network.vni,
        subnets(network),
        addresses(&network.gateways)
    )
}

fn subnets(network: &Network) -> String {
    network.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn mtu(network: &Network) -> String {
    network.mtu.map_or_else(|| "–".to_owned(), |mtu| mtu.to_string())
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Network> {
        vec![
            Network {
                name: "blue".to_owned(),
                vni: 4097,
                subnets: vec!["10.0.9.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()],
                gateways: vec!["10.0.9.1".parse().unwrap(), "fd00:9::1".parse().unwrap()],
                internal: false,
                mtu: Some(1450),
                services: vec!["search".to_owned()],
                endpoints: vec!["search.1".to_owned(), "search.2".to_owned()],
            },
            Network {
                name: "vault".to_owned(),
                vni: 4098,
                subnets: vec!["10.0.10.0/24".parse().unwrap()],
                gateways: vec!["10.0.10.1".parse().unwrap()],
                internal: true,
                mtu: None,
                services: vec![],
                endpoints: vec![],
            },
        ]
    }

    #[test]
    fn a_list() {
        assert_eq!(
            networks(&sample(), Paint::plain()),
            "\
NAME   VNI   SUBNETS                   MTU   INTERNAL  SERVICES  ENDPOINTS
blue   4097  10.0.9.0/24, fd00:9::/64  1450  no        1         2
vault  4098  10.0.10.0/24              –     yes       0         0
"
        );
        assert!(networks(&[], Paint::plain()).contains("`meshctl networks create NAME"));
    }

    #[test]
    fn one_in_full() {
        assert_eq!(
            network(&sample()[0]),
            "\
name       blue
VNI        4097
subnets    10.0.9.0/24, fd00:9::/64
gateways   10.0.9.1, fd00:9::1
MTU        1450
internal   no
services   search
endpoints  search.1, search.2
"
        );
    }

    #[test]
    fn what_was_made() {
        assert_eq!(
            network_created(&sample()[1]),
            "network vault created: VNI 4098, 10.0.10.0/24, gateway 10.0.10.1\n"
        );
    }
}
