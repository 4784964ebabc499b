//! How a node comes in, is found again, and leaves.
//!
//! A node says hello to the addresses that it was given until somebody welcomes it. Who is dead is said hello to as well,
//! now and then, and as whom it was declared dead: it becomes somebody greater, and both sides of a partition know each
//! other again. Who is alone and welcomes another is not in by that: its name may be in use. Nobody is told that others
//! hold it for dead, or that they hold others so: news of deaths from before would make the living seem dead for a moment.

use std::{collections::BTreeSet, net::SocketAddr, slice, time::Duration};

use rand::seq::{IndexedRandom, IteratorRandom};

use crate::{
    cluster::{Cluster, SMALL},
    member::{LONGEST_NODE_NAME, MemberState},
    message::Message,
    output::Output,
    peer::Peer,
    roll::far_more,
    stamp::{NodeId, Now},
    swim::{Swim, header},
};

/// How many are said hello to at a time, by who is alone and by who is not.
const MOST_HELLOS: (usize, usize) = (16, 4);
/// How many wait to be knocked at out of turn.
const MOST_KNOCKS: usize = 64;
/// How soon after one another they are.
const KNOCK_AGAIN: Duration = Duration::from_millis(50);
/// Of how many others somebody is told who is not alone.
const TOLD_OF: usize = 32;
/// Of how many others somebody is told at most. A message of so many, with the longest names, is not too long.
const MOST_TOLD_OF: usize = 3000;
/// The longest reason of a refusal, in bytes.
const LONGEST_WHY: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Joining {
    seeds: Vec<SocketAddr>,
    round: Option<Duration>,
    knocks: BTreeSet<NodeId>,
    knocks_at: Duration,
    /// The reason of a refusal that was told. Another node may give the same, and be no news.
    refused: Option<String>,
}

impl Joining {
    pub(crate) fn begin(&mut self, now: Duration, seeds: &[SocketAddr]) {
        self.seeds = seeds.to_vec();
        self.round = Some(now);
    }

    pub(crate) fn next(&self) -> Duration {
        let round = self.round.unwrap_or(Duration::MAX);
        if self.knocks.is_empty() { round } else { round.min(self.knocks_at) }
    }

    /// Says hello, out of turn, to a node that is held for dead.
    pub(crate) fn knock(&mut self, now: Duration, id: NodeId) {
        if self.knocks.len() < MOST_KNOCKS && self.knocks.insert(id) {
            self.knocks_at = self.knocks_at.max(now);
        }
    }
}

impl Cluster {
    pub(crate) fn tick_join(&mut self, now: Now) {
        let alone = self.swim.living().is_empty();
        if !self.joining.knocks.is_empty() && self.joining.knocks_at <= now.monotonic {
            self.joining.knocks_at = now.monotonic + KNOCK_AGAIN;
            for _ in 0..MOST_HELLOS.0 {
                let Some(id) = self.joining.knocks.pop_first() else { break };
                if let Some(held) = self.swim.held_dead(id).cloned() {
                    self.say_hello(held.address(), Some(held));
                }
            }
        }
        // Who was never told to join may yet have lost somebody.
        let round = self.joining.round.get_or_insert(now.monotonic + self.settings.knock_period);
        if *round > now.monotonic {
            return;
        }
        *round =
            now.monotonic + if alone { self.settings.knock_period / 2 } else { self.settings.knock_period };
        let most = if alone { MOST_HELLOS.0 } else { MOST_HELLOS.1 };
        let dead =
            self.swim.gone().filter(|(_, state)| *state == MemberState::Dead).map(|(peer, _)| peer.clone());
        let dead: Vec<Peer> = dead.sample(&mut self.rng, most);
        let me = self.swim.me().address();
        let lives = |seed: &SocketAddr| {
            let mut all = self.swim.all();
            *seed == me || all.any(|(peer, state)| state.lives() && peer.address() == *seed)
        };
        let seeds: Vec<SocketAddr> = self.joining.seeds.iter().filter(|seed| !lives(seed)).copied().collect();
        for seed in seeds.sample(&mut self.rng, most).copied().collect::<Vec<SocketAddr>>() {
            self.say_hello(seed, None);
        }
        for held in dead {
            self.say_hello(held.address(), Some(held));
        }
    }

