//! Go's `Print`, `Println` and `Printf` on template values, and its quoted strings.

use std::iter::Peekable;
use std::str::Chars;

use super::value::Val;

/// So wide a column may be, and so long a text in it, as in Go.
const WIDTH_MAX: usize = 1_000_000;

/// As Go's `%q` writes a text.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for sign in text.chars() {
        match sign {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            _ if sign.is_control() => match u32::from(sign) {
                code @ ..0x80 => out += &format!("\\x{code:02x}"),
                code => out += &format!("\\u{code:04x}"),
            },
            _ => out.push(sign),
        }
    }
    out.push('"');
    out
}

/// What stands between the quotes of a Go string; `None` where an escape is none, or its bytes are no text.
pub(super) fn unquote(inner: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut signs = inner.chars();
    while let Some(sign) = signs.next() {
        let sign = match sign {
            '\\' => match signs.next()? {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                same @ ('\\' | '\'' | '"') => same,
                'x' => {
                    out.push(u8::try_from(code(&mut signs, 2, 16)?).ok()?);
                    continue;
                }
                'u' => char::from_u32(code(&mut signs, 4, 16)?)?,
                'U' => char::from_u32(code(&mut signs, 8, 16)?)?,
                first @ '0'..='7' => {
                    let low = code(&mut signs, 2, 8)?;
                    out.push(u8::try_from(first.to_digit(8)? * 64 + low).ok()?);
                    continue;
                }
                _ => return None,
            },
            same => same,
        };
        out.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
    }
    String::from_utf8(out).ok()
}

/// The number that so many digits stand for.
fn code(signs: &mut Chars<'_>, digits: usize, radix: u32) -> Option<u32> {
    let text: String = signs.by_ref().take(digits).collect();
    let whole = text.len() == digits && text.chars().all(|sign| sign.is_digit(radix));
    whole.then(|| u32::from_str_radix(&text, radix).ok())?
}

/// As Go's `Print`: blanks between two values of which none is text.
pub(super) fn print(values: &[Val]) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let is_text = |value: &Val| matches!(value, Val::Text(_));
        if at > 0 && !is_text(value) && !is_text(&values[at - 1]) {
            out.push(' ');
        }
        out += &value.print();
    }
    out
}

/// As Go's `Println`.
pub(super) fn println(values: &[Val]) -> String {
    let texts: Vec<String> = values.iter().map(Val::print).collect();
    texts.join(" ") + "\n"
}

