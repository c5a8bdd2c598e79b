//! The functions of templates: Go's own, and those that Docker adds.

use super::printf;
use super::value::Val;
use crate::shape;

/// So many blanks `pad` adds on a side.
const PAD_MAX: i64 = 1 << 16;

/// Into so many parts `split` cuts a text.
const PARTS_MAX: usize = 1 << 20;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// An argument, by its number, is of the wrong type.
    Argument(usize, String),
    /// Anything else.
    Failed(String),
}

/// Name, fewest and most arguments.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("and", 1, usize::MAX),
    ("call", 1, usize::MAX),
    ("eq", 1, usize::MAX),
    ("ge", 2, 2),
    ("gt", 2, 2),
    ("html", 0, usize::MAX),
    ("index", 1, usize::MAX),
    ("join", 2, 2),
    ("js", 0, usize::MAX),
    ("json", 1, 1),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lower", 1, 1),
    ("lt", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("or", 1, usize::MAX),
    ("pad", 3, 3),
    ("print", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("println", 0, usize::MAX),
    ("slice", 1, 4),
    ("split", 2, 2),
    ("title", 1, 1),
    ("truncate", 2, 2),
    ("upper", 1, 1),
    ("urlquery", 0, usize::MAX),
];

/// Whether there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, ..)| *known == name)
}

/// What to say when a function gets so many arguments; `None` when it takes them.
pub(super) fn wrong_count(name: &str, count: usize) -> Option<String> {
    let (_, least, most) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
    if (least..=most).contains(&&count) {
        return None;
    }
    let at_least = if least == most { "" } else { "at least " };
    Some(format!(
        "wrong number of args for {name}: want {at_least}{least} got {count}"
    ))
}

fn failed<T>(text: impl Into<String>) -> Result<T, CallError> {
    Err(CallError::Failed(text.into()))
}

fn wrong_type<T>(number: usize, expected: &str, value: &Val) -> Result<T, CallError> {
    Err(CallError::Argument(
        number,
        format!(
            "wrong type for value; expected {expected}; got {}",
            value.type_name()
        ),
    ))
}

/// The argument of this number as text.
fn text(values: &[Val], number: usize) -> Result<&str, CallError> {
    match values.get(number) {
        Some(Val::Text(text)) => Ok(text),
        Some(other) => wrong_type(number, "string", other),
        None => Ok(""),
    }
}

fn int(values: &[Val], number: usize) -> Result<i64, CallError> {
    match values.get(number) {
        Some(Val::Int(number)) => Ok(*number),
        Some(other) => wrong_type(number, "int", other),
        None => Ok(0),
    }
}

