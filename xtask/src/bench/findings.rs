//! What a suite found: figures in tables, and the targets that they meet or miss. Every suite comes to this one form, which is
//! printed, drawn, recorded and put into the report in one way.

use serde::{Deserialize, Serialize};

use super::{figure::Figure, machine::Machine};

/// All that one run of a suite found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Findings {
    /// The suite's name, as it is typed.
    pub(super) suite: String,
    /// What it measures, in a few words.
    pub(super) title: String,
    /// How: what stands against what, under which load, and what the reader must know to judge it. Paragraphs.
    pub(super) method: Vec<String>,
    /// The command that measures it again.
    pub(super) command: String,
    pub(super) machine: Machine,
    pub(super) took_seconds: f64,
    pub(super) tables: Vec<Table>,
    pub(super) targets: Vec<Target>,
    /// What went otherwise than it should, such as packets that were lost.
    pub(super) remarks: Vec<String>,
}

/// Figures that stand side by side.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Table {
    /// In lowercase letters and hyphens; the chart's file is named after the suite and it.
    pub(super) name: String,
    pub(super) title: String,
    /// What the rows are, for their heading.
    pub(super) rows_are: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    /// Whether the columns of the first column's unit are also drawn.
    pub(super) is_drawn: bool,
}

/// What is measured of each row.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Column {
    pub(super) title: String,
    /// Such as `ns`; empty for bare numbers.
    pub(super) unit: String,
}

/// What was found of one thing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// One for each column; `None` where there is nothing to measure.
    pub(super) cells: Vec<Option<Figure>>,
}

/// What we set out to reach.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Target {
    /// Of what.
    pub(super) what: String,
    /// The bound, such as `at most 0.25`, and what it is a ratio of.
    pub(super) wanted: String,
    /// What was measured.
    pub(super) found: Figure,
    /// The unit of what was measured.
    pub(super) unit: String,
    pub(super) is_met: bool,
    /// What bounds it, if it is missed: a thing measured, not guessed.
    pub(super) bounded_by: Option<String>,
}

impl Target {
    /// A figure that must not be above a bound.
    pub(super) fn at_most(what: &str, bound: f64, unit: &str, found: Figure) -> Self {
        let is_met = found.median <= bound;
        Self::new(what, format!("at most {}", super::figure::number(bound)), unit, found, is_met)
    }

    /// A figure that must not be below a bound.
    pub(super) fn at_least(what: &str, bound: f64, unit: &str, found: Figure) -> Self {
        let is_met = found.median >= bound;
        Self::new(what, format!("at least {}", super::figure::number(bound)), unit, found, is_met)
    }

    fn new(what: &str, wanted: String, unit: &str, found: Figure, is_met: bool) -> Self {
        Self { what: what.to_owned(), wanted, found, unit: unit.to_owned(), is_met, bounded_by: None }
    }

    /// Says what bounds it where it is missed.
    pub(super) fn bounded_by(mut self, why: impl Into<String>) -> Self {
        if !self.is_met {
            self.bounded_by = Some(why.into());
        }
        self
    }
}

impl Column {
    /// A column and its unit.
    pub(super) fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into() }
    }

    /// For a table's heading.
    pub(super) fn heading(&self) -> String {
        if self.unit.is_empty() { self.title.clone() } else { format!("{} ({})", self.title, self.unit) }
    }
}

impl Table {
    /// The lines of cells as text, the first of which are the headings.
    pub(super) fn text(&self) -> Vec<Vec<String>> {
        let headings = std::iter::once(self.rows_are.clone()).chain(self.columns.iter().map(Column::heading));
        let row = |row: &Row| {
            let cells =
                row.cells.iter().map(|cell| cell.as_ref().map_or_else(|| "–".to_owned(), Figure::shown));
            std::iter::once(row.name.clone()).chain(cells).collect()
        };
        std::iter::once(headings.collect()).chain(self.rows.iter().map(row)).collect()
    }
}

impl Findings {
    /// The targets as a table, if there are any.
    pub(super) fn targets_text(&self) -> Vec<Vec<String>> {
        let headings = ["target", "wanted", "found", ""].map(str::to_owned).to_vec();
        let row = |target: &Target| {
            let found = format!("{} {}", target.found.shown(), target.unit).trim_end().to_owned();
            let outcome = if target.is_met { "met" } else { "missed" };
            let wanted = format!("{} {}", target.wanted, target.unit).trim_end().to_owned();
            vec![target.what.clone(), wanted, found, outcome.to_owned()]
        };
        std::iter::once(headings).chain(self.targets.iter().map(row)).collect()
    }

    /// Of each target that was missed, what bounds it.
    pub(super) fn bounds(&self) -> Vec<String> {
        let told = |target: &Target| {
            let why = target.bounded_by.as_ref()?;
            Some(format!("{}: {why}", target.what))
        };
        self.targets.iter().filter_map(told).collect()
    }
}
