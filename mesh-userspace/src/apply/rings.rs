//! Where each service's ring lies in the table of slots, and what its slots are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use mesh_common::abi::{BackendIndex, NodeIndex, Scheduler, Service, ServiceKey};

use super::{
    history::{self, Known},
    maps::{Full, MapContents},
    slots::{Block, Blocks},
};
use crate::plan::{
    Plan, PlannedService,
    ring::{BackendId, Ring},
};

/// A service's slots, given its entry and its slots as they are now: what [`lower`](super::lower) makes of one service.
/// `backends` holds those of the plan, and `left` those that are gone while their nodes are not: slots may remember both.
/// `settled` says that what the slots remember is to be forgotten.
#[must_use]
pub fn follow(
    service: &PlannedService,
    was: Option<(&Service, &Arc<Block>)>,
    settled: bool,
    backends: &BTreeMap<BackendId, BackendIndex>,
    left: impl IntoIterator<Item = BackendIndex>,
) -> Arc<Block> {
    Made::of(backends, left.into_iter()).block(service, was, settled)
}

/// Where the rings lie.
pub(super) struct Placed {
    /// The first slot and the number of slots.
    pub(super) places: BTreeMap<ServiceKey, (u32, u32)>,
    pub(super) slots: Blocks,
}

/// Places each service's ring: where it lies already, where another service has the same, or in free slots.
pub(super) fn place(
    plan: &Plan,
    current: &MapContents,
    backends: &BTreeMap<BackendId, BackendIndex>,
    nodes: &BTreeMap<IpAddr, NodeIndex>,
    settled: &BTreeSet<ServiceKey>,
) -> Result<Placed, Full> {
    let mut placed = Placed { places: BTreeMap::new(), slots: Blocks::with_room(current.slots.room()) };
    let nodes: BTreeSet<NodeIndex> = nodes.values().copied().collect();
    let on_nodes = current.backends.iter().filter(|(_, backend)| nodes.contains(&backend.node));
    let mut made = Made::of(backends, on_nodes.map(|(index, _)| *index));
    let mut moving = Vec::new();
    for (key, service) in plan.services.iter().filter(|(_, service)| !service.ring.is_empty()) {
        let was = current.services.get(key).and_then(|was| Some((was, current.slots.of(was)?)));
        let block = made.block(service, was, settled.contains(key));
        match was {
            Some((was, lies)) if block == *lies => placed.put(*key, was.first_slot, block),
            _ => moving.push((*key, block)),
        }
    }
    // The rings that are left are read until the services' entries are switched: they are free the next time.
    let mut used: BTreeMap<u32, u32> = BTreeMap::new();
    for service in current.services.values().filter(|service| service.slots > 0) {
        let end = used.entry(service.first_slot).or_default();
        *end = (*end).max(service.first_slot.saturating_add(service.slots));
    }
    let mut found: HashMap<*const Block, u32> =
        placed.slots.iter().map(|(first, block)| (Arc::as_ptr(block), first)).collect();
    let room = current.slots.room();
    for (key, block) in moving {
        let first = match found.get(&Arc::as_ptr(&block)) {
            Some(first) => *first,
            None => first_fit(&mut used, block.slots().len(), room).ok_or(Full::of_slots(room))?,
        };
        found.insert(Arc::as_ptr(&block), first);
        placed.put(key, first, block);
    }
    Ok(placed)
}

impl Placed {
    fn put(&mut self, key: ServiceKey, first: u32, block: Arc<Block>) {
        let count = u32::try_from(block.slots().len()).unwrap_or(u32::MAX);
        self.places.insert(key, (first, count));
        self.slots.insert(first, block);
    }
}

/// The block that a ring follows, and whether what that remembers is to be forgotten.
type Follows<'a> = Option<(&'a Arc<Block>, bool)>;

/// What a block was made of: the ring, the block that it follows, and whether what that remembers was forgotten.
type MadeOf = (*const Ring, Option<(*const Block, bool)>);

