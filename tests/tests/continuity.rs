//! A long download goes on while all around it is replaced.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::disruption::{Download, Mode, Stage, lose, mesh, replace_agents, replace_all_but, reshuffle};

/// The longest time in which nothing may come.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// The entry node that is to be lost.
const LOST: &str = "n2";

/// Source ports for the attempts at a download that neither enters by nor comes from the node that is to be lost.
const PORTS: std::ops::Range<u16> = 40_000..40_100;

fn elsewhere(stage: &Stage<'_>, is_v6: bool) -> Result<Download> {
    for port in PORTS {
        let download = Download::start(stage, is_v6, port)?;
        if download.entry != LOST && stage.node_of(&download.backend)? != LOST {
            return Ok(download);
        }
    }
    anyhow::bail!("every download has to do with {LOST}")
}

#[test]
fn a_download_outlives_its_surroundings() -> Result<()> {
    mesh(Mode::SecondChance).test(|lab| {
        let mut stage = Stage::set(lab, 1)?;
        reshuffle(&mut stage)?;
        let downloads = [elsewhere(&stage, false)?, elsewhere(&stage, true)?];
        let see = |what: &str| {
            for download in &downloads {
                let progress = download.progress().with_context(|| what.to_owned())?;
                let gap = progress.longest_gap;
                ensure!(gap < LONGEST_GAP, "{what}: nothing came for {gap:?} from {}", download.backend);
            }
            Ok(())
        };
        see("the beginning")?;
        let kept = [downloads[0].backend.as_str(), downloads[1].backend.as_str()];
        replace_all_but(&mut stage, &kept)?;
        see("every other task was replaced")?;
        stage.tidy()?;
        see("the old tasks are gone")?;
        replace_agents(&mut stage)?;
        see("every agent was replaced")?;
        lose(&mut stage, LOST)?;
        see("another entry node was lost")?;
        for download in downloads {
            let backend = download.backend.clone();
            let progress = download.finish()?;
            eprintln!("{backend}: {} bytes, longest gap {:?}", progress.bytes, progress.longest_gap);
            ensure!(progress.longest_gap < LONGEST_GAP, "nothing came for {:?}", progress.longest_gap);
        }
        Ok(())
    })
}
