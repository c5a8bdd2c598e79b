//! Containers as tables show them (pure).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ContainerConfig;
use crate::store::{ContainerRecord, ContainerStatus};
use crate::time::{human_duration, human_size};

/// How much of a command a table shows.
const COMMAND_CHARS_MAX: usize = 20;

/// A row of `ps`, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Field name, as templates and column headings know it, and value.
    fields: BTreeMap<&'static str, String>,
    /// For `{{.Label "key"}}`.
    labels: BTreeMap<String, String>,
}

impl Row {
    /// The row of a container. `now_s` is the present.
    pub fn of(record: &ContainerRecord, now_s: i64, no_trunc: bool) -> Self {
        let config = ContainerConfig::of(record);
        let labels: Vec<String> = config
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let id = if no_trunc {
            record.id.as_str()
        } else {
            record.id.short()
        };
        let fields = [
            ("ID", id.to_owned()),
            ("Image", record.image_ref.clone()),
            ("Command", command(&record.command, no_trunc)),
            (
                "CreatedAt",
                crate::time::Timestamp {
                    seconds: record.created_at_s,
                    nanos: 0,
                }
                .to_table(),
            ),
            (
                "RunningFor",
                format!("{} ago", human_duration(now_s - record.created_at_s)),
            ),
            ("Ports", String::new()),
            ("State", record.status.as_str().to_owned()),
            ("Status", status(record, now_s)),
            ("Names", record.name.clone()),
            ("Labels", labels.join(",")),
            ("Mounts", config.binds.join(",")),
            ("Networks", config.network),
            ("LocalVolumes", "0".to_owned()),
            // taken only when it is asked for
            ("Size", "0B".to_owned()),
        ];
        Self {
            fields: fields.into_iter().collect(),
            labels: config.labels,
        }
    }

    /// A field by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// The same with the container's size: what it changed, and its image with that.
    #[must_use]
    pub fn with_size(mut self, own_bytes: u64, image_bytes: u64) -> Self {
        let all = human_size(own_bytes.saturating_add(image_bytes));
        self.fields
            .insert("Size", format!("{} (virtual {all})", human_size(own_bytes)));
        self
    }

    /// The row as `--format` sees it: what begins with a dot is for templates alone.
    pub fn to_json(&self) -> Value {
        let mut row = json!(self.fields);
        row[".Labels"] = json!(self.labels);
        row
    }
}

/// The words of a command in quotes, shortened.
fn command(words: &[String], no_trunc: bool) -> String {
    let joined = words.join(" ");
    let clean: String = joined
        .chars()
        .map(|sign| if sign.is_control() { ' ' } else { sign })
        .collect();
    if no_trunc || clean.chars().count() <= COMMAND_CHARS_MAX {
        return format!("\"{clean}\"");
    }
    let short: String = clean.chars().take(COMMAND_CHARS_MAX - 1).collect();
    format!("\"{short}…\"")
}

/// "Up 3 seconds", "Exited (0) 5 minutes ago", "Created".
fn status(record: &ContainerRecord, now_s: i64) -> String {
    let since = |moment: Option<i64>| human_duration(now_s - moment.unwrap_or(now_s));
    match record.status {
        ContainerStatus::Created => "Created".to_owned(),
        ContainerStatus::Running => format!("Up {}", since(record.started_at_s)),
        ContainerStatus::Exited => {
            format!(
                "Exited ({}) {} ago",
                record.exit_code.unwrap_or(0),
                since(record.finished_at_s)
            )
        }
    }
}

/// One `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    key: String,
    value: String,
}

impl Filter {
    /// Parses `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid filter {text:?}: use KEY=VALUE"))?;
        match key {
            "id" | "name" | "label" | "ancestor" => {}
            "status"
                if matches!(
                    value,
                    "created" | "running" | "exited" | "paused" | "restarting" | "removing" | "dead"
                ) => {}
            "status" => return Err(format!("invalid filter 'status={value}'")),
            "exited" if value.parse::<i32>().is_ok() => {}
            "exited" => return Err(format!("invalid filter 'exited={value}': give a number")),
            _ => {
                return Err(format!(
                    "invalid filter '{key}': use id, name, label, ancestor, status or exited"
                ));
            }
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }

