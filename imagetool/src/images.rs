//! The rows of `shale images`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::{ImageError, StoreError};
use crate::pattern::{Pattern, PatternError};
use crate::reference::Reference;
use crate::store::{ImageDetails, Store};
use crate::time::{Timestamp, human_duration, human_size, human_size_long, now};

/// What is listed.
#[derive(Debug, Default, Clone)]
pub struct ImagesFilter {
    /// Images that only serve as parents, too.
    pub all: bool,
    /// Only images without (true) or with (false) a name.
    pub dangling: Option<bool>,
    /// Names, or patterns in the manner of Go's `path.Match`, for `repo` or `repo:tag`; one must match.
    pub patterns: Vec<String>,
    /// `KEY` or `KEY=VALUE`; all must match.
    pub labels: Vec<String>,
    /// Only images made before or after a moment, in seconds since 1970.
    pub before_s: Option<i64>,
    /// See `before_s`.
    pub since_s: Option<i64>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The image.
    pub id: Digest,
    /// Its repository as people write it; `None` for an image without a name.
    pub repository: Option<String>,
    /// Its tag; `None` also where a digest alone is known.
    pub tag: Option<String>,
    /// The digest it has in that repository, where it was pulled from or pushed to it.
    pub digest: Option<Digest>,
    /// When it was made.
    pub created_at_s: i64,
    /// Sum of its layers.
    pub size_bytes: u64,
}

/// The rows that a filter lets through, the newest image first. With digests, a tag has a row for each digest of its
/// repository.
///
/// # Errors
/// When the store cannot be read, or a pattern is none.
pub fn rows(store: &Store, filter: &ImagesFilter, digests: bool) -> Result<Vec<ImageRow>, ImageError> {
    let patterns: Vec<NamePattern> = filter
        .patterns
        .iter()
        .map(|pattern| NamePattern::parse(pattern))
        .collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for id in store.image_ids()? {
        match store.image_details(&id) {
            Ok(details) => all.push(details),
            Err(StoreError::NoSuchImage(_)) => {} // removed meanwhile
            Err(error) => return Err(error.into()),
        }
    }
    let parents: BTreeSet<Digest> = all.iter().filter_map(|details| details.parent).collect();
    let mut rows = Vec::new();
    for details in &all {
        let has_label = |label: &String| has_label(&details.image.config_json, label);
        if filter.before_s.is_some_and(|limit| details.created_at_s >= limit)
            || filter.since_s.is_some_and(|limit| details.created_at_s <= limit)
            || !filter.labels.iter().all(has_label)
        {
            continue;
        }
        let id = details.image.id;
        let fits =
            |name: &Reference| patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(name));
        let (mut tags, mut pinned) = (store.names_of(&id)?, store.repo_digests(&id)?);
        if tags.is_empty() && pinned.is_empty() {
            let intermediate = parents.contains(&id);
            let asked = patterns.is_empty() && filter.dangling != Some(false);
            if asked && (!intermediate || (filter.all && filter.dangling.is_none())) {
                rows.push(row(details, None, None, None));
            }
            continue;
        }
        let has_tag = tags.iter().any(|name| name.digest().is_none());
        tags.retain(|name| name.digest().is_none() && fits(name));
        pinned.retain(fits);
        if filter.dangling != Some(true) || !has_tag {
            named_rows(details, &tags, &pinned, digests, &mut rows);
        }
    }
    Ok(rows)
}

fn row(
    details: &ImageDetails,
    repository: Option<String>,
    tag: Option<&str>,
    digest: Option<Digest>,
) -> ImageRow {
    ImageRow {
        id: details.image.id,
        repository,
        tag: tag.map(str::to_owned),
        digest,
        created_at_s: details.created_at_s,
        size_bytes: details.size_bytes,
    }
}

/// A row for each tag, or for each digest of its repository; and one for each repository, or each of its digests, that
/// no tag is in.
fn named_rows(
    details: &ImageDetails,
    tags: &[Reference],
    pinned: &[Reference],
    digests: bool,
    rows: &mut Vec<ImageRow>,
) {
    let same =
        |one: &Reference, other: &Reference| (one.domain(), one.path()) == (other.domain(), other.path());
    for tag in tags {
        let of_tag = pinned.iter().filter(|name| digests && same(name, tag));
        let found: Vec<Option<Digest>> = of_tag.map(Reference::digest).collect();
        for digest in if found.is_empty() { vec![None] } else { found } {
            rows.push(row(details, Some(tag.familiar_name()), tag.tag(), digest));
        }
    }
    let mut seen: Vec<&Reference> = Vec::new();
    for name in pinned
        .iter()
        .filter(|name| !tags.iter().any(|tag| same(tag, name)))
    {
        if digests {
            rows.push(row(details, Some(name.familiar_name()), None, name.digest()));
        } else if !seen.iter().any(|other| same(other, name)) {
            seen.push(name);
            rows.push(row(details, Some(name.familiar_name()), None, None));
        }
    }
}

/// A pattern for names: what it means as a name, and as a pattern.
struct NamePattern {
    name: Option<Reference>,
    pattern: Pattern,
}

impl NamePattern {
    fn parse(text: &str) -> Result<Self, ImageError> {
        Ok(Self {
            name: text.parse().ok(),
            pattern: text
                .parse()
                .map_err(|error: PatternError| ImageError::Invalid(error.to_string()))?,
        })
    }

    fn fits(&self, name: &Reference) -> bool {
        let exact = self.name.as_ref().is_some_and(|wanted| {
            (wanted.domain(), wanted.path()) == (name.domain(), name.path())
                && wanted.tag().is_none_or(|tag| name.tag() == Some(tag))
                && wanted.digest().is_none_or(|digest| name.digest() == Some(digest))
        });
        exact || self.pattern.matches(&name.familiar()) || self.pattern.matches(&name.familiar_name())
    }
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

impl ImageRow {
    /// The row as `--format` sees it.
    pub fn to_json(&self, no_trunc: bool) -> Value {
        let none = || "<none>".to_owned();
        let since = match self.created_at_s {
            Timestamp::ZERO_S => String::new(),
            created_s => format!("{} ago", human_duration(now().seconds - created_s)),
        };
        json!({
            "Repository": self.repository.clone().unwrap_or_else(none),
            "Tag": self.tag.clone().unwrap_or_else(none),
            "Digest": self.digest.map_or_else(none, |digest| digest.to_string()),
            "ID": if no_trunc { self.id.to_string() } else { self.id.short() },
            "CreatedSince": since,
            "CreatedAt": Timestamp { seconds: self.created_at_s, nanos: 0 }.to_table(),
            "Size": human_size(self.size_bytes),
            "VirtualSize": human_size_long(self.size_bytes),
            // what Docker shows too: `system df -v` knows
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
            "Containers": "N/A",
        })
    }
}
