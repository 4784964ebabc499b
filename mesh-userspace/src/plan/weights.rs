//! Weights as rings take them: small, with the same shares.

use super::ring::Weighted;

/// The greatest total weight that is kept as it is. A ring has at least 100 slots for each unit of weight, and the table
/// of slots a million in all: IPVS's greatest weight, 65535, would fill it with one service.
const MOST: u64 = 655;

/// For more than a hundred backends, more: so many units for each of them.
const MOST_EACH: u64 = 6;

/// The backends that take new flows, with weights that stand in the same ratios: without a common divisor, and where
/// they are still too great, rounded to such as fit, but none to 0.
pub(super) fn reduced(backends: impl IntoIterator<Item = Weighted>) -> Vec<Weighted> {
    let mut weighted: Vec<Weighted> = backends.into_iter().filter(|backend| backend.weight > 0).collect();
    let mut weights: Vec<u32> = weighted.iter().map(|backend| backend.weight).collect();
    reduce(&mut weights);
    for (backend, weight) in weighted.iter_mut().zip(weights) {
        backend.weight = weight;
    }
    weighted
}

/// The total of weights as rings take them, for backends of which none drains.
pub(super) fn total(weights: impl IntoIterator<Item = u16>) -> u64 {
    let mut weights: Vec<u32> = weights.into_iter().map(|weight| weight.max(1).into()).collect();
    reduce(&mut weights);
    weights.into_iter().map(u64::from).sum()
}

/// Weights that are not 0, made small.
fn reduce(weights: &mut [u32]) {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    for weight in &mut *weights {
        *weight /= divisor;
    }
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let most = MOST.max(MOST_EACH * weights.len() as u64);
    if total > most {
        for weight in weights {
            let share = (u64::from(*weight) * most + total / 2) / total;
            *weight = u32::try_from(share).unwrap_or(u32::MAX).max(1);
        }
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::ring::BackendId, *};

    fn weighted(weights: &[u32]) -> Vec<Weighted> {
        let id = |n: u8| BackendId { vni: 1, address: [10, 0, 0, n].into() };
        (1..).zip(weights).map(|(n, weight)| Weighted { id: id(n), weight: *weight }).collect()
    }

    fn weights(backends: Vec<Weighted>) -> Vec<u32> {
        reduced(backends).iter().map(|backend| backend.weight).collect()
    }

    #[test]
    fn ratios_stay_and_what_drains_goes() {
        for (given, kept) in [
            (&[][..], &[][..]),
            (&[0, 0], &[]),
            (&[65535], &[1]),
            (&[100, 100, 100], &[1, 1, 1]),
            (&[100, 0, 50], &[2, 1]),
            (&[3, 2, 1], &[3, 2, 1]),
            (&[65535, 1], &[655, 1]),
        ] {
            assert_eq!(weights(weighted(given)), kept, "{given:?}");
        }
        assert_eq!(total([0, 300, 100, 200]), 1 + 300 + 100 + 200);
        assert_eq!(total([300, 100, 200]), 3 + 1 + 2);
    }

    proptest! {
        /// No weights, however great, make a ring that fills the table of slots.
        #[test]
        fn totals_are_bounded_and_nobody_is_forgotten(given in prop::collection::vec(1u32..=65535, 1..200)) {
            let kept = weights(weighted(&given));
            prop_assert_eq!(kept.len(), given.len());
            prop_assert!(kept.iter().all(|weight| *weight > 0));
            let total: u32 = kept.iter().sum();
            prop_assert!(u64::from(total) <= MOST.max(MOST_EACH * given.len() as u64) + given.len() as u64);
        }
    }
}
