//! Real nodes on a simulated network. A run that failed is played again by its seed: `MESH_CLUSTER_SEED=N cargo test ...`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod hostile;
mod large;
mod marks;
mod network;
mod small;

/// The seeds of a test's runs: so many, or the one that is asked for.
fn seeds(many: u64) -> Vec<u64> {
    match std::env::var("MESH_CLUSTER_SEED") {
        Ok(seed) => vec![seed.parse().expect("MESH_CLUSTER_SEED is a number")],
        Err(_) => (1..=many).collect(),
    }
}
