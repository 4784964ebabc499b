//! What the outcomes come to: tables, targets and remarks.

use anyhow::{Result, ensure};
use mesh_tests::director::{Case, Family, Forwarding, Load, Outcome, Round, Scheduler, Way};

use super::{
    super::{
        figure::Figure,
        findings::{Column, Row, Table, Target},
    },
    Told,
};

/// The loads, in the order of the columns.
const LOADS: [Load; 3] = [Load::OneFlow, Load::ManyFlows, Load::NewFlows];

/// What was found under one kernel.
pub(super) struct Measured {
    kernel: String,
    outcomes: Vec<Outcome>,
    clock: Clock,
}

/// What a nanosecond was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    Instruction,
    Time,
}

impl Measured {
    /// Where a nanosecond was an instruction.
    pub(super) fn counted(told: Told) -> Self {
        Self { kernel: told.kernel, outcomes: told.outcomes, clock: Clock::Instruction }
    }

    /// Where it was one.
    pub(super) fn timed(told: Told) -> Self {
        Self { kernel: told.kernel, outcomes: told.outcomes, clock: Clock::Time }
    }

    pub(super) fn is_counted(&self) -> bool {
        self.clock == Clock::Instruction
    }

    pub(super) fn kernel(&self) -> &str {
        &self.kernel
    }

    fn rounds(&self, case: Case) -> Option<&[Round]> {
        let outcome = self.outcomes.iter().find(|outcome| outcome.case == case)?;
        outcome.rounds.as_deref().ok()
    }

    /// Nanoseconds, or instructions, for each packet, by the rounds that lost none: a packet that is lost early costs little.
    fn cost(&self, case: Case) -> Option<Figure> {
        Figure::of(&costs(self.rounds(case)?))
    }

    /// What a table shows of a case.
    fn cell(&self, case: Case) -> Option<Figure> {
        let rounds = self.rounds(case)?;
        let figure = match self.clock {
            Clock::Instruction => self.cost(case)?,
            Clock::Time => Figure::of(&costs(rounds).iter().map(|cost| 1e9 / cost).collect::<Vec<_>>())?,
        };
        let (lost, sent) = lost(rounds);
        Some(if lost > 0 { figure.with_note(format!("{lost} of {sent} lost")) } else { figure })
    }

