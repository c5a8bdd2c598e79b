//! The `--filter` of the prune commands: `until=` and `label=`, `label!=`, in Docker's forms. Pure.

use std::str::FromStr;

use serde_json::Value;

use crate::time::{Timestamp, now};

/// Which objects a prune may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilter {
    /// Only what was made before this, in seconds since 1970.
    until_s: Option<i64>,
    /// `KEY` or `KEY=VALUE` that must be there.
    labels: Vec<String>,
    /// … that must not.
    not_labels: Vec<String>,
}

impl PruneFilter {
    /// Reads `--filter` options.
    ///
    /// # Errors
    /// A text for the caller of a command.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        Self::parse_at(texts, now().seconds)
    }

    fn parse_at(texts: &[String], now_s: i64) -> Result<Self, String> {
        let mut filter = Self::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(format!("invalid filter {text:?}: write KEY=VALUE"));
            };
            match key {
                "until" if filter.until_s.is_some() => {
                    return Err("more than one until filter specified".to_owned());
                }
                "until" => {
                    let moment = parse_moment(value, now_s).ok_or_else(|| wrong_moment(value))?;
                    filter.until_s = Some(moment);
                }
                "label" => filter.labels.push(value.to_owned()),
                "label!" => filter.not_labels.push(value.to_owned()),
                _ => return Err(format!("invalid filter '{key}': use until, label or label!")),
            }
        }
        Ok(filter)
    }

    /// Whether something made at this moment with these labels may go.
    pub fn passes<'a>(&self, created_at_s: i64, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => label(key) == Some(value),
            None => label(wanted).is_some(),
        };
        self.until_s.is_none_or(|until| created_at_s < until)
            && self.labels.iter().all(has)
            && !self.not_labels.iter().any(has)
    }

    /// The same for an image with this configuration.
    pub fn passes_image(&self, created_at_s: i64, config_json: &str) -> bool {
        let config: Value = if self.labels.is_empty() && self.not_labels.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(config_json).unwrap_or_default()
        };
        let labels = config.pointer("/config/Labels");
        self.passes(created_at_s, |key| labels?.get(key)?.as_str())
    }
}

/// Reads a moment as `until` takes it, counted from now.
///
/// # Errors
/// A text for the caller of a command.
pub fn moment(text: &str) -> Result<i64, String> {
    parse_moment(text, now().seconds).ok_or_else(|| wrong_moment(text))
}

fn wrong_moment(text: &str) -> String {
    format!("invalid filter 'until={text}': give a duration (24h) or a time (2026-01-31T12:00:00)")
}

/// A moment as `until` takes it: a Go duration before now, seconds since 1970, or a date with or without time and zone.
fn parse_moment(text: &str, now_s: i64) -> Option<i64> {
    if let Some(age_s) = parse_duration_s(text) {
        return now_s.checked_sub(age_s);
    }
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    if let Ok(seconds) = i64::from_str(whole) {
        return Some(seconds);
    }
    let (date, rest) = text.split_at_checked(10)?;
    let full = match rest.strip_prefix('T') {
        None if rest.is_empty() => format!("{date}T00:00:00Z"),
        None => format!("{date}T00:00:00{rest}"),
        Some(clock) if clock.contains(['Z', 'z', '+', '-']) => text.to_owned(),
        Some(clock) if clock.len() == 2 => format!("{text}:00:00Z"),
        Some(clock) if clock.len() == 5 => format!("{text}:00Z"),
        Some(_) => format!("{text}Z"),
    };
    Timestamp::parse_rfc3339(&full).map(|moment| moment.seconds)
}

/// A Go duration in whole seconds, rounded down: `1h30m`, `90s`, `1.5h`.
fn parse_duration_s(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|sign: char| !sign.is_ascii_digit() && sign != '.')
            .filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ms", 1e-3),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ns", 1e-9),
            ("h", 3600.0),
            ("m", 60.0),
            ("s", 1.0),
        ];
        let (unit, factor) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * factor;
    }
    if total > 1e12 {
        return None;
    }
    let seconds = total as i64;
    Some(if negative { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(texts: &[&str]) -> Result<PruneFilter, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        PruneFilter::parse_at(&texts, 1_000_000)
    }

    #[test]
    fn moments() {
        let table = [
            ("24h", Some(1_000_000 - 86_400)),
            ("1h30m", Some(1_000_000 - 5400)),
            ("1.5h", Some(1_000_000 - 5400)),
            ("10ms", Some(1_000_000)),
            ("0s", Some(1_000_000)),
            ("-5s", Some(1_000_005)),
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.25", Some(1_700_000_000)),
            ("1970-01-02", Some(86_400)),
            ("1970-01-01T01:00:00", Some(3600)),
            ("1970-01-01T01:00", Some(3600)),
            ("1970-01-01T01", Some(3600)),
            ("1970-01-01T01:00:00Z", Some(3600)),
            ("1970-01-01T01:00:00.5+01:00", Some(0)),
            ("h", None),
            ("5", Some(5)),
            ("5x", None),
            ("yesterday", None),
            ("", None),
            ("é1970-01-01", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_moment(text, 1_000_000), expected, "{text}");
        }
    }

    #[test]
    fn labels_and_times_select() {
        let config = r#"{"config":{"Labels":{"keep":"1","a":"b"}}}"#;
        let table = [
            (&[][..], true),
            (&["until=1h"], true),
            (&["until=900h"], false),
            (&["label=a"], true),
            (&["label=a=b", "label=keep"], true),
            (&["label=a=c"], false),
            (&["label!=keep"], false),
            (&["label!=keep=2"], true),
            (&["label=a", "until=900h"], false),
        ];
        for (texts, expected) in table {
            let made = 1_000_000 - 7200;
            assert_eq!(
                filter(texts).unwrap().passes_image(made, config),
                expected,
                "{texts:?}"
            );
        }
    }

    #[test]
    fn wrong_filters_are_refused() {
        for texts in [
            &["x"][..],
            &["color=red"],
            &["until=soon"],
            &["until=1h", "until=2h"],
        ] {
            assert!(filter(texts).is_err(), "{texts:?}");
        }
    }
}