/// Calls a function with as many arguments as it takes. In a heading, Docker's functions leave their text as it is.
pub(super) fn call(name: &str, values: &[Val], heading: bool) -> Result<Val, CallError> {
    let made = |text: String| Ok(Val::Text(text));
    if heading
        && matches!(
            name,
            "join" | "json" | "lower" | "pad" | "split" | "title" | "truncate" | "upper"
        )
    {
        return text(values, 0).and_then(|text| made(text.to_owned()));
    }
    match name {
        // the last one, when none before it decided
        "and" | "or" => Ok(values.last().cloned().unwrap_or(Val::Absent)),
        "not" => Ok(Val::Bool(!values.first().is_some_and(Val::is_true))),
        "eq" => equal(values).map(Val::Bool),
        "ne" => equal(values).map(|equal| Val::Bool(!equal)),
        "lt" => less(&values[0], &values[1]).map(Val::Bool),
        "ge" => less(&values[0], &values[1]).map(|less| Val::Bool(!less)),
        "gt" => less(&values[1], &values[0]).map(Val::Bool),
        "le" => less(&values[1], &values[0]).map(|less| Val::Bool(!less)),
        "len" => length(&values[0]),
        "index" => index(values),
        "slice" => slice(values),
        "call" => failed(format!("non-function of type {}", values[0].type_name())),
        "print" => made(printf::print(values)),
        "println" => made(printf::println(values)),
        "printf" => made(printf::printf(text(values, 0)?, &values[1..])),
        "html" => made(escape(&printf::print(values), html)),
        "js" => made(escape(&printf::print(values), js)),
        "urlquery" => made(urlquery(&printf::print(values))),
        "json" => made(json(&values[0])),
        "upper" => made(text(values, 0)?.to_uppercase()),
        "lower" => made(text(values, 0)?.to_lowercase()),
        "title" => made(title(text(values, 0)?)),
        "split" => {
            let (text, separator) = (text(values, 0)?, text(values, 1)?);
            let count = match separator {
                "" => text.len(),
                _ => text.matches(separator).count(),
            };
            if count > PARTS_MAX {
                return failed(format!("more than {PARTS_MAX} parts"));
            }
            let parts: Vec<Val> = match separator {
                "" => text.chars().map(|sign| Val::Text(sign.to_string())).collect(),
                _ => text
                    .split(separator)
                    .map(|part| Val::Text(part.to_owned()))
                    .collect(),
            };
            Ok(Val::list(parts, false))
        }
        "join" => {
            let Val::List(list) = &values[0] else {
                return wrong_type(0, "[]string", &values[0]);
            };
            let parts: Vec<String> = list.items.iter().map(Val::print).collect();
            made(parts.join(text(values, 1)?))
        }
        "pad" => {
            let text = text(values, 0)?;
            let blanks = |number| -> Result<String, CallError> {
                match int(values, number)? {
                    count @ 0..=PAD_MAX => Ok(" ".repeat(usize::try_from(count).unwrap_or(0))),
                    count => failed(format!("{count} is no number of blanks up to {PAD_MAX}")),
                }
            };
            let (before, after) = (blanks(1)?, blanks(2)?);
            made(if text.is_empty() {
                String::new()
            } else {
                format!("{before}{text}{after}")
            })
        }
        "truncate" => {
            let text = text(values, 0)?;
            let Ok(length) = usize::try_from(int(values, 1)?) else {
                return failed("the length is negative");
            };
            made(text[..floor(text, length)].to_owned())
        }
        _ => failed("it is not there"),
    }
}

/// The last place up to `at` that is not within a character.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn json(value: &Val) -> String {
    let (name, document) = value.to_json();
    if name == super::value::ROW {
        return shape::to_escaped_json(&document);
    }
    let name = match document.pointer("/RootFS") {
        Some(_) => shape::IMAGE,
        None => name,
    };
    shape::to_json(name, &document, None)
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for sign in text.chars() {
        if inside {
            out.push(sign);
        } else {
            out.extend(sign.to_uppercase());
        }
        inside = sign.is_alphanumeric() || sign == '_' || (!sign.is_ascii() && !sign.is_whitespace());
    }
    out
}

