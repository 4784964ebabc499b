//! How often something is done for each address, in bounded memory.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

/// How many addresses are remembered.
const MOST_ADDRESSES: usize = 4096;

/// Lets something happen for each address once in a while.
#[derive(Debug)]
pub(super) struct Limiter {
    every: Duration,
    last: HashMap<SocketAddr, (Duration, u32)>,
}

impl Limiter {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, last: HashMap::new() }
    }

    /// Whether it may happen now: then how often it did before, as far as that is remembered.
    pub(super) fn allow(&mut self, now: Duration, address: SocketAddr) -> Option<u32> {
        if let Some((last, count)) = self.last.get_mut(&address) {
            if now.saturating_sub(*last) < self.every {
                return None;
            }
            *last = now;
            *count = count.wrapping_add(1);
            return Some(*count);
        }
        if self.last.len() >= MOST_ADDRESSES {
            let every = self.every;
            self.last.retain(|_, (last, _)| now.saturating_sub(*last) < every);
            if self.last.len() >= MOST_ADDRESSES {
                return None;
            }
        }
        self.last.insert(address, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_turns_and_memory_has_an_end() {
        let mut limiter = Limiter::new(Duration::from_millis(100));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let at = Duration::from_millis;
        assert_eq!(limiter.allow(at(0), address(1)), Some(0));
        assert_eq!(limiter.allow(at(99), address(1)), None);
        assert_eq!(limiter.allow(at(99), address(2)), Some(0));
        assert_eq!(limiter.allow(at(100), address(1)), Some(1));
        for port in 10..5000 {
            limiter.allow(at(150), address(port));
        }
        assert_eq!(limiter.last.len(), MOST_ADDRESSES);
        assert_eq!(limiter.allow(at(160), address(5001)), None, "nobody has made room yet");
        assert_eq!(limiter.allow(at(260), address(5001)), Some(0));
    }
}
