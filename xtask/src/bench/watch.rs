//! What a person sees while a suite measures: a line that changes on a terminal, lines elsewhere.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells what goes on.
pub(super) struct Watch {
    what: String,
    bar: Option<ProgressBar>,
}

impl Watch {
    /// Begins to tell of something.
    pub(super) fn new(what: &str) -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { what: what.to_owned(), bar }
    }

    /// What it does now.
    pub(super) fn now(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => println!("{}: {text}", self.what),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