    /// A table for each family. The first is drawn.
    pub(super) fn tables(&self) -> Vec<Table> {
        let (what, unit, kind) = match self.clock {
            Clock::Instruction => ("Instructions for each packet", "instructions", "instructions"),
            Clock::Time => ("Packets per second on one processor", "packets/s", "rate"),
        };
        let version: String = self.kernel.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let mut tables = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut ways: Vec<Way> = Vec::new();
            for outcome in self.outcomes.iter().filter(|outcome| outcome.case.family == family) {
                if outcome.rounds.is_ok() && !ways.contains(&outcome.case.way) {
                    ways.push(outcome.case.way);
                }
            }
            let row = |way: &Way| {
                let cells = LOADS.map(|load| self.cell(Case { way: *way, family, load }));
                Row { name: way.to_string(), cells: cells.into() }
            };
            if !ways.is_empty() {
                tables.push(Table {
                    name: format!("{kind}-{version}-{}", family.to_string().to_lowercase()),
                    title: format!("{what}, {family}, Linux {}", self.kernel),
                    rows_are: "way".to_owned(),
                    columns: LOADS.iter().map(|load| Column::new(load.to_string(), unit)).collect(),
                    rows: ways.iter().map(row).collect(),
                    is_drawn: family == Family::V4,
                });
            }
        }
        tables
    }

    /// Which cases could not be measured, and which lost packets.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut lacks: Vec<(String, String)> = Vec::new();
        let mut remarks = Vec::new();
        for outcome in &self.outcomes {
            match &outcome.rounds {
                Ok(rounds) => {
                    let (lost, sent) = lost(rounds);
                    if lost > 0 {
                        let case = outcome.case;
                        remarks.push(format!("Linux {}: {case} lost {lost} of {sent} packets.", self.kernel));
                    }
                }
                Err(why) => {
                    let lack = (outcome.case.way.to_string(), why.clone());
                    if !lacks.contains(&lack) {
                        lacks.push(lack);
                    }
                }
            }
        }
        if !self.outcomes.is_empty() && remarks.is_empty() {
            remarks.push(format!(
                "Linux {}: the sink counted every packet that the source sent, in each case.",
                self.kernel
            ));
        }
        while let Some((_, why)) = lacks.first().cloned() {
            let (same, others): (Vec<_>, Vec<_>) = lacks.into_iter().partition(|(_, other)| *other == why);
            let ways: Vec<_> = same.into_iter().map(|(way, _)| way).collect();
            remarks.push(format!("Linux {}: not measured: {} ({why}).", self.kernel, ways.join("; ")));
            lacks = others;
        }
        remarks
    }

    /// What this project forwards must arrive.
    pub(super) fn ensure_that_ours_loses_nothing(&self) -> Result<()> {
        for outcome in &self.outcomes {
            if let (Way::Mesh(_), Ok(rounds)) = (outcome.case.way, &outcome.rounds) {
                let (lost, sent) = lost(rounds);
                ensure!(lost == 0, "Linux {}: {} lost {lost} of {sent} packets", self.kernel, outcome.case);
            }
        }
        Ok(())
    }

    /// The mesh against IPVS's fastest method, with the same scheduler.
    pub(super) fn target_of_instructions(&self) -> Option<Target> {
        let [mesh, ipvs, redirect, drop] = [
            Way::Mesh(Scheduler::Mh),
            Way::Ipvs { forwarding: Forwarding::Dr, scheduler: Scheduler::Mh, one_packet: false },
            Way::Across,
            Way::DropAtTc,
        ]
        .map(|way| self.cost(one_flow(way)));
        let (mesh, ipvs) = (mesh?, ipvs?);
        let what = format!(
            "Linux {}: instructions of the mesh's mh ({:.0}) to those of IPVS dr mh ({:.0})",
            self.kernel, mesh.median, ipvs.median
        );
        let target = Target::at_most(&what, 0.1, "", Figure::exact(mesh.median / ipvs.median));
        Some(match (redirect, drop) {
            (Some(redirect), Some(drop)) => target.bounded_by(format!(
                "a packet that is redirected untouched takes {:.0} instructions with source and sink, {:.2} of all that IPVS \
                 takes, and what the mesh does with it takes {:.0}; of IPVS's, {:.0} are the way to the first hook where there \
                 is a socket buffer",
                redirect.median,
                redirect.median / ipvs.median,
                mesh.median - redirect.median,
                drop.median
            )),
            _ => target,
        })
    }

    /// The mesh against the least that forwards.
    pub(super) fn target_of_rate(&self) -> Option<Target> {
        let (mesh, redirect) =
            (self.cost(one_flow(Way::Mesh(Scheduler::Mh)))?, self.cost(one_flow(Way::Across))?);
        let what = format!(
            "Linux {}: packets per second of the mesh's mh ({:.0} ns each) to those of a bare XDP_REDIRECT ({:.0} ns each)",
            self.kernel, mesh.median, redirect.median
        );
        let ratio = Figure::exact(redirect.median / mesh.median);
        let own = mesh.median - redirect.median;
        Some(Target::at_least(&what, 0.5, "", ratio).bounded_by(format!(
            "what the mesh does with a packet takes {own:.0} ns, and source, redirection and sink {:.0}",
            redirect.median
        )))
    }

    /// How far another run lies from this one.
    pub(super) fn target_of_agreement(&self, other: &Self) -> Option<Target> {
        let differences = self.outcomes.iter().filter_map(|outcome| {
            let (one, other) = (self.cost(outcome.case)?, other.cost(outcome.case)?);
            Some(((one.median - other.median).abs() / one.median * 100.0, outcome.case))
        });
        let (worst, case) = differences.max_by(|one, other| one.0.total_cmp(&other.0))?;
        let what =
            format!("Linux {}: the farthest that a figure lies from that of a second run", self.kernel);
        Some(Target::at_most(&what, 2.0, "%", Figure::exact(worst)).bounded_by(format!("it is {case}")))
    }
}

fn one_flow(way: Way) -> Case {
    Case { way, family: Family::V4, load: Load::OneFlow }
}

/// What a packet cost in each round that lost none.
fn costs(rounds: &[Round]) -> Vec<f64> {
    rounds.iter().filter(|round| round.arrived == round.sent).map(Round::per_packet).collect()
}