    fn say_hello(&mut self, to: SocketAddr, held: Option<Peer>) {
        let living = self.count();
        self.out.send(to, &Message::Hello { peer: self.swim.me().clone(), held, living });
    }

    pub(crate) fn hello(&mut self, now: Now, peer: Peer, held: Option<&Peer>, living: u32) {
        if let Some(why) = self.clash(now, &peer) {
            self.refuse(&peer, why);
            return;
        }
        if peer.id == self.swim.me().id {
            return;
        }
        if self.was_cut_off(living) {
            self.swim.revive(now.monotonic, slice::from_ref(&peer), &mut self.out);
        }
        if let Some((known, state)) = self.swim.known(peer.id) {
            let dead = !state.lives() || self.swim.held_dead(peer.id).is_some();
            if *known > peer || (dead && *known == peer) {
                let stale = Message::Stale { held: known.clone(), by: self.swim.me().address() };
                self.out.send(peer.address(), &stale);
                return;
            }
        }
        // Who was cut off learns by the answer that this node lives.
        if let Some(held) = held
            && !far_more(self.count(), living)
        {
            self.swim.renew(now.monotonic, held, &mut self.out);
        }
        let most = if living <= 1 { MOST_TOLD_OF } else { TOLD_OF };
        let others = self.swim.choose(&mut self.rng, most);
        let others = others.iter().filter(|id| **id != peer.id);
        let others: Vec<Peer> = others.filter_map(|id| Some(self.swim.known(*id)?.0.clone())).collect();
        let welcome = Message::Welcome { peer: self.swim.me().clone(), others, living: self.count() };
        self.out.send(peer.address(), &welcome);
        // Who is alone does not know whose name is in use: it is in when the other speaks to it as to a member.
        if !self.swim.living().is_empty() {
            self.exchange.soon(now.monotonic, peer.id);
            self.swim.alive(now.monotonic, &[peer], true, &mut self.out);
        }
    }

    pub(crate) fn welcomed(&mut self, now: Now, peer: Peer, others: Vec<Peer>, living: u32) {
        // Of two who both have company, they find out when they have met.
        if living <= 1
            && let Some(why) = self.clash(now, &peer)
        {
            self.refuse(&peer, why);
            return;
        }
        self.joining.refused = None;
        // Who knew nobody has no news for anybody.
        let tell = !self.swim.living().is_empty();
        let id = peer.id;
        let mut peers = others;
        peers.push(peer);
        if self.was_cut_off(living) {
            self.swim.revive(now.monotonic, &peers, &mut self.out);
        }
        self.knock_at_dead(now, &peers);
        self.exchange.soon(now.monotonic, id);
        self.swim.alive(now.monotonic, &peers, tell, &mut self.out);
    }

    /// Somebody holds this node for dead, or for one that was started later.
    pub(crate) fn stale(&mut self, now: Now, held: &Peer, by: SocketAddr) {
        if self.swim.renew(now.monotonic, held, &mut self.out) {
            self.say_hello(by, None);
        }
    }

    pub(crate) fn refused(&mut self, by: String, why: String) {
        let told = by.len() <= LONGEST_NODE_NAME && why.len() <= LONGEST_WHY;
        // Who is in cannot be refused; a clash inside is settled by both who clash.
        if !told || by.chars().chain(why.chars()).any(char::is_control) || !self.swim.living().is_empty() {
            return;
        }
        if self.joining.refused.as_ref() != Some(&why) {
            self.joining.refused = Some(why.clone());
            self.out.tell(Output::Refused { by, why });
        }
    }

    fn refuse(&mut self, peer: &Peer, why: String) {
        let by = self.swim.me().name().to_owned();
        self.out.send(peer.address(), &Message::Refused { by, why });
    }

    /// A message of the failure detector's, of whom nobody has spoken yet perhaps.
    pub(crate) fn probed(&mut self, now: Now, data: &[u8]) {
        let Some(header) = header(data) else { return };
        if self.swim.known(header.src.id).is_none()
            && let Some(why) = self.clash(now, &header.src)
        {
            self.refuse(&header.src, why);
            return;
        }
        // It has yet to hear that it is held for dead.
        if self.swim.held_dead(header.src.id).is_some_and(|held| *held >= header.src) {
            self.joining.knock(now.monotonic, header.src.id);
            return;
        }
        self.swim.receive(now.monotonic, data, &mut self.out);
    }