    /// Whether the filter asks about containers that do not run.
    pub fn shows_stopped(&self) -> bool {
        matches!(self.key.as_str(), "status" | "exited")
    }

    fn fits(&self, record: &ContainerRecord) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "id" => record.id.as_str().starts_with(value),
            "name" => record.name.contains(value.trim_start_matches('/')),
            "status" => record.status.as_str() == value,
            "exited" => record.status == ContainerStatus::Exited && record.exit_code == value.parse().ok(),
            "ancestor" => {
                let id = record.image_id.map(|id| id.hex()).unwrap_or_default();
                let hex = value.trim_start_matches("sha256:");
                record.image_ref == value
                    || record.image_ref.split(':').next() == Some(value)
                    || (hex.len() > 3 && id.starts_with(hex))
            }
            _ => {
                let labels = ContainerConfig::of(record).labels;
                match value.split_once('=') {
                    Some((name, value)) => labels.get(name).is_some_and(|held| held == value),
                    None => labels.contains_key(value),
                }
            }
        }
    }
}

/// Whether a container passes: filters of one kind are alternatives, kinds are conditions. Labels must all fit.
pub fn passes(filters: &[Filter], record: &ContainerRecord) -> bool {
    filters.iter().all(|filter| {
        filter.fits(record)
            || (filter.key != "label"
                && filters
                    .iter()
                    .any(|other| other.key == filter.key && other.fits(record)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ContainerId;

    fn record(status: ContainerStatus) -> ContainerRecord {
        let config = ContainerConfig {
            labels: [("a".to_owned(), "1".to_owned())].into(),
            network: "host".to_owned(),
            ..ContainerConfig::default()
        };
        ContainerRecord {
            id: "ab".repeat(32).parse::<ContainerId>().unwrap(),
            name: "quiet_shale".to_owned(),
            image_id: None,
            image_ref: "debian:12".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "echo one two three".to_owned()],
            created_at_s: 1000,
            status,
            exit_code: (status == ContainerStatus::Exited).then_some(3),
            pid: None,
            rootfs: None,
            started_at_s: Some(1010),
            finished_at_s: Some(1020),
            config_json: config.to_json(),
        }
    }

    #[test]
    fn rows_read_as_dockers() {
        let row = Row::of(&record(ContainerStatus::Exited), 1080, false);
        let table = [
            ("ID", "abababababab"),
            ("Command", "\"sh -c echo one two …\""),
            ("Status", "Exited (3) About a minute ago"),
            ("RunningFor", "About a minute ago"),
            ("State", "exited"),
            ("Labels", "a=1"),
        ];
        for (field, expected) in table {
            assert_eq!(row.get(field), Some(expected), "{field}");
        }
        assert_eq!(
            Row::of(&record(ContainerStatus::Running), 1040, false).get("Status"),
            Some("Up 30 seconds")
        );
        let whole = Row::of(&record(ContainerStatus::Created), 1040, true);
        assert_eq!(whole.get("Command"), Some("\"sh -c echo one two three\""));
        assert_eq!(whole.get("ID").map(str::len), Some(64));
        assert_eq!(whole.get("Status"), Some("Created"));
    }

    #[test]
    fn control_signs_do_not_reach_the_terminal() {
        assert_eq!(command(&["a\x1b[2J\nb".to_owned()], true), "\"a [2J b\"");
    }

    #[test]
    fn filters_select() {
        let exited = record(ContainerStatus::Exited);
        let table = [
            (&["id=abab"][..], true),
            (&["id=cd"], false),
            (&["name=shale"], true),
            (&["status=running"], false),
            (&["status=running", "status=exited"], true),
            (&["status=exited", "name=x"], false),
            (&["exited=3"], true),
            (&["exited=0"], false),
            (&["label=a"], true),
            (&["label=a=1"], true),
            (&["label=a=2"], false),
            (&["label=a", "label=b"], false),
            (&["ancestor=debian"], true),
            (&["ancestor=debian:12"], true),
            (&["ancestor=deb"], false),
            (&[], true),
        ];
        for (texts, expected) in table {
            let filters: Vec<_> = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
            assert_eq!(passes(&filters, &exited), expected, "{texts:?}");
        }
    }

    #[test]
    fn wrong_filters_are_refused() {
        for text in ["", "name", "status=odd", "exited=x", "color=red"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
