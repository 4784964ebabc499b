//! Disruption: live flows from a client behind an ECMP route, while the mesh changes under them, and how many break.
//!
//! A [`Stage`] is a lab of four nodes, of which up to three are entry nodes, and a service whose tasks come and go. A
//! [`Client`] keeps thousands of TCP and UDP flows open to it, each of which asks in a steady rhythm and knows who answered.
//! [`events`] are what may happen to a mesh. [`run`] has them happen one after the other, and counts.

mod census;
mod client;
mod download;
mod event;
mod flow;
mod mode;
mod outcome;
mod ports;
mod random;
mod script;
mod server;
mod stage;
mod visitors;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::lab::Lab;

pub use self::{
    client::Client,
    download::{Download, Progress},
    event::{Event, events, lose, replace_agents, replace_all_but, reshuffle},
    flow::{Break, Cause},
    mode::Mode,
    outcome::{FAIL_FAST, Outcome},
    random::Random,
    script::Script,
    stage::{Stage, mesh},
};

/// How much load there is, and its seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TCP flows, half of them by IPv6.
    pub tcp: usize,
    /// UDP flows, half of them by IPv6.
    pub udp: usize,
    /// How often each flow asks.
    pub interval: Duration,
    /// What all that is random begins with: who is hit, when each node learns of a change, and the source ports.
    pub seed: u64,
}

/// How long daemons may take to carry out what they read, before the flows are judged.
const SETTLE: Duration = Duration::from_secs(1);

/// Lets the events happen in their order to a lab of [`mesh`], and tells what each of them broke. `progress` hears what goes
/// on.
///
/// # Errors
/// If the mesh cannot be changed, or if flows cannot be opened while nothing changes: no figure is to be had then.
pub fn run(
    lab: &mut Lab,
    options: &Options,
    events: &[Event],
    mut progress: impl FnMut(&str),
) -> Result<Vec<Outcome>> {
    progress("starting");
    let mut stage = Stage::set(lab, options.seed)?;
    let mut client = Client::start(&stage, options)?;
    progress("opening the flows");
    client.open().context("the first flows")?;
    let mut outcomes = Vec::new();
    for event in events {
        progress(&format!("{} …", event.name));
        client.begin();
        event.happen(&mut stage).with_context(|| format!("event: {}", event.name))?;
        sleep(SETTLE);
        client.judge(Instant::now()).with_context(|| format!("after the event: {}", event.name))?;
        let mut outcome = client.outcome(event);
        // What only waited for its flows to be judged goes now.
        if stage.tidy()? {
            sleep(SETTLE);
            client.judge(Instant::now())?;
            outcome.update(client.outcome(event));
        }
        progress(&format!("{}: {} of {} flows broke", event.name, outcome.broken(), outcome.live));
        outcomes.push(outcome);
        client.open().with_context(|| format!("after the event: {}", event.name))?;
    }
    Ok(outcomes)
}
