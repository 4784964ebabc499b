//! The cluster's keys.

use crate::{
    api::types::ClusterKey,
    cli::screen::{Entry, Paint, Tone, table},
};

/// A list.
pub(in crate::cli) fn keys(keys: &[ClusterKey], paint: Paint) -> String {
    table(
        paint,
        ["ID", "IN USE", "NODES"],
        keys.iter().map(|key| {
            let in_use = if key.in_use { Entry::new(Tone::Good, "yes") } else { "no".into() };
            let nodes = key.nodes.map_or_else(|| "–".to_owned(), |nodes| nodes.to_string());
            [key.id.as_str().into(), in_use, nodes.into()]
        }),
    )
}

/// What was installed.
pub(in crate::cli) fn key_installed(key: &ClusterKey) -> String {
    format!("key {} installed; `meshctl keys use {}` has every node seal with it\n", key.id, key.id)
}

/// What came into use.
pub(in crate::cli) fn key_used(key: &ClusterKey) -> String {
    format!("key {} is in use\n", key.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list() {
        let keys = [("0011223344556677", true, Some(3)), ("8899aabbccddeeff", false, None)]
            .map(|(id, in_use, nodes)| ClusterKey { id: id.to_owned(), in_use, nodes });
        assert_eq!(
            super::keys(&keys, Paint::plain()),
            "\
ID                IN USE  NODES
0011223344556677  yes     3
8899aabbccddeeff  no      –
"
        );
    }
}
