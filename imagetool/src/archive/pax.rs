//! Extended header records of POSIX tar: `LENGTH KEY=VALUE\n`. Pure.
//!
//! The length counts itself, so a value may hold any byte, newlines included: binary extended attributes
//! (`SCHILY.xattr.security.capability`) need that, and a reader that splits at newlines loses them.
//! Specification: POSIX.1-2017, pax, "pax Extended Header".

/// A record, as it stands in the header.
pub type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of an extended header, in order; `None` when it is malformed.
pub fn parse(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        if bytes.iter().all(|byte| *byte == 0) {
            break; // some writers pad with zeros
        }
        let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
        let length = decimal(&bytes[..space])?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length > space + 1 && *length <= bytes.len())?;
        let (record, rest) = bytes.split_at(length);
        let body = record[space + 1..].strip_suffix(b"\n")?;
        let equals = body.iter().position(|byte| *byte == b'=')?;
        records.push((&body[..equals], &body[equals + 1..]));
        bytes = rest;
    }
    Some(records)
}

/// A number of decimal digits only.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A time: `-1.25` is a second and a quarter before 1970. Seconds are rounded down, digits after the ninth dropped.
pub fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let point = digits
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(digits.len());
    let seconds = i64::try_from(decimal(&digits[..point])?).ok()?;
    let fraction = digits.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |sum, i| {
        sum * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0'))
    });
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// Appends a record to an extended header.
pub fn append(header: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    header.extend_from_slice(length.to_string().as_bytes());
    header.push(b' ');
    header.extend_from_slice(key);
    header.push(b'=');
    header.extend_from_slice(value);
    header.push(b'\n');
}

/// Writes a time as [`time`] reads it.
pub fn format_time(seconds: i64, nanos: u32) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
    } else {
        ("", seconds.unsigned_abs(), nanos)
    };
    format!("{sign}{whole}.{}", format!("{fraction:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"7 a=b\n",
            b"6 ab\n\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        assert_eq!(parse(b"6 a=b\n\0\0"), Some(vec![(&b"a"[..], &b"b"[..])]));
    }

    #[test]
    fn times() {
        for (text, value) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("-1.25", (-2, 750_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(value));
            assert_eq!(format_time(value.0, value.1), text);
        }
        for text in ["", ".", "-", "1.x", "1e3", "+1", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_appended_reads_back(key in "[a-zA-Z.]{1,40}", value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut header = Vec::new();
            append(&mut header, key.as_bytes(), &value);
            append(&mut header, b"after", b"");
            let expected: Vec<Record<'_>> = vec![(key.as_bytes(), &value), (b"after", b"")];
            prop_assert_eq!(parse(&header), Some(expected));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
            let _ = time(&bytes);
        }
    }
}
