//! When a change holds, as a client sees it that asks without a pause.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mesh_tests::lab::{Probe, Prober};

/// How often the client asks. Its ports last for fifty seconds then: longer than the slowest change takes in all of its rounds.
pub(super) const INTERVAL: Duration = Duration::from_millis(1);

/// How long a change may take to hold.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server has gone, and a state has come to rest, when so long a time says so.
const REST: Duration = Duration::from_millis(40);

/// After this time a question is as good as unanswered.
const ANSWER: Duration = Duration::from_millis(15);

/// What one sees when a change holds.
#[derive(Clone, Copy)]
pub(super) enum Sign {
    /// This server answers.
    Answers(&'static str),
    /// It does so no more.
    IsSilent(&'static str),
}

/// How long a change took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Took {
    /// From the beginning of the command to when the first packet was sent that met the change.
    pub(super) since_begin: f64,
    /// From the command's end; negative where the packet was sent before.
    pub(super) since_end: f64,
}

impl Sign {
    /// Makes a change and finds out when it held.
    pub(super) fn time(self, prober: &mut Prober, change: impl FnOnce() -> Result<()>) -> Result<Took> {
        self.wait_until_rested(prober)?;
        let begin = Instant::now();
        change()?;
        let end = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(held) = self.held(&prober.since(begin)?, Instant::now()) {
                return Ok(Took {
                    since_begin: milliseconds(begin, held),
                    since_end: milliseconds(end, held),
                });
            }
            sleep(INTERVAL);
        }
        bail!("the change did not hold within {PATIENCE:?}: {} ", self.told())
    }

    /// Waits until nothing is to be seen of the change, which was undone.
    fn wait_until_rested(self, prober: &mut Prober) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            sleep(REST + ANSWER);
            let probes = prober.since(Instant::now() - REST - ANSWER)?;
            let heard = |name: &str| probes.iter().any(|probe| probe.is_answered_by(name));
            let is_rested = match self {
                Self::Answers(name) => !heard(name),
                Self::IsSilent(name) => heard(name),
            };
            if is_rested && !probes.is_empty() {
                return Ok(());
            }
        }
        bail!("the change before this one was not undone within {PATIENCE:?}: {}", self.told())
    }

    /// When the first packet was sent that met the change, by what was asked since it began; none if it is not over.
    fn held(self, probes: &[Probe], now: Instant) -> Option<Instant> {
        match self {
            Self::Answers(name) => {
                probes.iter().find(|probe| probe.is_answered_by(name)).map(|probe| probe.asked)
            }
            Self::IsSilent(name) => {
                let last = probes.iter().rposition(|probe| probe.is_answered_by(name));
                let first = probes.get(last.map_or(0, |last| last + 1))?.asked;
                (now.saturating_duration_since(first) >= REST + ANSWER).then_some(first)
            }
        }
    }

    fn told(self) -> String {
        match self {
            Self::Answers(name) => format!("{name} was to answer then"),
            Self::IsSilent(name) => format!("{name} was to be silent then"),
        }
    }
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    let distance = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
    distance(from, to) - distance(to, from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(begin: Instant, answers: &[Option<&str>]) -> Vec<Probe> {
        let probe = |(number, answer): (u32, &Option<&str>)| Probe {
            asked: begin + INTERVAL * number,
            answer: answer.map(str::to_owned),
        };
        (0..).zip(answers).map(probe).collect()
    }

    #[test]
    fn a_server_answers_from_its_first_answer_on() {
        let begin = Instant::now();
        let heard = probes(begin, &[Some("one"), None, Some("two"), Some("one"), Some("two")]);
        let held = |sign: Sign| sign.held(&heard, begin + PATIENCE);
        assert_eq!(held(Sign::Answers("two")), Some(begin + INTERVAL * 2));
        assert_eq!(held(Sign::Answers("three")), None);
    }

    #[test]
    fn a_server_is_silent_after_its_last_answer_and_only_after_a_time() {
        let begin = Instant::now();
        let heard = probes(begin, &[Some("two"), Some("one"), Some("two"), Some("one"), Some("one")]);
        let silent = Sign::IsSilent("two");
        assert_eq!(silent.held(&heard, begin + PATIENCE), Some(begin + INTERVAL * 3));
        assert_eq!(silent.held(&heard, begin + INTERVAL * 5), None);
        assert_eq!(Sign::IsSilent("three").held(&heard, begin + PATIENCE), Some(begin));
        // Whoever spoke last of all is not known to be silent.
        assert_eq!(Sign::IsSilent("one").held(&heard, begin + PATIENCE), None);
    }

    #[test]
    fn a_time_before_another_is_negative() {
        let now = Instant::now();
        assert_eq!(milliseconds(now, now + Duration::from_millis(2)), 2.0);
        assert_eq!(milliseconds(now + Duration::from_millis(2), now), -2.0);
    }
}
