//! From a name to the places it can be had from. Pure.

use super::{Configuration, Entry, When};
use crate::reference::{DEFAULT_DOMAIN, Reference};
use crate::registry::RegistryError;

/// The host that serves what is called `docker.io`.
pub(in crate::registry) const DOCKER_ENDPOINT: &str = "registry-1.docker.io";

/// A repository at a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Place {
    /// `HOST[:PORT]` as names and credentials have it: `docker.io`.
    pub(in crate::registry) domain: String,
    /// The repository's path.
    pub(in crate::registry) path: String,
    /// Whether its entry allows plain HTTP and unknown certificates.
    pub(in crate::registry) insecure: bool,
}

impl Place {
    /// `HOST[:PORT]` as it is connected to.
    pub(in crate::registry) fn endpoint(&self) -> &str {
        match self.domain.as_str() {
            DEFAULT_DOMAIN => DOCKER_ENDPOINT,
            domain => domain,
        }
    }
}

impl Configuration {
    /// The mirrors of a name, then its own place.
    pub(in crate::registry) fn sources(&self, name: &Reference) -> Result<Vec<Place>, RegistryError> {
        let own = self.destination(name)?;
        let Some(entry) = self.entry(name) else {
            return Ok(vec![own]);
        };
        let by_digest = name.digest().is_some();
        let fits = |when| match when {
            When::All => true,
            When::DigestOnly => by_digest,
            When::TagOnly => !by_digest,
        };
        let mirrors = entry.mirrors.iter().filter(|mirror| fits(mirror.when));
        let mut places = Vec::new();
        for mirror in mirrors {
            places.push(entry.replace(name, &mirror.location, mirror.insecure)?);
        }
        places.push(own);
        Ok(places)
    }

    /// The place of a name itself.
    pub(in crate::registry) fn destination(&self, name: &Reference) -> Result<Place, RegistryError> {
        let Some(entry) = self.entry(name) else {
            return Ok(Place {
                domain: name.domain().to_owned(),
                path: name.path().to_owned(),
                insecure: false,
            });
        };
        if entry.blocked {
            return Err(RegistryError::Blocked {
                name: name.familiar(),
                file: entry.file.clone(),
            });
        }
        entry.replace(name, &entry.location, entry.insecure)
    }

    /// The entry with the longest prefix that fits.
    fn entry(&self, name: &Reference) -> Option<&Entry> {
        let whole = name.canonical();
        let fitting = self.registries.iter().filter(|entry| fits(&entry.prefix, &whole));
        fitting.max_by_key(|entry| entry.prefix.len())
    }
}

/// Whether a prefix is one of a name, up to the end of a part of it.
fn fits(prefix: &str, name: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split(['/', ':']).next().unwrap_or_default();
        return host.len() > domain.len() && host.ends_with(domain);
    }
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

impl Entry {
    /// The name with a location in the prefix's place.
    fn replace(&self, name: &Reference, location: &str, insecure: bool) -> Result<Place, RegistryError> {
        let whole = format!("{}/{}", name.domain(), name.path());
        let replaced = match (location.is_empty(), self.prefix.starts_with('*')) {
            (true, _) => whole,
            (false, true) => format!("{location}/{}", name.path()),
            (false, false) => {
                // a prefix may reach into tag and digest: these stay what they are
                let rest = whole.strip_prefix(&self.prefix).unwrap_or_default();
                format!("{location}{rest}")
            }
        };
        let parsed: Result<Reference, _> = replaced.parse();
        let wrong = |problem: String| RegistryError::config(&self.file, problem);
        let parsed = parsed.map_err(|error| wrong(format!("{name} becomes {replaced:?}: {error}")))?;
        // without a dot or a port the first part of a location reads as a path
        match replaced.split_once('/') {
            Some((domain, path)) if parsed.domain() != domain => Ok(Place {
                domain: domain.to_owned(),
                path: path.to_owned(),
                insecure,
            }),
            _ => Ok(Place {
                domain: parsed.domain().to_owned(),
                path: parsed.path().to_owned(),
                insecure,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "127.0.0.1:5000"
        [[registry.mirror]]
        location = "cache.example/hub"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"

        [[registry]]
        prefix = "example.com/team"
        location = "internal:5000/copy"

        [[registry]]
        prefix = "example.com/team/secret"
        blocked = true

        [[registry]]
        prefix = "example.com/scratch"
        insecure = true

        [[registry]]
        prefix = "*.wild.example"
        insecure = true

        [[registry]]
        prefix = "*.deep.wild.example"
        location = "other.example/all"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "mirror.example"
        insecure = true
    "#;
    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn sources(name: &str) -> Result<Vec<String>, RegistryError> {
        let mut configuration = Configuration::default();
        configuration.add("f.conf", FILE)?;
        let name: Reference = name.parse().unwrap();
        let places = configuration.sources(&name)?;
        Ok(places
            .iter()
            .map(|place| format!("{} {}", place.endpoint(), place.path))
            .collect())
    }

    #[test]
    fn names_lead_to_places() {
        let cases: [(&str, &[&str]); 10] = [
            (
                "debian:12",
                &[
                    "127.0.0.1:5000 library/debian",
                    "tags.example library/debian",
                    "registry-1.docker.io library/debian",
                ],
            ),
            (
                &format!("me/tool@{D}"),
                &[
                    "127.0.0.1:5000 me/tool",
                    "cache.example hub/me/tool",
                    "registry-1.docker.io me/tool",
                ],
            ),
            ("example.com/team/a/b:1", &["internal:5000 copy/a/b"]),
            ("example.com/team:1", &["internal:5000 copy"]),
            ("example.com/teams:1", &["example.com teams"]),
            ("x.wild.example/a", &["x.wild.example a"]),
            ("wild.example/a", &["wild.example a"]),
            ("x.deep.wild.example:80/a", &["other.example all/a"]),
            (
                &format!("x.deep.wild.example/a@{D}"),
                &["mirror.example a", "other.example all/a"],
            ),
            ("quiet.example/a", &["quiet.example a"]),
        ];
        for (name, expected) in cases {
            assert_eq!(sources(name).unwrap(), expected, "{name}");
        }
        let error = sources("example.com/team/secret:1").unwrap_err();
        assert!(error.to_string().contains("blocked by f.conf"), "{error}");
    }

    #[test]
    fn what_is_insecure_is_so_for_its_own_names() {
        let mut configuration = Configuration::default();
        configuration.add("f.conf", FILE).unwrap();
        let insecure = |name: &str| {
            let places = configuration.sources(&name.parse().unwrap()).unwrap();
            places.iter().map(|place| place.insecure).collect::<Vec<_>>()
        };
        assert_eq!(insecure("example.com/scratch/a:1"), [true]);
        assert_eq!(insecure("example.com/prod/a:1"), [false]);
        assert_eq!(insecure("x.wild.example/a"), [true]);
        assert_eq!(insecure(&format!("x.deep.wild.example/a@{D}")), [true, false]);
    }

    #[test]
    fn insecure_hosts_are_collected() {
        let mut configuration = Configuration::default();
        configuration.add("f.conf", FILE).unwrap();
        assert_eq!(
            configuration.insecure_hosts(),
            ["*.wild.example", "mirror.example"]
        );
    }
}
