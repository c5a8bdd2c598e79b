//! `registries.conf`, version 2: which registry stands behind a name, its mirrors, what is insecure or blocked
//! (containers-registries.conf(5)).
//!
//! ```text
//! [[registry]]
//! prefix = "example.com/team"      # or "*.example.com"; the longest that fits counts
//! location = "internal:5000/copy"  # takes the prefix's place
//! insecure = true
//! [[registry.mirror]]
//! location = "mirror:5000/copy"
//! ```
//!
//! Files are read in the order of [`paths`]; a later entry for a prefix takes an earlier one's place. Keys that are
//! not known are no error.

mod resolve;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;
use super::environment::Environment;

pub(super) use resolve::{DOCKER_ENDPOINT, Place};

/// More than anyone's configuration has.
const FILE_LIMIT: u64 = 4 << 20;

/// All entries of all files.
#[derive(Debug, Clone, Default)]
pub(super) struct Configuration {
    registries: Vec<Entry>,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    file: String,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    when: When,
}

/// Which names a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum When {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    registry: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Option<When>,
}

impl Configuration {
    /// Reads all files; those that are not there say nothing.
    pub(super) fn read(environment: &Environment) -> Result<Self, RegistryError> {
        let mut configuration = Self::default();
        for path in paths(environment)? {
            if let Some(text) = read_file(&path)? {
                configuration.add(&path.display().to_string(), &text)?;
            }
        }
        Ok(configuration)
    }

    /// Adds what a file says.
    fn add(&mut self, file: &str, text: &str) -> Result<(), RegistryError> {
        let parsed: RawFile = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
            RegistryError::config(place, error.message())
        })?;
        for raw in parsed.registry {
            let entry = raw
                .check(file)
                .map_err(|problem| RegistryError::config(file, problem))?;
            self.registries.retain(|old| old.prefix != entry.prefix);
            self.registries.push(entry);
        }
        Ok(())
    }

    /// The hosts that may be insecure as a whole (`HOST[:PORT]` or `*.DOMAIN`), for who asks for no name.
    pub(super) fn insecure_hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        for entry in &self.registries {
            if entry.insecure {
                hosts.push(match entry.location.is_empty() {
                    true => &entry.prefix,
                    false => &entry.location,
                });
            }
            let mirrors = entry.mirrors.iter().filter(|mirror| mirror.insecure);
            hosts.extend(mirrors.map(|mirror| &mirror.location));
        }
        // what holds for a path does not hold for all of its host
        hosts
            .into_iter()
            .filter(|location| !location.contains('/'))
            .cloned()
            .collect()
    }
}

impl RawEntry {
    fn check(self, file: &str) -> Result<Entry, String> {
        let location = clean_location(&self.location)?;
        let prefix = match self.prefix.is_empty() {
            true => location.clone(),
            false => clean_location(&self.prefix)?,
        };
        if prefix.is_empty() {
            return Err("a [[registry]] has neither prefix nor location".to_owned());
        }
        if prefix.contains('*') && (!prefix.starts_with("*.") || prefix[1..].contains(['*', '/', ':'])) {
            return Err(format!(
                "the prefix {prefix:?} is not understood: a wildcard is written *.DOMAIN"
            ));
        }
        let mut mirrors = Vec::new();
        for raw in self.mirror {
            let location = clean_location(&raw.location)?;
            if location.is_empty() {
                return Err(format!("a mirror of {prefix} has no location"));
            }
            let when = match (self.mirror_by_digest_only, raw.pull_from_mirror) {
                (true, Some(_)) => {
                    return Err(format!(
                        "{prefix} has mirror-by-digest-only and a mirror with pull-from-mirror: take one of them out"
                    ));
                }
                (true, None) => When::DigestOnly,
                (false, when) => when.unwrap_or_default(),
            };
            mirrors.push(Mirror {
                location,
                insecure: raw.insecure,
                when,
            });
        }
        Ok(Entry {
            prefix,
            location,
            insecure: self.insecure,
            blocked: self.blocked,
            mirrors,
            file: file.to_owned(),
        })
    }
}

/// A location without slashes at its end; a scheme in it is a mistake.
fn clean_location(text: &str) -> Result<String, String> {
    match text.contains("://") {
        true => Err(format!(
            "{text:?} has a scheme: write HOST[:PORT][/PATH], and \"insecure = true\" for plain HTTP"
        )),
        false => Ok(text.trim_end_matches('/').to_owned()),
    }
}

