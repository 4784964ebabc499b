//! How the demo speaks: numbered steps, commands as one would type them, answers and whether they are right.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};

/// The width of the text, in columns.
const WIDTH: usize = 100;

/// Where the answers begin, in columns after the indentation.
const ANSWERS: usize = 58;

/// A story as it is told.
#[derive(Debug)]
pub(super) struct Story {
    steps: u32,
    right: u32,
    wrong: u32,
    colours: bool,
    /// The line above is empty.
    apart: bool,
}

impl Story {
    /// Begins one.
    pub(super) fn begin(title: &str, text: &str) -> Self {
        let story = Self { steps: 0, right: 0, wrong: 0, colours: io::stdout().is_terminal(), apart: false };
        println!("\n{}\n", story.painted(BOLD, title));
        print_wrapped("", text);
        story
    }

    /// A step: what is done, and why it is worth a look.
    pub(super) fn step(&mut self, title: &str, text: &str) {
        self.steps += 1;
        self.part();
        println!("{}", self.painted(BOLD, &format!("{:2}. {title}", self.steps)));
        print_wrapped("    ", text);
        self.apart = false;
        self.part();
    }

    /// A command whose answer is only to be seen.
    pub(super) fn show(&mut self, host: &str, command: &str, answer: &str) {
        self.part();
        println!("    {} {command}", self.painted(DIM, &format!("{host}$")));
        for line in answer.lines() {
            println!("{}", format!("      {line}").trim_end());
        }
        self.apart = false;
        self.part();
    }

    /// A command, its answer on the same line, and whether that is right.
    pub(super) fn answer(
        &mut self,
        host: &str,
        command: &str,
        answer: Result<String>,
        check: impl FnOnce(&str) -> Result<()>,
    ) {
        let gap = ANSWERS.saturating_sub(host.chars().count() + 2 + command.chars().count());
        let prompt = format!("    {} {command}{:gap$}", self.painted(DIM, &format!("{host}$")), "");
        self.apart = false;
        let checked = answer.and_then(|text| {
            check(text.trim_end()).with_context(|| text.trim_end().replace('\n', " "))?;
            Ok(text)
        });
        match checked {
            Ok(text) => {
                self.right += 1;
                println!("{prompt} {:34} {}", text.trim_end(), self.painted(GREEN, "✓"));
            }
            Err(error) => {
                self.wrong += 1;
                // The last line says what went wrong; the ones before it are the command, which stands here already.
                let error = format!("{error:#}");
                println!("{prompt} {} {}", self.painted(RED, "✗"), error.lines().last().unwrap_or_default());
            }
        }
    }

    /// How many answers were right, and how many wrong.
    pub(super) const fn tally(&self) -> (u32, u32) {
        (self.right, self.wrong)
    }

    /// Leaves one line empty.
    fn part(&mut self) {
        if !self.apart {
            println!();
        }
        self.apart = true;
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Numbers of ECMA-48's "select graphic rendition".
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

fn print_wrapped(indent: &str, text: &str) {
    for line in wrapped(text, WIDTH - indent.len()) {
        println!("{indent}{line}");
    }
}

/// The text in lines of at most `width` columns, unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrapped("", 3), [""; 0]);
    }

    #[test]
    fn only_right_answers_count_as_right() {
        let mut story = Story { steps: 0, right: 0, wrong: 0, colours: false, apart: false };
        story.answer("n1", "true", Ok("yes".to_owned()), |_| Ok(()));
        story.answer("n1", "true", Ok("yes".to_owned()), |_| anyhow::bail!("should be no"));
        story.answer("n1", "false", Err(anyhow::anyhow!("failed")), |_| Ok(()));
        assert_eq!(story.tally(), (1, 2));
    }
}
