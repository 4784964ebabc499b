//! Nothing that happens to the mesh breaks a flow whose task lives: the short form of `cargo xtask bench disruption`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::disruption::{Event, Mode, Options, Outcome, events, mesh, run};

const OPTIONS: Options = Options { tcp: 200, udp: 100, interval: Duration::from_millis(350), seed: 1 };

/// The events of a name, in the order in which they may happen.
fn named(names: &[&str]) -> Result<Vec<Event>> {
    let all = events();
    for name in names {
        all.iter()
            .find(|event| event.name == *name)
            .with_context(|| format!("there is no event {name:?}"))?;
    }
    Ok(all.into_iter().filter(|event| names.contains(&event.name)).collect())
}

fn outcomes(mode: Mode, names: &[&str]) -> Result<Vec<Outcome>> {
    let events = named(names)?;
    let mut outcomes = Vec::new();
    mesh(mode).test(|lab| {
        outcomes = run(lab, &OPTIONS, &events, |text| eprintln!("{text}"))?;
        Ok(())
    })?;
    Ok(outcomes)
}

#[test]
fn no_event_breaks_a_flow_whose_task_lives() -> Result<()> {
    let outcomes = outcomes(
        Mode::SecondChance,
        &[
            "scale up by one",
            "scale down: drained, then gone",
            "scale down: a task dies",
            "two changes within 50 ms",
            "ECMP reshuffles, a third entry",
            "rolling replacement of all",
            "agents replaced while scaling up",
            "an entry node is lost",
            "it comes back",
            "scale up, reshuffle, caches emptied",
        ],
    )?;
    for outcome in &outcomes {
        ensure!(outcome.is_clean(), "{outcome:?}");
    }
    // Or the measure would have met nothing.
    ensure!(outcomes.iter().all(|outcome| outcome.live > 100), "{outcomes:?}");
    ensure!(outcomes.iter().any(|outcome| outcome.bereft > 0), "{outcomes:?}");
    Ok(())
}

/// The measure can tell: where each packet goes by its hash alone, flows break.
#[test]
fn consistent_hashing_alone_breaks_flows() -> Result<()> {
    let outcomes = outcomes(Mode::Hash, &["scale up by one"])?;
    ensure!(outcomes.iter().map(Outcome::broken).sum::<usize>() > 0, "{outcomes:?}");
    Ok(())
}