    /// Why a node may not be a member: a sentence.
    fn clash(&self, now: Now, peer: &Peer) -> Option<String> {
        let living = self.swim.all().filter(|(_, state)| state.lives()).map(|(other, _)| other);
        let mut others = living.chain([self.swim.me()]);
        let clash = others.find_map(|other| {
            // This node knows that it was not started again elsewhere.
            let moved = other.id != self.swim.me().id;
            if other.id == peer.id { copied(other, peer, moved) } else { taken(other, peer) }
        });
        let kept = self.settings.name_kept;
        clash.or_else(|| {
            // Its daemon may be restarting, and somebody else may be waiting for just that.
            let mut dead = self.swim.died_within(now.monotonic, kept).filter(|dead| dead.id != peer.id);
            let owner = dead.find(|dead| dead.name() == peer.name() && dead.address() != peer.address())?;
            Some(format!(
                "the name {:?} is kept for the node at {} until that has been dead for {} s; give this node another name, or \
                 wait",
                owner.name(),
                owner.address(),
                kept.as_secs()
            ))
        })
    }

    /// A node is alive that was not.
    pub(crate) fn risen(&mut self, now: Now, id: NodeId) {
        let Some((peer, _)) = self.swim.known(id) else { return };
        let peer = peer.clone();
        let me = self.swim.me();
        let (name, address) = (me.name() == peer.name(), me.address() == peer.address());
        if (name || address) && me.id > peer.id {
            // Two came in at different places; this one goes, as both know.
            let why = taken(&peer, me);
            self.withdraw(now);
            let greater = self.swim.me().clone();
            let greater = greater.over(&greater).unwrap_or(greater);
            let seed = rand::Rng::next_u64(&mut self.rng);
            self.swim = Swim::new(Peer { left: false, ..greater }, &self.settings, seed, now.monotonic);
            self.joining.round = Some(now.monotonic + self.settings.knock_period);
            if let Some(why) = why {
                self.refused(peer.name().to_owned(), why);
            }
            self.tell_changed();
            return;
        }
        // Who comes under the name or the address of a dead node takes its place.
        let replaced = self.swim.gone().filter(|(other, _)| {
            other.id != id && (other.name() == peer.name() || other.address() == peer.address())
        });
        let replaced: Vec<NodeId> = replaced.map(|(other, _)| other.id).collect();
        for id in replaced {
            self.swim.forget(now.monotonic, id, &mut self.out);
        }
    }

    /// Tells everybody, or many, that this node leaves.
    pub(crate) fn withdraw(&mut self, now: Now) {
        let others = self.swim.choose(&mut self.rng, SMALL);
        let addresses: Vec<SocketAddr> = others.iter().filter_map(|id| self.swim.address(*id)).collect();
        let peer = self.swim.leave(now.monotonic, &mut self.out);
        for address in addresses {
            self.out.send(address, &Message::Farewell { peer: peer.clone() });
            self.out.stream(address, &Message::Farewell { peer: peer.clone() });
        }
    }
}

/// Why a node may not come in beside one with the same number, unless it has only moved to another address.
fn copied(other: &Peer, peer: &Peer, moved: bool) -> Option<String> {
    let same = other.name() == peer.name() && (moved || other.address() == peer.address());
    (!same).then(|| {
        format!(
            "node {:?} at {} has the same number as {:?} at {}, so the state of one was copied to the other; empty the state \
             directory of {:?} and start it again",
            other.name(),
            other.address(),
            peer.name(),
            peer.address(),
            peer.name()
        )
    })
}

/// Why a node may not come in beside another.
fn taken(other: &Peer, peer: &Peer) -> Option<String> {
    let (name, address) = (other.name(), other.address());
    if name == peer.name() {
        return Some(format!(
            "the name {name:?} is in use by a living node at {address}; give this node another name, or stop that one (a \
             node that lost its state is let in at its old address when its old self is found dead, within seconds)"
        ));
    }
    (address == peer.address()).then(|| {
        format!(
            "the address {address} is in use by the living node {name:?}; give this node an address of its own, or stop that \
             one"
        )
    })
}
