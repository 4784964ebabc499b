//! Health: how a service's tasks are asked whether they are well, what they answered, and what that makes of a table.

use std::{
    borrow::Cow,
    fmt,
    num::{NonZeroU8, NonZeroU16},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Endpoint, Table};

/// The longest reason that is kept, in characters.
const LONGEST_REASON: usize = 200;

/// What is known of endpoints' health, by their names.
pub type Healths = OrdMap<String, Health>;

/// How each task of a service is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// How much time lies between the beginnings of two checks.
    pub interval: Period,
    /// After how much time a check without an answer has failed.
    pub timeout: Period,
    /// How many checks in a row must succeed until an unhealthy task is healthy.
    pub rise: NonZeroU8,
    /// How many checks in a row must fail until a healthy task is unhealthy.
    pub fall: NonZeroU8,
}

/// What a task is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Whether GET of a path is answered with a status of 200 to 399.
    Http {
        /// The task's port.
        port: NonZeroU16,
        /// The path, with its query.
        path: String,
    },
    /// Whether it takes a TCP connection.
    Tcp {
        /// The task's port.
        port: NonZeroU16,
    },
    /// Whether a program of the node, run in the task's network namespace, ends with 0: its name or path, and its arguments.
    Command(Vec<String>),
}

/// A length of time in whole milliseconds, written with a unit: `500ms`, `2s`, `1m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// Its units and how many milliseconds each has, the greatest first.
    const UNITS: [(&'static str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The length of time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// What is no [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time such as 500ms, 2s or 1m")]
pub struct PeriodError;

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or(PeriodError)?;
        let (_, milliseconds) = Self::UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(PeriodError)?;
        let number: u64 = number.parse().map_err(|_| PeriodError)?;
        number.checked_mul(milliseconds).map(Self::from_millis).ok_or(PeriodError)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, unit): &(&str, u64)| milliseconds > 0 && milliseconds.is_multiple_of(*unit);
        let (name, unit) = Self::UNITS.into_iter().find(fits).unwrap_or(("s", 1_000));
        write!(f, "{}{name}", milliseconds / unit)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a task's checks have come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What holds.
    pub state: HealthState,
    /// Since when it holds, in seconds since 1970; 0 where its node has not told yet.
    pub since: u64,
    /// Why its last failed check failed; none for a healthy task whose last check succeeded.
    #[serde(default, deserialize_with = "plain_reason")]
    pub reason: Option<String>,
}

/// What holds of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// No check of it has succeeded yet.
    Starting,
    /// It takes new flows.
    Healthy,
    /// Its checks fail.
    Unhealthy,
}

impl Health {
    /// Whether new flows may go there.
    #[must_use]
    pub const fn takes_flows(&self) -> bool {
        matches!(self.state, HealthState::Healthy)
    }
}

impl HealthState {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A reason that can stand in a line: without control characters, and not too long. Part of it may be a task's own words.
#[must_use]
pub fn plain(reason: &str) -> String {
    let mut characters = reason.trim().chars();
    let mut plain: String = characters
        .by_ref()
        .take(LONGEST_REASON)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if characters.next().is_some() {
        plain.push('…');
    }
    plain
}

/// It may come from another node, or from a file.
fn plain_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let reason = Option::<String>::deserialize(deserializer)?;
    Ok(reason.map(|reason| plain(&reason)))
}

