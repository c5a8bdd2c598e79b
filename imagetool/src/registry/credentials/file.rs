//! `config.json` and `auth.json`: the same format, of which we know `auths`, `credsStore` and `credHelpers`. All other
//! keys stay as they are.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use super::{Credentials, Secret, host_of, is_docker_hub, server_key};
use crate::registry::RegistryError;
use crate::registry::config::read_file;

/// A file's content.
pub(in crate::registry) struct Stored {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Stored {
    pub(super) fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            keys: Map::new(),
        }
    }

    /// Reads a file; `None` when there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, RegistryError> {
        let Some(text) = read_file(path)? else {
            return Ok(None);
        };
        if text.trim().is_empty() {
            return Ok(Some(Self::empty(path)));
        }
        let keys =
            serde_json::from_str(&text).map_err(|error| RegistryError::config(path.display(), error))?;
        Ok(Some(Self {
            path: path.to_owned(),
            keys,
        }))
    }

    /// The helper that keeps a server's credentials.
    pub(super) fn helper(&self, key: &str) -> Option<&str> {
        let of_server = self.keys.get("credHelpers").and_then(|helpers| helpers.get(key));
        let of_all = self.keys.get("credsStore");
        let name = of_server.or(of_all)?.as_str()?;
        (!name.is_empty()).then_some(name)
    }

    /// What `auths` has for a repository: the longest key that fits (`HOST/PATH`, `HOST`), else one that names the host
    /// as a URL.
    pub(super) fn find(&self, domain: &str, path: &str) -> Result<Option<Credentials>, RegistryError> {
        let Some(auths) = self.keys.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let mut name = format!("{domain}/{path}");
        loop {
            if let Some(found) = auths.get(&name) {
                return self.parse(&name, found);
            }
            match name.rfind('/') {
                Some(slash) => name.truncate(slash),
                None => break,
            }
        }
        let exact = server_key(domain);
        if let Some(found) = auths.get(&exact) {
            return self.parse(&exact, found);
        }
        let same = |key: &str| {
            let is_url = key.contains("://") || is_docker_hub(domain);
            is_url && server_key(host_of(key)) == exact
        };
        match auths.iter().find(|(key, _)| same(key)) {
            Some((key, found)) => self.parse(key, found),
            None => Ok(None),
        }
    }

    /// An entry of `auths`; an empty one says that a helper has them.
    fn parse(&self, key: &str, entry: &Value) -> Result<Option<Credentials>, RegistryError> {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credentials::Bearer(Secret::new(token))));
        }
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(Secret::new(token))));
        }
        if let Some(encoded) = text("auth") {
            // what is wrong is not shown: it may be a password
            let wrong = || {
                let problem = format!("the \"auth\" of {key:?} is not USER:PASSWORD in base64: log in again");
                RegistryError::config(self.path.display(), problem)
            };
            let decoded = STANDARD.decode(encoded).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
            return Ok(Some(Credentials::of(user, password.trim_end_matches('\0'))));
        }
        Ok(match (text("username"), text("password")) {
            (Some(user), Some(password)) => Some(Credentials::of(user, password)),
            _ => None,
        })
    }

    fn enter(&mut self, key: &str, entry: Value) -> bool {
        match self.keys.get_mut("auths").and_then(Value::as_object_mut) {
            Some(auths) => {
                auths.insert(key.to_owned(), entry);
            }
            None => {
                self.keys.insert("auths".to_owned(), json!({ key: entry }));
            }
        }
        true
    }

    /// Enters credentials.
    pub(super) fn put(&mut self, key: &str, credentials: &Credentials, user: &str) -> bool {
        let encoded = |user: &str, password: &str| STANDARD.encode(format!("{user}:{password}"));
        let entry = match credentials {
            Credentials::Password { user, password } => json!({ "auth": encoded(user, password.reveal()) }),
            Credentials::Identity(token) => {
                json!({ "auth": encoded(user, ""), "identitytoken": token.reveal() })
            }
            Credentials::Bearer(token) => json!({ "registrytoken": token.reveal() }),
        };
        self.enter(key, entry)
    }

    /// Enters that a helper has the credentials.
    pub(super) fn mention(&mut self, key: &str) -> bool {
        self.enter(key, json!({}))
    }

    /// Takes out all entries of a registry; tells whether there was one.
    pub(super) fn remove(&mut self, domain: &str) -> bool {
        let Some(auths) = self.keys.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let key = server_key(domain);
        let before = auths.len();
        auths.retain(|name, _| *name != key && *name != domain && server_key(host_of(name)) != key);
        auths.len() < before
    }

    /// Reads, changes and writes a file as one step; nothing is written when `change` says so. Gives what it said.
    pub(super) fn update(path: &Path, change: impl FnOnce(&mut Self) -> bool) -> Result<bool, RegistryError> {
        let wrong = |error: io::Error| RegistryError::config(path.display(), error);
        // a link stays a link
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().unwrap_or(Path::new("."));
        create_private(folder).map_err(wrong)?;
        let lock = File::open(folder).map_err(wrong)?;
        lock.lock().map_err(wrong)?;
        let mut stored = Self::read(path)?.unwrap_or_else(|| Self::empty(path));
        let changed = change(&mut stored);
        if changed {
            stored.write(folder).map_err(wrong)?;
        }
        Ok(changed)
    }

    /// Writes beside the file and renames; temporary files have mode 0600.
    fn write(&self, folder: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.keys
            .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, tabs))?;
        bytes.push(b'\n');
        let mut temporary = tempfile::Builder::new()
            .prefix(".config.json")
            .tempfile_in(folder)?;
        temporary.write_all(&bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Creates a directory that only its owner may enter.
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, domain: &str, path: &str) -> Option<String> {
        let stored = Stored {
            path: PathBuf::from("f"),
            keys: serde_json::from_str(text).unwrap(),
        };
        let found = stored.find(domain, path).unwrap();
        found.map(|credentials| match credentials {
            Credentials::Password { user, password } => format!("{user}:{}", password.reveal()),
            Credentials::Identity(token) => format!("identity {}", token.reveal()),
            Credentials::Bearer(token) => format!("bearer {}", token.reveal()),
        })
    }

    #[test]
    fn the_longest_key_counts() {
        // "a:1", "b:2", "c:3:4"
        let text = r#"{"auths":{
            "h":{"auth":"YTox"},"h/team":{"auth":"Yjoy"},"h/team/x":{"auth":"YzozOjQ="},
            "https://u:5000/v1/":{"username":"u","password":"p"},
            "i":{"auth":"YTo=","identitytoken":"t"},"r":{"registrytoken":"t"},"empty":{}}}"#;
        let cases = [
            ("h", "other", Some("a:1")),
            ("h", "team", Some("b:2")),
            ("h", "team/y", Some("b:2")),
            ("h", "team/x/z", Some("c:3:4")),
            ("h:1", "team", None),
            ("u:5000", "a", Some("u:p")),
            ("u", "a", None),
            ("i", "a", Some("identity t")),
            ("r", "a", Some("bearer t")),
            ("empty", "a", None),
        ];
        for (domain, path, expected) in cases {
            assert_eq!(find(text, domain, path).as_deref(), expected, "{domain}/{path}");
        }
        assert_eq!(find("{}", "h", "a"), None);
    }

    #[test]
    fn a_wrong_entry_is_not_shown() {
        let stored = Stored {
            path: PathBuf::from("f"),
            keys: serde_json::from_str(r#"{"auths":{"h":{"auth":"hunter2!"}}}"#).unwrap(),
        };
        let error = stored.find("h", "").unwrap_err().to_string();
        assert!(
            error.contains("log in again") && !error.contains("hunter"),
            "{error}"
        );
    }
}
