//! Counting tests by what their runners print.

use std::{fmt, ops::AddAssign};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Not run: ignored, or filtered out.
    pub(super) skipped: u64,
}

impl Tally {
    /// Counts what a line says, if it is the summary of cargo nextest, or of one test binary under `cargo test`.
    pub(super) fn read(&mut self, line: &str) {
        let plain = without_colours(line);
        if let Some(tally) = libtest(&plain).or_else(|| nextest(&plain)) {
            *self += tally;
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
fn libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |label| number_before(counts.split("; "), label);
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored").unwrap_or(0) + count("filtered out").unwrap_or(0),
    })
}

/// `     Summary [   0.012s] 4 tests run: 3 passed (1 slow), 1 failed, 2 skipped`; if the run was cut short,
/// `3/4 tests run: …`. Whatever did not pass counts as failed, whether it timed out, leaked or was never begun.
fn nextest(line: &str) -> Option<Tally> {
    let (_, rest) = line.trim_start().strip_prefix("Summary [")?.split_once("] ")?;
    let (run, counts) = rest.split_once(" run: ")?;
    let all: u64 = run.split([' ', '/']).filter_map(|word| word.parse().ok()).next_back()?;
    // A parenthesis tells more of the count before it, and may hold commas itself.
    let mut outside = String::new();
    let mut depth = 0_u32;
    for letter in counts.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            letter if depth == 0 => outside.push(letter),
            _ => {}
        }
    }
    let count = |label| number_before(outside.split(',').map(str::trim), label).unwrap_or(0);
    let passed = count("passed");
    Some(Tally { passed, failed: all.saturating_sub(passed), skipped: count("skipped") })
}

/// The number in the part `N label`.
fn number_before<'a>(parts: impl Iterator<Item = &'a str>, label: &str) -> Option<u64> {
    let mut parts = parts;
    parts.find_map(|part| part.split_once(' ').filter(|(_, what)| what.trim() == label)?.0.parse().ok())
}

/// A line without the terminal's escape sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            // ESC [ parameters letter
            letters.find(char::is_ascii_alphabetic);
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally_of(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn counts_every_binary_of_cargo_test() {
        let tally = tally_of(&[
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: \u{1b}[31mFAILED\u{1b}[0m. 1 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0s",
        ]);
        assert_eq!(tally, Tally { passed: 4, failed: 2, skipped: 6 });
    }

    #[test]
    fn counts_what_nextest_sums_up() {
        let line = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.012s] \u{1b}[1m4\u{1b}[0m tests run: \u{1b}[1m3\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m (1 slow, 1 leaky), 1 failed, 2 skipped";
        assert_eq!(tally_of(&[line]), Tally { passed: 3, failed: 1, skipped: 2 });
    }

    #[test]
    fn whatever_did_not_pass_failed() {
        let timed_out = "     Summary [ 60.0s] 4 tests run: 3 passed, 1 timed out, 0 skipped";
        assert_eq!(tally_of(&[timed_out]), Tally { passed: 3, failed: 1, skipped: 0 });
        let cut_short = "     Summary [  1.0s] 2/5 tests run: 2 passed, 0 skipped";
        assert_eq!(tally_of(&[cut_short]), Tally { passed: 2, failed: 3, skipped: 0 });
        assert_eq!(tally_of(&["     Summary [  0.0s] 1 test run: 1 passed, 0 skipped"]).passed, 1);
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(
            tally_of(&["", "3 passed, 1 failed", "test a::b ... ok", "Summary of things"]),
            Tally::default()
        );
    }
}
