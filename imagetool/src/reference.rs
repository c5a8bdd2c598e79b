//! Image references: `host[:port]/path:tag@digest`. Pure.
//!
//! The grammar is that of the distribution project:
//!
//! ```text
//! reference = name [ ":" tag ] [ "@" digest ]
//! name      = [ domain "/" ] component *( "/" component )
//! component = alnum *( separator alnum )      separator = "." | "_" | "__" | 1*"-"
//! tag       = [A-Za-z0-9_] *127[A-Za-z0-9_.-]
//! ```
//!
//! A *canonical* name has its domain written out (`docker.io/library/debian`), a *familiar* one leaves out what is
//! the default. The first component is a domain when it has a `.` or `:`, is `localhost`, or has an upper-case letter.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry that is meant when none is named.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that is meant when none is named.
pub const DEFAULT_TAG: &str = "latest";
/// The namespace of official images on the default registry.
const OFFICIAL: &str = "library";
/// The longest name the grammar allows, domain included.
const NAME_LIMIT: usize = 255;
/// The longest tag.
const TAG_LIMIT: usize = 128;

/// Why a text is no reference: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {0}")]
pub struct ReferenceError(pub String);

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host and port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on its registry (`library/debian`).
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, when one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The repository as people write it: `debian`, `me/tool`, `localhost:5000/tool`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        let official = self
            .path
            .strip_prefix(OFFICIAL)
            .and_then(|rest| rest.strip_prefix('/'));
        let short = official.filter(|rest| !rest.contains('/')).unwrap_or(&self.path);
        if split_domain(short).0.is_empty() {
            short.to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The same reference with [`DEFAULT_TAG`] when it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The repository: the same reference without tag and digest.
    #[must_use]
    pub fn repository(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// The image with this tag in the same repository.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        match tag_problem(tag) {
            Some(problem) => Err(ReferenceError(problem)),
            None => Ok(Self {
                tag: Some(tag.to_owned()),
                ..self.repository()
            }),
        }
    }

    /// The image with this digest in the same repository.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.repository()
        }
    }

    /// The name in full, as the database keys it: `docker.io/library/debian:12`.
    pub fn canonical(&self) -> String {
        format!("{}/{}{}", self.domain, self.path, self.suffix())
    }

    /// The name as people write it: `debian:12`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    fn suffix(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text = format!(":{tag}");
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |what: String| Err(ReferenceError(format!("{}: {what}", excerpt(text))));
        if text.is_empty() {
            return fail("the name is empty".to_owned());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => match digest.parse::<Digest>() {
                Ok(digest) => (rest, Some(digest)),
                Err(error) => return fail(error.to_string()),
            },
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(problem) = tag.and_then(tag_problem) {
            return fail(problem);
        }
        let (domain, path) = split_domain(name);
        if let Some(problem) = domain_problem(domain) {
            return fail(problem);
        }
        for component in path.split('/') {
            if let Some(problem) = component_problem(component) {
                return fail(problem);
            }
        }
        if domain.is_empty() && path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return fail("64 hexadecimal digits are an image id, not a name".to_owned());
        }
        let (domain, path) = match domain {
            "" | DEFAULT_DOMAIN | "index.docker.io" if !path.contains('/') => {
                (DEFAULT_DOMAIN, format!("{OFFICIAL}/{path}"))
            }
            "" | "index.docker.io" => (DEFAULT_DOMAIN, path.to_owned()),
            _ => (domain, path.to_owned()),
        };
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return fail(format!("the name is longer than {NAME_LIMIT} bytes"));
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// The text for a message: quoted, and cut when it is long.
fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    if short.len() < text.len() {
        format!("{short:?}…")
    } else {
        format!("{short:?}")
    }
}

/// Splits a name into domain (perhaps empty) and path.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("", name),
    }
}

fn domain_problem(domain: &str) -> Option<String> {
    if domain.is_empty() {
        return None;
    }
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return Some(format!("the host {domain:?} has no closing bracket"));
        };
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
            return Some(format!("the host {domain:?} is no IPv6 address"));
        }
        match port.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if port.is_empty() => (None, None),
            None => return Some(format!("the host {domain:?} goes on after its bracket")),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Some(format!("the port of {domain:?} is no number"));
    }
    let label_is_bad = |label: &str| {
        let ends = label.starts_with('-') || label.ends_with('-');
        label.is_empty()
            || ends
            || !label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_some_and(|host| host.split('.').any(label_is_bad))
        .then(|| format!("{domain:?} is no host name"))
}

