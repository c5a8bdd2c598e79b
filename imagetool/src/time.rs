//! Points in time as documents write them (RFC 3339), and ages as tables show them. Pure but for [`now`].

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time: seconds since 1970 (UTC) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that.
    pub nanos: u32,
}

/// The present; `SOURCE_DATE_EPOCH` takes its place when set, for images that can be reproduced.
pub fn now() -> Timestamp {
    let epoch = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|value| value.parse().ok());
    if let Some(seconds) = epoch {
        return Timestamp { seconds, nanos: 0 };
    }
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: elapsed.subsec_nanos(),
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a number of days since 1970-01-01: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

impl Timestamp {
    /// The time that Go has where there is none: the first second of year 1.
    pub const ZERO_S: i64 = -62_135_596_800;

    /// As RFC 3339 in UTC, without needless zeros: `2024-05-01T10:00:00.5Z`.
    pub fn to_rfc3339(self) -> String {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(86_400));
        let second = self.seconds.rem_euclid(86_400);
        let mut text = format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        );
        if self.nanos > 0 {
            text.push_str(format!(".{:09}", self.nanos).trim_end_matches('0'));
        }
        text.push('Z');
        text
    }

    /// As Docker's tables print an absolute time: `2024-05-01 10:00:00 +0000 UTC`.
    pub fn to_table(self) -> String {
        let text = Timestamp { nanos: 0, ..self }.to_rfc3339();
        format!("{} {} +0000 UTC", &text[..10], &text[11..19])
    }

    /// Reads RFC 3339, with any offset.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            digits
                .iter()
                .all(u8::is_ascii_digit)
                .then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
        };
        let separators = [(4, b"-"), (7, b"-"), (13, b":"), (16, b":")];
        let separated = separators.iter().all(|(at, sign)| bytes.get(*at) == sign.first());
        if !separated || !matches!(bytes.get(10), Some(b'T' | b't' | b' ')) {
            return None;
        }
        let (month, day) = (number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut rest = &bytes[19..];
        let mut nanos = 0u32;
        if let Some(fraction) = rest.strip_prefix(b".") {
            let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let padded: String = fraction[..length]
                .iter()
                .map(|b| char::from(*b))
                .chain("000000000".chars())
                .collect();
            nanos = padded[..9].parse().ok()?;
            rest = &fraction[length..];
        }
        let offset = match rest {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let digits = [*h1, *h2, *m1, *m2];
                digits.iter().all(u8::is_ascii_digit).then_some(())?;
                let digit = |i: usize| i64::from(digits[i] - b'0');
                let minutes = (digit(0) * 10 + digit(1)) * 60 + digit(2) * 10 + digit(3);
                if *sign == b'-' {
                    -minutes * 60
                } else {
                    minutes * 60
                }
            }
            _ => return None,
        };
        let days = days_from_civil(number(0, 4)?, month, day);
        Some(Self {
            seconds: days * 86_400 + hour * 3600 + minute * 60 + second - offset,
            nanos,
        })
    }
}

/// An age as Docker words it: "About an hour", "3 weeks" (the caller adds " ago").
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// A size as Docker's tables of images write it: decimal units, three significant digits (`1.23MB`).
pub fn human_size(bytes: u64) -> String {
    human_size_of(bytes, 3)
}

/// A size as Docker's sums write it: four significant digits (`1.235MB`).
pub fn human_size_long(bytes: u64) -> String {
    human_size_of(bytes, 4)
}

fn human_size_of(bytes: u64, significant: usize) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let whole = match value {
        _ if value < 10.0 => 1,
        _ if value < 100.0 => 2,
        _ => 3,
    };
    let mut number = format!("{value:.*}", significant - whole);
    if number.contains('.') {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600, 500_000_000),
            ("2024-12-31T23:59:59.000000001Z", 1_735_689_599, 1),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ];
        for (text, seconds, nanos) in cases {
            assert_eq!(
                Timestamp::parse_rfc3339(text),
                Some(Timestamp { seconds, nanos }),
                "{text}"
            );
            assert_eq!(Timestamp { seconds, nanos }.to_rfc3339(), text);
        }
        assert_eq!(
            Timestamp::parse_rfc3339("2024-01-01T01:00:00+01:00")
                .unwrap()
                .seconds,
            1_704_067_200
        );
        for text in [
            "",
            "2024-01-01",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_ages_as_docker_words_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (117_000_000, "117MB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
        for (bytes, text) in [(999, "999B"), (1_234_567, "1.235MB"), (70_000, "70kB")] {
            assert_eq!(human_size_long(bytes), text);
        }
        let cases = [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (7200, "2 hours"),
        ];
        for (seconds, text) in cases
            .into_iter()
            .chain([(86_400 * 3, "3 days"), (86_400 * 800, "2 years")])
        {
            assert_eq!(human_duration(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn written_times_read_back(seconds in -62_135_596_800i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let time = Timestamp { seconds, nanos };
            prop_assert_eq!(Timestamp::parse_rfc3339(&time.to_rfc3339()), Some(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Timestamp::parse_rfc3339(&text);
        }
    }
}
