//! Nothing that happens to the mesh breaks a flow whose task lives: the short form of `cargo xtask bench disruption`.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::disruption::{Mode, Options, events, mesh, run};

const OPTIONS: Options = Options { tcp: 200, udp: 100, interval: Duration::from_millis(250), seed: 1 };

#[test]
fn no_event_breaks_a_flow() -> Result<()> {
    mesh(Mode::SecondChance).test(|lab| {
        let outcomes = run(
            lab,
            &OPTIONS,
            &events()
                .into_iter()
                .filter(|e| {
                    !["weights", "rolling", "scale down: drained", "two"]
                        .iter()
                        .any(|p| e.name.starts_with(p))
                })
                .collect::<Vec<_>>(),
            |text| eprintln!("##{text}"),
        )?;
        for outcome in &outcomes {
            eprintln!("##{outcome:?}");
        }
        ensure!(outcomes.iter().all(|outcome| outcome.is_clean()), "flows broke: {outcomes:?}");
        Ok(())
    })
}
