//! What may happen to a mesh.

use std::{thread::sleep, time::Duration};

use anyhow::Result;

use super::{
    Script, Stage,
    script::Step,
    stage::{ENTRIES, ways},
};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What, in a few words.
    pub name: &'static str,
    act: fn(&mut Stage<'_>) -> Result<()>,
}

/// Every event, in the order in which they may happen: each finds what those before it left.
#[must_use]
pub fn events() -> Vec<Event> {
    vec![
        Event { name: "scale up by one", act: |stage| scale_up(stage, 1) },
        Event { name: "entry nodes' caches emptied", act: empty },
        Event { name: "scale up by three", act: |stage| scale_up(stage, 3) },
        Event { name: "weights change", act: weights },
        Event { name: "scale down: drained, then gone", act: drain },
        Event { name: "scale down: a task dies", act: death },
        Event { name: "two changes within 50 ms", act: two_changes },
        Event { name: "ECMP reshuffles, a third entry", act: reshuffle },
        Event { name: "rolling replacement of all", act: |stage| replace_all_but(stage, &[]) },
        Event { name: "meshd killed on each node", act: replace_agents },
        Event { name: "agents replaced while scaling up", act: scale_up_with_new_agents },
        Event { name: "an entry node is lost", act: |stage| lose(stage, ENTRIES[0]) },
        Event { name: "it comes back", act: come_back },
        Event { name: "scale up, reshuffle, caches emptied", act: together },
        Event { name: "a death while ECMP reshuffles", act: death_and_reshuffle },
    ]
}

impl Event {
    /// Lets it happen.
    ///
    /// # Errors
    /// If the lab refuses.
    pub fn happen(&self, stage: &mut Stage<'_>) -> Result<()> {
        (self.act)(stage)
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Tells every node what there is now, in its own time.
fn tell(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    stage.tell(&mut script, Duration::ZERO)?;
    stage.play(script)
}

fn scale_up(stage: &mut Stage<'_>, count: usize) -> Result<()> {
    for _ in 0..count {
        stage.add_task()?;
    }
    tell(stage)
}

fn weights(stage: &mut Stage<'_>) -> Result<()> {
    for task in stage.serving() {
        let weight = 1 + u32::try_from(stage.random().below(4))?;
        stage.weigh(&task, weight)?;
    }
    tell(stage)?;
    sleep(ms(500));
    for task in stage.serving() {
        stage.weigh(&task, 1)?;
    }
    tell(stage)
}

fn drain(stage: &mut Stage<'_>) -> Result<()> {
    let task = stage.oldest_serving()?;
    stage.weigh(&task, 0)?;
    tell(stage)?;
    sleep(ms(1500));
    stage.kill_task(&task)?;
    tell(stage)
}

fn death(stage: &mut Stage<'_>) -> Result<()> {
    let task = stage.oldest_serving()?;
    stage.kill_task(&task)?;
    tell(stage)
}

/// Each node learns of the second change 50 ms after it learnt of the first, or sooner.
fn two_changes(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    stage.add_task()?;
    stage.tell_twice(&mut script, ms(50), |stage| {
        let task = stage.oldest_serving()?;
        stage.weigh(&task, 0)?;
        stage.add_task().map(drop)
    })?;
    stage.play(script)
}

/// The router spreads the flows otherwise, again and again, and at last over every entry node.
///
/// # Errors
/// If the lab refuses.
pub fn reshuffle(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    let steps = [
        ways(&[("n2", 1), ("n1", 1)]),
        ways(&[("n2", 3), ("n1", 1)]),
        ways(&[("n1", 1), ("n2", 1), ("n3", 1)]),
        ways(&[("n3", 2), ("n1", 1), ("n2", 1)]),
    ];
    for (step, time) in steps.into_iter().zip((0..).step_by(400)) {
        script.at(ms(time), Step::Route(step));
    }
    stage.play(script)
}

fn empty(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    for node in ENTRIES {
        script.at(Duration::ZERO, Step::Forget(node.to_owned()));
    }
    stage.play(script)
}

/// Each task but those of `kept` is replaced in turn: a new one is there first, then the old one takes no new flows.
///
/// # Errors
/// If the lab refuses.
pub fn replace_all_but(stage: &mut Stage<'_>, kept: &[&str]) -> Result<()> {
    for old in stage.serving().into_iter().filter(|old| !kept.contains(&old.as_str())) {
        let node = stage.node_of(&old)?;
        stage.add_task_on(&node)?;
        tell(stage)?;
        sleep(ms(300));
        stage.weigh(&old, 0)?;
        tell(stage)?;
        sleep(ms(300));
    }
    Ok(())
}

/// The daemon of each node in turn is killed, and another process takes over.
///
/// # Errors
/// If the lab refuses.
pub fn replace_agents(stage: &mut Stage<'_>) -> Result<()> {
    for node in stage.nodes() {
        let mut script = Script::default();
        script.at(ms(0), Step::Kill(node.clone()));
        script.at(ms(300), Step::Start(node));
        stage.play(script)?;
    }
    Ok(())
}

fn scale_up_with_new_agents(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    stage.add_task()?;
    stage.tell(&mut script, Duration::ZERO)?;
    for node in stage.nodes() {
        let time = stage.random().duration(ms(200));
        script.at(time, Step::Replace(node));
    }
    stage.play(script)
}

/// An entry node goes with its tasks: its daemon and its cable at once, its route when the router has noticed, its tasks
/// from the other nodes' files thereafter.
///
/// # Errors
/// If the lab refuses.
pub fn lose(stage: &mut Stage<'_>, node: &str) -> Result<()> {
    stage.lose_tasks(node);
    let mut script = Script::default();
    script.at(ms(0), Step::Unplug(node.to_owned()));
    script.at(ms(0), Step::Kill(node.to_owned()));
    let left: Vec<_> = stage.routes().iter().filter(|(way, _)| way != node).cloned().collect();
    script.at(ms(100), Step::Route(left));
    stage.tell(&mut script, ms(200))?;
    stage.play(script)?;
    stage.bury()
}

fn come_back(stage: &mut Stage<'_>) -> Result<()> {
    let node = ENTRIES[0];
    stage.restore(node)?;
    stage.add_task_on(node)?;
    let mut script = Script::default();
    stage.tell(&mut script, Duration::ZERO)?;
    script.at(ms(100), Step::Route(ways(&[(ENTRIES[0], 1), (ENTRIES[1], 1), (ENTRIES[2], 1)])));
    stage.play(script)
}

fn together(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    stage.add_task()?;
    stage.tell(&mut script, Duration::ZERO)?;
    script.at(ms(100), Step::Route(ways(&[(ENTRIES[2], 1), (ENTRIES[0], 2), (ENTRIES[1], 2)])));
    for node in ENTRIES {
        script.at(ms(150), Step::Forget(node.to_owned()));
    }
    stage.play(script)
}

fn death_and_reshuffle(stage: &mut Stage<'_>) -> Result<()> {
    let mut script = Script::default();
    let task = stage.oldest_serving()?;
    stage.kill_task(&task)?;
    stage.tell(&mut script, Duration::ZERO)?;
    script.at(ms(100), Step::Route(ways(&[(ENTRIES[1], 2), (ENTRIES[2], 1), (ENTRIES[0], 1)])));
    stage.play(script)
}