#[derive(Debug, Default, Clone, Copy)]
struct Flags {
    left: bool,
    plus: bool,
    zero: bool,
    blank: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// As Go's `Sprintf`; what does not fit is told in the text, as there.
pub(super) fn printf(format: &str, values: &[Val]) -> String {
    let mut out = String::new();
    let mut signs = format.chars().peekable();
    let mut next = 0;
    while let Some(sign) = signs.next() {
        if sign != '%' {
            out.push(sign);
            continue;
        }
        let flags = flags(&mut signs);
        match signs.next() {
            None => out += "%!(NOVERB)",
            Some('%') => out.push('%'),
            Some(verb) => match values.get(next) {
                None => out += &format!("%!{verb}(MISSING)"),
                Some(value) => {
                    next += 1;
                    out += &pad(&flags, formatted(value, verb, &flags));
                }
            },
        }
    }
    if next < values.len() {
        let extra: Vec<String> = values[next..]
            .iter()
            .map(|value| match value {
                Val::Absent | Val::Null => "<nil>".to_owned(),
                _ => format!("{}={}", value.type_name(), value.print()),
            })
            .collect();
        out += &format!("%!(EXTRA {})", extra.join(", "));
    }
    out
}

fn flags(signs: &mut Peekable<Chars<'_>>) -> Flags {
    let mut flags = Flags::default();
    while let Some(sign) = signs.peek() {
        match sign {
            '-' => flags.left = true,
            '+' => flags.plus = true,
            '0' => flags.zero = true,
            ' ' => flags.blank = true,
            '#' => flags.sharp = true,
            _ => break,
        }
        signs.next();
    }
    flags.width = number(signs);
    if signs.next_if_eq(&'.').is_some() {
        flags.precision = Some(number(signs).unwrap_or(0));
    }
    flags
}

fn number(signs: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = signs.peek().and_then(|sign| sign.to_digit(10)) {
        let more = number
            .unwrap_or(0)
            .saturating_mul(10)
            .saturating_add(digit as usize);
        number = Some(more.min(WIDTH_MAX));
        signs.next();
    }
    number
}

fn pad(flags: &Flags, text: String) -> String {
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    let blanks = " ".repeat(missing);
    match flags.left {
        true => text + &blanks,
        false => blanks + &text,
    }
}

fn formatted(value: &Val, verb: char, flags: &Flags) -> String {
    match (verb, value) {
        ('T', _) => value.type_name().to_owned(),
        ('v', Val::Text(text)) if flags.sharp => quote(text),
        ('v', Val::Int(_)) => integer(value, 'd', flags),
        ('v', Val::Text(text)) => text.clone(),
        ('v', _) => value.print(),
        (_, Val::List(list)) => {
            let items: Vec<String> = list
                .items
                .iter()
                .map(|item| pad(flags, formatted(item, verb, flags)))
                .collect();
            format!("[{}]", items.join(" "))
        }
        (_, Val::Map(map)) => {
            let item = |value| pad(flags, formatted(value, verb, flags));
            let key = |key: &String| pad(flags, formatted(&Val::Text(key.clone()), verb, flags));
            let items: Vec<String> = map
                .entries
                .iter()
                .map(|(name, value)| format!("{}:{}", key(name), item(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        ('t', Val::Bool(value)) => value.to_string(),
        ('s', Val::Text(text)) => cut(text, flags.precision),
        ('q', Val::Text(text)) => quote(&cut(text, flags.precision)),
        ('x', Val::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Val::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('d' | 'x' | 'X' | 'o' | 'b', Val::Int(_)) => integer(value, verb, flags),
        ('c' | 'q' | 'U', Val::Int(number)) => {
            let sign = u32::try_from(*number).ok().and_then(char::from_u32);
            let sign = sign.unwrap_or(char::REPLACEMENT_CHARACTER);
            match verb {
                'c' => sign.to_string(),
                'q' => format!("'{sign}'"),
                _ => format!("U+{number:04X}"),
            }
        }
        ('f' | 'F', Val::Float(number)) => {
            let text = format!("{number:.*}", flags.precision.unwrap_or(6).min(1000));
            signed(*number < 0.0, text.trim_start_matches('-'), flags)
        }
        ('e' | 'g' | 'G' | 'E', Val::Float(_)) => value.print(),
        (_, Val::Absent | Val::Null) => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", value.type_name(), value.print()),
    }
}

fn cut(text: &str, precision: Option<usize>) -> String {
    text.chars().take(precision.unwrap_or(usize::MAX)).collect()
}

fn integer(value: &Val, verb: char, flags: &Flags) -> String {
    let Val::Int(number) = value else {
        return value.print();
    };
    let size = number.unsigned_abs();
    let digits = match verb {
        'x' => format!("{size:x}"),
        'X' => format!("{size:X}"),
        'o' => format!("{size:o}"),
        'b' => format!("{size:b}"),
        _ => size.to_string(),
    };
    signed(*number < 0, &digits, flags)
}

/// A number's digits with its sign, and with zeros before them where these are asked for.
fn signed(negative: bool, digits: &str, flags: &Flags) -> String {
    let sign = match (negative, flags.plus, flags.blank) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let width = match flags.width {
        Some(width) if flags.zero && !flags.left => width.saturating_sub(sign.len()),
        _ => 0,
    };
    format!("{sign}{digits:0>width$}")
}