impl Table {
    /// The table with health's part in it: a backend that is known not to be healthy has no weight, so it drains. Of whom
    /// nothing is known, nothing changes.
    #[must_use]
    pub fn with_health(self: &Arc<Self>, healths: &Healths) -> Arc<Self> {
        let sick = healths.iter().filter(|(_, health)| !health.takes_flows());
        let drained: Vec<(&String, Endpoint)> = sick
            .filter_map(|(name, _)| {
                let endpoint = self.endpoints.get(name)?;
                let check = self.services.get(endpoint.service.as_ref()?)?.health_check.as_ref();
                let counts = check.is_some() && endpoint.weight > 0;
                counts.then(|| (name, Endpoint { weight: 0, ..endpoint.clone() }))
            })
            .collect();
        if drained.is_empty() {
            return Arc::clone(self);
        }
        let mut table = Self::clone(self);
        for (name, endpoint) in drained {
            table.endpoints.insert(name.clone(), endpoint);
        }
        Arc::new(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{endpoint, service, table};

    #[test]
    fn periods_have_units() {
        for (text, milliseconds) in
            [("500ms", 500), ("2s", 2_000), ("1m", 60_000), ("90s", 90_000), ("1h", 3_600_000), ("0s", 0)]
        {
            let period: Period = text.parse().unwrap();
            assert_eq!(period, Period::from_millis(milliseconds), "{text}");
            assert_eq!(period.to_string(), text);
        }
        assert_eq!("1000ms".parse::<Period>().unwrap().to_string(), "1s");
        for wrong in [
            "",
            "2",
            "s",
            "-2s",
            "+2s",
            "2 s",
            "1.5s",
            "2d",
            "2S",
            "é",
            "99999999999999999999s",
            "99999999999999999h",
        ] {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn reasons_stand_in_a_line() {
        assert_eq!(plain(" a\nb\u{1b}[31m "), "a b [31m");
        let long = plain(&"x".repeat(1000));
        assert_eq!((long.chars().count(), long.chars().last()), (LONGEST_REASON + 1, Some('…')));
        let told: Health =
            serde_json::from_str(r#"{"state": "unhealthy", "since": 1, "reason": "a\u001bb"}"#).unwrap();
        assert_eq!(told.reason.as_deref(), Some("a b"));
    }

    #[test]
    fn who_is_not_healthy_has_no_weight_and_others_keep_theirs() {
        let mut asked = table();
        service(&mut asked, "web", &[("blue", &["10.0.9.2"])], &[]);
        service(&mut asked, "plain", &[("blue", &["10.0.9.3"])], &[]);
        asked.services.get_mut("web").unwrap().health_check = Some(HealthCheck {
            probe: Probe::Tcp { port: NonZeroU16::MIN },
            interval: Period::from_millis(2_000),
            timeout: Period::from_millis(1_000),
            rise: NonZeroU8::MIN,
            fall: NonZeroU8::MIN,
        });
        for (n, name) in (11..).zip(["web.1", "web.2", "web.3", "web.4"]) {
            endpoint(&mut asked, name, "n1", "web", "blue", &[&format!("10.0.9.{n}")]);
        }
        endpoint(&mut asked, "plain.1", "n1", "plain", "blue", &["10.0.9.21"]);
        asked.endpoints.get_mut("web.2").unwrap().weight = 7;
        let asked = Arc::new(asked);
        let health = |state| Health { state, since: 0, reason: None };
        let healths: Healths = [
            ("web.1", HealthState::Healthy),
            ("web.2", HealthState::Unhealthy),
            ("web.3", HealthState::Starting),
            // It is not asked any longer, and who is not there cannot drain.
            ("plain.1", HealthState::Unhealthy),
            ("nobody", HealthState::Unhealthy),
        ]
        .map(|(name, state)| (name.to_owned(), health(state)))
        .into_iter()
        .collect();
        let table = asked.with_health(&healths);
        let weights: Vec<u16> = table.endpoints.values().map(|endpoint| endpoint.weight).collect();
        assert_eq!(weights, [1, 1, 0, 0, 1]);
        assert_eq!(asked.endpoints["web.2"].weight, 7);
        assert!(Arc::ptr_eq(&asked.with_health(&Healths::new()), &asked));
        // Where it is well again, it is as it was, and what is shared is found to be.
        assert_eq!(asked.endpoints.diff(&table.endpoints).count(), 2);
    }
}
