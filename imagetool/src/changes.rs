//! Dockerfile instructions of `commit -c` and `import -c`. Pure.
//!
//! Allowed: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR.

use serde_json::{Map, Value, json};

/// A parsed instruction: keys of the `config` object and how they change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets a key.
    Set(&'static str, Value),
    /// Sets variables: `KEY=value` lines of `Env`.
    Env(Vec<(String, String)>),
    /// Adds keys to a map of empty objects (`ExposedPorts`, `Volumes`).
    Add(&'static str, Vec<String>),
    /// Sets labels.
    Labels(Vec<(String, String)>),
    /// Appends a trigger.
    OnBuild(String),
    /// Changes into a directory, seen from the present one.
    WorkDir(String),
}

/// Why an instruction was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("change {instruction:?}: {problem}")]
pub struct ChangeError {
    instruction: String,
    problem: String,
}

impl std::str::FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        parse(text.trim()).map_err(|problem| ChangeError {
            instruction: text.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Change, String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let name = name.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(format!("{name} needs an argument"));
    }
    Ok(match name.as_str() {
        "CMD" => Change::Set("Cmd", json!(command(rest))),
        "ENTRYPOINT" => Change::Set("Entrypoint", json!(command(rest))),
        "USER" => Change::Set("User", json!(words(rest)?.join(" "))),
        "STOPSIGNAL" => Change::Set("StopSignal", json!(rest)),
        "WORKDIR" => Change::WorkDir(words(rest)?.join(" ")),
        "ENV" => Change::Env(pairs(rest)?),
        "LABEL" => Change::Labels(pairs(rest)?),
        "EXPOSE" => Change::Add(
            "ExposedPorts",
            words(rest)?.iter().map(|w| port(w)).collect::<Result<_, _>>()?,
        ),
        "VOLUME" => Change::Add("Volumes", json_words(rest).map_or_else(|| words(rest), Ok)?),
        "ONBUILD" => Change::OnBuild(on_build(rest)?),
        "HEALTHCHECK" => Change::Set("Healthcheck", health_check(rest)?),
        _ => {
            return Err(format!(
                "{name} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
            ));
        }
    })
}

/// The exec form: a JSON array of texts.
fn json_words(rest: &str) -> Option<Vec<String>> {
    if rest.starts_with('[') {
        serde_json::from_str(rest).ok()
    } else {
        None
    }
}

/// A command in exec or shell form.
fn command(rest: &str) -> Vec<String> {
    json_words(rest).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()])
}

