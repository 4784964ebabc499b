//! Traced packets by the names and the clock of people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_common::{
    Reason,
    abi::{Hook, Outcome, Trace},
};
use nix::time::{ClockId, clock_gettime};

use super::packet;
use crate::api::{Snapshot, types::TraceLine};

/// Turns records into lines.
pub(in crate::api) struct Tracer {
    /// What the monotonic clock's zero is in time since 1970.
    boot: Duration,
}

impl Tracer {
    pub(in crate::api) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // It is always there; without it the times would be counted from the epoch.
        let up = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(now, Duration::from);
        Self { boot: now.saturating_sub(up) }
    }

    /// A record as people see it.
    pub(in crate::api) fn line(&self, snapshot: &Snapshot, record: &Trace) -> TraceLine {
        let interface =
            |index| snapshot.lookup.interface_name(index).unwrap_or_else(|| format!("interface {index}"));
        let outcome = Outcome::ALL.into_iter().find(|outcome| *outcome as u8 == record.outcome);
        let hook = Hook::ALL.into_iter().find(|hook| *hook as u8 == record.hook);
        let captured = record.bytes.get(..usize::from(record.captured)).unwrap_or(&record.bytes);
        let frame = packet::read(captured, snapshot.table.options.vxlan_port);
        let at = self.boot.saturating_add(Duration::from_nanos(record.time));
        TraceLine {
            at: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            hook: hook.map_or_else(|| record.hook.to_string(), |hook| hook.label().to_owned()),
            interface: interface(record.ifindex),
            length: record.length,
            outcome: outcome.map_or_else(|| record.outcome.to_string(), |outcome| outcome.label().to_owned()),
            reason: matches!(outcome, Some(Outcome::Drop | Outcome::Refuse)).then(|| {
                let reason = Reason::ALL.into_iter().find(|reason| *reason as u32 == record.detail);
                reason.map_or_else(|| record.detail.to_string(), |reason| reason.label().to_owned())
            }),
            out: matches!(outcome, Some(Outcome::Deliver | Outcome::Host | Outcome::Transmit))
                .then(|| interface(record.detail)),
            tunnel: frame.as_ref().and_then(|frame| frame.tunnel.clone()),
            packet: frame.map(|frame| frame.packet),
        }
    }
}
