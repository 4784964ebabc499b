//! What the nodes of a cluster say of one another.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Lab, eventually};

impl Lab {
    /// That these nodes come to see another in one of these states, in time.
    ///
    /// # Errors
    /// If one of them sees it otherwise.
    pub fn see(&self, nodes: &[&str], other: &str, states: &[&str], within: Duration) -> Result<()> {
        eventually("the others notice", within, || {
            for node in nodes {
                let seen = self.node(node).meshctl(&format!("nodes inspect {other}"))?["state"].clone();
                let is_seen = seen.as_str().is_some_and(|seen| states.contains(&seen));
                ensure!(is_seen, "{node} sees {other} as {seen}");
            }
            Ok(())
        })
    }

    /// That a service's backend comes to be in no ring of these nodes, in time: each says that it is gone.
    ///
    /// # Errors
    /// If one of them has it.
    pub fn without(&self, nodes: &[&str], service: &str, backend: &str, within: Duration) -> Result<()> {
        eventually("the backend is gone", within, || {
            for node in nodes {
                let backends = self.node(node).meshctl(&format!("backends ls {service}"))?;
                let mut list = backends.as_array().into_iter().flatten();
                let state =
                    list.find(|entry| entry["endpoint"] == backend).map(|entry| entry["state"]["is"].clone());
                ensure!(state.as_ref().is_none_or(|state| state == "gone"), "{node} says {state:?}");
            }
            Ok(())
        })
    }

    /// Whether a node has ever held another for dead, by its log.
    ///
    /// # Errors
    /// If it has no log.
    pub fn has_buried(&self, node: &str, other: &str) -> Result<bool> {
        let log = self.node(node).log_text()?;
        Ok(log.lines().any(|line| line.contains("state=Dead") && line.contains(&format!("node=\"{other}\""))))
    }
}
