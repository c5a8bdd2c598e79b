//! The values that a template works with: JSON, with what Go's types add to it.
//!
//! Docker's templates see typed values: a list that is not there prints `[]`, a label that is not there is no error, a
//! misspelt field is one. JSON does not tell these apart; the names of the fields do (see [`crate::shape`]).

use std::rc::Rc;

use serde_json::Value;

use crate::shape::{self, Shape};

/// Name of the value that is a row of a list.
pub(super) const ROW: &str = "\u{0}row";
/// Name of the value that holds the headings of a table.
pub(super) const HEADINGS: &str = "\u{0}headings";

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Val {
    /// Not there: prints `<no value>`.
    Absent,
    /// There, and null: prints `<nil>`.
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Rc<List>),
    Map(Rc<Map>),
}

/// A list; one that is null in the document is empty here.
#[derive(Debug)]
pub(super) struct List {
    pub(super) items: Vec<Val>,
    is_null: bool,
}

/// An object. Entries are sorted by name.
#[derive(Debug)]
pub(super) struct Map {
    /// The field it was found as.
    pub(super) name: String,
    pub(super) entries: Vec<(String, Val)>,
    is_null: bool,
}

impl Map {
    /// Whether any name may be in it, as in labels.
    pub(super) fn is_free(&self) -> bool {
        self.name == HEADINGS || shape::of(&self.name) == Shape::Map
    }

    pub(super) fn get(&self, name: &str) -> Option<&Val> {
        let found = self.entries.binary_search_by(|(key, _)| key.as_str().cmp(name));
        found.ok().map(|at| &self.entries[at].1)
    }
}

impl Val {
    /// A JSON value that is the field of this name.
    pub(super) fn of(name: &str, value: &Value) -> Self {
        match value {
            Value::Null => match shape::of(name) {
                Shape::List => Self::list(Vec::new(), true),
                Shape::Map => Self::map(name, Vec::new(), true),
                Shape::Other => Self::Null,
            },
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => {
                let items = items.iter().map(|item| Self::of(shape::item_of(name), item));
                Self::list(items.collect(), false)
            }
            Value::Object(entries) => {
                let free = shape::of(name) == Shape::Map;
                let inner = |key: &str, value: &Value| {
                    Self::of(if free { shape::entry_of(name) } else { key }, value)
                };
                let mut entries: Vec<(String, Self)> = entries
                    .iter()
                    .map(|(key, value)| (key.clone(), inner(key, value)))
                    .collect();
                entries.sort_by(|one, other| one.0.cmp(&other.0));
                Self::map(name, entries, false)
            }
        }
    }

    pub(super) fn list(items: Vec<Self>, is_null: bool) -> Self {
        Self::List(Rc::new(List { items, is_null }))
    }

    fn map(name: &str, entries: Vec<(String, Self)>, is_null: bool) -> Self {
        let name = name.to_owned();
        Self::Map(Rc::new(Map {
            name,
            entries,
            is_null,
        }))
    }

    /// The value as JSON, and the name that tells how its fields are ordered.
    pub(super) fn to_json(&self) -> (&str, Value) {
        let value = match self {
            Self::Absent | Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(number) => Value::from(*number),
            Self::Float(number) => Value::from(*number),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(list) if list.is_null => Value::Null,
            Self::List(list) => list.items.iter().map(|item| item.to_json().1).collect(),
            Self::Map(map) if map.is_null => Value::Null,
            Self::Map(map) => {
                let shown = map.entries.iter().filter(|(key, _)| !key.starts_with('.'));
                let entries = shown.map(|(key, value)| (key.clone(), value.to_json().1));
                Value::Object(entries.collect())
            }
        };
        match self {
            Self::Map(map) => (&map.name, value),
            _ => ("", value),
        }
    }

    /// What Go holds for true: all but empty and zero values.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Absent | Self::Null => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.items.is_empty(),
            Self::Map(map) => !map.is_free() || !map.entries.is_empty(),
        }
    }

    /// The type's name, as Go's messages have it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Absent | Self::Null => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
        }
    }

    /// As Go's `%v` writes it.
    pub(super) fn print(&self) -> String {
        let mut out = String::new();
        self.print_to(true, &mut out);
        out
    }

    fn print_to(&self, outermost: bool, out: &mut String) {
        match self {
            Self::Absent if outermost => out.push_str("<no value>"),
            Self::Absent | Self::Null => out.push_str("<nil>"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&print_float(*number)),
            Self::Text(text) => out.push_str(text),
            Self::List(list) => {
                out.push('[');
                for (at, item) in list.items.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    item.print_to(false, out);
                }
                out.push(']');
            }
            Self::Map(map) if !map.is_free() && map.entries.is_empty() => out.push_str("{}"),
            Self::Map(map) => {
                out.push_str("map[");
                let shown = map.entries.iter().filter(|(key, _)| !key.starts_with('.'));
                for (at, (key, item)) in shown.enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    out.push_str(key);
                    out.push(':');
                    item.print_to(false, out);
                }
                out.push(']');
            }
        }
    }
}

/// As Go's `%v` writes a floating-point number: an exponent only for very large and very small ones.
fn print_float(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if size != 0.0 && !(1e-4..1e21).contains(&size) && size.is_finite() {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = match exponent.strip_prefix('-') {
            Some(power) => ('-', power),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{power:0>2}");
    }
    number.to_string()
}
