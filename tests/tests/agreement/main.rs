//! The loaded programs and the native pipeline do the same with every packet: same verdict, same bytes, same flows.
//!
//! `MESH_AGREEMENT_SEED` and `MESH_AGREEMENT_PACKETS` run it with other packets, and with more.

mod kernel;
mod network;
#[path = "../../../mesh-common/tests/support/mod.rs"]
mod support;

use std::{collections::BTreeSet, fmt::Write as _, thread};

use anyhow::{Result, bail, ensure};
use mesh_common::{
    Packet as _, Reason, Tables as _, Verdict,
    abi::{Allowance, Counter, Flow, FlowKey, Hook, Outcome, Shortage, flow_flags},
    native::{Buffer, enter, finish},
    pipeline,
    wire::protocol,
};
use nix::time::{ClockId, clock_gettime};

use kernel::{Kernel, Ran};
use support::{
    random::{Random, seed},
    traffic::{self, Entry, Frame},
    world::{Interfaces, World},
};

/// Packets of the whole test, of which each that comes from the wire runs through two programs.
const PACKETS: u64 = 40_000;

/// Packets that one world sees: enough for flows to be met again.
const PER_WORLD: usize = 200;

/// Both lives, and what they should have counted by now.
struct Lives {
    kernel: Kernel,
    world: World,
    drops: Vec<u64>,
    /// New flows that gave way in the worlds before this one.
    gave_way: u64,
    counters: Vec<Counter>,
    /// Runs by hook and outcome are in the counters; these are the packets that the kernel takes for no test.
    refused: usize,
    /// Packets so far.
    turn: u64,
    /// Of those from the wire and from tasks, how many went the short way of known flows.
    short: [u64; 2],
}

#[test]
fn both_lives_agree_on_every_packet() -> Result<()> {
    agree(kernel::has_decap_flags()?, seed("MESH_AGREEMENT_PACKETS", PACKETS))
}

/// What is written for kernels without the flags for opening tunnels does the same on those that have them.
#[test]
fn they_agree_where_tunnels_are_opened_without_flags() -> Result<()> {
    agree(false, seed("MESH_AGREEMENT_PACKETS", PACKETS) / 2)
}

fn agree(decap_flags: bool, packets: u64) -> Result<()> {
    in_a_namespace_with(decap_flags, |interfaces, kernel| {
        let seed = seed("MESH_AGREEMENT_SEED", 20_251_121);
        println!("MESH_AGREEMENT_SEED={seed} MESH_AGREEMENT_PACKETS={packets}");
        let mut random = Random::new(seed);
        let mut lives = Lives::new(kernel, World::random(&mut random, interfaces))?;
        let mut seen = 0;
        while seen < packets {
            // The worlds' own seeds, so that one can be had again without those before it.
            let world_seed = random.word();
            let mut random = Random::new(world_seed);
            lives.enter(World::random(&mut random, interfaces))?;
            for index in 0..PER_WORLD {
                let frame = traffic::frame(&mut random, &lives.world);
                let held = lives.held();
                let mut agreed = lives.compare(&frame);
                // By chance, few fragments would ever meet the one that they wait for.
                if agreed.is_ok()
                    && lives.held() != held
                    && random.one_in(2)
                    && let Some(first) = lives.first_of(&frame)
                {
                    agreed = lives.compare(&first);
                }
                if let Err(error) = agreed {
                    bail!("packet {index} of the world with the seed {world_seed:#x}: {error:#}");
                }
                lives.fill_the_queue(&mut random)?;
                lives.settle_a_flow(&mut random)?;
                seen += 1;
            }
            lives.settle()?;
        }
        lives.report();
        lives.ensure_everything_happened()
    })
}

