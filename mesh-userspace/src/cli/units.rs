//! Figures as people read them.

/// Seconds as the two greatest units that count: `42 s`, `5 min 2 s`, `3 h 20 min`, `12 d 4 h`.
pub(super) fn age(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        let count = rest / size;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        } else if !parts.is_empty() {
            // Only neighbours: "1 d 5 s" would look more exact than it is.
            break;
        }
        if parts.len() == 2 {
            break;
        }
        rest %= size;
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// A count with its digits in groups of three.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes, in the greatest decimal unit that leaves at least one, with a digit after the point.
pub(super) fn bytes(value: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "EB"),
        (1_000_000_000_000_000, "PB"),
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    match UNITS.into_iter().find(|(size, _)| value >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", value / size, value % size / (size / 10)),
        None => format!("{value} B"),
    }
}

/// A part of a whole in per cent, with one digit after the point.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    // In thousandths, rounded, so that no float is needed.
    let thousandths = (u128::from(part) * 1000 + u128::from(whole) / 2) / u128::from(whole);
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// A noun with its number: `1 task`, `3 tasks`.
pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_neighbouring_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (42, "42 s"),
            (60, "1 min"),
            (302, "5 min 2 s"),
            (3_600 + 5, "1 h"),
            (12_000, "3 h 20 min"),
            (86_400 * 12 + 3_600 * 4 + 59, "12 d 4 h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn bytes_have_units() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_999_999, "1.9 MB"),
            (1_740_000_000, "1.7 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn shares_are_rounded() {
        for (part, whole, text) in [
            (1, 3, "33.3 %"),
            (2, 3, "66.7 %"),
            (0, 9, "0.0 %"),
            (u64::MAX, u64::MAX, "100.0 %"),
            (1, 0, "–"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }
}
