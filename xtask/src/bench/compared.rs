//! Roads, each measured by several carriers in turn, and the tables of that.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    figure::Figure,
    findings::{Column, Row, Table},
    paths::{Balancer, Carrier, Family, Paths, Road, Wire},
    rounds::Rounds,
};

/// What was measured of one road.
#[derive(Deserialize, Serialize)]
pub(super) struct Compared<C> {
    pub(super) wire: Wire,
    pub(super) road: Road,
    pub(super) family: Family,
    /// What each carrier of the road came to, in their order.
    carried: Vec<C>,
}

impl<C: Default> Compared<C> {
    /// Every road, with nothing measured yet.
    pub(super) fn all(wire: Wire, families: &[Family]) -> Vec<Self> {
        let roads = Road::ALL.into_iter().flat_map(|road| families.iter().map(move |&family| (road, family)));
        let compared = |(road, family): (Road, Family)| {
            let carried = road.carriers().iter().map(|_| C::default()).collect();
            Self { wire, road, family, carried }
        };
        roads.map(compared).collect()
    }
}

impl<C> Compared<C> {
    /// Each carrier with what it came to, in the order of a round: back and forth, so that none is always the first.
    pub(super) fn in_turn(&mut self, round: u32) -> impl Iterator<Item = (Carrier, &mut C)> {
        let mut carriers: Vec<_> = self.road.carriers().iter().copied().zip(&mut self.carried).collect();
        if round % 2 == 1 {
            carriers.reverse();
        }
        carriers.into_iter()
    }

    /// What a carrier came to, if the road is one of its.
    pub(super) fn by(&self, carrier: Carrier) -> Option<&C> {
        let at = self.road.carriers().iter().position(|&other| other == carrier)?;
        self.carried.get(at)
    }

    /// How a carrier stands to another, round by round.
    pub(super) fn over(&self, one: Carrier, other: Carrier, of: impl Fn(&C) -> &Rounds) -> Option<Figure> {
        of(self.by(one)?).over(of(self.by(other)?))
    }

    /// For people.
    pub(super) fn title(&self) -> String {
        format!("{}, {}", self.road.title(), self.family.title())
    }
}

/// Measures every road over a wire: in each round each of them once, by `measure`, which is told the number of the round.
pub(super) fn rounds<C: Default>(
    (wire, balancer): (Wire, Balancer),
    families: &[Family],
    rounds: u32,
    watch: impl Fn(&str),
    measure: impl Fn(&mut Compared<C>, &Paths, u32) -> Result<()>,
) -> Result<Vec<Compared<C>>> {
    watch("building every overlay");
    let paths = Paths::lay(wire, balancer)?;
    let mut measured = Compared::all(wire, families);
    for round in 0..rounds {
        for road in &mut measured {
            watch(&format!("round {} of {rounds}: {}", round + 1, road.title()));
            let outcome = measure(road, &paths, round);
            if outcome.is_err() {
                paths.print_logs();
            }
            outcome.with_context(|| format!("{}, {}", road.title(), wire.title()))?;
        }
    }
    Ok(measured)
}

/// A table of one measure, with a row for each road that it was taken of, named by `title`.
pub(super) fn table<C>(
    name: &str,
    heading: &str,
    unit: &str,
    measured: &[Compared<C>],
    title: impl Fn(&Compared<C>) -> String,
    of: impl Fn(&C) -> &Rounds,
) -> Table {
    let mut columns: Vec<_> = Carrier::ALL.iter().map(|carrier| Column::new(carrier.title(), unit)).collect();
    columns.push(Column::new("mesh : kernel", ""));
    let row = |compared: &Compared<C>| {
        let figure = |&carrier: &Carrier| compared.by(carrier).and_then(|carried| of(carried).figure());
        let mut cells: Vec<_> = Carrier::ALL.iter().map(figure).collect();
        cells.push(compared.over(Carrier::Mesh, Carrier::Kernel, &of));
        cells.iter().any(Option::is_some).then(|| Row { name: title(compared), cells })
    };
    Table {
        name: name.to_owned(),
        title: heading.to_owned(),
        rows_are: "road".to_owned(),
        columns,
        rows: measured.iter().filter_map(row).collect(),
        is_drawn: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(carried: &Rounds) -> &Rounds {
        carried
    }

    #[test]
    fn the_order_turns_round_and_a_ratio_is_of_the_same_round() {
        let mut compared = Compared::<Rounds>::all(Wire::Packets, &[Family::V4]).remove(0);
        for round in 0..2 {
            let mut seen = vec![];
            for (carrier, carried) in compared.in_turn(round) {
                seen.push(carrier);
                carried.push(if carrier == Carrier::Mesh { 3.0 } else { 2.0 });
            }
            if round == 1 {
                seen.reverse();
            }
            assert_eq!(seen, Carrier::ALL);
        }
        let table = table("t", "T", "s", &[compared], Compared::title, rounds);
        assert_eq!(table.columns.len(), 4);
        let ratio = table.rows[0].cells[3].as_ref().map(|ratio| (ratio.median, ratio.rounds));
        assert_eq!(ratio, Some((1.5, 2)));
    }

    #[test]
    fn what_was_not_measured_has_no_row() {
        let roads = Compared::<Rounds>::all(Wire::Packets, &Family::ALL);
        assert!(table("t", "T", "s", &roads, Compared::title, rounds).rows.is_empty());
    }

    #[test]
    fn what_a_carrier_has_no_road_for_is_left_out() {
        let vip = Compared::<Rounds>::all(Wire::Packets, &Family::ALL).remove(2);
        assert_eq!((vip.road, vip.by(Carrier::Bare).is_none()), (Road::Vip, true));
    }
}