/// Every packet cut off after every byte.
#[test]
fn both_lives_agree_on_packets_cut_short() -> Result<()> {
    in_a_namespace(|interfaces, kernel| {
        let mut random = Random::new(seed("MESH_AGREEMENT_SEED", 7));
        let mut lives = Lives::new(kernel, World::random(&mut random, interfaces))?;
        for _ in 0..40 {
            lives.enter(World::random(&mut random, interfaces))?;
            for _ in 0..3 {
                let frame = traffic::sound(&mut random, &lives.world);
                // Headers end long before.
                for length in 0..frame.bytes.len().min(180) {
                    let bytes = frame.bytes[..length].to_vec();
                    lives.compare(&Frame { bytes, ..frame.clone() })?;
                }
            }
            lives.settle()?;
        }
        lives.report();
        Ok(())
    })
}

/// Runs a test on a thread that has interfaces and programs of its own.
fn in_a_namespace(test: impl FnOnce(&Interfaces, Kernel) -> Result<()> + Send) -> Result<()> {
    in_a_namespace_with(kernel::has_decap_flags()?, test)
}

/// The same, with tunnels opened with the flags for it or without.
fn in_a_namespace_with(
    decap_flags: bool,
    test: impl FnOnce(&Interfaces, Kernel) -> Result<()> + Send,
) -> Result<()> {
    let run = || {
        network::leave_the_host()?;
        let pins = network::Pins::mount()?;
        let interfaces = network::build()?;
        let kernel = Kernel::load(pins.path(), interfaces.uplink, decap_flags)?;
        test(&interfaces, kernel)
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

impl Lives {
    fn new(mut kernel: Kernel, world: World) -> Result<Self> {
        kernel.fill(&world.node)?;
        let (drops, counters) = (kernel.drops()?, kernel.counters()?);
        Ok(Self { kernel, world, drops, gave_way: 0, counters, refused: 0, turn: 0, short: [0; 2] })
    }

    fn enter(&mut self, world: World) -> Result<()> {
        self.kernel.fill(&world.node)?;
        self.gave_way += self.world.node.shortages(Shortage::NewFlows);
        self.world = world;
        Ok(())
    }

    /// Runs a frame through every hook that would see it.
    fn compare(&mut self, frame: &Frame) -> Result<()> {
        let hooks: &[Hook] = match frame.entry {
            Entry::Endpoint(_) => &[Hook::Endpoint],
            Entry::Host => &[Hook::Host],
            Entry::Underlay => &[Hook::Xdp, Hook::Underlay],
        };
        hooks.iter().try_for_each(|hook| self.compare_at(*hook, frame))
    }

    fn compare_at(&mut self, hook: Hook, frame: &Frame) -> Result<()> {
        let single = Frame { is_aggregate: false, ..frame.clone() };
        let frame = if hook == Hook::Xdp || frame.is_aggregate && self.needs_other_room(hook, frame) {
            &single
        } else {
            frame
        };
        let ingress = if let Entry::Endpoint(ifindex) = frame.entry { ifindex } else { 0 };
        // Two clocks would ration differently: enough for one answer, or, now and then, for none.
        self.turn += 1;
        let allowance = if self.turn.is_multiple_of(8) { Allowance::NONE } else { Allowance::default() };
        self.kernel.set_allowance(allowance)?;
        self.world.node.set_allowance(allowance);
        let before = seconds()?;
        let Some(ran) = self.kernel.run(hook, &frame.bytes, ingress, frame.is_aggregate)? else {
            ensure!(is_no_test(&frame.bytes), "the kernel refuses {}", hex(&frame.bytes));
            self.refused += 1;
            return Ok(());
        };
        let now = seconds()?;
        self.world.node.set_clock(now);
        let flows = self.world.node.flows();
        self.count_short(hook, ingress, frame.buffer());
        let mut packet = frame.buffer();
        let verdict = native(&self.world, hook, ingress, &mut packet);
        self.count(hook, verdict, frame.bytes.len());

        let mut faults = String::new();
        check_verdict(&mut faults, hook, verdict, &ran, self.world.node.uplinks.keys().next().copied());
        // What is lost is nobody's any more.
        if !matches!(verdict.outcome(), Outcome::Drop | Outcome::Learn | Outcome::Hold | Outcome::Release)
            && packet.bytes() != ran.bytes
        {
            let _ = write!(faults, "\nnative {}\nkernel {}", hex(packet.bytes()), hex(&ran.bytes));
        }
        if ran.trace.length as usize != frame.bytes.len() {
            let _ = write!(faults, "\ntraced with {} bytes", ran.trace.length);
        }
        self.check_flows(&mut faults, &flows, before..=now);
        if faults.is_empty() {
            return Ok(());
        }
        bail!(
            "at {} with {:?}{}, of {}: native says {verdict:?}, the kernel {:?} {} (code {}){faults}",
            hook.label(),
            frame.entry,
            if frame.is_aggregate { ", aggregated" } else { "" },
            hex(&frame.bytes),
            Outcome::ALL.get(usize::from(ran.trace.outcome)).map(|outcome| outcome.label()),
            ran.trace.detail,
            ran.code,
        );
    }

    /// Whether a frame ends with other headers around it. The kernel makes no test's frame of a type whose aggregates
    /// may have that.
    fn needs_other_room(&self, hook: Hook, frame: &Frame) -> bool {
        let mut packet = frame.buffer();
        let ingress = if let Entry::Endpoint(ifindex) = frame.entry { ifindex } else { 0 };
        native(&self.world.clone(), hook, ingress, &mut packet);
        packet.length() != frame.bytes.len()
    }

    /// Compares the flows that the native life has touched, all others being compared when the world ends.
    fn check_flows(
        &mut self,
        faults: &mut String,
        before: &[(FlowKey, Flow)],
        now: std::ops::RangeInclusive<u64>,
    ) {
        for (key, native) in self.world.node.flows() {
            let is_known = before.binary_search_by_key(&key, |(key, _)| *key);
            if is_known.is_ok_and(|index| before[index].1 == native) {
                continue;
            }
            let kernel = self.kernel.flow(&key);
            let agrees = kernel.is_some_and(|kernel| {
                now.contains(&kernel.seen) && Flow { seen: native.seen, ..kernel } == native
            });
            if !agrees {
                let service = self.world.node.services.values().find(|service| service.id == native.service);
                let turns = (self.world.node.cursor(native.service), self.kernel.cursor(native.service));
                let _ = write!(faults, "\n{service:?}, turns {turns:?}");
                let _ = write!(faults, "\nflow {key:?}\nnative {native:?}\nkernel {kernel:?}");
            } else if let Some(kernel) = kernel {
                // A second may have ended in between.
                self.world.node.set_flow(key, kernel);
            }
        }
    }

    fn count(&mut self, hook: Hook, verdict: Verdict, bytes: usize) {
        let counter = &mut self.counters[Counter::index(hook, verdict.outcome()) as usize];
        counter.packets += 1;
        counter.bytes += bytes as u64;
        if let Some(reason) = verdict.reason() {
            self.drops[reason as usize] += 1;
        }
    }

    /// How many fragments have ever waited for their first.
    fn held(&self) -> u64 {
        let counter = |hook| self.counters[Counter::index(hook, Outcome::Hold) as usize].packets;
        Hook::ALL.into_iter().map(counter).sum()
    }

    /// The first fragment of the datagram that the last packet was a fragment of. None if that has other extension headers.
    fn first_of(&self, frame: &Frame) -> Option<Frame> {
        let l3 = self.world.node.at_tc().fragment_handed_on().l3 as usize;
        let mut first = frame.clone();
        let (at, more) = match (frame.bytes.get(l3)? >> 4, frame.bytes.get(l3 + 6)?) {
            (4, _) => (l3 + 6, 0x2000_u16),
            (6, &protocol::FRAGMENT) => (l3 + 40 + 2, 1),
            _ => return None,
        };
        first.bytes.get_mut(at..at + 2)?.copy_from_slice(&more.to_be_bytes());
        Some(first)
    }

    /// Now and then, has the next new flow find the queue full: one that is known stands in its place.
    fn fill_the_queue(&mut self, random: &mut Random) -> Result<()> {
        let flows = self.world.node.flows();
        if flows.is_empty() || !random.one_in(4) {
            return Ok(());
        }
        let (key, _) = random.pick(&flows);
        let place = self.world.node.next_place();
        self.world.node.set_queued(place, key);
        self.kernel.set_queued(place, key)
    }

    /// Now and then, has a flow be one that is answered and proved, as few of so short a time would be.
    fn settle_a_flow(&mut self, random: &mut Random) -> Result<()> {
        let flows = self.world.node.flows();
        if flows.is_empty() || !random.one_in(2) {
            return Ok(());
        }
        let (key, mut flow) = random.pick(&flows);
        flow.flags = match flow.flags & flow_flags::REPLY {
            0 => flow.flags & !flow_flags::NEW,
            _ => flow.flags | flow_flags::ANSWERED,
        };
        self.world.node.set_flow(key, flow);
        self.kernel.set_flow(key, flow)
    }

    /// Counts a packet that goes the short way. What that notes of the flow, the packet's own run would note as well.
    fn count_short(&mut self, hook: Hook, ingress: u32, mut packet: Buffer) {
        let tables = self.world.node.at_tc();
        let (short, verdict) = match hook {
            Hook::Underlay => (0, pipeline::known_from_underlay(&mut packet, &tables)),
            Hook::Endpoint => (1, pipeline::known_from_endpoint(&mut packet, &tables, ingress)),
            Hook::Host | Hook::Xdp => return,
        };
        self.short[short] += u64::from(verdict.is_some());
    }

    /// Compares what is kept over many packets.
    fn settle(&self) -> Result<()> {
        let (native, kernel) = (self.world.node.flows(), self.kernel.flows()?);
        if native != kernel {
            let native: BTreeSet<String> = native.iter().map(|flow| format!("{flow:?}")).collect();
            let kernel: BTreeSet<String> = kernel.iter().map(|flow| format!("{flow:?}")).collect();
            let alone = |ours: &BTreeSet<String>, theirs| {
                ours.difference(theirs).cloned().collect::<Vec<_>>().join("\n")
            };
            bail!(
                "native alone has\n{}\nthe kernel alone has\n{}",
                alone(&native, &kernel),
                alone(&kernel, &native)
            );
        }
        let (native, kernel) = (self.world.node.next_place(), self.kernel.next_place()?);
        ensure!(native == kernel, "{native} new flows were queued, and in the kernel {kernel}");
        for place in 0..native {
            let (native, kernel) = (self.world.node.queued(place), self.kernel.queued(place)?);
            ensure!(
                native == Some(kernel),
                "place {place} of the queue holds {native:?}, and in the kernel {kernel:?}"
            );
        }
        for service in 0..64 {
            let (native, kernel) = (self.world.node.cursor(service), self.kernel.cursor(service)?);
            ensure!(
                native == kernel,
                "the turn of service {service} is {native}, and in the kernel {kernel}"
            );
        }
        ensure!(
            self.kernel.counters()? == self.counters,
            "the kernel counts {:?}, not {:?}",
            self.kernel.counters()?,
            self.counters
        );
        let gave_way = self.gave_way + self.world.node.shortages(Shortage::NewFlows);
        ensure!(
            self.kernel.shortages()? == [gave_way, 0, 0, 0, 0],
            "the kernel counts {:?} shortages, not {gave_way} of new flows",
            self.kernel.shortages()?
        );
        ensure!(
            self.kernel.drops()? == self.drops,
            "the kernel counts {:?}, not {:?}",
            self.kernel.drops()?,
            self.drops
        );
        Ok(())
    }

    fn report(&self) {
        for hook in Hook::ALL {
            let counts = Outcome::ALL.map(|outcome| {
                format!(
                    "{} {}",
                    outcome.label(),
                    self.counters[Counter::index(hook, outcome) as usize].packets
                )
            });
            println!("{:>8}: {}", hook.label(), counts.join(", "));
        }
        let drops = Reason::ALL.map(|reason| format!("{} {}", reason.label(), self.drops[reason as usize]));
        println!("   drops: {}", drops.join(", "));
        println!(" refused: {}", self.refused);
        println!("   short: {:?} from the wire and from tasks", self.short);
    }

    /// Packets that all go one way would show nothing.
    fn ensure_everything_happened(&self) -> Result<()> {
        let impossible = [
            // These hooks know no stack to pass to, have it behind them, answer no questions, cannot deliver, or hear no
            // other node's word.
            (Hook::Endpoint, Outcome::Pass),
            (Hook::Endpoint, Outcome::Learn),
            (Hook::Host, Outcome::Learn),
            (Hook::Xdp, Outcome::Learn),
            (Hook::Host, Outcome::Pass),
            (Hook::Host, Outcome::Host),
            (Hook::Host, Outcome::Reply),
            (Hook::Xdp, Outcome::Reply),
            (Hook::Xdp, Outcome::Deliver),
            (Hook::Xdp, Outcome::Host),
            (Hook::Xdp, Outcome::Hold),
            (Hook::Xdp, Outcome::Release),
        ];
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let packets = self.counters[Counter::index(hook, outcome) as usize].packets;
                ensure!(
                    (packets == 0) == impossible.contains(&(hook, outcome)),
                    "{packets} packets at {} with the outcome {}",
                    hook.label(),
                    outcome.label()
                );
            }
        }
        ensure!(
            self.short.iter().all(|packets| *packets > 5),
            "{:?} packets from the wire and from tasks went the short way",
            self.short
        );
        ensure!(self.gave_way != 0, "no new flow gave way to a newer one");
        // The kernel never lacks room for such small packets, and every interface has a network.
        let never = [Reason::NoRoom, Reason::NoPort];
        for reason in Reason::ALL.into_iter().filter(|reason| !never.contains(reason)) {
            ensure!(self.drops[reason as usize] != 0, "no packet was lost because {}", reason.sentence());
        }
        Ok(())
    }
}

