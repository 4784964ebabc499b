//! The client's source ports, by which the flows are told apart and spread.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Random,
    flow::{Flow, Protocol},
    stage::{PUBLISHED, ends},
};

/// The ports that are used, one after the other: none twice before all were.
const PORTS: Range<u16> = 10_000..61_000;

/// The ports, shared by whoever opens flows.
#[derive(Clone, Debug)]
pub(super) struct Ports(Arc<AtomicU64>);

impl Ports {
    /// The ports, from one on that the seed says.
    pub(super) fn new(seed: u64) -> Self {
        let first = Random::new(seed).below(PORTS.len());
        Self(Arc::new(AtomicU64::new(first as u64)))
    }

    /// A flow by the next port, which is not opened yet.
    pub(super) fn flow(&self, protocol: Protocol, is_v6: bool) -> Flow {
        let place = self.0.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u64;
        let port = PORTS.start + u16::try_from(place).unwrap_or(0);
        let (local, remote) = ends(is_v6, port, PUBLISHED);
        Flow::new(protocol, local, remote)
    }
}
