//! What the YAML scanner says, in words that tell what to do.

use crate::spec::quoted;

/// What a scanner's message means, as a piece of it and the sentence that is told.
const SENTENCES: [(&str, &str); 22] = [
    ("tab", "A tab stands where only spaces may; indent with spaces."),
    (
        "mapping values are not allowed",
        "A key and its \":\" cannot stand here; mend the indentation of this line or the line before it, or put a text that holds \": \" in quotes.",
    ),
    ("expected ',' or '}'", "A \",\" or the closing \"}\" is missing before this; write it."),
    ("expected ',' or ']'", "A \",\" or the closing \"]\" is missing before this; write it."),
    (
        "did not find expected key",
        "This does not fit the mapping that it stands in; indent it like the keys above, and write it as \"key: value\".",
    ),
    (
        "did not find expected '-' indicator",
        "This does not fit the list that it stands in; begin it with \"- \", indented like the items above.",
    ),
    ("simple key expect", "A \":\" is missing after this key; write it as \"key: value\"."),
    ("simple key", "This line is no \"key: value\"; write the \":\" after the key, with a space behind it."),
    (
        "block sequence entries are not allowed",
        "A list item (\"- \") cannot stand here; put it on a line of its own, indented like the others.",
    ),
    (
        "only valid inside a block",
        "A list item (\"- \") cannot stand in brackets; separate items by \",\" there.",
    ),
    (
        "unexpected end of stream",
        "The quotation mark here is not closed; write it again where the text ends.",
    ),
    (
        "invalid indentation in quoted scalar",
        "The quotation mark here is not closed; write it again where the text ends.",
    ),
    (
        "trailing content after double-quoted",
        "Something stands after a text in quotation marks; put all of it inside, or remove the rest.",
    ),
    (
        "unknown escape character",
        "The text here holds an escape that is not one of YAML's; write \"\\\\\" for a backslash, or use single quotes.",
    ),
    (
        "hexadecimal number",
        "The text here holds an escape that lacks hexadecimal digits; write them, as in \"\\u00e9\".",
    ),
    ("unknown anchor", "An alias (*) stands here, which this file may not use; write the value out."),
    ("misplaced bracket", "This bracket closes none that is open; remove it, or write the opening one."),
    ("invalid indentation", "This line is indented less than what it belongs to; indent it further."),
    ("unprintable character", "A character stands here that YAML does not allow; remove it."),
    ("recursion limit", "Brackets lie too deep in one another here; this file never needs that."),
    ("unexpected character", "No text can begin with this character; put the text in quotes."),
    ("expected node content", "A value is missing here; write one."),
];

/// What the scanner says, in words that tell what to do.
pub(super) fn sentence(info: &str) -> String {
    SENTENCES.iter().find(|(piece, _)| info.contains(piece)).map_or_else(
        || format!("This is not YAML ({}); mend it.", quoted(info)),
        |(_, sentence)| (*sentence).to_owned(),
    )
}
