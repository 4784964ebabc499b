//! Who may hold a stream open. Whoever has not shown yet that it knows a key can keep nobody out but others like it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

/// How many streams may be open of which nothing has been opened yet.
pub(super) const MOST_UNPROVEN: usize = 64;
/// How many others may be open.
pub(super) const MOST_PROVEN: usize = 512;
/// How many of either may be open from one address, or from one subnet of 64 bits of IPv6, as a host is given it.
pub(super) const MOST_OF_ONE: usize = 16;

/// The streams that are open, by numbers that grow with their age.
#[derive(Debug, Default)]
pub(super) struct Admission {
    next: u64,
    open: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    from: IpAddr,
    is_proven: bool,
}

/// A stream that may stay, and the one that must go for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) number: u64,
    pub(super) instead_of: Option<u64>,
}

impl Admission {
    /// A stream from an address: the oldest of its kind that has proved nothing goes for it where there are too many; none if
    /// all of one address have proved that they know a key, and are too many.
    pub(super) fn arrive(&mut self, from: IpAddr) -> Option<Admitted> {
        let from = group(from);
        let of_one = self.open.values().filter(|stream| stream.from == from).count();
        let unproven = self.open.iter().filter(|(_, stream)| !stream.is_proven);
        let instead_of = if of_one >= MOST_OF_ONE {
            let (number, _) = unproven.clone().find(|(_, stream)| stream.from == from)?;
            Some(*number)
        } else if unproven.clone().count() >= MOST_UNPROVEN {
            unproven.clone().next().map(|(number, _)| *number)
        } else {
            None
        };
        if let Some(number) = instead_of {
            self.open.remove(&number);
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Stream { from, is_proven: false });
        Some(Admitted { number, instead_of })
    }

    /// Something of a stream was opened. Returns whether it may stay.
    pub(super) fn prove(&mut self, number: u64) -> bool {
        let proven = self.open.values().filter(|stream| stream.is_proven).count();
        match self.open.get_mut(&number) {
            Some(stream) if stream.is_proven || proven < MOST_PROVEN => {
                stream.is_proven = true;
                true
            }
            _ => false,
        }
    }

    /// A stream has ended.
    pub(super) fn gone(&mut self, number: u64) {
        self.open.remove(&number);
    }
}

fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn who_proves_nothing_gives_way() {
        let mut admission = Admission::default();
        let first = admission.arrive(address(0)).unwrap().number;
        assert!(admission.prove(first));
        let second = admission.arrive(address(1)).unwrap().number;
        for number in 2..=MOST_UNPROVEN as u32 {
            assert_eq!(admission.arrive(address(number)).unwrap().instead_of, None);
        }
        for number in 1000..2000 {
            let admitted = admission.arrive(address(number)).unwrap();
            assert_ne!(admitted.instead_of, Some(first));
            assert!(admitted.instead_of.is_some());
        }
        assert_eq!(admission.open.len(), MOST_UNPROVEN + 1);
        assert!(!admission.prove(second), "it had to go");
        assert!(admission.prove(first));
    }

    #[test]
    fn one_address_holds_few() {
        let mut admission = Admission::default();
        let mut held = Vec::new();
        for _ in 0..MOST_OF_ONE {
            held.push(admission.arrive(address(1)).unwrap().number);
        }
        assert_eq!(admission.arrive(address(1)).unwrap().instead_of, Some(held[0]));
        assert_eq!(admission.arrive(address(2)).unwrap().instead_of, None);
        let all: Vec<u64> = admission.open.keys().copied().collect();
        for number in all {
            assert!(admission.prove(number));
        }
        assert_eq!(admission.arrive(address(1)), None);
        admission.gone(held[1]);
        assert!(admission.arrive(address(1)).is_some());
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_host() {
        let mut admission = Admission::default();
        for number in 0..100_u16 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, number, 0, 0, 1);
            admission.arrive(address.into()).unwrap();
        }
        assert_eq!(admission.open.len(), MOST_OF_ONE);
    }

    #[test]
    fn the_proven_have_an_end_too() {
        let mut admission = Admission::default();
        let stay = (0..1000).filter(|number| {
            let number = admission.arrive(address(*number)).unwrap().number;
            let stays = admission.prove(number);
            if !stays {
                admission.gone(number);
            }
            stays
        });
        assert_eq!(stay.count(), MOST_PROVEN);
    }
}
