//! Random numbers that a seed repeats: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

use std::time::Duration;

/// A source of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The source of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below a bound, or 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bits = self.bits();
        bits.checked_rem(bound as u64).and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
    }

    /// A duration below a bound, in whole milliseconds.
    pub fn duration(&mut self, bound: Duration) -> Duration {
        let bound = usize::try_from(bound.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(self.below(bound) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_another_does_not() {
        let take = |seed| {
            let mut random = Random::new(seed);
            [random.bits(), random.bits(), random.bits()]
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
        // The first output of the authors' reference code for the seed 0.
        assert_eq!(take(0)[0], 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut random = Random::new(1);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
    }
}
