//! The rows of `shale images`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::reference::Reference;
use crate::store::Store;
use crate::time::{Timestamp, human_duration, human_size, now};

/// What is listed.
#[derive(Debug, Default, Clone)]
pub struct ImagesFilter {
    /// Images that only serve as parents, too.
    pub all: bool,
    /// A repository, perhaps with a tag: exact matches only.
    pub reference: Option<Reference>,
    /// Only images without (true) or with (false) a name.
    pub dangling: Option<bool>,
    /// Patterns with `*`, `?` for `repo` or `repo:tag`; one must match.
    pub patterns: Vec<String>,
    /// `KEY` or `KEY=VALUE`; all must match.
    pub labels: Vec<String>,
    /// Only images made before or after another one, in seconds since 1970.
    pub before_s: Option<i64>,
    /// See `before_s`.
    pub since_s: Option<i64>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The image.
    pub id: Digest,
    /// Repository and tag; `None` for an image without a name.
    pub name: Option<Reference>,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// When it was made.
    pub created_at_s: i64,
    /// Sum of its layers.
    pub size_bytes: u64,
    /// Number of containers made from it.
    pub containers: usize,
}

/// The rows that a filter lets through, the newest image first.
pub fn rows(store: &Store, filter: &ImagesFilter) -> Result<Vec<ImageRow>, ImageError> {
    let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
    for container in store.containers().list()? {
        if let Some(id) = container.image_id {
            *users.entry(id).or_default() += 1;
        }
    }
    let mut all = Vec::new();
    for id in store.image_ids()? {
        match store.image_details(&id) {
            Ok(details) => all.push(details),
            Err(StoreError::NoSuchImage(_)) => {} // removed meanwhile
            Err(error) => return Err(error.into()),
        }
    }
    let parents: Vec<Digest> = all.iter().filter_map(|details| details.parent).collect();
    let mut rows = Vec::new();
    for details in &all {
        let id = details.image.id;
        let names = store.names_of(&id)?;
        if filter.before_s.is_some_and(|limit| details.created_at_s >= limit)
            || filter.since_s.is_some_and(|limit| details.created_at_s <= limit)
            || !filter
                .labels
                .iter()
                .all(|label| has_label(&details.image.config_json, label))
        {
            continue;
        }
        let row = |name: Option<Reference>| ImageRow {
            id,
            name,
            manifest: details.manifest,
            created_at_s: details.created_at_s,
            size_bytes: details.size_bytes,
            containers: users.get(&id).copied().unwrap_or(0),
        };
        if names.is_empty() {
            let intermediate = parents.contains(&id);
            let asked =
                filter.reference.is_none() && filter.patterns.is_empty() && filter.dangling != Some(false);
            if asked && (!intermediate || (filter.all && filter.dangling.is_none())) {
                rows.push(row(None));
            }
            continue;
        }
        if filter.dangling == Some(true) {
            continue;
        }
        let named = names.into_iter().filter(|name| name_fits(name, filter));
        rows.extend(named.map(|name| row(Some(name))));
    }
    Ok(rows)
}

fn name_fits(name: &Reference, filter: &ImagesFilter) -> bool {
    let exact = filter.reference.as_ref().is_none_or(|wanted| {
        let same = (wanted.domain(), wanted.path()) == (name.domain(), name.path());
        same && wanted.tag().is_none_or(|tag| name.tag() == Some(tag))
    });
    let pattern =
        |pattern: &String| matches(pattern, &name.familiar()) || matches(pattern, &name.familiar_name());
    exact && (filter.patterns.is_empty() || filter.patterns.iter().any(pattern))
}

fn has_label(config_json: &str, label: &str) -> bool {
    let config: Value = serde_json::from_str(config_json).unwrap_or_default();
    let (key, value) = label
        .split_once('=')
        .map_or((label, None), |(key, value)| (key, Some(value)));
    let found = config
        .pointer("/config/Labels")
        .and_then(|labels| labels.get(key))
        .and_then(Value::as_str);
    found.is_some_and(|found| value.is_none_or(|value| value == found))
}

/// Whether a pattern with `*` (anything but a slash) and `?` matches a text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // one row of the table "pattern prefix matches text prefix" at a time: no backtracking
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for letter in &pattern {
        let mut next = vec![false; text.len() + 1];
        next[0] = fits[0] && *letter == '*';
        for at in 0..text.len() {
            next[at + 1] = match letter {
                '*' => fits[at + 1] || (next[at] && text[at] != '/'),
                '?' => fits[at] && text[at] != '/',
                _ => fits[at] && text[at] == *letter,
            };
        }
        fits = next;
    }
    fits[text.len()]
}

impl ImageRow {
    /// The row as `--format` sees it.
    pub fn to_json(&self, no_trunc: bool) -> Value {
        let none = || "<none>".to_owned();
        let tag = self.name.as_ref().and_then(|name| name.tag().map(str::to_owned));
        json!({
            "Repository": self.name.as_ref().map_or_else(none, Reference::familiar_name),
            "Tag": tag.unwrap_or_else(none),
            "Digest": self.manifest.to_string(),
            "ID": if no_trunc { self.id.to_string() } else { self.id.short() },
            "CreatedSince": format!("{} ago", human_duration(now().seconds - self.created_at_s)),
            "CreatedAt": Timestamp { seconds: self.created_at_s, nanos: 0 }.to_table(),
            "Size": human_size(self.size_bytes),
            "VirtualSize": human_size(self.size_bytes),
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
            "Containers": self.containers.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let yes = [
            ("deb*", "debian"),
            ("*", "a"),
            ("a?c:*", "abc:1"),
            ("*/x", "me/x"),
            ("debian", "debian"),
            ("**", ""),
        ];
        let no = [
            ("deb*", "me/debian"),
            ("*", "a/b"),
            ("a?c", "ac"),
            ("debian", "debian:12"),
            ("", "a"),
        ];
        assert!(yes.iter().all(|(pattern, text)| matches(pattern, text)));
        assert!(!no.iter().any(|(pattern, text)| matches(pattern, text)));
    }
}
