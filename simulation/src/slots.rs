//! Which slots a node has for a service: derived when a packet asks for them, round by round, by the agent's own code.

use std::sync::Arc;

use mesh_common::abi::{NodeIndex, Service as ServiceEntry};
use mesh_userspace::{agent::FORGET_AFTER, apply};

use crate::cluster::{Change, Cluster, Node, Place, Service, Time};

/// A block's slots begin at its number times two to this power: no ring of the simulation is as great.
pub(crate) const BLOCK_BITS: u32 = 14;

/// After this time without a change, no node remembers anything of a service's old rings: twice the time after which rings
/// forget, for nodes that lag and agents that restart.
pub(crate) const FORGOTTEN: Time = 2 * FORGET_AFTER.as_millis() as Time;

impl Cluster {
    /// A service's entry as a node has it now; none if it does not know any.
    pub(crate) fn service_entry(&mut self, node: NodeIndex, number: usize) -> Option<ServiceEntry> {
        let place = self.place(node, number)?;
        let service = &self.services[number];
        Some(self.entry(service, number, place.block))
    }

    fn entry(&self, service: &Service, number: usize, block: u32) -> ServiceEntry {
        let slots = self.blocks[block as usize].as_ref().map_or(0, |block| block.slots().len());
        ServiceEntry {
            id: number as u32 + 1,
            first_slot: block << BLOCK_BITS,
            slots: slots as u32,
            target_port: service.target_port.to_be_bytes(),
            scheduler: service.scheduler as u8,
            ..ServiceEntry::default()
        }
    }

    /// Follows a node's rounds up to its last.
    pub(crate) fn place(&mut self, node: NodeIndex, number: usize) -> Option<Place> {
        let index = node as usize;
        let last = self.nodes[index].rounds.len().checked_sub(1)?;
        let known = self.services[number].places.get(&node).copied();
        let mut place = match known {
            Some(place) => place,
            None => {
                let version = self.nodes[index].rounds[0].version;
                // What was before the first change that is kept is long forgotten.
                let change = latest(&self.services[number].changes, version).unwrap_or(0);
                let block = self.follow(number, 0, change, false);
                Place { change, block, since: self.nodes[index].rounds[0].time }
            }
        };
        loop {
            let (node, service) = (&self.nodes[index], &self.services[number]);
            let changed = service.changes.get(place.change + 1);
            let by_change =
                changed.map(|change| node.rounds.partition_point(|round| round.version < change.version));
            let remembers =
                self.blocks[place.block as usize].as_ref().is_some_and(|block| !block.before().is_empty());
            let forgets = remembers.then(|| {
                let time = forget_time(node, place.since);
                node.rounds.partition_point(|round| round.time < time)
            });
            let Some(round) = by_change.into_iter().chain(forgets).min().filter(|round| *round <= last)
            else {
                break;
            };
            let at = node.rounds[round];
            let change = latest(&service.changes, at.version).unwrap_or(place.change).max(place.change);
            let settled = forgets == Some(round);
            let block = self.follow(number, place.block, change, settled);
            let since = if block == place.block { place.since } else { at.time };
            place = Place { change, block, since };
        }
        self.services[number].places.insert(node, place);
        Some(place)
    }

    /// The block that follows another for a change, made by the agent's own code once for all nodes that come this way.
    fn follow(&mut self, number: usize, block: u32, change: usize, settled: bool) -> u32 {
        let service = &self.services[number];
        let key = (block, change, settled);
        if let Some(made) = service.made.get(&key) {
            return *made;
        }
        let wanted = &service.changes[change];
        let found = if wanted.planned.ring.is_empty() {
            0
        } else {
            let lies = self.blocks[block as usize].clone();
            let entry = self.entry(service, number, block);
            let was = lies.as_ref().map(|lies| (&entry, lies));
            let made =
                apply::follow(&wanted.planned, was, settled, &wanted.backends, wanted.left.iter().copied());
            let fresh = service.fresh.get(&change).copied().filter(|_| made.before().is_empty());
            match (lies, fresh) {
                // Equal slots stay where they are.
                (Some(lies), _) if made == lies => block,
                (_, Some(fresh)) => fresh,
                _ => self.put(number, change, made),
            }
        };
        self.services[number].made.insert(key, found);
        found
    }

    fn put(&mut self, number: usize, change: usize, made: Arc<apply::Block>) -> u32 {
        let is_fresh = made.before().is_empty();
        assert!(made.slots().len() <= 1 << BLOCK_BITS, "the ring fits into its place");
        let place = match self.spare.pop() {
            Some(place) => place,
            None => {
                self.blocks.push(None);
                self.blocks.len() as u32 - 1
            }
        };
        assert!(place < 1 << (32 - BLOCK_BITS), "there is room for all rings");
        self.blocks[place as usize] = Some(made);
        if is_fresh {
            self.services[number].fresh.insert(change, place);
        }
        place
    }

    /// Forgets all rings of a service but the last, if no node remembers the others.
    pub(crate) fn forget_old_rings(&mut self, number: usize) {
        let now = self.now;
        let service = &mut self.services[number];
        let is_old = service.changes.last().is_some_and(|change| change.time + FORGOTTEN < now);
        if !is_old || service.places.is_empty() {
            return;
        }
        service.changes.drain(..service.changes.len() - 1);
        service.places.clear();
        service.fresh.clear();
        let mut blocks: Vec<u32> =
            service.made.drain().map(|(_, block)| block).filter(|block| *block != 0).collect();
        blocks.sort_unstable();
        blocks.dedup();
        for block in &blocks {
            self.blocks[*block as usize] = None;
        }
        self.spare.extend(blocks);
    }
}

/// The last change that a version has.
fn latest(changes: &[Change], version: u32) -> Option<usize> {
    changes.partition_point(|change| change.version <= version).checked_sub(1)
}

/// When a node forgets what a ring remembers that it has had since then. A restarted agent counts anew.
fn forget_time(node: &Node, since: Time) -> Time {
    let after = FORGET_AFTER.as_millis() as Time;
    node.restarts.iter().fold(since + after, |time, restart| {
        if (since..time).contains(restart) { restart + after } else { time }
    })
}
