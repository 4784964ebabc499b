//! What the programs log: that a packet was lost for a reason for the first time.

use std::fmt;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use mesh_common::{Reason, abi::Hook};

/// The reader of the programs' log.
pub(super) struct ProgramLog(EbpfLogger<FirstLosses>);

impl ProgramLog {
    /// Takes over the log of an object that was just loaded; none where the object logs nothing.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(ebpf, FirstLosses).ok().map(Self)
    }

    /// Tells what was logged since the last time.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

impl fmt::Debug for ProgramLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramLog").finish_non_exhaustive()
    }
}

/// Makes sentences of the programs' numbers.
struct FirstLosses;

impl Log for FirstLosses {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        match first_loss(&message) {
            Some((hook, reason)) => tracing::info!(
                hook = hook.label(),
                reason = reason.label(),
                "the first packet was dropped for a new reason: {}; `meshctl drops` counts them",
                reason.sentence()
            ),
            None => tracing::info!("a program says: {message}"),
        }
    }

    fn flush(&self) {}
}

/// What `first loss HOOK REASON` means.
fn first_loss(message: &str) -> Option<(Hook, Reason)> {
    let (hook, reason) = message.strip_prefix("first loss ")?.split_once(' ')?;
    let hook = Hook::ALL.get(hook.parse::<usize>().ok()?)?;
    let reason = Reason::ALL.get(reason.parse::<usize>().ok()?)?;
    Some((*hook, *reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        assert_eq!(first_loss("first loss 2 4"), Some((Hook::Underlay, Reason::NotAPeer)));
        for other in ["first loss 2", "first loss 9 4", "first loss 2 400", "second loss 2 4", ""] {
            assert_eq!(first_loss(other), None, "{other}");
        }
    }
}
