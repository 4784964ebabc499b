//! What a simulation counts.

use std::{collections::BTreeMap, fmt};

use crate::Scale;

/// What became of the packets and flows of a simulation.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed, with which all of it can be seen again.
    pub seed: u64,
    /// How great it was.
    pub scale: Scale,
    /// Simulated seconds.
    pub seconds: u64,
    /// What happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// What may never happen, in words; only the first are kept.
    pub faults: Vec<String>,
    /// How many of those there were.
    pub faulty: u64,
}

/// How many faults are kept in words.
const FAULTS_KEPT: usize = 10;

impl Report {
    pub(crate) const fn new(seed: u64, scale: Scale) -> Self {
        Self { seed, scale, seconds: 0, counts: BTreeMap::new(), faults: Vec::new(), faulty: 0 }
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    pub(crate) fn fault(&mut self, fault: impl FnOnce() -> String) {
        self.faulty += 1;
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault());
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// All packets.
    #[must_use]
    pub fn packets(&self) -> u64 {
        ["packets: of clients", "packets: of tasks", "packets: words of agents"]
            .map(|name| self.of(name))
            .iter()
            .sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} nodes, {} services, {} packets in {} simulated seconds",
            self.seed,
            self.scale.nodes,
            self.scale.services,
            self.packets(),
            self.seconds
        )?;
        for (name, count) in &self.counts {
            writeln!(f, "  {count:>9}  {name}")?;
        }
        writeln!(f, "  {:>9}  faults", self.faulty)?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}