fn length(value: &Val) -> Result<Val, CallError> {
    let length = match value {
        Val::Text(text) => text.len(),
        Val::List(list) => list.items.len(),
        Val::Map(map) => map.entries.len(),
        Val::Absent | Val::Null => return failed("len of nil pointer"),
        other => return failed(format!("len of type {}", other.type_name())),
    };
    Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(values: &[Val]) -> Result<Val, CallError> {
    let mut value = values[0].clone();
    for key in &values[1..] {
        value = match (&value, key) {
            (Val::List(list), Val::Int(at)) => {
                match usize::try_from(*at).ok().and_then(|at| list.items.get(at)) {
                    Some(item) => item.clone(),
                    None => return failed(format!("index out of range: {at}")),
                }
            }
            (Val::Text(text), Val::Int(at)) => {
                match usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at)) {
                    Some(byte) => Val::Int(i64::from(*byte)),
                    None => return failed(format!("index out of range: {at}")),
                }
            }
            (Val::Map(map), Val::Text(key)) => match map.get(key) {
                Some(value) => value.clone(),
                None if map.name == "Labels" => Val::Text(String::new()),
                None => Val::Absent,
            },
            (Val::List(_) | Val::Text(_), other) => {
                let kind = other.type_name();
                return failed(format!("cannot index slice/array with type {kind}"));
            }
            (Val::Map(_), other) => {
                let kind = other.type_name();
                return failed(format!("value has type {kind}; should be string"));
            }
            (Val::Absent | Val::Null, _) => return failed("index of untyped nil"),
            (other, _) => return failed(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(values: &[Val]) -> Result<Val, CallError> {
    let length = match &values[0] {
        Val::Text(_) if values.len() > 3 => return failed("cannot 3-index slice a string"),
        Val::Text(text) => text.len(),
        Val::List(list) => list.items.len(),
        other => return failed(format!("can't slice item of type {}", other.type_name())),
    };
    let mut places = [0, length];
    for (number, place) in places.iter_mut().enumerate() {
        match values.get(number + 1) {
            Some(Val::Int(at)) => match usize::try_from(*at) {
                Ok(at) if at <= length => *place = at,
                _ => return failed(format!("index out of range: {at}")),
            },
            Some(other) => {
                let kind = other.type_name();
                return failed(format!("cannot index slice/array with type {kind}"));
            }
            None => {}
        }
    }
    let [from, to] = places;
    if from > to {
        return failed(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match &values[0] {
        Val::Text(text) => {
            let from = floor(text, from);
            Val::Text(text[from..floor(text, to).max(from)].to_owned())
        }
        Val::List(list) => Val::list(list.items[from..to].to_vec(), false),
        other => other.clone(),
    })
}

fn equal(values: &[Val]) -> Result<bool, CallError> {
    let (first, others) = (&values[0], &values[1..]);
    if others.is_empty() {
        return failed("missing argument for comparison");
    }
    for other in others {
        let same = match (first, other) {
            (Val::Bool(one), Val::Bool(other)) => one == other,
            (Val::Int(one), Val::Int(other)) => one == other,
            (Val::Float(one), Val::Float(other)) => one == other,
            (Val::Text(one), Val::Text(other)) => one == other,
            (Val::Absent | Val::Null, Val::Absent | Val::Null) => true,
            (Val::Absent | Val::Null, _) | (_, Val::Absent | Val::Null) => false,
            (Val::List(_) | Val::Map(_), _) => {
                let kind = first.type_name();
                return failed(format!("non-comparable type {}: {kind}", first.print()));
            }
            _ => return failed("incompatible types for comparison"),
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn less(one: &Val, other: &Val) -> Result<bool, CallError> {
    match (one, other) {
        (Val::Int(one), Val::Int(other)) => Ok(one < other),
        (Val::Float(one), Val::Float(other)) => Ok(one < other),
        (Val::Text(one), Val::Text(other)) => Ok(one < other),
        (Val::Int(_) | Val::Float(_) | Val::Text(_), _) => failed("incompatible types for comparison"),
        _ => failed("invalid type for comparison"),
    }
}

fn escape(text: &str, escaped: fn(char) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match escaped(sign) {
            Some(text) => out += &text,
            None => out.push(sign),
        }
    }
    out
}

fn html(sign: char) -> Option<String> {
    let text = match sign {
        '"' => "&#34;",
        '\'' => "&#39;",
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '\0' => "\u{fffd}",
        _ => return None,
    };
    Some(text.to_owned())
}

fn js(sign: char) -> Option<String> {
    match sign {
        '\\' | '\'' | '"' => Some(format!("\\{sign}")),
        '<' | '>' | '&' | '=' => Some(format!("\\u{:04X}", u32::from(sign))),
        _ if sign.is_control() => Some(format!("\\u{:04X}", u32::from(sign))),
        _ => None,
    }
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}