/// How many packets did not arrive, and how many were sent.
fn lost(rounds: &[Round]) -> (u64, u64) {
    rounds.iter().fold((0, 0), |(lost, sent), round| {
        (lost + round.sent.saturating_sub(round.arrived), sent + round.sent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(way: Way, nanoseconds: u64, arrived: u64) -> Outcome {
        Outcome { case: one_flow(way), rounds: Ok(vec![Round { sent: 100, arrived, nanoseconds }]) }
    }

    fn dr() -> Way {
        Way::Ipvs { forwarding: Forwarding::Dr, scheduler: Scheduler::Mh, one_packet: false }
    }

    fn measured(outcomes: Vec<Outcome>) -> Measured {
        Measured::counted(Told { kernel: "6.1.0-56-amd64".to_owned(), outcomes })
    }

    #[test]
    fn what_is_lost_is_told_in_the_table_and_beside_it() {
        let all = measured(vec![outcome(dr(), 940_000, 100)]);
        assert_eq!(
            all.remarks(),
            ["Linux 6.1.0-56-amd64: the sink counted every packet that the source sent, in each case."]
        );
        let mut lossy = outcome(dr(), 200_000, 90);
        if let Ok(rounds) = &mut lossy.rounds {
            rounds.push(Round { sent: 100, arrived: 100, nanoseconds: 940_000 });
        }
        let some = measured(vec![lossy, outcome(Way::Mesh(Scheduler::Mh), 90_000, 100)]);
        assert_eq!(
            some.remarks(),
            ["Linux 6.1.0-56-amd64: IPVS dr mh, IPv4, one flow lost 10 of 200 packets."]
        );
        let tables = some.tables();
        assert_eq!(tables[0].name, "instructions-6.1-ipv4");
        let cells: Vec<_> =
            tables[0].rows.iter().map(|row| row.cells[0].as_ref().map(Figure::shown)).collect();
        assert_eq!(cells, [Some("9,400 10 of 200 lost".to_owned()), Some("900".to_owned())]);
        assert!(some.ensure_that_ours_loses_nothing().is_ok());
        let ours = measured(vec![outcome(Way::Mesh(Scheduler::Mh), 90_000, 99)]);
        assert!(ours.ensure_that_ours_loses_nothing().is_err());
    }

    #[test]
    fn the_targets_are_ratios_of_one_run() {
        let outcomes = |mesh| {
            vec![
                outcome(Way::Across, 60_000, 100),
                outcome(Way::DropAtTc, 590_000, 100),
                outcome(Way::Mesh(Scheduler::Mh), mesh, 100),
                outcome(dr(), 940_000, 100),
            ]
        };
        let met = measured(outcomes(94_000)).target_of_instructions().expect("all is measured");
        assert!(met.is_met && met.bounded_by.is_none());
        let missed = measured(outcomes(96_000));
        let target = missed.target_of_instructions().expect("all is measured");
        assert!(
            !target.is_met && target.bounded_by.is_some_and(|why| why.contains("takes 360")),
            "{}",
            target.what
        );
        let rate = missed.target_of_rate().expect("all is measured");
        assert_eq!((rate.found.median, rate.is_met), (0.625, true));
        let agreement = missed.target_of_agreement(&measured(outcomes(94_560))).expect("all is measured");
        assert!((agreement.found.median - 1.5).abs() < 1e-9 && agreement.is_met, "{:?}", agreement.found);
        let agreement = missed.target_of_agreement(&measured(outcomes(99_000))).expect("all is measured");
        assert!(!agreement.is_met && agreement.bounded_by.is_some_and(|case| case.contains("mesh vxlan mh")));
    }

    #[test]
    fn what_a_kernel_lacks_is_told_once() {
        let lacking = |way, load| Outcome {
            case: Case { way, family: Family::V4, load },
            rounds: Err("this kernel has no ip_vs".to_owned()),
        };
        let measured = measured(vec![
            lacking(dr(), Load::OneFlow),
            lacking(dr(), Load::NewFlows),
            outcome(Way::Across, 60_000, 100),
        ]);
        assert_eq!(
            measured.remarks()[1..],
            ["Linux 6.1.0-56-amd64: not measured: IPVS dr mh (this kernel has no ip_vs)."]
        );
        assert_eq!(measured.tables()[0].rows.len(), 1);
    }
}