/// The blocks that were made, by the ring that they hold and the block that they follow. Services of which both are the
/// same share theirs.
struct Made<'a> {
    backends: &'a BTreeMap<BackendId, BackendIndex>,
    known: Known,
    blocks: HashMap<MadeOf, Arc<Block>>,
}

impl<'a> Made<'a> {
    /// None yet. With a backend that left, flows that it never had are remembered: its node may know where they live. One
    /// whose node left as well is not to be asked.
    fn of(backends: &'a BTreeMap<BackendId, BackendIndex>, left: impl Iterator<Item = BackendIndex>) -> Self {
        let known = Known::new(backends.values().copied(), left);
        Self { backends, known, blocks: HashMap::new() }
    }
}

impl Made<'_> {
    /// A service's block, given its entry and its block as they are now.
    fn block(
        &mut self,
        service: &PlannedService,
        was: Option<(&Service, &Arc<Block>)>,
        settled: bool,
    ) -> Arc<Block> {
        // A round-robin list is no function of the flow's hash: what a slot of it held says nothing.
        let was_hashed =
            |was: &Service| service.scheduler == Scheduler::Mh && was.scheduler == Scheduler::Mh as u8;
        let follows: Follows<'_> = was.filter(|(was, _)| was_hashed(was)).map(|(_, lies)| (lies, settled));
        let ring = Arc::as_ptr(&service.ring);
        let made_of = (ring, follows.map(|(old, forget)| (Arc::as_ptr(old), forget)));
        let block = match (was, self.blocks.get(&made_of)) {
            (Some((_, lies)), _) if self.is_good(lies, service, follows) => Arc::clone(lies),
            (_, Some(made)) => return Arc::clone(made),
            _ => Arc::new(self.make(&service.ring, follows)),
        };
        let block = if block.before().is_empty() {
            // What remembers nothing is the same whatever it follows.
            Arc::clone(self.blocks.entry((ring, None)).or_insert(block))
        } else {
            block
        };
        self.blocks.insert(made_of, Arc::clone(&block));
        block
    }

    fn make(&self, ring: &Arc<Ring>, follows: Follows<'_>) -> Block {
        let indices: Vec<BackendIndex> =
            ring.backends().iter().map(|id| self.backends.get(id).copied().unwrap_or_default()).collect();
        let index_at = |position: &u32| {
            usize::try_from(*position)
                .ok()
                .and_then(|position| indices.get(position))
                .copied()
                .unwrap_or_default()
        };
        let currents = ring.positions().iter().map(index_at);
        let slots = match follows {
            Some((old, forget)) => history::succeed(currents, old.slots(), forget, &self.known),
            None => history::without_history(currents),
        };
        Block::of(ring, slots)
    }

    /// Whether a block that lies there may stay as it is: it was made of the service's ring, and of what it remembers
    /// nothing is to be forgotten.
    ///
    /// It holds the same numbers that it would be made with now, for an identity that stays in the plan keeps its number.
    fn is_good(&self, lies: &Block, service: &PlannedService, follows: Follows<'_>) -> bool {
        let may_remember = matches!(follows, Some((_, false)));
        lies.is_of(&service.ring)
            && (may_remember || lies.before().is_empty())
            && lies.before().iter().all(|index| self.known.has(*index))
    }
}

/// Takes the first free room that is long enough. `used` holds where used ranges begin and end.
fn first_fit(used: &mut BTreeMap<u32, u32>, length: usize, room: u32) -> Option<u32> {
    let length = u32::try_from(length).ok()?;
    let mut first: u32 = 0;
    for (start, end) in used.iter() {
        if first.checked_add(length)? <= *start {
            break;
        }
        first = first.max(*end);
    }
    let end = first.checked_add(length).filter(|end| *end <= room)?;
    used.insert(first, end);
    Some(first)
}
