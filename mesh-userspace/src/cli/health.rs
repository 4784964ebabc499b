//! The arguments that say how a service's tasks are checked.

use std::num::{NonZeroU8, NonZeroU16};

use clap::Args;

use crate::{
    spec::{Given, HealthCheck},
    table::{Period, PeriodError},
};

/// How a service's tasks are checked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health check")]
pub(super) struct HealthArguments {
    /// Give new flows only to tasks that answer GET of this path with a status from 200 to 399; the port is the target of the
    /// published ones where none is given
    #[arg(long, group = "health_probe", value_name = "[PORT]/PATH", value_parser = http)]
    health_http: Option<Http>,
    /// Give new flows only to tasks that take a TCP connection on this port
    #[arg(long, group = "health_probe", value_name = "PORT", value_parser = port)]
    health_tcp: Option<NonZeroU16>,
    /// The time between the beginnings of two checks [default: 2s]
    #[arg(long, value_name = "DURATION", requires = "health_probe", value_parser = period)]
    health_interval: Option<Period>,
    /// The time after which a check without an answer has failed [default: 1s]
    #[arg(long, value_name = "DURATION", requires = "health_probe", value_parser = period)]
    health_timeout: Option<Period>,
    /// How many checks in a row must succeed until an unhealthy task is healthy [default: 2]
    #[arg(long, value_name = "N", requires = "health_probe")]
    health_rise: Option<NonZeroU8>,
    /// How many checks in a row must fail until a healthy task is unhealthy [default: 3]
    #[arg(long, value_name = "N", requires = "health_probe")]
    health_fall: Option<NonZeroU8>,
}

/// What GET asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Http {
    port: Option<NonZeroU16>,
    path: String,
}

impl HealthArguments {
    /// The health check that is asked for, if one is.
    pub(super) fn asked(&self) -> Option<HealthCheck> {
        if self.health_http.is_none() && self.health_tcp.is_none() {
            return None;
        }
        let http = self.health_http.as_ref();
        Some(HealthCheck {
            http: http.map(|http| http.path.clone().into()),
            port: http.and_then(|http| http.port).map(Given::from),
            tcp: self.health_tcp.map(Given::from),
            command: None,
            interval: self.health_interval.map(Given::from),
            timeout: self.health_timeout.map(Given::from),
            rise: self.health_rise.map(Given::from),
            fall: self.health_fall.map(Given::from),
        })
    }
}

fn http(text: &str) -> Result<Http, String> {
    let slash = text.find('/').ok_or_else(|| "it has no path; write one such as 8080/healthz".to_owned())?;
    let (before, path) = text.split_at(slash);
    let port = if before.is_empty() { None } else { Some(port(before)?) };
    Ok(Http { port, path: path.to_owned() })
}

fn port(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| format!("`{text}` is no port; ports go from 1 to 65535"))
}

fn period(text: &str) -> Result<Period, PeriodError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_port_before_it() {
        let http = |text| http(text).map(|http| (http.port.map(NonZeroU16::get), http.path));
        assert_eq!(http("8080/healthz"), Ok((Some(8080), "/healthz".to_owned())));
        assert_eq!(http("/a/b?c=1"), Ok((None, "/a/b?c=1".to_owned())));
        for (wrong, says) in
            [("8080", "it has no path"), ("0/", "`0` is no port"), ("host:80/", "`host:80` is no port")]
        {
            assert!(http(wrong).unwrap_err().contains(says), "{wrong}");
        }
    }
}
