//! YAML as a tree in which everything knows its place, within limits that a hostile file cannot get around.
//!
//! Anchors, aliases and tags are refused, so the tree is never larger than the text. After a syntax error the
//! reading goes on at the next key that begins a line, so one slip does not hide the others.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::syntax;
use crate::spec::quoted;

/// How deep lists and mappings may lie in one another; the file's own format needs six.
const DEEPEST: usize = 32;
/// How many values a file may hold: some hundred and thirty thousand endpoints.
const MOST_NODES: usize = 2_000_000;
/// How often reading goes on after a syntax error.
const MOST_RESUMPTIONS: usize = 20;

/// A place in a text, both numbers from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// Where a text ends, right after its last character that is not blank.
    fn end_of(text: &str) -> Self {
        let text = text.trim_end();
        let column = text.rsplit('\n').next().unwrap_or_default().chars().count();
        Self { line: clamp(text.matches('\n').count() + 1), column: clamp(column + 1) }
    }
}

/// A number of lines or columns, which no file that is read has four billion of.
fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) content: Content,
    /// Whether it was read to its end, and not broken off by a syntax error.
    pub(super) complete: bool,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Content {
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something that was refused already.
    Refused,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) value: Node,
}

/// A text that was read.
#[derive(Debug)]
pub(super) struct Document {
    /// The one value of the document; none if there is nothing in it.
    pub(super) root: Option<Node>,
    /// What is wrong with the YAML itself.
    pub(super) faults: Vec<(Place, String)>,
    /// Whether every part of the text is in the tree.
    pub(super) whole: bool,
}

/// Reads a text.
pub(super) fn read(text: &[u8]) -> Document {
    let text = match decode(text) {
        Ok(text) => text,
        Err(faults) => return Document { root: None, faults, whole: false },
    };
    let end = Place::end_of(text);
    let mut root: Option<Node> = None;
    let mut faults = Vec::new();
    let mut whole = true;
    let mut rest = text;
    let mut lines_before = 0;
    for _ in 0..=MOST_RESUMPTIONS {
        let mut builder = Builder::new(rest, lines_before, end);
        let end = builder.run();
        faults.append(&mut builder.faults);
        join(&mut root, builder.into_root());
        let Err(stop) = end else { break };
        whole = false;
        faults.push((stop.at, stop.sentence));
        match next_section(rest, lines_before, stop.resume) {
            Some((text, line)) => (rest, lines_before) = (text, line),
            None => break,
        }
    }
    keys_once(root.as_ref(), &mut faults);
    Document { root, faults, whole }
}

/// The text as characters that YAML allows.
fn decode(bytes: &[u8]) -> Result<&str, Vec<(Place, String)>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let before = String::from_utf8_lossy(before);
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        let sentence = format!("The byte 0x{byte:02x} is not UTF-8; save the file as UTF-8 text.");
        vec![(Place { line: clamp(line + 1), column: clamp(column + 1) }, sentence)]
    })?;
    // One fault a line is enough, should the file not be text at all.
    let faults: Vec<_> = text
        .split('\n')
        .zip(1..)
        .filter_map(|(line, number)| {
            let (column, character) = line.chars().zip(1..).find_map(|(character, column)| {
                (!is_allowed(character)).then_some((column, character))
            })?;
            let sentence = format!(
                "The character U+{:04X} is not allowed in YAML; remove it, or write it as an escape in double \
                 quotes.",
                u32::from(character)
            );
            Some((Place { line: number, column }, sentence))
        })
        .collect();
    if faults.is_empty() { Ok(text) } else { Err(faults) }
}

/// Whether a character may stand in a YAML text (YAML 1.2.2, section 5.1).
const fn is_allowed(character: char) -> bool {
    matches!(
        character,
        '\t' | '\n' | '\r' | '\u{85}' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}'
    )
}

/// The text from the first line after `resume` that begins with a key, and how many lines lie before it.
fn next_section(text: &str, lines_before: usize, resume: u32) -> Option<(&str, usize)> {
    let mut offset = 0;
    for (line, number) in text.split_inclusive('\n').zip(lines_before + 1..) {
        let begins_a_key = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && line.split(['#', ' ', '\n', '\r']).next().is_some_and(|word| word.ends_with(':'));
        if number > lines_before + 1 && number >= usize::try_from(resume).ok()? && begins_a_key {
            return Some((text.get(offset..)?, number - 1));
        }
        offset += line.len();
    }
    None
}

/// Adds what was read after a syntax error to what was read before it.
fn join(root: &mut Option<Node>, more: Option<Node>) {
    match (root.as_mut(), more) {
        (None, more) => *root = more,
        (
            Some(Node { content: Content::Map(entries), .. }),
            Some(Node { content: Content::Map(more), .. }),
        ) => {
            entries.extend(more);
        }
        _ => {}
    }
}

