//! The log of the runtime: lines as runc writes them, since container engines read them.
//!
//! `--log-format json`: `{"level":"error","msg":"…","time":"2026-01-31T12:00:00Z"}`; otherwise
//! `time="…" level=error msg="…"`. Without `--log`, on standard error.
//!
//! Warnings wait until the outcome is known ([`flush`]): engines take the first line, or the whole log, for the
//! error. Processes of the container send theirs to the runtime, over the channel that they have anyway
//! ([`forward_to`]).

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

use crate::error::{Context, Result};
use crate::process::handshake::{Channel, Message};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For engines.
    Json,
}

/// Starts logging.
pub fn start(path: Option<&PathBuf>, format: Format, debug: bool) -> Result<()> {
    let file = match path {
        Some(path) => Some(
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .context(|| format!("open the log {}", path.display()))?,
        ),
        None => None,
    };
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let subscriber = tracing_subscriber::registry().with(Lines { file, format, level });
    // Only a second start in one process can fail, and the first one then stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Warnings whose time has not come.
static WAITING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Where warnings go from a process of the container.
static FORWARD: Mutex<Option<Channel>> = Mutex::new(None);

/// From now on this process sends its warnings over a channel.
pub fn forward_to(channel: Channel) {
    if let Ok(mut forward) = FORWARD.lock() {
        *forward = Some(channel);
    }
}

/// Keeps a warning until the outcome is known.
pub fn keep(text: String) {
    if let Ok(mut waiting) = WAITING.lock() {
        waiting.push(text);
    }
}

/// Writes the warnings that waited.
pub fn flush() {
    let waiting = WAITING
        .lock()
        .map(|mut waiting| std::mem::take(&mut *waiting))
        .unwrap_or_default();
    for text in waiting {
        tracing::event!(target: FLUSHED, Level::WARN, "{text}");
    }
}

const FLUSHED: &str = "flushed";

struct Lines {
    file: Option<File>,
    format: Format,
    level: Level,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: LayerContext<'_, S>) {
        let level = *event.metadata().level();
        if level > self.level {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        if level == Level::WARN && event.metadata().target() != FLUSHED {
            return hold_back(text.0);
        }
        let line = line(self.format, &level.to_string().to_lowercase(), &text.0, &now());
        // There is nobody to tell that the log cannot be written.
        let _ = match self.file.as_ref() {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn hold_back(text: String) {
    match FORWARD.lock().as_deref() {
        // When the runtime is gone there is nobody left to warn.
        Ok(Some(channel)) => drop(channel.send(&Message::Warning(text))),
        _ => keep(text),
    }
}

fn line(format: Format, level: &str, text: &str, time: &str) -> String {
    let level = if level == "warn" { "warning" } else { level };
    match format {
        Format::Json => format!(
            "{}\n",
            serde_json::json!({"level": level, "msg": text, "time": time})
        ),
        Format::Text => format!("time={time:?} level={level} msg={text:?}\n"),
    }
}

/// The message, and fields if there are any.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// The present time as RFC 3339.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_time(since.as_secs(), since.subsec_nanos())
}

/// Days to a date in the Gregorian calendar, counted in eras of 400 years that begin in March.
fn format_time(seconds: u64, nanoseconds: u32) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(format_time(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format_time(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(format_time(1_798_761_599, 0), "2026-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn lines_are_those_that_engines_read() {
        let json = line(Format::Json, "error", "exec: \"x\": not found", "T");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["msg"], "exec: \"x\": not found");
        assert_eq!(parsed["level"], "error");
        assert_eq!(
            line(Format::Text, "warn", "a b", "T"),
            "time=\"T\" level=warning msg=\"a b\"\n"
        );
    }
}
