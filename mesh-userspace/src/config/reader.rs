//! Values out of the tree, and a sentence for each that is not what it must be.

use std::{path::PathBuf, sync::Arc};

use super::yaml::{Content, Node, Place, is_null};
use crate::spec::{Fault, Faults, Given, Origin};

/// Takes values out of the tree, and gathers what is wrong with them.
pub(super) struct Reader {
    file: Arc<str>,
    pub(super) faults: Faults,
    /// How many ports were published by short forms.
    pub(super) published: usize,
}

impl Reader {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), faults: Faults::default(), published: 0 }
    }

    pub(super) fn origin(&self, at: Place) -> Origin {
        Origin::File { file: Arc::clone(&self.file), line: at.line, column: at.column }
    }

    pub(super) fn given<T>(&self, at: Place, value: T) -> Given<T> {
        Given::new(value, self.origin(at))
    }

    pub(super) fn fault(&mut self, at: Place, sentence: impl Into<String>) {
        let origin = self.origin(at);
        self.faults.push(Fault::new(origin, sentence));
    }

    /// Says that a value is not what it must be.
    pub(super) fn wrong(&mut self, node: &Node, what: &str, want: &str) {
        if !matches!(node.content, Content::Refused) {
            self.fault(node.at, format!("{what} is {}; it must be {want}.", node.content.found()));
        }
    }

    /// A single value that is a text, read by `parse`.
    pub(super) fn value<T>(
        &mut self,
        node: &Node,
        what: &str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Given<T>> {
        let value = match &node.content {
            Content::Scalar { text, quoted } if *quoted || !is_null(text) => parse(text),
            _ => None,
        };
        match value {
            Some(value) => Some(self.given(node.at, value)),
            None => {
                self.wrong(node, what, want);
                None
            }
        }
    }

    /// A single value that is not in quotes, so that it is no text.
    fn bare<T>(
        &mut self,
        node: &Node,
        what: &str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Given<T>> {
        if matches!(&node.content, Content::Scalar { text, quoted: true } if parse_any(text)) {
            self.fault(
                node.at,
                format!(
                    "{what} is a text in quotes, {}; it must be {want}, without quotes.",
                    node.content.found()
                ),
            );
            return None;
        }
        self.value(node, what, want, parse)
    }

    pub(super) fn name(&mut self, node: &Node, what: &str) -> Option<Given<String>> {
        self.value(node, what, "a name", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    /// An absolute path; `example` is one.
    pub(super) fn path(&mut self, node: &Node, what: &str, example: &str) -> Option<Given<PathBuf>> {
        let want = format!("an absolute path such as {example}");
        self.value(node, what, &want, |text| {
            (text.starts_with('/') && !text.contains('\0')).then(|| PathBuf::from(text))
        })
    }

    pub(super) fn boolean(&mut self, node: &Node, what: &str) -> Option<Given<bool>> {
        self.bare(node, what, "true or false", |text| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })
    }

    /// A whole number. Decimal digits only: YAML's versions disagree on what a leading zero means.
    pub(super) fn number<T: std::str::FromStr>(
        &mut self,
        node: &Node,
        what: &str,
        want: &str,
    ) -> Option<Given<T>> {
        self.bare(node, what, want, |text| {
            let plain =
                text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            plain.then(|| text.parse().ok()).flatten()
        })
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str, want: &str) -> &'n [Node] {
        match &node.content {
            Content::List(items) => items,
            _ => {
                self.wrong(node, what, want);
                &[]
            }
        }
    }

    /// The items of a list, or the one value that stands in its place.
    pub(super) fn one_or_many<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        match &node.content {
            Content::List(items) => items,
            _ => std::slice::from_ref(node),
        }
    }
}

/// Whether a text in quotes would be a number or a truth value without them.
fn parse_any(text: &str) -> bool {
    matches!(text, "true" | "false") || (!text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()))
}
