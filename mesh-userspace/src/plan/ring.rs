//! The rings from which backends are chosen: Maglev tables and round-robin lists.
//!
//! `mh`: "Maglev: A Fast and Reliable Software Network Load Balancer" (Eisenbud et al., NSDI 2016), section
//! 3.4. Each backend walks the slots in an order of its own, given by two hashes of its identity, and takes the
//! first free one whenever it is its turn. So each backend has its fair share, and one that joins or leaves
//! moves few slots between the others.
//!
//! A ring depends on nothing but the backends' identities, weights and the seed: it is equal on every node.
//!
//! The sizes are powers of two, where the paper's are primes (docs/decisions/0009): so a slot of a ring is exactly two
//! slots of one of twice the size, and what a slot held before is known across growth and shrinking.

use std::{net::IpAddr, ops::RangeInclusive};

use mesh_common::abi::Address;

/// The identity of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// Its network's VNI.
    pub vni: u32,
    /// Its address in this network.
    pub address: IpAddr,
}

/// A backend and its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weighted {
    /// The backend.
    pub id: BackendId,
    /// Its share, in units; with 0 it gets nothing.
    pub weight: u32,
}

/// A ring: which backend each slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ring {
    backends: Vec<BackendId>,
    /// Positions in `backends`.
    slots: Vec<u32>,
}

/// The slots of the smallest Maglev table and of the greatest, as powers of two; each in between is a size as well.
const SIZES: RangeInclusive<u32> = 10..=20;

/// The slots that a unit of weight has at least.
const SLOTS_PER_UNIT: u64 = 100;

impl Ring {
    /// The Maglev table of these backends, in whatever order and with whatever repetitions they are given
    /// (the first weight counts).
    ///
    /// Each backend's slots differ from its exact share by less than one.
    #[must_use]
    pub fn maglev(seed: u64, backends: impl IntoIterator<Item = Weighted>) -> Self {
        let mut members: Vec<Weighted> = backends.into_iter().filter(|backend| backend.weight > 0).collect();
        members.sort_by_key(|backend| backend.id);
        members.dedup_by_key(|backend| backend.id);
        let total: u64 = members.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return Self::default();
        }
        let size = size_for(total);
        let heaviest = members.iter().map(|backend| u64::from(backend.weight)).max().unwrap_or(1);
        let mut walks: Vec<Walk> = shares(&members, total, u64::from(size))
            .into_iter()
            .zip(&members)
            .map(|(share, member)| Walk::new(seed, member, share, size))
            .collect();

        let mut slots = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        // A bit for each slot, one while it is free: all of them stay in the processor's first cache.
        let mut free = vec![u64::MAX; slots.len() / 64];
        let mut left = size;
        while left > 0 {
            for (position, walk) in (0..).zip(&mut walks) {
                // A backend of half the heaviest weight has a turn in every second round, and so on.
                walk.credit += walk.weight;
                if walk.credit < heaviest {
                    continue;
                }
                walk.credit -= heaviest;
                if walk.share == 0 {
                    continue;
                }
                walk.share -= 1;
                left -= 1;
                if let Some(slot) = walk.take(&mut free).and_then(|slot| slots.get_mut(slot)) {
                    *slot = position;
                }
            }
        }
        Self { backends: members.into_iter().map(|member| member.id).collect(), slots }
    }

    /// The backends in the order given, one slot each.
    #[must_use]
    pub fn round_robin(backends: impl IntoIterator<Item = BackendId>) -> Self {
        let backends: Vec<BackendId> = backends.into_iter().collect();
        let slots = (0..).zip(&backends).map(|(position, _)| position).collect();
        Self { backends, slots }
    }

    /// The backends that the ring was made of.
    #[must_use]
    pub fn backends(&self) -> &[BackendId] {
        &self.backends
    }

    /// The number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot, for want of backends.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What each slot holds, as a position in [`backends`](Self::backends).
    #[must_use]
    pub fn positions(&self) -> &[u32] {
        &self.slots
    }

    /// The backend of each slot.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Option<BackendId>> + '_ {
        self.slots.iter().map(|position| self.backends.get(usize::try_from(*position).ok()?).copied())
    }

    /// The backend of a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<BackendId> {
        self.slots().nth(slot).flatten()
    }
}

/// The size of the table for a total weight; beyond the greatest size, shares get coarser than 1 %.
pub(super) fn size_for(total: u64) -> u32 {
    let wanted = total.saturating_mul(SLOTS_PER_UNIT);
    let mut sizes = SIZES.map(|bits| 1 << bits);
    sizes.find(|size| u64::from(*size) >= wanted).unwrap_or(1 << SIZES.end())
}

