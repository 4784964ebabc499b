//! How often something is done for each address, and for each session, in bounded memory.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use super::wire::Session;

/// How many addresses are remembered, and how many sessions.
const MOST: usize = 4096;

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
        if self.last.len() >= MOST {
            let every = self.every;
            self.last.retain(|_, (last, _)| now.saturating_sub(*last) < every);
            if self.last.len() >= MOST {
                return None;
            }
        }
        self.last.insert(address, (now, 0));
        Some(0)
    }
}

/// Lets each hello be answered once. Those of a session are told apart by their counters; so whoever repeats hellos that were
/// recorded cannot keep a new one from being answered.
#[derive(Debug)]
pub(super) struct Answered {
    /// For how long a session is remembered at least.
    least: Duration,
    last: HashMap<Session, (Duration, u64)>,
}

impl Answered {
    pub(super) fn new(least: Duration) -> Self {
        Self { least, last: HashMap::new() }
    }

    /// Whether the hello of a session with this counter is to be answered.
    pub(super) fn allow(&mut self, now: Duration, session: Session, counter: u64) -> bool {
        if let Some((at, last)) = self.last.get_mut(&session) {
            let is_new = counter > *last;
            if is_new {
                (*at, *last) = (now, counter);
            }
            return is_new;
        }
        if self.last.len() >= MOST {
            let least = self.least;
            self.last.retain(|_, (at, _)| now.saturating_sub(*at) < least);
            if self.last.len() >= MOST {
                return false;
            }
        }
        self.last.insert(session, (now, counter));
        true
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
        assert_eq!(limiter.last.len(), MOST);
        assert_eq!(limiter.allow(at(160), address(5001)), None, "nobody has made room yet");
        assert_eq!(limiter.allow(at(260), address(5001)), Some(0));
    }

    #[test]
    fn each_hello_is_answered_once_whoever_repeats_others() {
        let mut answered = Answered::new(Duration::from_millis(200));
        let at = Duration::from_millis;
        let session = |number: u32| {
            let mut session = Session::default();
            session.0[..4].copy_from_slice(&number.to_be_bytes());
            session
        };
        assert!(answered.allow(at(0), session(1), 7));
        assert!(!answered.allow(at(1), session(1), 7));
        assert!(!answered.allow(at(500), session(1), 6));
        assert!(answered.allow(at(500), session(1), 8), "as soon as there is another");
        for number in 2..5000 {
            answered.allow(at(600), session(number), 0);
        }
        assert_eq!(answered.last.len(), MOST);
        assert!(!answered.allow(at(600), session(6000), 0), "nobody has made room yet");
        assert!(answered.allow(at(800), session(6000), 0));
    }
}
