//! Which tasks have died, and since when the mesh was told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The dead, by name, each with the time when every node had been told; shared by the stage and the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Census(Arc<Mutex<HashMap<String, Option<Instant>>>>);

/// A task's death.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    /// When the last node was told, if it has been.
    pub(super) told: Option<Instant>,
}

impl Census {
    /// A task is about to die: what happens to its flows from now on is not the mesh's doing.
    pub(super) fn dies(&self, task: &str) {
        self.lock().entry(task.to_owned()).or_insert(None);
    }

    /// Every node has been told of all deaths so far.
    pub(super) fn told(&self) {
        let now = Instant::now();
        for told in self.lock().values_mut() {
            told.get_or_insert(now);
        }
    }

    /// The death of a task, if it is dead.
    pub(super) fn death(&self, task: &str) -> Option<Death> {
        self.lock().get(task).map(|told| Death { told: *told })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
