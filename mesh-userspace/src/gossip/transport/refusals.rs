//! What was refused: counted, and told in few words however much it is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use mesh_cluster::seal::Refused;

/// For how long refusals are a problem.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// So few are what a network does by itself.
const FEW: u64 = 8;

/// What was refused of late.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: Duration,
    /// How many, for each reason that is told.
    counts: BTreeMap<&'static str, u64>,
    last: Option<(Duration, SocketAddr, Refused)>,
    before: Option<(Duration, String)>,
}

impl Refusals {
    pub(super) fn note(&mut self, now: Duration, from: SocketAddr, refused: Refused) {
        let reason = match refused {
            Refused::Malformed => "were no sealed gossip",
            Refused::Key(_) => "were sealed with a key that this node's keyring does not have",
            Refused::Forged => "were forged or changed on their way",
            Refused::Replayed => "had been taken before",
            // Happens whenever a node is started again.
            Refused::Own | Refused::OtherSession | Refused::Unasked | Refused::Full => return,
        };
        if now.saturating_sub(self.since) > TOLD_FOR {
            self.before = self.sentence().map(|sentence| (now, sentence));
            self.counts.clear();
            self.since = now;
        }
        let count = self.counts.entry(reason).or_default();
        *count += 1;
        self.last = Some((now, from, refused));
        if self.counts.values().sum::<u64>() == FEW {
            tracing::warn!(%from, "gossip is refused: the last of {FEW} messages because {refused}");
        }
    }

    /// What was refused within the last minutes, if it was much: a sentence.
    pub(super) fn told(&self, now: Duration) -> Option<String> {
        let is_fresh = |at: Duration| now.saturating_sub(at) < TOLD_FOR * 2;
        self.sentence()
            .filter(|_| is_fresh(self.since))
            .or_else(|| self.before.clone().filter(|(at, _)| is_fresh(*at)).map(|(_, sentence)| sentence))
    }

    fn sentence(&self) -> Option<String> {
        let (_, from, refused) = self.last?;
        let many = self.counts.iter().filter(|(_, count)| **count >= FEW);
        let counts: Vec<String> = many.map(|(reason, count)| format!("{count} {reason}")).collect();
        if counts.is_empty() {
            return None;
        }
        let mend = match refused {
            Refused::Key(id) => {
                format!("If {from} is a node of the mesh, give it this node's keyring; its key is {id}.")
            }
            _ => format!(
                "Somebody at {from}, or on the way from there, may be attacking the mesh; it learns nothing by that."
            ),
        };
        Some(format!("Messages were refused: {}. {mend}", counts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_told_for_a_while_and_few_are_not() {
        let mut refusals = Refusals::default();
        let from = SocketAddr::from(([192, 0, 2, 9], 7946));
        let at = Duration::from_secs;
        for _ in 0..FEW - 1 {
            refusals.note(at(100), from, Refused::Malformed);
        }
        refusals.note(at(100), from, Refused::OtherSession);
        assert_eq!(refusals.told(at(100)), None);
        refusals.note(at(101), from, Refused::Malformed);
        let told = refusals.told(at(101)).unwrap();
        assert!(told.contains("8 were no sealed gossip") && told.contains("192.0.2.9"), "{told}");
        assert_eq!(refusals.told(at(300)), None);
    }
}
