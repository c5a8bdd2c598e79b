//! Progress of long work: a bar on a terminal, plain lines otherwise. Always on standard error.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where progress goes.
pub struct Progress {
    bars: Option<MultiProgress>,
    lines: bool,
}

impl Progress {
    /// Bars when standard error is a terminal, else lines; nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = (terminal && !quiet).then(MultiProgress::new);
        Self {
            bars,
            lines: !quiet && !terminal,
        }
    }

    /// Nothing at all, for tests and for work inside other work.
    pub fn none() -> Self {
        Self {
            bars: None,
            lines: false,
        }
    }

    /// A bar for a number of bytes, when it is known.
    pub fn bytes(&self, label: &str, total_bytes: Option<u64>) -> Bar {
        let Some(bars) = &self.bars else {
            return Bar { bar: None };
        };
        let (bar, template) = match total_bytes {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {eta}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar {
            bar: Some(bars.add(bar)),
        }
    }

    /// A line for those who see no bars.
    pub fn line(&self, text: &str) {
        if self.lines {
            eprintln!("{text}");
        }
    }

    /// A warning, which is shown in any case.
    pub fn warn(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(format!("warning: {text}"))),
            None => eprintln!("warning: {text}"),
        }
    }
}

/// One piece of work; its bar goes away with it.
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// Counts what is written.
    pub fn wrap_write<W: Write>(&self, out: W) -> CountedWrite<'_, W> {
        CountedWrite { bar: self, out }
    }

    /// Counts bytes that were dealt with.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Counts what is read.
    pub fn wrap<'a, R: Read + Send + 'a>(&self, reader: R) -> Box<dyn Read + Send + 'a> {
        match &self.bar {
            Some(bar) => Box::new(bar.wrap_read(reader)),
            None => Box::new(reader),
        }
    }
}

/// Counts what is written.
pub struct CountedWrite<'a, W> {
    bar: &'a Bar,
    out: W,
}

impl<W: Write> Write for CountedWrite<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buffer)?;
        self.bar.add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
