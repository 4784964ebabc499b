//! Services.

use std::net::IpAddr;

use super::{addresses, names};
use crate::{
    api::types::{Service, protocol_name},
    cli::{
        screen::{Paint, facts, table},
        units::plural,
    },
    spec::{HealthCheck, listed},
    table::{EndpointMode, OnNoBackend, PublishMode, PublishedPort, Scheduler},
};

/// A list.
pub(in crate::cli) fn services(services: &[Service], paint: Paint) -> String {
    if services.is_empty() {
        return "There are no services: `meshctl services create NAME --network NETWORK --publish 80:8080` makes one.\n"
            .to_owned();
    }
    table(
        paint,
        ["NAME", "SCHEDULER", "VIPS", "PORTS", "BACKENDS"],
        services.iter().map(|service| {
            [
                service.name.as_str().into(),
                scheduler(service.scheduler).into(),
                vips(service, "; ").into(),
                ports(service).into(),
                service.backends.len().to_string().into(),
            ]
        }),
    )
}

/// One in full.
pub(in crate::cli) fn service(service: &Service) -> String {
    facts([
        ("name", service.name.clone()),
        ("scheduler", scheduler(service.scheduler).to_owned()),
        (
            "endpoint mode",
            match service.endpoint_mode {
                EndpointMode::Vip => "vip".to_owned(),
                EndpointMode::Dnsrr => "dnsrr".to_owned(),
            },
        ),
        (
            "no backend",
            match service.on_no_backend {
                OnNoBackend::Reject => "reject".to_owned(),
                OnNoBackend::Drop => "drop".to_owned(),
            },
        ),
        ("persistent", service.persistent.map_or("–".to_owned(), |seconds| format!("{seconds} s"))),
        ("health check", service.health_check.as_ref().map_or("–".to_owned(), health_check)),
        ("virtual IPs", vips(service, "\n")),
        ("ports", ports(service)),
        ("external", if service.external.is_empty() { "–".to_owned() } else { addresses(&service.external) }),
        ("backends", names(&service.backends)),
    ])
}

/// What was made.
pub(in crate::cli) fn service_created(service: &Service) -> String {
    let mut text = format!("service {} created: virtual IP {}", service.name, vips(service, " and "));
    if !service.ports.is_empty() {
        text.push_str(&format!(", published {}", ports(service)));
    }
    match service.backends.len() {
        0 => text.push_str(&format!(
            "; it has no backend yet: `meshctl attach --network NETWORK --netns NAMESPACE --service {}` gives it one",
            service.name
        )),
        count => text.push_str(&format!(", {}", plural(count, "backend", "backends"))),
    }
    text.push('\n');
    text
}

pub(super) const fn scheduler(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Mh => "mh",
        Scheduler::Rr => "rr",
    }
}

fn health_check(check: &HealthCheck) -> String {
    let HealthCheck { http, tcp, command, port, interval, timeout, rise, fall } = check;
    let mut words = Vec::new();
    if let Some(path) = http {
        let port = port.as_ref().map_or_else(String::new, |port| format!(" on port {}", port.value));
        words.push(format!("GET {}{port}", path.value));
    }
    words.extend(tcp.as_ref().map(|port| format!("connect to port {}", port.value)));
    words.extend(command.as_ref().map(|command| command.value.join(" ")));
    words.extend(interval.as_ref().map(|interval| format!("every {}", interval.value)));
    words.extend(timeout.as_ref().map(|timeout| format!("timeout {}", timeout.value)));
    words.extend(rise.as_ref().map(|rise| format!("rise {}", rise.value)));
    words.extend(fall.as_ref().map(|fall| format!("fall {}", fall.value)));
    words.join(", ")
}

fn vips(service: &Service, between: &str) -> String {
    if service.vips.is_empty() {
        return "–".to_owned();
    }
    let one = |(network, vips): (&String, &Vec<_>)| format!("{network} {}", addresses(vips));
    service.vips.iter().map(one).collect::<Vec<_>>().join(between)
}

