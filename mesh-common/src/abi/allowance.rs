//! How many errors and resets a node may send.

use super::pod::pod;

/// What one processor may send of ICMP errors and TCP resets (RFC 4443, section 2.4f; RFC 1812, section 4.3.2.8):
/// [`Self::PER_SECOND`] of them, and [`Self::BURST`] at once after a silence. What is beyond is lost without an answer.
///
/// A bucket of tokens, kept as the time at which it would be full again. Zeroes are a full one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// When it is full again: nanoseconds of the monotonic clock.
    full_at: u64,
}

impl Allowance {
    /// Answers a second.
    pub const PER_SECOND: u64 = 1000;
    /// Answers at once.
    pub const BURST: u64 = 200;
    /// None, for as long as a machine runs.
    pub const NONE: Self = Self { full_at: u64::MAX };

    /// Nanoseconds that one token takes to grow.
    const INTERVAL: u64 = 1_000_000_000 / Self::PER_SECOND;

    /// Takes one at a time in nanoseconds; false, and nothing taken, if there is none.
    #[inline(always)]
    pub const fn take(&mut self, now: u64) -> bool {
        let start = if self.full_at > now { self.full_at } else { now };
        if start - now > (Self::BURST - 1) * Self::INTERVAL {
            return false;
        }
        self.full_at = start + Self::INTERVAL;
        true
    }
}

pod!(Allowance);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(allowance: &mut Allowance, now: u64, tries: u64) -> u64 {
        (0..tries).filter(|_| allowance.take(now)).count() as u64
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        for start in [0, 17, 1_000_000 * SECOND] {
            let mut allowance = Allowance::default();
            assert_eq!(taken(&mut allowance, start, 1000), Allowance::BURST);
            assert_eq!(taken(&mut allowance, start + SECOND / 10, 1000), Allowance::PER_SECOND / 10);
            assert_eq!(taken(&mut allowance, start + SECOND / 10, 1000), 0);
            // No more than a burst is ever saved up.
            assert_eq!(taken(&mut allowance, start + 3600 * SECOND, 1000), Allowance::BURST);
            let a_second: u64 = (1..=1000)
                .map(|ms| taken(&mut allowance, start + 3600 * SECOND + ms * SECOND / 1000, 5))
                .sum();
            assert_eq!(a_second, Allowance::PER_SECOND);
        }
    }

    #[test]
    fn none_is_none() {
        let mut allowance = Allowance::NONE;
        assert_eq!(taken(&mut allowance, SECOND << 30, 10), 0);
    }
}