fn component_problem(component: &str) -> Option<String> {
    if component.is_empty() {
        return Some("a part of the name between slashes is empty".to_owned());
    }
    if component.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(format!(
            "{component:?} has upper-case letters: repository names are lower case"
        ));
    }
    let alnum = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if let Some(bad) = component
        .chars()
        .find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !matches!(c, '.' | '_' | '-'))
    {
        return Some(format!(
            "{component:?} has {bad:?}: a name has letters, digits, '.', '_' and '-'"
        ));
    }
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|byte| alnum(*byte)) || !bytes.last().is_some_and(|byte| alnum(*byte)) {
        return Some(format!("{component:?} must begin and end with a letter or digit"));
    }
    let mut separators = component
        .split(|c: char| c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty());
    separators
        .find(|part| !matches!(*part, "." | "_" | "__") && !part.bytes().all(|byte| byte == b'-'))
        .map(|part| format!("{component:?} has {part:?}: separators are '.', '_', '__' or dashes"))
}

fn tag_problem(tag: &str) -> Option<String> {
    if tag.is_empty() {
        return Some("the tag after ':' is empty".to_owned());
    }
    if tag.len() > TAG_LIMIT {
        return Some(format!("the tag is longer than {TAG_LIMIT} bytes"));
    }
    if tag.starts_with(['.', '-']) {
        return Some(format!("the tag {tag:?} begins with {:?}", &tag[..1]));
    }
    let bad = tag
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-'))?;
    Some(format!(
        "the tag {tag:?} has {bad:?}: a tag has letters, digits, '_', '.' and '-'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_become_canonical_and_familiar() {
        let cases = [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("me/tool", "docker.io/me/tool:latest", "me/tool:latest"),
            ("localhost/tool", "localhost/tool:latest", "localhost/tool:latest"),
            (
                "localhost:5000/a/b/c:x",
                "localhost:5000/a/b/c:x",
                "localhost:5000/a/b/c:x",
            ),
            ("EXAMPLE/tool", "EXAMPLE/tool:latest", "EXAMPLE/tool:latest"),
            (
                "[::1]:5000/tool",
                "[::1]:5000/tool:latest",
                "[::1]:5000/tool:latest",
            ),
            (
                "a__b/c---d/e.f_g",
                "docker.io/a__b/c---d/e.f_g:latest",
                "a__b/c---d/e.f_g:latest",
            ),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
        ];
        for (text, canonical, familiar) in cases {
            let reference = text.parse::<Reference>().unwrap().or_latest();
            assert_eq!(
                (reference.canonical().as_str(), reference.familiar().as_str()),
                (canonical, familiar),
                "{text}"
            );
        }
        let pinned: Reference = format!("debian:12@sha256:{HEX}").parse().unwrap();
        assert_eq!(
            (pinned.tag(), pinned.digest().unwrap().hex().as_str()),
            (Some("12"), HEX)
        );
    }

    #[test]
    fn a_wrong_reference_is_told_where() {
        let long = "a".repeat(256);
        let cases = [
            ("", "empty"),
            ("Debian", "lower case"),
            ("debian:", "tag after ':' is empty"),
            ("debian:-x", "begins with"),
            ("debian:a b", "' '"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            ("a..b", "\"..\""),
            ("a___b", "\"___\""),
            ("-a", "begin and end"),
            ("a.", "begin and end"),
            ("../../etc", "no host name"),
            ("a/../b", "begin and end"),
            ("host:port/a", "no number"),
            ("ho_st.x/a", "no host name"),
            ("a@sha256:12", "hexadecimal"),
            ("a@md5:12", "sha256"),
            ("é", "'é'"),
            (HEX, "image id"),
            (&long, "longer than"),
        ];
        for (text, part) in cases {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(
                error.starts_with("invalid reference format: ") && error.contains(part),
                "{text}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_canonical_name_reads_back(text in "([a-z]{1,5}\\.[a-z]{2}(:[0-9]{1,4})?/)?[a-z0-9]{1,6}(/[a-z]{1,4}([._-][a-z]{1,4}){0,2}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?") {
            let reference: Reference = text.parse::<Reference>().unwrap().or_latest();
            prop_assert_eq!(&reference.canonical().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }

        #[test]
        fn no_text_panics_and_what_is_accepted_is_clean(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(!reference.canonical().contains(".."));
                prop_assert!(reference.canonical().is_ascii());
            }
        }
    }
}
