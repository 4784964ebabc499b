//! Where output goes, and how it looks there.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Attribute, Cell, Color, Table, presets};
use serde::Serialize;

use super::grammar::Output;

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint(bool);

/// What a word means to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Of little weight.
    Faint,
}

impl Paint {
    /// Colours on a terminal that takes them, unless the user does not want them (<https://no-color.org>).
    pub(super) fn detect() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !unwanted && !dumb)
    }

    /// No colours.
    #[cfg(test)]
    pub(super) const fn plain() -> Self {
        Self(false)
    }

    /// Colours.
    #[cfg(test)]
    pub(super) const fn colourful() -> Self {
        Self(true)
    }

    /// A heading.
    pub(super) fn heading(self, text: &str) -> String {
        self.escape("1", text)
    }

    /// A text with a meaning.
    pub(super) fn tone(self, tone: Tone, text: &str) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.escape("32", text),
            Tone::Bad => self.escape("31", text),
            Tone::Faint => self.escape("2", text),
        }
    }

    fn escape(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A cell of a table.
pub(super) struct Entry(String, Tone);

impl Entry {
    /// With a meaning.
    pub(super) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self(text.into(), tone)
    }
}

impl<T: Into<String>> From<T> for Entry {
    fn from(text: T) -> Self {
        Self(text.into(), Tone::Plain)
    }
}

/// Columns under headings, without borders, each line without blanks at its end.
pub(super) fn table<const N: usize>(
    paint: Paint,
    headings: [&str; N],
    rows: impl IntoIterator<Item = [Entry; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if paint.0 {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(headings.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row.map(|Entry(text, tone)| {
            let cell = Cell::new(text);
            match tone {
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Bad => cell.fg(Color::Red),
                Tone::Faint => cell.add_attribute(Attribute::Dim),
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Names and values in two columns, under a heading or not.
pub(super) fn facts<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let mut lines = value.lines();
        let first = lines.next().unwrap_or("–");
        text.push_str(&format!("{name:width$}  {first}\n"));
        for line in lines {
            text.push_str(&format!("{:width$}  {line}\n", ""));
        }
    }
    text
}

/// Standard output, in the format that the user chose.
pub(super) struct Screen {
    output: Output,
    paint: Paint,
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        Self { output, paint: Paint::detect() }
    }

    /// Prints an answer: for people by `render`, for programs as it came.
    pub(super) fn show<T: Serialize + ?Sized>(
        &self,
        answer: &T,
        render: impl FnOnce(&T, Paint) -> String,
    ) -> io::Result<()> {
        self.print(answer, render, serde_json::to_string_pretty, "")
    }

    /// Prints one of many answers: for programs as one line of JSON, or one document of YAML.
    pub(super) fn show_next<T: Serialize>(
        &self,
        answer: &T,
        render: impl FnOnce(&T, Paint) -> String,
    ) -> io::Result<()> {
        self.print(answer, render, serde_json::to_string, "---\n")
    }

    /// Prints an answer in the chosen format; JSON is written by `json`, YAML goes behind `mark`.
    fn print<T: Serialize + ?Sized>(
        &self,
        answer: &T,
        render: impl FnOnce(&T, Paint) -> String,
        json: impl FnOnce(&T) -> serde_json::Result<String>,
        mark: &str,
    ) -> io::Result<()> {
        self.write(&match self.output {
            Output::Table => render(answer, self.paint),
            Output::Json => json(answer)? + "\n",
            Output::Yaml => format!("{mark}{}", serde_yaml::to_string(answer).map_err(io::Error::other)?),
        })
    }

    /// Empties the terminal, if it is one and a person looks at it.
    pub(super) fn clear(&self) -> io::Result<()> {
        if self.is_terminal() {
            self.write("\u{1b}[H\u{1b}[2J")?;
        }
        Ok(())
    }

    /// Whether a person looks at a terminal, where a line can be written over.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_for_people() && io::stdout().is_terminal()
    }

    /// Whether people are to read it, and not programs.
    pub(super) fn is_for_people(&self) -> bool {
        self.output == Output::Table
    }

    /// Writes over the line that the cursor is in, which must be on a terminal.
    pub(super) fn overwrite(&self, line: &str) -> io::Result<()> {
        self.write(&format!("\r\u{1b}[K{line}"))
    }

    /// Prints a line for people.
    pub(super) fn line(&self, line: &str) -> io::Result<()> {
        self.write(&format!("{line}\n"))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let rows = [["a".into(), "bb".into()], ["longer".into(), Entry::new(Tone::Bad, "c")]];
        assert_eq!(table(Paint::plain(), ["X", "WIDE"], rows), "X       WIDE\na       bb\nlonger  c\n");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let rows = || [[Entry::new(Tone::Bad, "lost")]];
        assert!(!table(Paint::plain(), ["X"], rows()).contains('\u{1b}'));
        assert!(table(Paint::colourful(), ["X"], rows()).contains("\u{1b}["));
        assert_eq!(Paint::plain().tone(Tone::Good, "ok"), "ok");
        assert_eq!(Paint::colourful().tone(Tone::Good, "ok"), "\u{1b}[32mok\u{1b}[0m");
    }

    #[test]
    fn values_of_several_lines_stay_in_their_column() {
        let text =
            facts([("name", "blue".to_owned()), ("subnets", "a\nb".to_owned()), ("none", String::new())]);
        assert_eq!(text, "name     blue\nsubnets  a\n         b\nnone     –\n");
    }
}
