//! Membership and failure detection: SWIM by `foca`, with what makes it sure where messages are lost.
//!
//! `foca` asks one member after the other whether it lives, by way of others too if it does not answer, suspects it and
//! then declares it dead; whatever is new of members travels on its messages. Added to that, because a lost message must
//! not be taken for a death:
//!
//! - A question that stays unanswered is asked again before and while others are asked, and what goes by way of others
//!   goes twice.
//! - Who is suspected is told so by the one who suspects it, again and again: it need not hear of it by rumour to deny it.
//! - Who was heard a moment ago is not dead because others say so; it may just have come back to us, and not yet to them.
//! - A node that itself stood still (its machine was paused) takes up its clocks where it left them, and suspects nobody
//!   for its own absence.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{
    Config, Foca, Header, NoCustomBroadcast, Notification, PeriodicParams, PostcardCodec, Runtime, State,
    Timer,
};
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus, seq::index};

use crate::{
    member::{Member, MemberState},
    message::Message,
    outbox::Outbox,
    output::MOST_DATAGRAM,
    peer::{Peer, Told},
    settings::Settings,
    stamp::NodeId,
};

/// How many nodes are known at most, the dead included.
const MOST_KNOWN: usize = 16_384;
/// Who was heard so recently is not dead because others say so.
const HEARD: Duration = Duration::from_secs(1);
/// How often a question is asked again: three times until others are asked too, and once then.
const ASKED_AGAIN: u32 = 4;
/// A copy of what goes by way of others follows it by so much.
const COPY_AFTER: Duration = Duration::from_millis(15);
/// How often who is suspected is told so until it is declared dead.
const TELLINGS: u32 = 8;

/// What has come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A node is alive that was not.
    Up(NodeId),
    /// Something else about members has changed.
    Changed,
}

#[derive(Debug)]
struct Known {
    peer: Peer,
    state: MemberState,
    since: Duration,
    /// When a message of its own last came.
    heard: Option<Duration>,
    /// Others say that it is dead.
    dying: bool,
}

/// What is due at some time.
enum Due {
    Foca(Timer<Peer>),
    /// Ask this again, if it was not answered.
    Ask(Peer),
    /// Tell who is suspected.
    Tell(Peer, u16),
    /// Who was doubted, because others hold it for dead, has not denied it.
    Declare(Peer, u16),
    /// Send this once more.
    Again(SocketAddr, Vec<u8>),
    /// Others have said that it is dead, and it was not heard since.
    Bury(NodeId),
}

/// What a call of `foca` brought about.
#[derive(Default)]
struct Effects {
    sends: Vec<(Peer, Vec<u8>)>,
    timers: Vec<(Timer<Peer>, Duration)>,
    notes: Vec<Note>,
}

enum Note {
    Up(Peer),
    Down(Peer),
    Renamed(Peer, Peer),
}

impl Runtime<Peer> for Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::MemberUp(peer) => self.notes.push(Note::Up(peer.clone())),
            Notification::MemberDown(peer) => self.notes.push(Note::Down(peer.clone())),
            Notification::Rename(before, after) => {
                self.notes.push(Note::Renamed(before.clone(), after.clone()));
            }
            Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Peer>, after: Duration) {
        self.timers.push((event, after));
    }
}

pub(crate) struct Swim {
    foca: Foca<Peer, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    settings: Settings,
    timers: BTreeMap<(Duration, u64), Due>,
    count: u64,
    known: BTreeMap<NodeId, Known>,
    /// What was last told of whom.
    told: BTreeMap<NodeId, (u64, u32, bool, u16, State)>,
    /// Who lives, this node not among them, in order.
    living: Vec<NodeId>,
    /// Who does not.
    gone: BTreeSet<NodeId>,
    /// The question that was last asked, and was not answered yet.
    asked: Option<(Peer, Vec<u8>)>,
    events: Vec<Event>,
    since: Duration,
    /// Counts whatever changes of who is known.
    changes: u64,
}

