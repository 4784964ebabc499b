//! One figure: what several rounds of a measurement came to.

use serde::{Deserialize, Serialize};

/// The middle of several rounds, and how far they lie apart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) rounds: usize,
    /// What is written beside it, if the number alone says too little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

impl Figure {
    /// Of the rounds of a measurement; `None` of none. Rounds that are not numbers count for nothing.
    pub(super) fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted: Vec<_> = rounds.iter().copied().filter(|round| round.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let above = *sorted.get(middle)?;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted.get(middle - 1).copied().unwrap_or(above), above),
            _ => above,
        };
        Some(Self { median, lowest, highest, rounds: sorted.len(), note: None })
    }

    /// What was counted, or measured once.
    pub(super) fn exact(value: f64) -> Self {
        Self { median: value, lowest: value, highest: value, rounds: 1, note: None }
    }

    /// With a word beside it.
    pub(super) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The greatest distance of a round from the median, as a share of it.
    pub(super) fn spread(&self) -> f64 {
        if self.median == 0.0 {
            return 0.0;
        }
        (self.highest - self.median).max(self.median - self.lowest) / self.median.abs()
    }

    /// For people: the median, its spread where there is one worth a word, and the note.
    pub(super) fn shown(&self) -> String {
        let mut shown = number(self.median);
        if self.spread() >= 0.005 {
            shown += &format!(" ±{:.0} %", self.spread() * 100.0);
        }
        if let Some(note) = &self.note {
            shown = format!("{shown} {note}");
        }
        shown
    }
}

/// A number for people: with as many digits as say something.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size == size.trunc() || size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("-", text));
    let (whole, rest) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let rest = rest.map(|rest| format!(".{rest}")).unwrap_or_default();
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_and_how_far_they_lie_apart() {
        let figure = Figure::of(&[3.0, 1.0, f64::NAN, 2.0]).expect("three rounds");
        assert_eq!((figure.median, figure.lowest, figure.highest, figure.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(figure.spread(), 0.5);
        assert_eq!(Figure::of(&[1.0, 2.0]).map(|figure| figure.median), Some(1.5));
        assert_eq!(Figure::of(&[f64::INFINITY]), None);
        assert_eq!(Figure::exact(0.0).spread(), 0.0);
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        for (value, shown) in [
            (0.0, "0"),
            (0.127, "0.13"),
            (-12.34, "-12.3"),
            (922.4, "922"),
            (9400.0, "9,400"),
            (7_300_000.2, "7,300,000"),
        ] {
            assert_eq!(number(value), shown);
        }
        let figure = Figure::of(&[100.0, 103.0, 98.0]).expect("three rounds").with_note("of 200");
        assert_eq!(figure.shown(), "100 ±3 % of 200");
    }
}
