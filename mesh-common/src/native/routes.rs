//! A node's own routes and neighbours.

use std::collections::HashMap;

use super::Subnet;
use crate::{Hop, Route, abi::Address};

/// Where a route leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The interface that packets leave by; 0 for a destination that cannot be reached.
    pub ifindex: u32,
    /// That interface's own MAC address.
    pub mac: [u8; 6],
    /// The router that they are sent to; none if destinations are reached directly.
    pub gateway: Option<Address>,
}

/// A node's own routes and neighbours: what the kernel's tables hold.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Vec<(Subnet, Way)>,
    neighbours: HashMap<(u32, Address), [u8; 6]>,
}

impl Routes {
    /// Adds a route.
    pub fn add(&mut self, destination: Subnet, way: Way) {
        self.routes.push((destination, way));
    }

    /// Takes note of the MAC address of a neighbour on an interface.
    pub fn add_neighbour(&mut self, ifindex: u32, address: Address, mac: [u8; 6]) {
        self.neighbours.insert((ifindex, address), mac);
    }

    /// The way to a destination, by the longest prefix, and the next hop's MAC address if it is known.
    #[must_use]
    pub fn find(&self, destination: Address) -> Option<(Way, Option<[u8; 6]>)> {
        let fitting = self.routes.iter().filter(|(subnet, _)| subnet.contains(destination));
        let (_, way) = fitting.max_by_key(|(subnet, _)| subnet.bits)?;
        if way.ifindex == 0 {
            return None;
        }
        let next = way.gateway.unwrap_or(destination);
        Some((*way, self.neighbours.get(&(way.ifindex, next)).copied()))
    }

    /// The same as tc learns it: the kernel finds the neighbour on the way out.
    #[must_use]
    pub fn at_tc(&self, destination: Address) -> Route {
        self.find(destination)
            .map_or(Route::None, |(way, _)| Route::Hop(Hop { ifindex: way.ifindex, ..Hop::default() }))
    }

    /// The same as XDP learns it: a packet whose next hop has yet to be found takes the slower way.
    #[must_use]
    pub fn at_xdp(&self, destination: Address) -> Route {
        match self.find(destination) {
            Some((way, Some(next))) => {
                Route::Hop(Hop { ifindex: way.ifindex, destination: next, source: way.mac })
            }
            _ => Route::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_leads_and_xdp_wants_the_neighbour() {
        let mut routes = Routes::default();
        let router = Address::from_v4([192, 0, 2, 254]);
        routes.add("192.0.2.1/24".parse().unwrap(), Way { ifindex: 2, mac: [1; 6], gateway: None });
        routes.add("0.0.0.0/0".parse().unwrap(), Way { ifindex: 2, mac: [1; 6], gateway: Some(router) });
        routes.add("203.0.113.128/25".parse().unwrap(), Way::default());
        routes.add_neighbour(2, router, [9; 6]);
        let barred = Address::from_v4([203, 0, 113, 129]);
        assert_eq!((routes.at_tc(barred), routes.at_xdp(barred)), (Route::None, Route::Later));
        let far = Address::from_v4([203, 0, 113, 1]);
        let near = Address::from_v4([192, 0, 2, 7]);
        assert_eq!(routes.at_tc(far), Route::Hop(Hop { ifindex: 2, ..Hop::default() }));
        assert_eq!(routes.at_xdp(far), Route::Hop(Hop { ifindex: 2, destination: [9; 6], source: [1; 6] }));
        assert_eq!(routes.at_tc(near), Route::Hop(Hop { ifindex: 2, ..Hop::default() }));
        assert_eq!(routes.at_xdp(near), Route::Later);
        assert_eq!(routes.at_tc(Address::UNSPECIFIED), Route::None);
        assert_eq!(routes.at_xdp(Address::UNSPECIFIED), Route::Later);
    }
}
