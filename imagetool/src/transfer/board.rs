//! What is shown of layers on their way: a bar for each on a terminal, a line for each change otherwise.

use std::io::{IsTerminal, Read, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Standard output, as Docker's `pull` and `push`.
    Output,
    /// Standard error, of a command whose output is another's.
    Error,
    /// Nowhere.
    None,
}

/// Rows of layers below each other.
pub struct Board {
    /// None where there is no terminal.
    bars: Option<Mutex<MultiProgress>>,
    lines: Lines,
}

impl Board {
    /// Bars where standard error is a terminal, else lines.
    pub fn new(lines: Lines) -> Self {
        let terminal = lines != Lines::None && std::io::stderr().is_terminal();
        Self {
            bars: terminal.then(Mutex::default),
            lines,
        }
    }

    fn bars(&self) -> Option<MultiProgress> {
        let bars = self.bars.as_ref()?;
        Some(bars.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// All rows have come to their end: what follows stands below them.
    pub fn settle(&self) {
        if let Some(bars) = &self.bars {
            *bars.lock().unwrap_or_else(PoisonError::into_inner) = MultiProgress::new();
        }
    }

    /// A line above the rows, or below those that have settled.
    pub fn line(&self, text: &str) {
        let write = || {
            // a reader that has seen enough is no failure
            let _ = match self.lines {
                Lines::Output => writeln!(std::io::stdout(), "{text}"),
                Lines::Error => writeln!(std::io::stderr(), "{text}"),
                Lines::None => Ok(()),
            };
        };
        match self.bars() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// A warning, which is shown in any case.
    pub fn warn(&self, text: &str) {
        match self.bars() {
            Some(bars) => bars.suspend(|| eprintln!("warning: {text}")),
            None => eprintln!("warning: {text}"),
        }
    }

    /// A layer's row, which stays when the work is over.
    pub fn row(&self, id: &str) -> Row<'_> {
        let bar = self.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style("{prefix}: {msg}"));
            bar.set_prefix(id.to_owned());
            bar
        });
        Row {
            board: self,
            id: id.to_owned(),
            bar,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).map_or_else(
        |_| ProgressStyle::default_bar(),
        |style| style.progress_chars("=> "),
    )
}

/// One layer.
pub struct Row<'a> {
    board: &'a Board,
    id: String,
    bar: Option<ProgressBar>,
}

impl Row<'_> {
    /// What becomes of the layer now: one or two words.
    pub fn state(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message(text.to_owned());
                bar.tick();
            }
            None => self.board.line(&format!("{}: {text}", self.id)),
        }
    }

    /// Bytes will flow, so many of them.
    pub fn begin(&self, text: &str, total_bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total_bytes);
            bar.set_position(0);
            bar.set_message(text.to_owned());
            bar.set_style(style(
                "{prefix}: {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
            ));
            bar.reset_eta();
        }
    }

    /// So many of them were there already.
    pub fn skip(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.reset_eta();
        }
    }

    /// So many have flown.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Counts what flows elsewhere.
    pub fn counter(&self) -> Counter {
        Counter(self.bar.clone())
    }

    /// A line for those who see no bars.
    pub fn note(&self, text: &str) {
        if self.bar.is_none() {
            self.board.line(&format!("{}: {text}", self.id));
        }
    }

    /// What becomes of the layer now, for those who see a bar.
    pub fn label(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// What became of the layer.
    pub fn done(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.abandon_with_message(text.to_owned());
            }
            None => self.board.line(&format!("{}: {text}", self.id)),
        }
    }
}

/// Counts bytes for a row; what opens a stream again begins at 0.
#[derive(Clone)]
pub struct Counter(Option<ProgressBar>);

impl Counter {
    /// Counts what is read.
    pub fn wrap(&self, reader: impl Read + Send + 'static) -> Box<dyn Read + Send> {
        match &self.0 {
            Some(bar) => {
                bar.set_position(0);
                Box::new(bar.wrap_read(reader))
            }
            None => Box::new(reader),
        }
    }
}