/// Each backend's number of slots: its exact share rounded down, and what is left goes, one each, to those that
/// were rounded down most.
fn shares(members: &[Weighted], total: u64, size: u64) -> Vec<u64> {
    let exact = |member: &Weighted| u128::from(member.weight) * u128::from(size);
    let total = u128::from(total);
    let mut shares: Vec<u64> =
        members.iter().map(|member| u64::try_from(exact(member) / total).unwrap_or(u64::MAX)).collect();
    let mut by_remainder: Vec<(usize, u128)> =
        members.iter().map(|member| exact(member) % total).enumerate().collect();
    by_remainder.sort_by_key(|(_, remainder)| std::cmp::Reverse(*remainder));
    let left = size.saturating_sub(shares.iter().sum());
    for (index, _) in by_remainder.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    shares
}

/// A backend on its way over the slots.
struct Walk {
    weight: u64,
    /// What it has saved up for its next turn, which costs as much as the heaviest weight.
    credit: u64,
    /// The slots that it has still to take.
    share: u64,
    position: u32,
    /// Odd, so that it passes every slot of a power of two before it comes back to the first.
    skip: u32,
    mask: u32,
}

impl Walk {
    fn new(seed: u64, member: &Weighted, share: u64, size: u32) -> Self {
        let hash = hash(seed, member.id);
        let mask = size - 1;
        let [low, high] = [hash as u32, (hash >> 32) as u32];
        Self {
            weight: u64::from(member.weight),
            credit: 0,
            share,
            position: low & mask,
            skip: high & mask | 1,
            mask,
        }
    }

    /// The next slot that is free on its way, which it takes; none only if none is free.
    fn take(&mut self, free: &mut [u64]) -> Option<usize> {
        let mut position = self.position;
        for _ in 0..=self.mask {
            let slot = usize::try_from(position).ok()?;
            position = position.wrapping_add(self.skip) & self.mask;
            let word = free.get_mut(slot / 64)?;
            let bit = 1 << (slot % 64);
            if *word & bit != 0 {
                *word &= !bit;
                self.position = position;
                return Some(slot);
            }
        }
        None
    }
}

