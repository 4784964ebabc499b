//! The order in which people count: `search.2` before `search.10`.

use std::cmp::Ordering;

/// Compares two names, runs of digits by their value; names that count alike are told apart by their bytes.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left, right);
    loop {
        let (a_digits, b_digits) = (digits(a), digits(b));
        if !a_digits.is_empty() && !b_digits.is_empty() {
            let (x, y) = (a_digits.trim_start_matches('0'), b_digits.trim_start_matches('0'));
            match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                Ordering::Equal => {}
                other => return other,
            }
            a = a.strip_prefix(a_digits).unwrap_or_default();
            b = b.strip_prefix(b_digits).unwrap_or_default();
            continue;
        }
        let (mut a_rest, mut b_rest) = (a.chars(), b.chars());
        match (a_rest.next(), b_rest.next()) {
            (None, None) => return left.cmp(right),
            (x, y) => match x.cmp(&y) {
                Ordering::Equal => (a, b) = (a_rest.as_str(), b_rest.as_str()),
                other => return other,
            },
        }
    }
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tasks_are_in_the_order_of_their_numbers() {
        let mut names =
            ["search.10", "search.2", "search", "search.1", "web.1", "search.02", "a-9-b", "a-10-a"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(
            names,
            ["a-9-b", "a-10-a", "search", "search.1", "search.02", "search.2", "search.10", "web.1"]
        );
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(a in "[a.0-2]{0,6}", b in "[a.0-2]{0,6}", c in "[a.0-2]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b) == Ordering::Equal, a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
