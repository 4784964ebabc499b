//! Packets by chance, and what they take over an empty program.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::super::prog::{
    frame::Frame,
    path::{Site, Wanted},
    stage::Stage,
};

/// Numbers that look like chance, the same in each run: xorshift (Marsaglia, "Xorshift RNGs", 2003).
pub(super) struct Random(u64);

impl Random {
    /// Those of a seed.
    pub(super) fn new(seed: u32) -> Self {
        Self(u64::from(seed) << 32 | 0x9e37_79b9)
    }

    /// Any number.
    pub(super) fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// One below another, which is not 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(bound)) >> 32) as u32
    }
}

/// The address and port of a client outside, of which there are two thousand million.
pub(super) fn client(number: u32) -> (IpAddr, u16) {
    /// Addresses in 198.18.0.0/15, less the first and the last.
    const ADDRESSES: u32 = 131_000;
    let address = Ipv4Addr::from_bits(0xc612_0001 + number % ADDRESSES);
    (address.into(), 1024 + (number / ADDRESSES % 60_000) as u16)
}

/// The nanoseconds of a packet over those of an empty program at the same hook, which has the same packets before.
pub(super) fn over_empty(
    stage: &Stage,
    site: Site,
    load: usize,
    frames: &[Frame],
    wanted: Wanted,
) -> Result<f64> {
    let frames: Vec<_> = frames.iter().collect();
    let (control, passes) = site.empty();
    let empty = stage.time(control, 0, &frames, passes)?;
    Ok(stage.time(site, load, &frames, wanted)? - empty)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn chance_stays_below_its_bound_and_meets_all_of_it() {
        let mut random = Random::new(1);
        let met: HashSet<_> = (0..1000).map(|_| random.below(10)).collect();
        assert_eq!(met.len(), 10);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn a_million_clients_are_a_million() {
        let clients: HashSet<_> = (0..1_000_000).map(client).collect();
        assert_eq!(clients.len(), 1_000_000);
    }
}
