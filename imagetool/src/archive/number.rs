//! Numbers in tar headers: octal digits, or base 256 for what octal digits cannot hold. Pure.

/// A number that may not be negative.
pub(super) fn field(bytes: &[u8]) -> Result<u64, String> {
    signed_field(bytes).and_then(|value| u64::try_from(value).map_err(|_| "is negative".to_owned()))
}

/// A number of a header: octal digits between blanks and zeros, or base 256 when the first bit is set.
pub(super) fn signed_field(bytes: &[u8]) -> Result<i64, String> {
    match bytes.first() {
        Some(first @ 0x80..) => {
            let negative = first & 0x40 != 0;
            let start = if negative { -1i64 } else { 0 };
            let head = i64::from(first & 0x3f) | if negative { -64 } else { 0 };
            let mut value = if bytes.len() > 8 { start } else { head };
            let mut rest = &bytes[1..];
            if bytes.len() > 8 {
                let (high, low) = rest.split_at(rest.len() - 8);
                let fill = if negative { 0xff } else { 0 };
                let top = if negative { 0x3f } else { 0 };
                if first & 0x3f != top
                    || high.iter().any(|byte| *byte != fill)
                    || (low[0] >= 0x80) != negative
                {
                    return Err("is too large".to_owned());
                }
                rest = low;
            }
            for byte in rest {
                value = value.wrapping_shl(8) | i64::from(*byte);
            }
            Ok(value)
        }
        _ => {
            let digits: Vec<u8> = bytes
                .iter()
                .copied()
                .skip_while(|byte| *byte == b' ' || *byte == 0)
                .collect();
            let end = digits
                .iter()
                .position(|byte| *byte == b' ' || *byte == 0)
                .unwrap_or(digits.len());
            let mut value = 0i64;
            for digit in &digits[..end] {
                if !(b'0'..=b'7').contains(digit) {
                    return Err("is no octal number".to_owned());
                }
                value = value.checked_mul(8).ok_or("is too large")? + i64::from(digit - b'0');
            }
            Ok(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_form() {
        let cases: [(&[u8], Result<i64, ()>); 8] = [
            (b"0000644\0", Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"\x80\0\0\0\0\0\x01\0", Ok(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Ok(256)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Err(())),
            (b"0000648\0", Err(())),
        ];
        for (bytes, expected) in cases {
            assert_eq!(signed_field(bytes).map_err(|_| ()), expected, "{bytes:?}");
        }
    }
}
