//! What it costs to forward a packet to one of several servers: by the mesh's published port, by IPVS, by nftables and iptables,
//! and, as controls, by less than any of them does.
//!
//! A director has one cable to its clients and one to its servers. The source is at the far end of the first and sends as a card's
//! driver would, without a network stack of its own; the sink is at the far end of the second and counts what arrives. What lies
//! between them is measured by the clock: in nanoseconds, which in a virtual machine that counts instructions are instructions.

mod case;
mod rules;
mod stage;

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use self::case::{Case, Family, Forwarding, Load, Scheduler, Way, cases};
use self::{rules::Rules, stage::Stage};
use crate::{
    lab::Mesh,
    traffic::{Flows, Frame, Reflection, Reflector, Sending, Sink, Source},
};

/// How many flows take turns where there are many.
pub const MANY: u32 = 10_000;
/// How long is waited before each round.
const PAUSE: Duration = Duration::from_millis(20);
/// The same for the mesh, which notes once a second that a flow lives: so that each flow's packet does so in each round, and not
/// in those alone that begin with a new second.
const A_SECOND_LATER: Duration = Duration::from_millis(1100);
/// Packets before the first round, so that tables and caches hold what they will hold.
const WARMING: u32 = 1_000;

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Packets of a round.
    pub packets: u32,
    /// Rounds of each case.
    pub rounds: usize,
}

/// What a case came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// Which case.
    pub case: Case,
    /// Its rounds; or why there are none.
    pub rounds: Result<Vec<Round>, String>,
}

/// One round.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Round {
    /// Packets that the source sent.
    pub sent: u64,
    /// Packets that the sink counted, as they should be.
    pub arrived: u64,
    /// From the moment when the first was made until the last had arrived.
    pub nanoseconds: u64,
}

impl Round {
    /// What one packet took that the source sent.
    #[must_use]
    pub fn per_packet(&self) -> f64 {
        self.nanoseconds as f64 / self.sent as f64
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.case)?;
        match &self.rounds {
            Ok(rounds) => rounds.iter().try_for_each(|round| {
                write!(f, " {:.0} ns", round.per_packet())?;
                let lost = round.sent - round.arrived;
                if lost > 0 { write!(f, " ({lost} of {} lost)", round.sent) } else { Ok(()) }
            }),
            Err(why) => write!(f, " {}", why.lines().next().unwrap_or_default()),
        }
    }
}

/// What keeps a way of forwarding in force.
enum InForce<'a> {
    Nothing,
    Reflector { _hold: Reflector },
    Rules(Rules<'a>),
}

/// Measures cases, and tells of each: those of the mesh in a lab with its daemon, the others in one without, where nothing else
/// takes the processor.
///
/// # Errors
/// If a lab cannot be built, or a case cannot be measured for another reason than that the kernel lacks it.
pub fn measure(
    prefix: &str,
    cases: &[Case],
    options: &Options,
    mut tell: impl FnMut(&str),
) -> Result<Vec<Outcome>> {
    let (ours, others): (Vec<Case>, Vec<Case>) =
        cases.iter().partition(|case| matches!(case.way, Way::Mesh(_)));
    let mut outcomes = measure_in(prefix, stage::host(), &others, options, &mut tell)?;
    outcomes.extend(measure_in(prefix, stage::mesh(), &ours, options, &mut tell)?);
    let place = |outcome: &Outcome| cases.iter().position(|case| *case == outcome.case);
    outcomes.sort_by_key(place);
    Ok(outcomes)
}

fn measure_in(
    prefix: &str,
    mesh: Mesh,
    cases: &[Case],
    options: &Options,
    tell: &mut impl FnMut(&str),
) -> Result<Vec<Outcome>> {
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    tell("building the lab");
    let lab = mesh.up(prefix)?;
    let outcomes = Stage::of(&lab).and_then(|stage| {
        let outcome = |case: &Case| {
            let rounds = match Rules::lack(case.way) {
                Some(lack) => Err(lack),
                None => measure_case(&stage, *case, options).with_context(|| case.to_string())?,
            };
            let outcome = Outcome { case: *case, rounds };
            tell(&outcome.to_string());
            Ok(outcome)
        };
        cases.iter().map(outcome).collect()
    });
    if outcomes.is_err() {
        lab.print_logs();
    }
    outcomes
}

/// Measures a case, or says why it cannot be put in force.
fn measure_case(stage: &Stage<'_>, case: Case, options: &Options) -> Result<Result<Vec<Round>, String>> {
    let in_force = match stage.put_in_force(case) {
        Ok(in_force) => in_force,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let sink = stage.sink(case)?;
    let flows = match case.load {
        Load::OneFlow => Flows::Some(1),
        Load::ManyFlows => Flows::Some(MANY),
        Load::NewFlows => Flows::New,
    };
    let frame = Frame::new(&stage.aim(case)?)?;
    let source = Source::new(stage.wire, stage::CLIENTS, frame, flows)?;
    source.send(if case.load == Load::ManyFlows { MANY } else { WARMING }, &sink)?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        if let (InForce::Rules(rules), Load::NewFlows) = (&in_force, case.load) {
            rules.forget_flows()?;
        }
        // What the last round left to ksoftirqd is done: while that waits for the processor, Linux before 6.4 has nobody else poll,
        // and the source overruns the queue of its interface.
        sleep(if matches!(case.way, Way::Mesh(_)) { A_SECOND_LATER } else { PAUSE });
        let Sending { sent, arrived, nanoseconds } = source.send(options.packets, &sink)?;
        rounds.push(Round { sent, arrived, nanoseconds });
    }
    Ok(Ok(rounds))
}

impl Stage<'_> {
    /// Has the director do what the case says.
    fn put_in_force(&self, case: Case) -> Result<InForce<'_>> {
        let reflect = |reflection| -> Result<InForce<'_>> {
            Ok(InForce::Reflector { _hold: Reflector::new(self.director, stage::CLIENTS, reflection)? })
        };
        match case.way {
            Way::DropAtXdp | Way::DropAtTc | Way::Routing | Way::Mesh(_) => Ok(InForce::Nothing),
            Way::Back => reflect(Reflection::Back),
            Way::Across => reflect(Reflection::To(stage::SERVERS)),
            Way::Ipvs { .. } | Way::Nftables | Way::Iptables => {
                Ok(InForce::Rules(Rules::put(self.director, case, stage::vip(case.family))?))
            }
        }
    }

    /// Has what the case sends counted where it goes.
    fn sink(&self, case: Case) -> Result<Sink> {
        let expected = case.expected();
        match case.way {
            Way::DropAtXdp => Sink::at_xdp(self.director, stage::CLIENTS, expected),
            Way::DropAtTc => Sink::at_tc(self.director, stage::CLIENTS, expected),
            Way::Back => Sink::at_xdp(self.wire, stage::CLIENTS, expected),
            _ => Sink::at_xdp(self.wire, stage::SERVERS, expected),
        }
    }
}

/// Waits, which costs no time where the clock counts instructions.
fn rest(seconds: u64) {
    sleep(Duration::from_secs(seconds));
}
