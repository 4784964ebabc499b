//! How busy the machine's processors are, and which of them a thread may use.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

/// Seconds that all processors together have worked since some moment: user, system, interrupts and softirqs.
pub(in crate::bench) struct Busy {
    began: u64,
}

impl Busy {
    /// From now on.
    pub(in crate::bench) fn begin() -> Result<Self> {
        Ok(Self { began: ticks()? })
    }

    /// Until now.
    pub(in crate::bench) fn seconds(&self) -> Result<f64> {
        let ticks = ticks()?.saturating_sub(self.began);
        let each_second =
            sysconf(SysconfVar::CLK_TCK)?.context("the system does not tell how long a tick is")?;
        Ok(ticks as f64 / each_second as f64)
    }
}

fn ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy(&text).context("/proc/stat does not begin with the sum of all processors")
}

/// The ticks of the first line that were work (proc(5)): user, nice, system, irq and softirq. Idle, waiting for a disk and
/// stolen by other machines are none, and guests are in user already.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + irq + softirq)
}

/// Has this thread run on one processor alone, if there are several.
pub(in crate::bench) fn pin(processor: usize) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    if processors < 2 {
        return Ok(());
    }
    let mut set = CpuSet::new();
    set.set(processor % processors)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot bind a thread to a processor")
}

#[cfg(test)]
mod tests {
    use super::busy;

    #[test]
    fn idle_waiting_and_stolen_time_is_no_work() {
        let text = "cpu  1 20 300 9999 9999 4000 50000 9999 9999 0\ncpu0 7 7 7 7 7 7 7 7 7 7\n";
        assert_eq!(busy(text), Some(54_321));
        assert_eq!(busy("cpu0 1 2 3 4 5 6 7\n"), None);
    }
}