/// Runs a packet through the native life.
fn native(world: &World, hook: Hook, ingress: u32, packet: &mut Buffer) -> Verdict {
    let (at_tc, at_xdp) = (world.node.at_tc(), world.node.at_xdp());
    let verdict = enter(packet, &world.node, hook, ingress);
    match hook {
        Hook::Xdp => finish(packet, &at_xdp, verdict, ingress),
        _ => finish(packet, &at_tc, verdict, ingress),
    }
}

fn check_verdict(faults: &mut String, hook: Hook, verdict: Verdict, ran: &Ran, uplink: Option<u32>) {
    if (ran.trace.outcome, ran.trace.detail) != (verdict.outcome() as u8, verdict.detail()) {
        faults.push_str("\nthe verdicts differ");
    }
    if ran.trace.hook != hook as u8 {
        faults.push_str("\nthe trace names another hook");
    }
    let code = match (hook, verdict.outcome()) {
        // XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT.
        (Hook::Xdp, Outcome::Pass) => 2,
        (Hook::Xdp, Outcome::Drop | Outcome::Learn) => 1,
        (Hook::Xdp, Outcome::Transmit) if Some(verdict.detail()) != uplink => 4,
        (Hook::Xdp, _) => 3,
        // TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
        (_, Outcome::Pass) => u32::MAX,
        (_, Outcome::Drop | Outcome::Learn | Outcome::Hold | Outcome::Release) => 2,
        (_, _) => 7,
    };
    if ran.code != code {
        let _ = write!(faults, "\nthe code should be {code}");
    }
}

/// Whether the kernel takes such a frame for no test: one without a whole Ethernet header, or without a whole IP header
/// where the frame names one.
fn is_no_test(bytes: &[u8]) -> bool {
    match bytes.get(12..14) {
        Some([0x08, 0x00]) => bytes.len() < 14 + 20,
        Some([0x86, 0xdd]) => bytes.len() < 14 + 40,
        Some(_) => bytes.len() <= 14,
        None => true,
    }
}

/// The clock that the programs read.
fn seconds() -> Result<u64> {
    Ok(u64::try_from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?.tv_sec())?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
