//! Health checks as they are asked for: what is not given has its default.

use std::num::{NonZeroU8, NonZeroU16};

use serde::{Deserialize, Serialize};

use super::Given;
use crate::table::{self, Period, Probe};

/// How each task of a service is to be asked whether it is well: by exactly one of `http`, `tcp` and `command`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The path that GET is to be answered for with a status of 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Given<String>>,
    /// The port that is to take a TCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Given<NonZeroU16>>,
    /// A program of the node that is to end with 0, and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Given<Vec<String>>>,
    /// The port for `http`; the target of the service's ports where they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Given<NonZeroU16>>,
    /// How much time lies between the beginnings of two checks; 2 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Given<Period>>,
    /// After how much time a check without an answer has failed; 1 s, or the interval where that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Given<Period>>,
    /// How many checks in a row must succeed until an unhealthy task is healthy; 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<Given<NonZeroU8>>,
    /// How many checks in a row must fail until a healthy task is unhealthy; 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<Given<NonZeroU8>>,
}

/// What would have to be asked for to get this one.
impl From<&table::HealthCheck> for HealthCheck {
    fn from(check: &table::HealthCheck) -> Self {
        let mut asked = Self {
            interval: Some(check.interval.into()),
            timeout: Some(check.timeout.into()),
            rise: Some(check.rise.into()),
            fall: Some(check.fall.into()),
            ..Self::default()
        };
        match &check.probe {
            Probe::Http { port, path } => {
                asked.http = Some(path.clone().into());
                asked.port = Some((*port).into());
            }
            Probe::Tcp { port } => asked.tcp = Some((*port).into()),
            Probe::Command(words) => asked.command = Some(words.clone().into()),
        }
        asked
    }
}