fn ports(service: &Service) -> String {
    if service.ports.is_empty() {
        return "–".to_owned();
    }
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

fn port(port: &PublishedPort) -> String {
    let mode = match port.mode {
        PublishMode::Ingress => "",
        PublishMode::Host => " (host)",
    };
    let at = match port.host_ip {
        Some(address @ IpAddr::V6(_)) => format!("[{address}]:"),
        Some(address) => format!("{address}:"),
        None => String::new(),
    };
    let mut limits = String::new();
    if let Some(interface) = &port.interface {
        limits.push_str(&format!(" at {interface}"));
    }
    if !port.nodes.is_empty() {
        limits.push_str(&format!(" on {}", listed(&port.nodes, "and")));
    }
    if !port.sources.is_empty() {
        let sources: Vec<String> = port.sources.iter().map(ToString::to_string).collect();
        limits.push_str(&format!(" from {}", listed(&sources, "and")));
    }
    format!("{at}{}→{}/{}{mode}{limits}", port.published, port.target, protocol_name(port.protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Protocol;

    fn sample() -> Vec<Service> {
        let port = |published, target, protocol, mode| PublishedPort {
            published,
            target,
            protocol,
            mode,
            ..PublishedPort::default()
        };
        vec![
            Service {
                name: "search".to_owned(),
                vips: [("blue".to_owned(), vec!["10.0.9.2".parse().unwrap(), "fd00:9::2".parse().unwrap()])]
                    .into(),
                scheduler: Scheduler::Mh,
                endpoint_mode: EndpointMode::Vip,
                on_no_backend: OnNoBackend::Reject,
                persistent: None,
                health_check: None,
                ports: vec![
                    port(9200, 9200, Protocol::Tcp, PublishMode::Ingress),
                    port(53, 5353, Protocol::Udp, PublishMode::Host),
                ],
                external: vec![],
                backends: vec!["search.1".to_owned(), "search.2".to_owned()],
            },
            Service {
                name: "db".to_owned(),
                vips: [].into(),
                scheduler: Scheduler::Rr,
                endpoint_mode: EndpointMode::Dnsrr,
                on_no_backend: OnNoBackend::Drop,
                persistent: None,
                health_check: None,
                ports: vec![],
                external: vec!["198.51.100.7".parse().unwrap()],
                backends: vec![],
            },
        ]
    }

    #[test]
    fn a_list() {
        assert_eq!(
            services(&sample(), Paint::plain()),
            "\
NAME    SCHEDULER  VIPS                      PORTS                              BACKENDS
search  mh         blue 10.0.9.2, fd00:9::2  9200→9200/tcp, 53→5353/udp (host)  2
db      rr         –                         –                                  0
"
        );
        assert!(services(&[], Paint::plain()).contains("`meshctl services create NAME"));
    }

    #[test]
    fn one_in_full() {
        assert_eq!(
            service(&sample()[0]),
            "\
name           search
scheduler      mh
endpoint mode  vip
no backend     reject
persistent     –
health check   –
virtual IPs    blue 10.0.9.2, fd00:9::2
ports          9200→9200/tcp, 53→5353/udp (host)
external       –
backends       search.1, search.2
"
        );
        assert_eq!(
            service(&sample()[1]),
            "\
name           db
scheduler      rr
endpoint mode  dnsrr
no backend     drop
persistent     –
health check   –
virtual IPs    –
ports          –
external       198.51.100.7
backends       –
"
        );
    }

    #[test]
    fn limits_of_ports() {
        let shown = |limits: PublishedPort| port(&PublishedPort { published: 80, target: 8080, ..limits });
        let plain = PublishedPort::default;
        assert_eq!(shown(plain()), "80→8080/tcp");
        let host_ip = |text: &str| PublishedPort { host_ip: Some(text.parse().unwrap()), ..plain() };
        assert_eq!(shown(host_ip("192.0.2.1")), "192.0.2.1:80→8080/tcp");
        assert_eq!(shown(host_ip("2001:db8::1")), "[2001:db8::1]:80→8080/tcp");
        assert_eq!(
            shown(PublishedPort {
                interface: Some("eth0".to_owned()),
                nodes: vec!["n1".to_owned(), "n2".to_owned()],
                sources: vec!["10.0.0.0/8".parse().unwrap()],
                mode: PublishMode::Host,
                ..plain()
            }),
            "80→8080/tcp (host) at eth0 on n1 and n2 from 10.0.0.0/8"
        );
    }

    #[test]
    fn what_was_made() {
        assert_eq!(
            service_created(&sample()[0]),
            "service search created: virtual IP blue 10.0.9.2, fd00:9::2, published 9200→9200/tcp, \
             53→5353/udp (host), 2 backends\n"
        );
        assert!(service_created(&sample()[1]).contains("no backend yet: `meshctl attach "));
    }
}
