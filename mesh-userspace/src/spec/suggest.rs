//! "Did you mean …?"

/// Nobody who mistypes a name of this length is helped by a suggestion, and the search costs its square.
const LONGEST: usize = 64;

/// Which of some names a mistyped one is likely to mean; none if several are as near.
pub(crate) fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > LONGEST {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let typed = plain(typed);
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (strsim::damerau_levenshtein(&typed, &plain(name)), name))
        .filter(|(distance, name)| *distance * 3 <= name.len().max(3))
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    match near.as_slice() {
        [(first, _), (second, _), ..] if first == second => None,
        [(_, name), ..] => Some(name),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let names = ["subnets", "internal", "mtu", "vni"];
        assert_eq!(nearest("subnet", names), Some("subnets"));
        assert_eq!(nearest("Sub-nets", names), Some("subnets"));
        assert_eq!(nearest("vin", names), Some("vni"));
        assert_eq!(nearest("internl", names), Some("internal"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("n9", ["n1", "web"]), Some("n1"));
        assert_eq!(nearest("n9", ["n1", "n2"]), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