impl Swim {
    pub(crate) fn new(me: Peer, settings: &Settings, seed: u64, now: Duration) -> Self {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            foca: Foca::new(me, config(settings, 1), rng, PostcardCodec),
            settings: settings.clone(),
            timers: BTreeMap::new(),
            count: 0,
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            living: Vec::new(),
            gone: BTreeSet::new(),
            asked: None,
            events: Vec::new(),
            since: now,
            changes: 0,
        }
    }

    /// Counts whatever changes of who is known, this node among them.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// This node, as it is now.
    pub(crate) fn me(&self) -> &Peer {
        self.foca.identity()
    }

    /// Who else lives, in order.
    pub(crate) fn living(&self) -> &[NodeId] {
        &self.living
    }

    pub(crate) fn lives(&self, id: NodeId) -> bool {
        self.living.binary_search(&id).is_ok()
    }

    /// A node that is or was in the mesh.
    pub(crate) fn known(&self, id: NodeId) -> Option<(&Peer, MemberState)> {
        self.known.get(&id).map(|known| (&known.peer, known.state))
    }

    /// All others that are or were in the mesh.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Peer, MemberState)> {
        self.known.values().map(|known| (&known.peer, known.state))
    }

    /// All that are dead or have left.
    pub(crate) fn gone(&self) -> impl Iterator<Item = (&Peer, MemberState)> {
        self.gone.iter().filter_map(|id| self.known(*id))
    }

    /// All that are held for dead, and not for as long as this.
    pub(crate) fn died_within(&self, now: Duration, time: Duration) -> impl Iterator<Item = &Peer> {
        let gone = self.gone.iter().filter_map(|id| self.known.get(id));
        gone.filter(move |known| known.state == MemberState::Dead && now.saturating_sub(known.since) < time)
            .map(|known| &known.peer)
    }

    /// Where a living node is reached.
    pub(crate) fn address(&self, id: NodeId) -> Option<SocketAddr> {
        self.lives(id).then(|| self.known.get(&id).map(|known| known.peer.address()))?
    }

    /// As whom a node was declared dead, though it may still count as alive here because it was heard.
    pub(crate) fn held_dead(&self, id: NodeId) -> Option<&Peer> {
        let known = self.known.get(&id)?;
        (known.dying || known.state == MemberState::Dead).then_some(&known.peer)
    }

    /// So many who live, by chance.
    pub(crate) fn choose(&self, rng: &mut impl Rng, many: usize) -> Vec<NodeId> {
        let many = many.min(self.living.len());
        index::sample(rng, self.living.len(), many)
            .iter()
            .filter_map(|at| self.living.get(at).copied())
            .collect()
    }

    /// Everybody, this node among them.
    pub(crate) fn members(&self) -> Vec<Member> {
        let suspects: BTreeSet<NodeId> = self
            .foca
            .iter_members()
            .filter(|member| member.state() == State::Suspect)
            .map(|member| member.id().id)
            .collect();
        let me = Member { identity: self.me().identity(), state: MemberState::Alive, since: self.since };
        let others = self.known.values().map(|known| {
            let suspect = known.state == MemberState::Alive && suspects.contains(&known.peer.id);
            let state = if suspect || known.dying { MemberState::Suspect } else { known.state };
            Member { identity: known.peer.identity(), state, since: known.since }
        });
        let mut members: Vec<Member> = others.chain([me]).collect();
        members.sort_by(|a, b| (&a.identity.name, a.identity.id).cmp(&(&b.identity.name, b.identity.id)));
        members
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    /// A message of a node's own has come.
    pub(crate) fn heard(&mut self, now: Duration, id: NodeId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.heard = Some(now);
        }
    }

    /// A message of the failure detector's has come.
    pub(crate) fn receive(&mut self, now: Duration, data: &[u8], out: &mut Outbox) {
        let Some(header) = header(data) else { return };
        if matches!(header.message, foca::Message::Ack(_))
            && self.asked.as_ref().is_some_and(|(peer, _)| peer.id == header.src.id)
        {
            self.asked = None;
        }
        let Some(news) = self.news(data) else { return };
        // What is wrong with a message that can be read concerns only whoever sent it.
        self.call(now, out, |foca, effects| foca.handle_data(&news, effects).is_ok());
    }

    /// Takes these for alive, unless more is known of them.
    pub(crate) fn alive(&mut self, now: Duration, peers: &[Peer], tell: bool, out: &mut Outbox) {
        let mut room = MOST_KNOWN.saturating_sub(self.foca.iter_membership_state().len());
        let me = self.me().id;
        let mut updates = Vec::new();
        for peer in peers.iter().filter(|peer| peer.id != me) {
            if !self.known.contains_key(&peer.id) {
                let Some(less) = room.checked_sub(1) else { continue };
                room = less;
            }
            updates.push(foca::Member::alive(peer.clone()));
        }
        self.call(now, out, |foca, effects| foca.apply_many(updates.into_iter(), tell, effects).is_ok());
    }

    /// These live though they are held for dead: it is forgotten that they are.
    pub(crate) fn revive(&mut self, now: Duration, peers: &[Peer], out: &mut Outbox) {
        for peer in peers {
            if self.held_dead(peer.id) == Some(peer) {
                let timer = Timer::RemoveDown(peer.clone());
                self.call(now, out, |foca, effects| foca.handle_timer(timer, effects).is_ok());
            }
        }
        let peers: Vec<Peer> =
            peers.iter().filter(|peer| self.held_dead(peer.id) == Some(peer)).cloned().collect();
        self.alive(now, &peers, false, out);
    }

    /// It said that it leaves.
    pub(crate) fn farewell(&mut self, now: Duration, peer: Peer, out: &mut Outbox) {
        if peer.id == self.me().id || !peer.left || !self.known.contains_key(&peer.id) {
            return;
        }
        let update = foca::Member::down(peer);
        self.call(now, out, |foca, effects| foca.apply_many([update].into_iter(), true, effects).is_ok());
    }

    /// Somebody suspects this node, and is told that it lives.
    pub(crate) fn suspected(
        &mut self,
        now: Duration,
        by: Peer,
        as_whom: &Peer,
        number: u16,
        out: &mut Outbox,
    ) {
        if as_whom != self.me() || by.id == as_whom.id {
            return;
        }
        let update = foca::Member::new(as_whom.clone(), number, State::Suspect);
        self.call(now, out, |foca, effects| {
            foca.apply_many([update].into_iter(), true, &mut *effects).is_ok()
                && foca.announce(by, effects).is_ok()
        });
    }

    /// Others hold a living node for dead: it is suspected here, and may deny it.
    pub(crate) fn doubt(&mut self, now: Duration, id: NodeId, out: &mut Outbox) {
        let Some(member) = self.foca.iter_members().find(|member| member.id().id == id) else { return };
        let (peer, number) = (member.id().clone(), member.incarnation());
        if member.state() == State::Suspect {
            return;
        }
        let update = foca::Member::new(peer.clone(), number, State::Suspect);
        self.call(now, out, |foca, effects| foca.apply_many([update].into_iter(), false, effects).is_ok());
        self.at(now, Due::Tell(peer.clone(), number));
        self.at(now + self.settings.suspicion, Due::Declare(peer, number));
    }

    /// Becomes somebody greater than `held`, if somebody holds this node for dead as that; returns whether it did.
    pub(crate) fn renew(&mut self, now: Duration, held: &Peer, out: &mut Outbox) -> bool {
        if held.id != self.me().id || held < self.me() {
            return false;
        }
        let Some(greater) = self.me().over(held) else { return false };
        self.call(now, out, |foca, effects| foca.change_identity(greater, effects).is_ok())
    }

    /// Leaves; returns as whom.
    pub(crate) fn leave(&mut self, now: Duration, out: &mut Outbox) -> Peer {
        let me = self.me();
        let gone = Peer { left: true, ..me.over(me).unwrap_or_else(|| me.clone()) };
        self.timers.clear();
        self.call(now, out, |foca, effects| {
            foca.change_identity(gone.clone(), &mut *effects).is_ok() && foca.leave_cluster(effects).is_ok()
        });
        gone
    }

    /// Forgets a node that is dead or has left.
    pub(crate) fn forget(&mut self, now: Duration, id: NodeId, out: &mut Outbox) {
        let Some(known) = self.known.get(&id).filter(|known| !known.state.lives()) else { return };
        let timer = Timer::RemoveDown(known.peer.clone());
        self.known.remove(&id);
        self.gone.remove(&id);
        self.told.remove(&id);
        self.changes += 1;
        self.events.push(Event::Changed);
        self.call(now, out, |foca, effects| foca.handle_timer(timer, effects).is_ok());
    }

    pub(crate) fn next(&self) -> Duration {
        self.timers.first_key_value().map_or(Duration::MAX, |((at, _), _)| *at)
    }

    pub(crate) fn tick(&mut self, now: Duration, out: &mut Outbox) {
        let late = now.saturating_sub(self.next());
        if late > self.settings.probe_period {
            let timers = mem::take(&mut self.timers);
            self.timers = timers
                .into_iter()
                .map(|((at, count), due)| ((at.saturating_add(late), count), due))
                .collect();
        }
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            match first.remove() {
                Due::Foca(timer) => self.timer(now, timer, out),
                Due::Ask(peer) => {
                    if let Some((_, data)) = self.asked.as_ref().filter(|(asked, _)| *asked == peer) {
                        out.send(peer.address(), &Message::Swim(data.clone()));
                    }
                }
                Due::Tell(peer, number) => self.tell(now, peer, number, out),
                Due::Declare(peer, number) => {
                    if self.is_suspect(&peer, number) {
                        let dead = foca::Member::new(peer, number, State::Down);
                        self.call(now, out, |foca, effects| {
                            foca.apply_many([dead].into_iter(), true, effects).is_ok()
                        });
                    }
                }
                Due::Again(to, data) => out.send(to, &Message::Swim(data)),
                Due::Bury(id) => self.bury(now, id),
            }
        }
    }

    fn timer(&mut self, now: Duration, timer: Timer<Peer>, out: &mut Outbox) {
        if let Timer::RemoveDown(peer) = &timer {
            self.told.remove(&peer.id);
            if self.known.get(&peer.id).is_some_and(|known| known.peer == *peer && !known.state.lives()) {
                self.known.remove(&peer.id);
                self.gone.remove(&peer.id);
                self.events.push(Event::Changed);
            }
        }
        self.call(now, out, |foca, effects| foca.handle_timer(timer, effects).is_ok());
    }

    fn tell(&mut self, now: Duration, peer: Peer, number: u16, out: &mut Outbox) {
        if self.is_suspect(&peer, number) {
            let by = self.me().clone();
            out.send(peer.address(), &Message::Suspected { peer: peer.clone(), number, by });
            self.at(now + self.settings.suspicion / TELLINGS, Due::Tell(peer, number));
        }
    }

    fn is_suspect(&self, peer: &Peer, number: u16) -> bool {
        self.foca.iter_members().any(|member| {
            member.id() == peer && member.incarnation() == number && member.state() == State::Suspect
        })
    }

    fn bury(&mut self, now: Duration, id: NodeId) {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.dying) else { return };
        known.dying = false;
        self.set(now, id, MemberState::Dead);
    }

    fn call(
        &mut self,
        now: Duration,
        out: &mut Outbox,
        call: impl FnOnce(
            &mut Foca<Peer, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>,
            &mut Effects,
        ) -> bool,
    ) -> bool {
        let mut effects = Effects::default();
        let me = (self.me().incarnation, self.me().life);
        let well = call(&mut self.foca, &mut effects);
        if !effects.notes.is_empty() || me != (self.me().incarnation, self.me().life) {
            self.changes += 1;
        }
        for note in effects.notes {
            self.note(now, note);
        }
        for (timer, after) in effects.timers {
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                self.at(now, Due::Tell(member_id.clone(), *incarnation));
            }
            self.at(now.saturating_add(after), Due::Foca(timer));
        }
        for (to, data) in effects.sends {
            self.send(now, to, data, out);
        }
        well
    }

    fn send(&mut self, now: Duration, to: Peer, data: Vec<u8>, out: &mut Outbox) {
        let address = to.address();
        out.send(address, &Message::Swim(data.clone()));
        match header(&data).map(|header| header.message) {
            Some(foca::Message::Ping(_)) => {
                for again in 1..=ASKED_AGAIN {
                    self.at(now + self.settings.probe_timeout * again / 3, Due::Ask(to.clone()));
                }
                self.asked = Some((to, data));
            }
            Some(
                foca::Message::PingReq { .. }
                | foca::Message::IndirectPing { .. }
                | foca::Message::IndirectAck { .. }
                | foca::Message::ForwardedAck { .. },
            ) => self.at(now + COPY_AFTER, Due::Again(address, data)),
            _ => {}
        }
    }

    fn note(&mut self, now: Duration, note: Note) {
        let me = self.me().id;
        match note {
            Note::Up(peer) if peer.id != me => {
                let id = peer.id;
                let known = self.known.entry(id).or_insert_with(|| Known {
                    peer: peer.clone(),
                    state: MemberState::Dead,
                    since: now,
                    heard: None,
                    dying: false,
                });
                known.peer = peer;
                known.dying = false;
                if known.state != MemberState::Alive {
                    self.set(now, id, MemberState::Alive);
                }
            }
            Note::Down(peer) if peer.id != me => {
                let Some(known) = self.known.get_mut(&peer.id) else { return };
                known.peer = peer.clone();
                let until = known.heard.map(|heard| heard + HEARD).filter(|until| *until > now);
                match until {
                    _ if peer.left => self.set(now, peer.id, MemberState::Left),
                    Some(until) => {
                        known.dying = true;
                        self.at(until, Due::Bury(peer.id));
                    }
                    None => self.set(now, peer.id, MemberState::Dead),
                }
            }
            Note::Renamed(before, after) if after.id != me => {
                let Some(known) = self.known.get_mut(&after.id) else { return };
                let (id, left) = (after.id, after.left);
                // The name or the address may be another.
                let told = before.incarnation != after.incarnation || before.host != after.host;
                known.peer = after;
                if left && known.state == MemberState::Dead {
                    self.set(now, id, MemberState::Left);
                } else if told {
                    self.events.push(Event::Changed);
                }
            }
            Note::Up(_) | Note::Down(_) | Note::Renamed(..) => {}
        }
    }

    fn set(&mut self, now: Duration, id: NodeId, state: MemberState) {
        let Some(known) = self.known.get_mut(&id) else { return };
        self.changes += 1;
        known.dying = false;
        known.state = state;
        known.since = now;
        match self.living.binary_search(&id) {
            Err(at) if state.lives() => self.living.insert(at, id),
            Ok(at) if !state.lives() => drop(self.living.remove(at)),
            _ => {}
        }
        if state.lives() {
            self.gone.remove(&id)
        } else {
            self.gone.insert(id)
        };
        self.events.push(if state.lives() { Event::Up(id) } else { Event::Changed });
        // Refused only if other measures changed than the number of transmissions, which do not.
        let _same = self.foca.set_config(config(&self.settings, self.living.len() + 1));
    }

    fn at(&mut self, at: Duration, due: Due) {
        self.count += 1;
        self.timers.insert((at, self.count), due);
    }

    /// A message without what it has told before, since each piece of news comes many times, and `foca` looks through all
    /// members for each; also without nodes of which there are too many.
    fn news(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let (header, rest) = postcard::take_from_bytes::<Header<Peer>>(data).ok()?;
        let full = self.foca.iter_membership_state().len() >= MOST_KNOWN;
        let unknown = |id: NodeId| full && !self.known.contains_key(&id);
        if unknown(header.src.id) {
            return None;
        }
        let held = self.foca.iter_membership_state().find(|member| member.id().id == header.src.id);
        let inactive = held.is_some_and(|held| {
            *held.id() > header.src || (*held.id() == header.src && held.state() == State::Down)
        });
        let Some((count, mut rest)) = rest.split_first_chunk::<2>() else { return Some(data.to_vec()) };
        // What `foca` will not heed has not been told.
        if inactive || header.dst != *self.me() {
            return Some(data.to_vec());
        }
        let begin = data.len() - rest.len() - count.len();
        let mut news = data.get(..begin)?.to_vec();
        news.extend([0, 0]);
        let mut kept: u16 = 0;
        for _ in 0..u16::from_be_bytes(*count) {
            let (told, after) = postcard::take_from_bytes::<foca::Member<Told<'_>>>(rest).ok()?;
            let Told(id, incarnation, life, left, ..) = *told.id();
            let this = (incarnation, life, left, told.incarnation(), told.state());
            if !unknown(id) && self.told.insert(id, this) != Some(this) {
                news.extend(rest.get(..rest.len() - after.len())?);
                kept += 1;
            }
            rest = after;
        }
        news.get_mut(begin..)?.first_chunk_mut::<2>()?.copy_from_slice(&kept.to_be_bytes());
        news.extend(rest);
        Some(news)
    }
}

