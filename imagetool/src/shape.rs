//! How Docker lays its documents out: which fields are lists or maps even when they are null, and in which order the
//! fields of an object stand. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// What a field is, whatever the document has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A list.
    List,
    /// An object with names of anybody's choice.
    Map,
    /// A scalar, or an object with known fields.
    Other,
}

/// The shape of the field of this name.
pub fn of(name: &str) -> Shape {
    match name {
        "Binds" | "CapAdd" | "CapDrop" | "Cmd" | "Entrypoint" | "Env" | "Layers" | "Mounts" | "OnBuild"
        | "RepoDigests" | "RepoTags" | "Shell" | "Test" => Shape::List,
        "Annotations" | "Data" | "ExposedPorts" | "Labels" | ".Labels" | "Networks" | "Options" | "Ports"
        | "Volumes" => Shape::Map,
        _ => Shape::Other,
    }
}

/// The name that the items of a list go by.
pub fn item_of(list: &str) -> &str {
    match list {
        "Mounts" => "Mount",
        _ => "",
    }
}

/// The name that the values of a map go by.
pub fn entry_of(map: &str) -> &str {
    match map {
        "Networks" => "Network",
        _ => "",
    }
}

/// Fields of an image's configuration that may be left out, with what stands for them.
pub fn zero_of_config(field: &str) -> Option<Value> {
    Some(match field {
        "Hostname" | "Domainname" | "User" | "Image" | "WorkingDir" | "StopSignal" => Value::from(""),
        "AttachStdin" | "AttachStdout" | "AttachStderr" | "Tty" | "OpenStdin" | "StdinOnce" => {
            Value::from(false)
        }
        "Cmd" | "Entrypoint" | "Env" | "ExposedPorts" | "Healthcheck" | "Labels" | "OnBuild" | "Shell"
        | "StopTimeout" | "Volumes" => Value::Null,
        _ => return None,
    })
}

/// The order of fields; those that are not here come last, by name.
#[rustfmt::skip]
const ORDER: &[&str] = &[
    // mounts, the root file system, endpoints
    "Type", "Source", "Destination", "Mode", "RW", "Propagation",
    // images and containers
    "Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "DockerVersion", "Author", "Path", "Args", "State",
    // a container's state
    "Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead", "Pid", "ExitCode", "Error", "StartedAt",
    "FinishedAt",
    // a container
    "Image", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "Data", "Name", "RestartCount", "Driver", "Platform",
    "MountLabel", "ProcessLabel", "AppArmorProfile", "ExecIDs", "HostConfig", "Ports", "Networks",
    // the configuration, with its health check
    "Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty",
    "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "Test", "Interval", "Timeout", "StartPeriod",
    "StartInterval", "Retries", "ArgsEscaped", "Volumes", "WorkingDir", "Entrypoint", "NetworkDisabled", "MacAddress",
    "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell",
    // what a container is run with
    "Binds", "ContainerIDFile", "LogConfig", "NetworkMode", "PortBindings", "RestartPolicy", "AutoRemove",
    // the end of both
    "Architecture", "Variant", "Os", "Size", "VirtualSize", "GraphDriver", "RootFS", "Mounts", "Config",
    "NetworkSettings", "Metadata",
];

/// A field that stands before another one in the objects of this name.
const BEFORE: &[(&str, &str, &str)] = &[
    (IMAGE, "Config", "Architecture"),
    ("Config", "Image", "Volumes"),
    ("Mount", "Name", "Source"),
    ("Mount", "Driver", "Mode"),
];

fn rank(object: &str, field: &str) -> usize {
    let position = |field: &str| ORDER.iter().position(|known| *known == field);
    let moved = BEFORE
        .iter()
        .find(|(of, moved, _)| (*of, *moved) == (object, field));
    match moved.and_then(|(_, _, next)| position(next)) {
        Some(next) => next * 2,
        None => position(field).map_or(usize::MAX, |place| place * 2 + 1),
    }
}

/// The name of an image's whole document, for [`to_json`].
pub const IMAGE: &str = "Image document";

/// Writes a document as Docker's `json` does: fields in Docker's order, maps by name, nothing escaped that need not be.
/// `name` is the field it was found as; `indent` blanks a level, `None` for one line.
pub fn to_json(name: &str, value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write(name, value, indent, 0, &mut out);
    out
}

fn write(name: &str, value: &Value, indent: Option<usize>, level: usize, out: &mut String) {
    let line = |level: usize, out: &mut String| {
        if let Some(blanks) = indent {
            let _ = write!(out, "\n{:1$}", "", blanks * level);
        }
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(level + 1, out);
                // the documents of a list are as the list is called
                let name = if level == 0 { name } else { item_of(name) };
                write(name, item, indent, level + 1, out);
            }
            line(level, out);
            out.push(']');
        }
        Value::Object(entries) if !entries.is_empty() => {
            let free = of(name) == Shape::Map;
            let mut sorted = BTreeMap::new();
            for (key, value) in entries {
                sorted.insert((if free { 0 } else { rank(name, key) }, key), value);
            }
            out.push('{');
            for (at, ((_, key), value)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(level + 1, out);
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                if indent.is_some() {
                    out.push(' ');
                }
                let name = if free { entry_of(name) } else { key };
                write(name, value, indent, level + 1, out);
            }
            line(level, out);
            out.push('}');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// JSON with `<`, `>` and `&` escaped, as Go writes it where nobody tells it not to: the rows of lists.
pub fn to_escaped_json(value: &Value) -> String {
    let mut out = String::new();
    for sign in value.to_string().chars() {
        match sign {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(sign));
            }
            _ => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_in_dockers_order() {
        let image = json!([{
            "Size": 1, "Config": {"Labels": {"b": "<", "Id": "x", "a": ""}, "Cmd": ["sh"], "Env": null},
            "RepoTags": ["x:1"], "Id": "sha256:1", "Architecture": "amd64", "Own": {},
        }]);
        let expected = r#"[{"Id":"sha256:1","RepoTags":["x:1"],"Config":{"Env":null,"Cmd":["sh"],"Labels":{"Id":"x","a":"","b":"<"}},"Architecture":"amd64","Size":1,"Own":{}}]"#;
        assert_eq!(to_json(IMAGE, &image, None), expected);
        let pretty = to_json(
            IMAGE,
            &json!([{"Own": [1, 2], "Id": "x", "None": [], "Labels": {}}]),
            Some(4),
        );
        assert_eq!(
            pretty,
            "[\n    {\n        \"Id\": \"x\",\n        \"Labels\": {},\n        \"None\": [],\n        \"Own\": [\n            \
             1,\n            2\n        ]\n    }\n]"
        );
        let parsed: Value = serde_json::from_str(&to_json("", &image, Some(2))).unwrap();
        assert_eq!(parsed, image);
    }

    #[test]
    fn rows_are_escaped() {
        let row = json!({"ID": "<none> & \u{2028}é\""});
        assert_eq!(
            to_escaped_json(&row),
            r#"{"ID":"\u003cnone\u003e \u0026 \u2028é\""}"#
        );
    }
}