/// Words as a shell splits them: blanks separate, quotes and backslashes keep.
fn words(rest: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// `KEY=value…`, or the old form `KEY value`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(rest)?;
    let Some(first) = words.first() else {
        return Err("needs KEY=VALUE".to_owned());
    };
    if !first.contains('=') {
        let value = rest
            .split_once(char::is_whitespace)
            .map(|(_, value)| value.trim());
        let value = value.ok_or_else(|| format!("{first:?} has no value: write {first}=VALUE"))?;
        return Ok(vec![(first.clone(), value.to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is not KEY=VALUE")),
    };
    words.iter().map(pair).collect()
}

/// `80`, `80/udp`.
fn port(word: &str) -> Result<String, String> {
    let (number, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let valid = |number: &str| number.parse::<u16>().is_ok_and(|number| number > 0);
    let range = number
        .split_once('-')
        .map_or_else(|| valid(number), |(from, to)| valid(from) && valid(to));
    if !range || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{word:?} is no port"));
    }
    Ok(format!("{number}/{protocol}"))
}

fn on_build(rest: &str) -> Result<String, String> {
    let first = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match first.as_str() {
        "ONBUILD" => Err("ONBUILD in ONBUILD is not allowed".to_owned()),
        "FROM" | "MAINTAINER" => Err(format!("{first} is not allowed in ONBUILD")),
        _ => Ok(rest.to_owned()),
    }
}

/// `NONE`, or options and `CMD …`; durations become nanoseconds as in Docker's configurations.
fn health_check(rest: &str) -> Result<Value, String> {
    if rest.eq_ignore_ascii_case("none") {
        return Ok(json!({ "Test": ["NONE"] }));
    }
    let mut check = Map::new();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("--{option} has no value"))?;
        let wrong = || format!("--{option} is no valid value");
        match name {
            "interval" => check.insert(
                "Interval".to_owned(),
                json!(duration_ns(value).ok_or_else(wrong)?),
            ),
            "timeout" => check.insert("Timeout".to_owned(), json!(duration_ns(value).ok_or_else(wrong)?)),
            "start-period" => check.insert(
                "StartPeriod".to_owned(),
                json!(duration_ns(value).ok_or_else(wrong)?),
            ),
            "start-interval" => check.insert(
                "StartInterval".to_owned(),
                json!(duration_ns(value).ok_or_else(wrong)?),
            ),
            "retries" => check.insert(
                "Retries".to_owned(),
                json!(value.parse::<u32>().map_err(|_| wrong())?),
            ),
            _ => return Err(format!("--{name} is no option of HEALTHCHECK")),
        };
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if !word.eq_ignore_ascii_case("cmd") || command.trim().is_empty() {
        return Err("needs NONE or CMD and a command".to_owned());
    }
    let command = command.trim();
    let test = match json_words(command) {
        Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
        None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
    };
    check.insert("Test".to_owned(), json!(test));
    Ok(Value::Object(check))
}

/// Go's duration texts: `1m30s`, `500ms`, `1.5h`.
fn duration_ns(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| end + at);
        let factor = match &rest[end..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[unit_end..];
    }
    (total < 9e18).then_some(total as i64)
}

impl Change {
    /// Makes the change in a `config` object.
    pub fn apply(&self, config: &mut Map<String, Value>) {
        match self {
            Self::Set(key, value) => {
                // a new entrypoint takes away a command that was meant as the old one's arguments
                if *key == "Entrypoint" {
                    config.remove("Cmd");
                }
                config.insert((*key).to_owned(), value.clone());
            }
            Self::Env(pairs) => {
                let list = entry(config, "Env", json!([]));
                let Some(list) = list.as_array_mut() else { return };
                for (key, value) in pairs {
                    let prefix = format!("{key}=");
                    let line = json!(format!("{key}={value}"));
                    match list
                        .iter_mut()
                        .find(|item| item.as_str().is_some_and(|item| item.starts_with(&prefix)))
                    {
                        Some(item) => *item = line,
                        None => list.push(line),
                    }
                }
            }
            Self::Add(key, names) => {
                let Some(map) = entry(config, key, json!({})).as_object_mut() else {
                    return;
                };
                map.extend(names.iter().map(|name| (name.clone(), json!({}))));
            }
            Self::Labels(pairs) => {
                let Some(map) = entry(config, "Labels", json!({})).as_object_mut() else {
                    return;
                };
                map.extend(pairs.iter().map(|(key, value)| (key.clone(), json!(value))));
            }
            Self::OnBuild(trigger) => {
                let Some(list) = entry(config, "OnBuild", json!([])).as_array_mut() else {
                    return;
                };
                list.push(json!(trigger));
            }
            Self::WorkDir(path) => {
                let old = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
                let joined = if path.starts_with('/') {
                    path.clone()
                } else {
                    format!("{old}/{path}")
                };
                let mut parts: Vec<&str> = Vec::new();
                for part in joined.split('/') {
                    match part {
                        "" | "." => {}
                        ".." => drop(parts.pop()),
                        _ => parts.push(part),
                    }
                }
                config.insert("WorkingDir".to_owned(), json!(format!("/{}", parts.join("/"))));
            }
        }
    }
}

/// The value of a key; the default takes the place of a missing one, of null, and of one of another type.
fn entry<'a>(config: &'a mut Map<String, Value>, key: &str, default: Value) -> &'a mut Value {
    let value = config.entry(key).or_insert(Value::Null);
    if std::mem::discriminant(value) != std::mem::discriminant(&default) {
        *value = default;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(start: Value, changes: &[&str]) -> Value {
        let Value::Object(mut config) = start else {
            panic!()
        };
        for change in changes {
            change.parse::<Change>().unwrap().apply(&mut config);
        }
        Value::Object(config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let cases: [(Value, &str, Value); 14] = [
            (json!({}), "CMD [\"a\", \"b c\"]", json!({"Cmd": ["a", "b c"]})),
            (
                json!({}),
                "cmd echo \"hi\"",
                json!({"Cmd": ["/bin/sh", "-c", "echo \"hi\""]}),
            ),
            (
                json!({"Cmd": ["x"]}),
                "ENTRYPOINT [\"e\"]",
                json!({"Entrypoint": ["e"]}),
            ),
            (
                json!({"Env": ["A=1", "B=2"]}),
                "ENV A=3 C=\"x y\"",
                json!({"Env": ["A=3", "B=2", "C=x y"]}),
            ),
            (json!({"Env": null}), "ENV A b c", json!({"Env": ["A=b c"]})),
            (
                json!({}),
                "EXPOSE 80 53/UDP",
                json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
            ),
            (
                json!({"Labels": {"a": "1"}}),
                "LABEL b='2 3'",
                json!({"Labels": {"a": "1", "b": "2 3"}}),
            ),
            (json!({}), "USER 1000:1000", json!({"User": "1000:1000"})),
            (
                json!({}),
                "VOLUME /a /b",
                json!({"Volumes": {"/a": {}, "/b": {}}}),
            ),
            (json!({}), "VOLUME [\"/a b\"]", json!({"Volumes": {"/a b": {}}})),
            (
                json!({"WorkingDir": "/a/b"}),
                "WORKDIR ../c",
                json!({"WorkingDir": "/a/c"}),
            ),
            (json!({}), "STOPSIGNAL SIGINT", json!({"StopSignal": "SIGINT"})),
            (json!({}), "ONBUILD RUN make", json!({"OnBuild": ["RUN make"]})),
            (
                json!({}),
                "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x",
                json!({"Healthcheck": {"Interval": 90_000_000_000i64, "Retries": 3, "Test": ["CMD-SHELL", "curl -f x"]}}),
            ),
        ];
        for (start, change, expected) in cases {
            assert_eq!(applied(start, &[change]), expected, "{change}");
        }
    }

    #[test]
    fn wrong_instructions_are_refused() {
        for text in [
            "",
            "RUN x",
            "CMD",
            "ENV",
            "ENV A",
            "ENV =b",
            "EXPOSE 0",
            "EXPOSE 80/x",
            "LABEL 'a=b",
            "ONBUILD FROM x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD y",
        ] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_instruction_panics(text in "(CMD|ENV|LABEL|EXPOSE|HEALTHCHECK|VOLUME|WORKDIR|USER|[A-Z]{1,4}) \\PC{0,40}") {
            if let Ok(change) = text.parse::<Change>() {
                change.apply(&mut Map::new());
            }
        }
    }
}