/// Who sent a message of the failure detector's, and what it is about.
pub(crate) fn header(data: &[u8]) -> Option<Header<Peer>> {
    postcard::take_from_bytes(data).ok().map(|(header, _)| header)
}

fn config(settings: &Settings, nodes: usize) -> Config {
    let one = NonZeroUsize::MIN;
    // What is new reaches nearly everybody after about the logarithm of how many there are; the others compare.
    let transmissions = 4 + nodes.max(1).ilog2() / 2;
    Config {
        probe_period: settings.probe_period,
        probe_rtt: settings.probe_timeout,
        num_indirect_probes: NonZeroUsize::new(settings.indirect_probes).unwrap_or(one),
        max_transmissions: u8::try_from(transmissions)
            .ok()
            .and_then(NonZeroU8::new)
            .unwrap_or(NonZeroU8::MAX),
        suspect_to_down_after: settings.suspicion,
        remove_down_after: Some(settings.dead_kept),
        // Less than a datagram, by what is written around it.
        max_packet_size: NonZeroUsize::new(MOST_DATAGRAM - 20).unwrap_or(one),
        // Who is dead and speaks is knocked at.
        notify_down_members: false,
        // Members are compared as stores are.
        periodic_announce: None,
        // Who is dead is knocked at, which brings about more than an announcement.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: settings.gossip_period,
            num_members: NonZeroUsize::new(3).unwrap_or(one),
        }),
    }
}