/// A backend's identity in 64 bits, alike on all machines. No map is keyed by it, so it need not withstand chosen
/// input.
fn hash(seed: u64, id: BackendId) -> u64 {
    let Address([high, low]) = Address::from(id.address);
    mesh_common::hash::words(seed, [u64::from_le(high), u64::from_le(low), u64::from(id.vni)])
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const SEED: u64 = 7;

    fn id(n: u32) -> BackendId {
        BackendId { vni: 1, address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0900 + n)) }
    }

    fn even(n: u32) -> impl Iterator<Item = Weighted> {
        (1..=n).map(|n| Weighted { id: id(n), weight: 1 })
    }

    fn counts(ring: &Ring) -> BTreeMap<BackendId, u64> {
        ring.slots().flatten().fold(BTreeMap::new(), |mut counts, id| {
            *counts.entry(id).or_default() += 1;
            counts
        })
    }

    /// How many slots that belonged to another than `left` have another backend now.
    fn disturbed(before: &Ring, after: &Ring, left: BackendId) -> usize {
        assert_eq!(before.len(), after.len());
        before.slots().zip(after.slots()).filter(|(old, new)| *old != Some(left) && old != new).count()
    }

    #[test]
    fn a_unit_of_weight_has_a_hundred_slots_up_to_the_greatest_size() {
        for (total, size) in [
            (1, 1024),
            (10, 1024),
            (11, 2048),
            (20, 2048),
            (100, 16384),
            (10_000, 1 << 20),
            (1 << 40, 1 << 20),
        ] {
            assert_eq!(size_for(total), size, "{total}");
        }
    }

    /// What docs/decisions/0009 rests on: of two sizes, a hash's slot in the greater one lies within that in the smaller.
    #[test]
    fn rings_of_two_sizes_nest() {
        for hash in (0..=u32::MAX).step_by(9973) {
            for bits in SIZES {
                let slot = mesh_common::hash::slot(hash, 1 << bits);
                assert_eq!(mesh_common::hash::slot(hash, 2 << bits) / 2, slot);
            }
        }
    }

    #[test]
    fn without_backends_there_is_no_slot() {
        assert!(Ring::maglev(SEED, []).is_empty());
        assert!(Ring::maglev(SEED, [Weighted { id: id(1), weight: 0 }]).is_empty());
        assert!(Ring::round_robin([]).is_empty());
    }

    #[test]
    fn round_robin_keeps_the_order() {
        let ring = Ring::round_robin([id(3), id(1), id(2)]);
        assert_eq!(ring.slots().collect::<Vec<_>>(), [Some(id(3)), Some(id(1)), Some(id(2))]);
    }

    /// Nodes of mixed versions must agree: what stands here may never change.
    #[test]
    fn the_ring_is_what_it_always_was() {
        let ring = Ring::maglev(0x6d65_7368, even(3));
        let first: String = ring.slots().take(32).flatten().map(last).collect();
        assert_eq!(first, "21111122221122111123333233333211");
    }

    fn last(id: BackendId) -> char {
        id.address.to_string().chars().last().unwrap()
    }

    #[test]
    fn ten_thousand_flows_are_spread_within_five_per_cent() {
        let ring = Ring::maglev(SEED, even(3));
        let mut counts = BTreeMap::<_, u32>::new();
        for flow in 0..10_000u32 {
            let client = Address::from_v4((0xc633_6400 + flow / 500).to_be_bytes());
            let port = (32768 + (flow % 500) as u16 * 3).to_be_bytes();
            let hash = mesh_common::hash::flow(SEED, client, port, [0x23, 0xf0], 6);
            let slot = mesh_common::hash::slot(hash, ring.len() as u32);
            *counts.entry(ring.get(slot as usize)).or_default() += 1;
        }
        assert!(counts.values().all(|count| (3167..=3500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_backend_that_leaves_moves_few_slots_of_the_others() {
        for n in [2, 3, 5, 10, 40, 100] {
            let before = Ring::maglev(SEED, even(n));
            let moved: Vec<usize> = (1..=n)
                .map(|gone| (id(gone), Ring::maglev(SEED, even(n).filter(|backend| backend.id != id(gone)))))
                .filter(|(_, after)| after.len() == before.len())
                .map(|(left, after)| disturbed(&before, &after, left))
                .collect();
            assert!(moved.len() as u32 == n, "the size stays");
            // The paper's own figures are of this order, and fall with the number of slots.
            let (mean, worst) = (moved.iter().sum::<usize>() / moved.len(), moved.iter().max().unwrap());
            assert!(
                mean * 100 <= before.len() * 5,
                "{n} backends: {mean} of {} slots on average",
                before.len()
            );
            assert!(
                worst * 100 <= before.len() * 8,
                "{n} backends: {worst} of {} slots at worst",
                before.len()
            );
        }
    }

    #[test]
    fn a_backend_that_changes_its_weight_moves_few_slots_of_the_others() {
        let before = Ring::maglev(SEED, even(8));
        let after =
            Ring::maglev(SEED, even(8).map(|b| Weighted { weight: 1 + u32::from(b.id == id(3)), ..b }));
        let changed = disturbed(&before, &after, id(3));
        // Its share grows from 1/8 to 2/9 of the ring, which others must give; a tenth of the ring comes on top.
        assert!(changed < before.len() / 4, "{changed} of {}", before.len());
    }

    #[test]
    fn the_seed_and_each_part_of_the_identity_matter() {
        let ring = Ring::maglev(SEED, even(3));
        assert_ne!(ring.slots, Ring::maglev(SEED + 1, even(3)).slots);
        let elsewhere = even(3).map(|b| Weighted { id: BackendId { vni: 2, ..b.id }, ..b });
        assert_ne!(ring.slots, Ring::maglev(SEED, elsewhere).slots);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn shares_are_exact_to_one_slot(weights in prop::collection::vec(1u32..12, 1..24)) {
            let members: Vec<Weighted> =
                (1..).zip(&weights).map(|(n, weight)| Weighted { id: id(n), weight: *weight }).collect();
            let ring = Ring::maglev(SEED, members.clone());
            let total: u32 = weights.iter().sum();
            prop_assert!(ring.len() as u64 >= u64::from(total) * SLOTS_PER_UNIT);
            let counts = counts(&ring);
            for member in &members {
                let exact = ring.len() as f64 * f64::from(member.weight) / f64::from(total);
                let count = counts[&member.id] as f64;
                prop_assert!((count - exact).abs() < 1.0, "{count} instead of {exact}");
                prop_assert!((count / exact - 1.0).abs() <= 0.01, "{count} instead of {exact}");
            }
            prop_assert_eq!(counts.values().sum::<u64>(), ring.len() as u64);
        }

        #[test]
        fn the_order_in_which_backends_come_does_not_matter(
            order in Just((1..=12).collect::<Vec<u32>>()).prop_shuffle()
        ) {
            let shuffled = order.into_iter().map(|n| Weighted { id: id(n), weight: n });
            let sorted = (1..=12).map(|n| Weighted { id: id(n), weight: n });
            prop_assert_eq!(Ring::maglev(SEED, shuffled), Ring::maglev(SEED, sorted));
        }
    }
}
