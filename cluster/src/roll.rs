//! Anti-entropy of members: who is not known here though he lives elsewhere, and the other way round.
//!
//! News of members travels like rumours and reaches nearly everybody. With each comparison of stores goes a sum over who
//! lives, as whom; where it differs, the sums of its parts, and of those that differ, who lives and who does not. Nobody is
//! declared dead for that: who is dead elsewhere is suspected, asked, and may deny it; and who lives elsewhere is knocked at.

use std::net::SocketAddr;

use crate::{
    cluster::{Cluster, SMALL},
    member::MemberState,
    message::Message,
    peer::Peer,
    stamp::{NodeId, Now},
};

/// Into how many parts the sum over members is divided: as many as a number has bits.
const PARTS: usize = 64;
/// So many of whom nobody has told may be news to others; more are what a node gets that has just come.
const FEW: usize = 16;
/// How many are told of at a time.
const MOST_TOLD_OF: usize = 3000;
/// How many are doubted or knocked at for one message.
const MOST_DOUBTED: usize = 32;

/// A sum over who lives, as whom, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roll(Vec<u64>);

impl Roll {
    fn new<'a>(living: impl Iterator<Item = &'a Peer>) -> Self {
        let mut sums = vec![0; PARTS];
        for peer in living {
            let lived = mix(mix(peer.incarnation).wrapping_add(u64::from(peer.life)));
            if let Some(sum) = sums.get_mut(part(peer.id)) {
                *sum ^= mix(peer.id.0 ^ lived);
            }
        }
        Self(sums)
    }

    fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, part| mix(sum ^ part))
    }

    /// The parts in which two differ, a bit for each.
    fn differing(&self, other: &[u64]) -> u64 {
        let parts = self.0.iter().zip(other).enumerate();
        parts.filter(|(_, (a, b))| a != b).fold(0, |mask, (at, _)| mask | 1 << at)
    }
}

/// Whether one side of a partition has so many more than the other that these few were cut off: they take the many for
/// alive then, who need not become somebody greater, each of them, for the sake of the few.
pub(crate) fn far_more(many: u32, few: u32) -> bool {
    many > few.saturating_mul(2) && usize::try_from(many).is_ok_and(|many| many > SMALL)
}

fn part(id: NodeId) -> usize {
    usize::from((mix(id.0) % PARTS as u64) as u8)
}

/// Spreads a number's bits (the finalizer of splitmix64).
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Cluster {
    /// Kept until members change.
    fn roll(&mut self) -> Roll {
        let changes = self.swim.changes();
        if let Some((_, roll)) = self.roll.as_ref().filter(|(at, _)| *at == changes) {
            return roll.clone();
        }
        let living = self.swim.all().filter(|(_, state)| state.lives()).map(|(peer, _)| peer);
        let roll = Roll::new(living.chain([self.swim.me()]));
        self.roll = Some((changes, roll.clone()));
        roll
    }

    pub(crate) fn roll_sum(&mut self) -> u64 {
        self.roll().sum()
    }

    /// A member has another sum over members.
    pub(crate) fn compare_members(&mut self, from: SocketAddr, sum: u64) {
        let roll = self.roll();
        if roll.sum() != sum {
            self.out.send(from, &Message::Members { sums: roll.0 });
        }
    }

    pub(crate) fn compare_rolls(&mut self, from: SocketAddr, sums: &[u64]) {
        let parts = self.roll().differing(sums);
        if parts != 0 {
            self.tell_peers(from, parts, true);
        }
    }

    pub(crate) fn tell_peers(&mut self, to: SocketAddr, parts: u64, answer: bool) {
        let of = |peer: &Peer| parts & (1 << part(peer.id)) != 0;
        let (mut living, mut dead) = (vec![self.swim.me().clone()], Vec::new());
        for (peer, state) in self.swim.all().filter(|(peer, _)| of(peer)).take(MOST_TOLD_OF) {
            match state {
                MemberState::Alive | MemberState::Suspect => living.push(peer.clone()),
                MemberState::Dead | MemberState::Left => dead.push(peer.clone()),
            }
        }
        let count = self.count();
        self.out.send(to, &Message::Peers { parts, living, dead, count, answer });
    }

    pub(crate) fn compare_peers(&mut self, now: Now, living: &[Peer], dead: Vec<Peer>, count: u32) {
        let fresh =
            living.iter().filter(|peer| self.swim.known(peer.id).is_none_or(|(known, _)| known < *peer));
        let tell = fresh.count() <= FEW;
        if self.was_cut_off(count) {
            self.swim.revive(now.monotonic, living, &mut self.out);
        }
        self.knock_at_dead(now, living);
        self.swim.alive(now.monotonic, living, tell, &mut self.out);
        for peer in dead.into_iter().take(MOST_DOUBTED) {
            if peer.id == self.swim.me().id {
                self.swim.renew(now.monotonic, &peer, &mut self.out);
            } else if peer.left {
                self.swim.farewell(now.monotonic, peer, &mut self.out);
            } else if self.swim.known(peer.id).is_some_and(|(known, state)| state.lives() && *known <= peer) {
                self.swim.doubt(now.monotonic, peer.id, &mut self.out);
            }
        }
    }

    /// How many live, as it is told.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.living()).unwrap_or(u32::MAX)
    }

    /// Whether this node was cut off with few others from so many who live elsewhere.
    pub(crate) fn was_cut_off(&self, count: u32) -> bool {
        far_more(count, self.count())
    }

    /// Says hello to those who are held for dead here, and live elsewhere.
    pub(crate) fn knock_at_dead(&mut self, now: Now, living: &[Peer]) {
        for peer in living {
            if self.swim.held_dead(peer.id).is_some_and(|held| held >= peer) {
                self.joining.knock(now.monotonic, peer.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Identity;

    fn peer(id: u64, incarnation: u64, life: u32) -> Peer {
        let address = "192.0.2.1:7946".parse().unwrap();
        let identity = Identity { name: "n".to_owned(), id: NodeId(id), address, incarnation };
        Peer { life, ..Peer::new(identity) }
    }

    #[test]
    fn rolls_differ_where_members_do_and_not_by_their_order() {
        let peers: Vec<Peer> = (0..500).map(|id| peer(id, 1, 0)).collect();
        let roll = Roll::new(peers.iter());
        assert_eq!(roll, Roll::new(peers.iter().rev()));
        for other in [peer(7, 2, 0), peer(7, 1, 1)] {
            let changed = peers.iter().map(|peer| if peer.id.0 == 7 { &other } else { peer });
            let changed = Roll::new(changed);
            assert_ne!(roll.sum(), changed.sum());
            assert_eq!(roll.differing(&changed.0), 1 << part(NodeId(7)));
        }
        let less = Roll::new(peers.iter().skip(1));
        assert_eq!(roll.differing(&less.0), 1 << part(NodeId(0)));
    }
}
