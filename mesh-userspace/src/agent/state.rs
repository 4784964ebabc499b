//! The snapshot of the agent that its API answers from.

use std::{sync::Arc, time::SystemTime};

use crate::{apply::MapContents, plan::Plan, problem::Problem, table::Table};

/// What the agent knew and wanted after its last round.
#[derive(Clone, Debug)]
pub struct State {
    /// This node's name.
    pub node: String,
    /// When this agent was started.
    pub started: SystemTime,
    /// Counts the tables that were taken over since then, from 1.
    pub revision: u64,
    /// The desired state.
    pub table: Arc<Table>,
    /// What it means for this node.
    pub plan: Arc<Plan>,
    /// The kernel maps as the last round left them: which index stands for which node, backend and service.
    pub contents: Arc<MapContents>,
    /// What is wrong, and how to mend it; empty when all is well.
    pub problems: Vec<Problem>,
    /// Map entries that had been altered behind the agent's back and were put right, since the start.
    pub repaired: u64,
}