/// The files in the order they are read: the user's or the system's main file, then the system's and the user's
/// `registries.conf.d/*.conf`. `$CONTAINERS_REGISTRIES_CONF` names a file that stands alone.
fn paths(environment: &Environment) -> Result<Vec<PathBuf>, RegistryError> {
    if let Some(path) = environment.path("CONTAINERS_REGISTRIES_CONF") {
        if !path.exists() {
            return Err(RegistryError::config(
                path.display(),
                "there is no such file, and $CONTAINERS_REGISTRIES_CONF names it",
            ));
        }
        return Ok(vec![path]);
    }
    let own = environment.config_home().map(|home| home.join("containers"));
    let system = environment.etc.join("containers");
    let own_file = own.as_ref().map(|own| own.join("registries.conf"));
    let mut paths = vec![
        own_file
            .filter(|path| path.exists())
            .unwrap_or_else(|| system.join("registries.conf")),
    ];
    for folder in [Some(system), own].into_iter().flatten() {
        paths.extend(drop_ins(&folder.join("registries.conf.d"))?);
    }
    Ok(paths)
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(RegistryError::config(folder.display(), error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| RegistryError::config(folder.display(), error))?
            .path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A file's text, `None` when there is no such file.
pub(super) fn read_file(path: &Path) -> Result<Option<String>, RegistryError> {
    use io::Read as _;
    let wrong = |error: io::Error| RegistryError::config(path.display(), error);
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(wrong(error)),
    };
    let mut text = String::new();
    let mut limited = file.take(FILE_LIMIT + 1);
    limited.read_to_string(&mut text).map_err(wrong)?;
    match text.len() as u64 > FILE_LIMIT {
        true => Err(RegistryError::config(path.display(), "the file is too large")),
        false => Ok(Some(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(text: &str) -> Result<Configuration, RegistryError> {
        let mut configuration = Configuration::default();
        configuration.add("f.conf", text).map(|()| configuration)
    }

    #[test]
    fn what_is_not_known_is_no_error() {
        let text = "unqualified-search-registries = ['a']\nnew-key = 1\n[[registry]]\nlocation='x'\nother={a=1}\n[aliases]\na='b'";
        assert_eq!(configuration(text).unwrap().registries.len(), 1);
        assert!(configuration("").unwrap().registries.is_empty());
    }

    #[test]
    fn a_mistake_is_told_with_file_and_line() {
        let cases = [
            ("a = 1\n[[registry]\n", "f.conf:2: "),
            ("[[registry]]\n\nlocation = 3", "f.conf:3: "),
            ("[[registry]]", "neither prefix nor location"),
            ("[[registry]]\nlocation='https://x'", "has a scheme"),
            ("[[registry]]\nprefix='a.*.b'", "wildcard"),
            ("[[registry]]\nprefix='*.b/c'", "wildcard"),
            (
                "[[registry]]\nlocation='a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='never'",
                "f.conf:5: ",
            ),
            (
                "[[registry]]\nlocation='a'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='all'",
                "take one of them out",
            ),
        ];
        for (text, part) in cases {
            let error = configuration(text).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.starts_with("f.conf"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn files_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, location: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("[[registry]]\nprefix='p'\nlocation='{location}'")).unwrap();
        };
        let home = root.join("home");
        let location = || {
            let environment = Environment::of(root, [("HOME", home.to_str().unwrap())]);
            let configuration = Configuration::read(&environment).unwrap();
            configuration
                .registries
                .first()
                .map(|entry| entry.location.clone())
        };
        assert_eq!(location(), None);
        for (path, name) in [
            ("etc/containers/registries.conf", "system"),
            ("home/.config/containers/registries.conf", "own"),
            ("etc/containers/registries.conf.d/1.conf", "drop-in"),
            ("etc/containers/registries.conf.d/2.conf", "later"),
            ("home/.config/containers/registries.conf.d/1.conf", "own-drop-in"),
        ] {
            write(path, name);
            write("etc/containers/registries.conf.d/9.txt", "ignored");
            assert_eq!(location().as_deref(), Some(name));
        }
        write("alone.conf", "alone");
        let alone = root.join("alone.conf");
        let named = |path: &Path| {
            let variables = [("CONTAINERS_REGISTRIES_CONF", path.to_str().unwrap())];
            Configuration::read(&Environment::of(root, variables))
        };
        assert_eq!(named(&alone).unwrap().registries[0].location, "alone");
        assert!(
            named(&root.join("none"))
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
    }
}
