//! The rules of health checks, and their defaults.

use std::{
    collections::BTreeSet,
    num::{NonZeroU8, NonZeroU16},
};

use super::Judge;
use crate::{
    spec::{Given, HealthCheck, Origin, Service, listed, quoted},
    table::{self, Period, Probe, Protocol},
};

/// HAProxy's `inter`, `rise` and `fall` where none is given.
const INTERVAL: Period = Period::from_millis(2_000);
const RISE: NonZeroU8 = NonZeroU8::MIN.saturating_add(1);
const FALL: NonZeroU8 = NonZeroU8::MIN.saturating_add(2);
/// After this time there is mostly no answer.
const TIMEOUT: Period = Period::from_millis(1_000);

/// More often, checks would be a load of their own.
const SHORTEST_INTERVAL: Period = Period::from_millis(100);
/// More seldom, checks would be of no use.
const LONGEST_INTERVAL: Period = Period::from_millis(3_600_000);
const SHORTEST_TIMEOUT: Period = Period::from_millis(10);
/// The longest path of a request, in bytes.
const LONGEST_PATH: usize = 1024;

impl Judge<'_> {
    pub(super) fn health_rules(&mut self) {
        for (name, service) in &self.spec.services {
            if let Some(check) = &service.health_check {
                let who = format!("The health check of the service {}", quoted(name));
                self.one_probe(&who, check);
                if let Some(path) = &check.value.http {
                    self.http_path(&who, path);
                    self.http_port(&who, service, check);
                }
                if let Some(command) = &check.value.command {
                    self.command(&who, command);
                }
                self.times(&who, &check.value);
            }
        }
    }

    /// What a service's health check comes to; none where it breaks a rule.
    pub(super) fn health_check(service: &Service) -> Option<table::HealthCheck> {
        let asked = &service.health_check.as_ref()?.value;
        let value = |given: &Option<Given<Period>>| given.as_ref().map(|given| given.value);
        let interval = value(&asked.interval).unwrap_or(INTERVAL);
        let probe = match (&asked.http, &asked.tcp, &asked.command) {
            (Some(path), None, None) => Probe::Http {
                port: asked.port.as_ref().map(|port| port.value).or_else(|| only_target(service))?,
                path: path.value.clone(),
            },
            (None, Some(port), None) => Probe::Tcp { port: port.value },
            (None, None, Some(words)) => Probe::Command(words.value.clone()),
            _ => return None,
        };
        Some(table::HealthCheck {
            probe,
            interval,
            timeout: value(&asked.timeout).unwrap_or(TIMEOUT.min(interval)),
            rise: asked.rise.as_ref().map_or(RISE, |rise| rise.value),
            fall: asked.fall.as_ref().map_or(FALL, |fall| fall.value),
        })
    }

    fn one_probe(&mut self, who: &str, check: &Given<HealthCheck>) {
        let asked = &check.value;
        let given: Vec<(&str, &Origin)> = [
            asked.http.as_ref().map(|given| ("http", &given.origin)),
            asked.tcp.as_ref().map(|given| ("tcp", &given.origin)),
            asked.command.as_ref().map(|given| ("command", &given.origin)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [_, more @ ..] = given.as_slice()
            && let Some((_, origin)) = more.iter().max_by_key(|(_, origin)| *origin)
        {
            let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
            self.fault(origin, format!("{who} has {}; keep one of them.", listed(&names, "and")));
        }
        match (given.as_slice(), &asked.port) {
            ([], _) => self.fault(
                &check.origin,
                format!("{who} does not say what to check; write one, as in {{http: /healthz, port: 8080}} or {{tcp: 8080}}."),
            ),
            ([("tcp", _)], Some(port)) => self.fault(
                &port.origin,
                format!("{who} names a port beside tcp, which is one; remove one of the two."),
            ),
            ([("command", _)], Some(port)) => self.fault(
                &port.origin,
                format!("{who} names a port, which a command does not take; remove it, or make it one of the command's words."),
            ),
            _ => {}
        }
    }

    fn http_path(&mut self, who: &str, path: &Given<String>) {
        let text = &path.value;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !text.starts_with('/') || !is_plain || text.len() > LONGEST_PATH {
            self.fault(
                &path.origin,
                format!(
                    "{who} asks for {}, which is no path of HTTP; write one of at most {LONGEST_PATH} bytes that begins \
                     with a slash and escapes what is special, such as /healthz.",
                    quoted(text)
                ),
            );
        }
    }

    fn http_port(&mut self, who: &str, service: &Service, check: &Given<HealthCheck>) {
        if check.value.port.is_none() && only_target(service).is_none() {
            self.fault(
                &check.origin,
                format!(
                    "{who} has no port, and the service's own ports do not lead to a single one of TCP; write it, as in \
                     port: 8080."
                ),
            );
        }
    }

    fn command(&mut self, who: &str, command: &Given<Vec<String>>) {
        let is_a_name = command.value.first().is_some_and(|program| !program.is_empty());
        if !is_a_name || command.value.iter().any(|word| word.contains('\0')) {
            self.fault(
                &command.origin,
                format!("{who} has a command that names no program; write its words, as in [curl, -f, \"http://localhost:8080/\"]."),
            );
        }
    }

    fn times(&mut self, who: &str, asked: &HealthCheck) {
        let interval = asked.interval.as_ref();
        if let Some(interval) = interval
            && !(SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval.value)
        {
            self.fault(
                &interval.origin,
                format!(
                    "{who} has an interval of {}; take one from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}.",
                    interval.value
                ),
            );
        }
        let Some(timeout) = &asked.timeout else { return };
        let most = interval.map_or(INTERVAL, |interval| interval.value);
        if timeout.value < SHORTEST_TIMEOUT {
            self.fault(
                &timeout.origin,
                format!("{who} has a timeout of {}; take at least {SHORTEST_TIMEOUT}.", timeout.value),
            );
        } else if timeout.value > most {
            self.fault(
                &timeout.origin,
                format!(
                    "{who} has a timeout of {}, after its interval of {most}, when the next check begins; take a shorter \
                     timeout, or a longer interval.",
                    timeout.value
                ),
            );
        }
    }
}

/// The one port of the tasks that a service's published ports lead to by TCP.
fn only_target(service: &Service) -> Option<NonZeroU16> {
    let of_tcp = service.ports.iter().filter(|port| port.value.protocol == Protocol::Tcp);
    let targets: BTreeSet<u16> = of_tcp.map(|port| port.value.target).collect();
    match targets.into_iter().collect::<Vec<_>>().as_slice() {
        [only] => NonZeroU16::new(*only),
        _ => None,
    }
}
