//! Rounds of the same measurement for several things in turn, and how one stands to another.

use serde::{Deserialize, Serialize};

use super::figure::Figure;

/// What each round found, in its order; a round of one thing belongs to the same round of another.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    /// Adds what a round found.
    pub(super) fn push(&mut self, found: f64) {
        self.0.push(found);
    }

    /// Of all rounds; none if there was none.
    pub(super) fn figure(&self) -> Option<Figure> {
        Figure::of(&self.0)
    }

    /// How often the other's goes into this, round by round: what disturbs a machine for a while disturbs both.
    pub(super) fn over(&self, other: &Self) -> Option<Figure> {
        let ratios: Vec<_> = self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect();
        Figure::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_rounds_that_belong_together() {
        let mut one = Rounds::default();
        let mut other = Rounds::default();
        for (this, that) in [(2.0, 1.0), (200.0, 100.0), (9.0, 3.0)] {
            one.push(this);
            other.push(that);
        }
        assert_eq!(one.over(&other).map(|figure| (figure.median, figure.highest)), Some((2.0, 3.0)));
        assert_eq!(Rounds::default().over(&one), None);
    }
}
