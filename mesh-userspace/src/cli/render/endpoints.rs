//! Endpoints.

use super::{addresses, state};
use crate::{
    api::types::{Endpoint, EndpointState, Health},
    cli::{
        screen::{Paint, facts, table},
        units::age,
    },
};

/// A list.
pub(in crate::cli) fn endpoints(endpoints: &[Endpoint], paint: Paint) -> String {
    if endpoints.is_empty() {
        return "There are no endpoints: `meshctl attach --network NETWORK --netns NAMESPACE` makes one.\n"
            .to_owned();
    }
    table(
        paint,
        ["NAME", "NETWORK", "ADDRESSES", "NODE", "SERVICE", "STATE"],
        endpoints.iter().map(|endpoint| {
            [
                endpoint.name.as_str().into(),
                endpoint.network.as_str().into(),
                addresses(&endpoint.addresses).into(),
                endpoint.node.as_str().into(),
                endpoint.service.as_deref().unwrap_or("–").into(),
                state(&endpoint.state),
            ]
        }),
    )
}

/// One in full.
pub(in crate::cli) fn endpoint(endpoint: &Endpoint) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
    let mut pairs = vec![
        ("name", endpoint.name.clone()),
        ("network", endpoint.network.clone()),
        ("addresses", addresses(&endpoint.addresses)),
        ("MAC", endpoint.mac.clone()),
        ("node", endpoint.node.clone()),
        ("service", or_dash(&endpoint.service)),
    ];
    // What only its own node knows is left out elsewhere.
    let known = [
        ("namespace", &endpoint.netns),
        ("interface", &endpoint.interface),
        ("host interface", &endpoint.host_interface),
    ];
    pairs.extend(known.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    let state = match &endpoint.state {
        EndpointState::Attached => "attached".to_owned(),
        EndpointState::Waiting(why) => format!("waiting: {why}"),
        EndpointState::Remote => format!("known on {} only", endpoint.node),
        EndpointState::Gone => format!("gone with {}", endpoint.node),
    };
    pairs.push(("state", state));
    if let Some(Health { is, seconds, why }) = &endpoint.health {
        let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        pairs.push(("health", format!("{} for {}{why}", is.name(), age(*seconds))));
    }
    facts(pairs)
}

/// What was attached.
pub(in crate::cli) fn attached(endpoint: &Endpoint) -> String {
    let mut text =
        format!("{} attached to {} as {}", endpoint.name, endpoint.network, addresses(&endpoint.addresses));
    if let (Some(interface), Some(netns)) = (&endpoint.interface, &endpoint.netns) {
        text.push_str(&format!(", interface {interface} in {netns}"));
    }
    if let Some(service) = &endpoint.service {
        text.push_str(&format!(", a backend of {service}"));
    }
    if let EndpointState::Waiting(why) = &endpoint.state {
        text.push_str(&format!("; it waits: {why}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Endpoint> {
        vec![
            Endpoint {
                name: "search.1".to_owned(),
                node: "n1".to_owned(),
                service: Some("search".to_owned()),
                network: "blue".to_owned(),
                addresses: vec!["10.0.9.11".parse().unwrap(), "fd00:9::a00:90b".parse().unwrap()],
                mac: "02:42:0a:00:09:0b".to_owned(),
                netns: Some("/run/netns/search1".to_owned()),
                interface: Some("eth0".to_owned()),
                host_interface: Some("mesh1234abcd".to_owned()),
                state: EndpointState::Attached,
                health: None,
            },
            Endpoint {
                name: "tool".to_owned(),
                node: "n1".to_owned(),
                service: None,
                network: "blue".to_owned(),
                addresses: vec!["10.0.9.40".parse().unwrap()],
                mac: "02:42:0a:00:09:28".to_owned(),
                netns: Some("/run/netns/tool".to_owned()),
                interface: None,
                host_interface: None,
                state: EndpointState::Waiting("there is no namespace /run/netns/tool".to_owned()),
                health: None,
            },
            Endpoint {
                name: "search.2".to_owned(),
                node: "n2".to_owned(),
                service: Some("search".to_owned()),
                network: "blue".to_owned(),
                addresses: vec!["10.0.9.12".parse().unwrap()],
                mac: "02:42:0a:00:09:0c".to_owned(),
                netns: None,
                interface: None,
                host_interface: None,
                state: EndpointState::Remote,
                health: None,
            },
        ]
    }

    #[test]
    fn a_list() {
        assert_eq!(
            endpoints(&sample(), Paint::plain()),
            "\
NAME      NETWORK  ADDRESSES                   NODE  SERVICE  STATE
search.1  blue     10.0.9.11, fd00:9::a00:90b  n1    search   attached
tool      blue     10.0.9.40                   n1    –        waiting: there is no namespace /run/netns/tool
search.2  blue     10.0.9.12                   n2    search   on its own node
"
        );
        assert!(endpoints(&[], Paint::plain()).contains("`meshctl attach "));
    }

    #[test]
    fn one_in_full() {
        assert_eq!(
            endpoint(&sample()[0]),
            "\
name            search.1
network         blue
addresses       10.0.9.11, fd00:9::a00:90b
MAC             02:42:0a:00:09:0b
node            n1
service         search
namespace       /run/netns/search1
interface       eth0
host interface  mesh1234abcd
state           attached
"
        );
        assert_eq!(
            endpoint(&sample()[2]),
            "\
name       search.2
network    blue
addresses  10.0.9.12
MAC        02:42:0a:00:09:0c
node       n2
service    search
state      known on n2 only
"
        );
    }

    #[test]
    fn what_was_attached() {
        assert_eq!(
            attached(&sample()[0]),
            "search.1 attached to blue as 10.0.9.11, fd00:9::a00:90b, interface eth0 in /run/netns/search1, \
             a backend of search\n"
        );
        assert_eq!(
            attached(&sample()[1]),
            "tool attached to blue as 10.0.9.40; it waits: there is no namespace /run/netns/tool\n"
        );
    }
}
