//! Backends: endpoints in the eyes of a service.

use super::{addresses, health, state};
use crate::{
    api::types::{Backend, EndpointState, Removed},
    cli::{
        screen::{Entry, Paint, Tone, table},
        units,
    },
};

/// The backends of one service, or of all.
pub(in crate::cli) fn backends(backends: &[Backend], service: Option<&str>, paint: Paint) -> String {
    if backends.is_empty() {
        return match service {
            Some(service) => format!(
                "{service} has no backend: `meshctl attach --network NETWORK --netns NAMESPACE --service {service}` \
                 gives it one.\n"
            ),
            None => "There are no backends: `meshctl attach --network NETWORK --netns NAMESPACE --service SERVICE` makes \
                     one.\n"
                .to_owned(),
        };
    }
    table(
        paint,
        ["SERVICE", "ENDPOINT", "NETWORK", "ADDRESSES", "NODE", "WEIGHT", "FLOWS", "HEALTH", "STATE"],
        backends.iter().map(|backend| {
            [
                backend.service.as_str().into(),
                backend.endpoint.as_str().into(),
                backend.network.as_str().into(),
                addresses(&backend.addresses).into(),
                backend.node.as_str().into(),
                weight(backend.weight),
                flows(backend).into(),
                health(backend.health.as_ref()),
                state(&backend.state),
            ]
        }),
    )
}

/// What was added.
pub(in crate::cli) fn backend_added(backend: &Backend) -> String {
    format!("{} is a backend of {} now, with weight {}\n", backend.endpoint, backend.service, backend.weight)
}

/// What was taken out.
pub(in crate::cli) fn backend_removed(service: &str, removed: &Removed) -> String {
    format!("{} is no backend of {service} any longer; it stays attached\n", removed.name)
}

/// What became of a backend with another weight.
pub(in crate::cli) fn backend_weighed(backend: &Backend) -> String {
    let Backend { endpoint, service, weight, node, .. } = backend;
    if *weight > 0 {
        return format!("{endpoint} has the weight {weight} in {service}\n");
    }
    let left = match (&backend.state, backend.flows) {
        (EndpointState::Remote, _) => format!("`meshctl backends ls {service}` on {node} tells its flows"),
        (_, flows) => live_flows(flows.unwrap_or_default()),
    };
    format!("{endpoint} drains: {service} gives it no new flow on this node; {left}\n")
}

/// The end of a drain.
pub(in crate::cli) fn backend_drained(backend: &Backend) -> String {
    format!("{} is drained: {}\n", backend.endpoint, live_flows(backend.flows.unwrap_or_default()))
}

/// How many flows are left.
pub(in crate::cli) fn live_flows(count: u64) -> String {
    match count {
        0 => "no flow is left".to_owned(),
        1 => "1 flow is left".to_owned(),
        count => format!("{} flows are left", units::count(count)),
    }
}

fn weight(weight: u16) -> Entry {
    match weight {
        0 => Entry::new(Tone::Faint, "0, drains"),
        weight => weight.to_string().into(),
    }
}

fn flows(backend: &Backend) -> String {
    match (&backend.state, backend.flows) {
        (_, None) => "–".to_owned(),
        // What else it has, its own node knows.
        (EndpointState::Remote, Some(count)) => format!("{} from here", units::count(count)),
        (_, Some(count)) => units::count(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::types::Health, table::HealthState};

    fn sample() -> Backend {
        Backend {
            service: "search".to_owned(),
            endpoint: "search.2".to_owned(),
            network: "blue".to_owned(),
            addresses: vec!["10.0.9.12".parse().unwrap()],
            node: "n2".to_owned(),
            weight: 1,
            flows: None,
            state: EndpointState::Remote,
            health: None,
        }
    }

    #[test]
    fn backends_of_a_service() {
        let local = Backend {
            endpoint: "search.1".to_owned(),
            node: "n1".to_owned(),
            weight: 0,
            flows: Some(1234),
            state: EndpointState::Attached,
            ..sample()
        };
        let known = Backend { endpoint: "search.3".to_owned(), weight: 300, flows: Some(2), ..sample() };
        let health = |is| Some(Health { is, seconds: 130, why: Some("it says no".to_owned()) });
        let local = Backend { health: health(HealthState::Unhealthy), ..local };
        let fresh =
            Backend { endpoint: "search.4".to_owned(), health: health(HealthState::Starting), ..sample() };
        let well =
            Backend { endpoint: "search.5".to_owned(), health: health(HealthState::Healthy), ..sample() };
        assert_eq!(
            backends(&[local, sample(), known, fresh, well], Some("search"), Paint::plain()),
            "\
SERVICE  ENDPOINT  NETWORK  ADDRESSES  NODE  WEIGHT     FLOWS        HEALTH                STATE
search   search.1  blue     10.0.9.12  n1    0, drains  1,234        unhealthy 2 min 10 s  attached
search   search.2  blue     10.0.9.12  n2    1          –            –                     on its own node
search   search.3  blue     10.0.9.12  n2    300        2 from here  –                     on its own node
search   search.4  blue     10.0.9.12  n2    1          –            starting 2 min 10 s   on its own node
search   search.5  blue     10.0.9.12  n2    1          –            healthy               on its own node
"
        );
        assert!(backends(&[], Some("search"), Paint::plain()).contains("--service search` gives it one"));
        assert!(backends(&[], None, Paint::plain()).contains("--service SERVICE` makes"));
    }

    #[test]
    fn what_became_of_a_weight() {
        assert_eq!(backend_weighed(&sample()), "search.2 has the weight 1 in search\n");
        let draining = Backend { weight: 0, ..sample() };
        assert_eq!(
            backend_weighed(&draining),
            "search.2 drains: search gives it no new flow on this node; `meshctl backends ls search` on n2 tells its \
             flows\n"
        );
        let local = Backend { state: EndpointState::Attached, flows: Some(1), ..draining };
        assert!(backend_weighed(&local).ends_with("; 1 flow is left\n"));
    }
}