/// Reports the keys that a mapping has more than once.
fn keys_once(root: Option<&Node>, faults: &mut Vec<(Place, String)>) {
    let mut open: Vec<&Node> = root.into_iter().collect();
    while let Some(node) = open.pop() {
        match &node.content {
            Content::Scalar { .. } | Content::Refused => {}
            Content::List(items) => open.extend(items),
            Content::Map(entries) => {
                let mut first: HashMap<&str, Place> = HashMap::new();
                for entry in entries {
                    if let Some(there) = first.get(entry.key.as_str()) {
                        let sentence = format!(
                            "The key {} stands here a second time (first: line {}); keep one of them.",
                            quoted(&entry.key),
                            there.line
                        );
                        faults.push((entry.at, sentence));
                    } else {
                        first.insert(&entry.key, entry.at);
                    }
                    open.push(&entry.value);
                }
            }
        }
    }
}

/// Why reading stopped, and the line from which it may go on.
struct Stop {
    at: Place,
    sentence: String,
    resume: u32,
}

/// A list or mapping that is being read.
struct Open {
    at: Place,
    start: Marker,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map(Vec<Entry>, Key),
}

/// The key whose value is being read.
enum Key {
    None,
    Is(String, Place),
    /// It was refused, and so is its value.
    Refused,
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    lines_before: usize,
    /// Where the text ends.
    end: Place,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
    /// Where the last event ended.
    last: Place,
    /// The same, in characters from the beginning.
    last_index: usize,
    faults: Vec<(Place, String)>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, lines_before: usize, end: Place) -> Self {
        Self {
            text,
            parser: Parser::new_from_str(text),
            lines_before,
            end,
            open: Vec::new(),
            root: None,
            nodes: 0,
            documents: 0,
            last: Place::START,
            last_index: 0,
            faults: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), Stop> {
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event.map_err(|error| self.broken_off(&error))?;
            let at = self.place(span.start);
            self.event(event, span, at)?;
            // What is not there stands wherever it was missed.
            if span.end.index() > span.start.index() {
                self.last = self.place(span.end);
                self.last_index = span.end.index();
            }
        }
        Ok(())
    }

    /// Where a marker of the parser is. The parser counts a line more where the text ends.
    fn place(&self, marker: Marker) -> Place {
        let place = Place { line: clamp(marker.line() + self.lines_before), column: clamp(marker.col() + 1) };
        place.min(self.end)
    }

    fn event(&mut self, event: Event<'_>, span: Span, at: Place) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Stop {
                        at,
                        sentence: "A second YAML document begins here; put everything into one.".to_owned(),
                        resume: u32::MAX,
                    });
                }
            }
            Event::Alias(_) => {
                self.refuse(
                    at,
                    "An alias (*) stands here, which this file may not use; write the value out.",
                );
                self.add(Node { at, content: Content::Refused, complete: true })?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let content = if self.decorated(at, anchor, tag.is_some()) {
                    Content::Refused
                } else {
                    Content::Scalar { text: text.into_owned(), quoted: style != ScalarStyle::Plain }
                };
                self.add(Node { at, content, complete: true })?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.decorated(at, anchor, tag.is_some());
                self.enter(at, span, Kind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.decorated(at, anchor, tag.is_some());
                self.enter(at, span, Kind::Map(Vec::new(), Key::None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.add(open.close(true))?;
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, at: Place, sentence: impl Into<String>) {
        self.faults.push((at, sentence.into()));
    }

    /// Reports an anchor or a tag.
    fn decorated(&mut self, at: Place, anchor: usize, tag: bool) -> bool {
        if anchor != 0 {
            self.refuse(
                at,
                "An anchor (&) stands here, which this file may not use; remove it, and write the value out \
                 wherever it is needed.",
            );
        }
        if tag {
            self.refuse(at, "A tag (!) stands here, which this file may not use; remove it.");
        }
        anchor != 0 || tag
    }

    fn enter(&mut self, at: Place, span: Span, kind: Kind) -> Result<(), Stop> {
        if self.open.len() >= DEEPEST {
            let sentence =
                format!("Lists and mappings lie more than {DEEPEST} deep here; this file never needs that.");
            return Err(Stop { at, sentence, resume: u32::MAX });
        }
        self.open.push(Open { at, start: span.start, kind });
        Ok(())
    }

    /// Whether a list or mapping is written in brackets.
    fn is_flow(&self, open: &Open) -> bool {
        matches!(self.text.chars().nth(open.start.index()), Some('[' | '{'))
    }

    fn add(&mut self, mut node: Node) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            let sentence =
                format!("The file holds more than {MOST_NODES} values; make sure that it is the mesh's.");
            return Err(Stop { at: node.at, sentence, resume: u32::MAX });
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries, key) => match std::mem::replace(key, Key::None) {
                Key::None => match node.content {
                    Content::Scalar { text, quoted } if quoted || !text.is_empty() => {
                        *key = Key::Is(text, node.at);
                    }
                    Content::Scalar { .. } => {
                        *key = Key::Refused;
                        self.refuse(
                            node.at,
                            "A key is missing before this; write one, as in \"key: value\".",
                        );
                    }
                    Content::Refused => *key = Key::Refused,
                    Content::List(_) | Content::Map(_) => {
                        *key = Key::Refused;
                        self.refuse(node.at, "A list or mapping stands here as a key; write a name.");
                    }
                },
                Key::Is(key, at) => {
                    // What is not there has no place but its key's.
                    if matches!(&node.content, Content::Scalar { text, quoted: false } if text.is_empty()) {
                        node.at = at;
                    }
                    entries.push(Entry { key, at, value: node });
                }
                Key::Refused => {}
            },
        }
        Ok(())
    }

    /// A syntax error: where to point, what to say, and where to go on.
    fn broken_off(&self, error: &ScanError) -> Stop {
        let at = self.place(*error.marker());
        let innermost = self.open.last().filter(|open| self.is_flow(open));
        match innermost {
            // What stands on later lines is not what is wrong: the bracket was forgotten before it.
            Some(open) if at.line > self.last.line || at == self.end => {
                let (opened, closing) = match open.kind {
                    Kind::List(_) => ('[', ']'),
                    Kind::Map(..) => ('{', '}'),
                };
                Stop {
                    at: open.at,
                    sentence: format!(
                        "The \"{opened}\" here is not closed; write \"{closing}\" where it ends."
                    ),
                    resume: open.at.line + 1,
                }
            }
            // The scanner says so where it gave up waiting for the colon, which may be lines later.
            _ if error.info().contains("simple key expect") => {
                let at = self.next_word().filter(|word| *word < at).unwrap_or(at);
                Stop { at, sentence: syntax::sentence(error.info()), resume: at.line }
            }
            _ => Stop { at, sentence: syntax::sentence(error.info()), resume: at.line },
        }
    }

    /// Where the first word after the last event begins.
    fn next_word(&self) -> Option<Place> {
        let (mut line, mut column) = (self.last.line, self.last.column);
        let mut comment = false;
        for character in self.text.chars().skip(self.last_index) {
            match character {
                '\n' => (line, column, comment) = (line + 1, 0, false),
                '#' => comment = true,
                _ if comment || character.is_whitespace() => {}
                _ => return Some(Place { line, column }),
            }
            column += 1;
        }
        None
    }

    /// What stands right before a syntax error may be part of it, so that it is not judged.
    fn doubt_last(&mut self) {
        let Some(open) = self.open.last_mut() else { return };
        let mut last = match &mut open.kind {
            Kind::List(items) => items.last_mut(),
            Kind::Map(entries, _) => entries.last_mut().map(|entry| &mut entry.value),
        };
        if let Some(Node { content: content @ Content::Scalar { .. }, .. }) = last {
            *content = Content::Refused;
            return;
        }
        while let Some(node) = last {
            node.complete = false;
            last = match &mut node.content {
                Content::List(items) => items.last_mut(),
                Content::Map(entries) => entries.last_mut().map(|entry| &mut entry.value),
                Content::Scalar { .. } | Content::Refused => None,
            };
        }
    }

    /// What was read, as far as it was.
    fn into_root(mut self) -> Option<Node> {
        self.doubt_last();
        while let Some(open) = self.open.pop() {
            let node = open.close(false);
            match self.open.last_mut() {
                None => self.root = Some(node),
                Some(Open { kind: Kind::List(items), .. }) => items.push(node),
                Some(Open { kind: Kind::Map(entries, key), .. }) => {
                    if let Key::Is(key, at) = std::mem::replace(key, Key::None) {
                        entries.push(Entry { key, at, value: node });
                    }
                }
            }
        }
        self.root
    }
}

impl Open {
    fn close(self, complete: bool) -> Node {
        let content = match self.kind {
            Kind::List(items) => Content::List(items),
            Kind::Map(entries, _) => Content::Map(entries),
        };
        Node { at: self.at, content, complete }
    }
}

impl Content {
    /// What it is, in a sentence.
    pub(super) fn found(&self) -> Cow<'static, str> {
        match self {
            Self::Scalar { text, quoted: false } if is_null(text) => "empty".into(),
            Self::Scalar { text, .. } => quoted(text).into(),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
            Self::Refused => "refused".into(),
        }
    }
}

/// Whether a plain text stands for nothing (YAML 1.2.2, section 10.3.2).
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
