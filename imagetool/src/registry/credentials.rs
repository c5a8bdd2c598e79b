//! Credentials as Docker and Podman keep them: `config.json`, `auth.json`, credential helpers.
//!
//! Read in this order, the first that has something for a registry counts:
//! `$DOCKER_CONFIG/config.json` (`~/.docker` where it is not set), `$REGISTRY_AUTH_FILE`,
//! `$XDG_RUNTIME_DIR/containers/auth.json` (`/run/containers/UID` where it is not set). Written is only the first.

mod file;
mod helper;

use std::fmt;
use std::path::PathBuf;

use super::environment::Environment;
use super::{DOCKER_ENDPOINT, RegistryError};
use crate::reference::DEFAULT_DOMAIN;
pub(super) use file::Stored;
use helper::Helper;

/// The key of Docker Hub, in files and for helpers.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that says: the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place where it is needed.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, for the registry's token server (`identitytoken`).
    Identity(Secret),
    /// A token for the registry itself (`registrytoken`).
    Bearer(Secret),
}

impl Credentials {
    /// Of a user's name and secret, as helpers and files give them.
    fn of(user: &str, secret: &str) -> Self {
        match user {
            TOKEN_USER => Self::Identity(Secret::new(secret)),
            _ => Self::Password {
                user: user.to_owned(),
                password: Secret::new(secret),
            },
        }
    }
}

/// Where a login went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptIn {
    /// In a file, readable for who may read the file.
    File(PathBuf),
    /// In a credential helper.
    Helper(String),
}

/// The files and helpers.
#[derive(Debug, Clone)]
pub(super) struct CredentialStore {
    /// The file that is written.
    own: Option<PathBuf>,
    others: Vec<PathBuf>,
    /// Where helpers are looked for.
    search_path: Option<String>,
}

impl CredentialStore {
    pub(super) fn new(environment: &Environment) -> Self {
        let folder = environment
            .path("DOCKER_CONFIG")
            .or_else(|| Some(environment.path("HOME")?.join(".docker")));
        let user = nix::unistd::getuid().to_string();
        let run = environment
            .path("XDG_RUNTIME_DIR")
            .map(|run| run.join("containers"))
            .unwrap_or_else(|| environment.run.join("containers").join(user));
        let others = [
            environment.path("REGISTRY_AUTH_FILE"),
            Some(run.join("auth.json")),
        ];
        Self {
            own: folder.map(|folder| folder.join("config.json")),
            others: others.into_iter().flatten().collect(),
            search_path: environment.get("PATH").map(str::to_owned),
        }
    }

    /// What is known for a repository. A helper that fails is a warning: without credentials more works than without
    /// an answer.
    pub(super) fn find(&self, domain: &str, path: &str) -> Result<Option<Credentials>, RegistryError> {
        for file in self.own.iter().chain(&self.others) {
            let Some(stored) = Stored::read(file)? else {
                continue;
            };
            let key = server_key(domain);
            if let Some(helper) = self.helper(&stored, &key) {
                match helper.get(&key) {
                    Ok(Some((user, secret))) => return Ok(Some(Credentials::of(&user, &secret))),
                    Ok(None) => {}
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            if let Some(found) = stored.find(domain, path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry.
    pub(super) fn keep(
        &self,
        domain: &str,
        credentials: &Credentials,
        user: &str,
    ) -> Result<KeptIn, RegistryError> {
        let file = self.file()?;
        let key = server_key(domain);
        let stored = Stored::read(&file)?.unwrap_or_else(|| Stored::empty(&file));
        match self.helper(&stored, &key) {
            Some(helper) => {
                let (user, secret) = match credentials {
                    Credentials::Password { user, password } => (user.as_str(), password),
                    Credentials::Identity(token) | Credentials::Bearer(token) => (TOKEN_USER, token),
                };
                helper.store(&key, user, secret.reveal())?;
                Stored::update(&file, |stored| stored.mention(&key))?;
                Ok(KeptIn::Helper(helper.program()))
            }
            None => {
                Stored::update(&file, |stored| stored.put(&key, credentials, user))?;
                Ok(KeptIn::File(file))
            }
        }
    }

    /// Forgets the credentials of a registry; tells whether there were any.
    pub(super) fn forget(&self, domain: &str) -> Result<bool, RegistryError> {
        let file = self.file()?;
        let key = server_key(domain);
        let Some(stored) = Stored::read(&file)? else {
            return Ok(false);
        };
        let mut found = false;
        if let Some(helper) = self.helper(&stored, &key) {
            found = helper.get(&key)?.is_some();
            if found {
                helper.erase(&key)?;
            }
        }
        Ok(Stored::update(&file, |stored| stored.remove(domain))? || found)
    }

    fn file(&self) -> Result<PathBuf, RegistryError> {
        self.own.clone().ok_or_else(|| {
            RegistryError::config("config.json", "set HOME or DOCKER_CONFIG to say where it is")
        })
    }

    fn helper(&self, stored: &Stored, key: &str) -> Option<Helper> {
        let name = stored.helper(key)?;
        Some(Helper::new(name, self.search_path.clone()))
    }
}

/// The key under which a registry's credentials are kept.
pub(super) fn server_key(domain: &str) -> String {
    match is_docker_hub(domain) {
        true => DOCKER_HUB_KEY.to_owned(),
        false => domain.to_owned(),
    }
}

/// Whether a host is one of Docker Hub's names.
pub(super) fn is_docker_hub(domain: &str) -> bool {
    matches!(domain, DEFAULT_DOMAIN | "index.docker.io" | DOCKER_ENDPOINT)
}

/// A registry as people type it, without scheme and path: `https://host:5000/v1/` is `host:5000`.
pub(super) fn host_of(server: &str) -> &str {
    let rest = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::of(user, password)
    }

    #[test]
    fn files_are_read_in_order_and_one_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let at = |path: &str| root.join(path).to_str().unwrap().to_owned();
        let (home, auth, run) = (at("home"), at("auth.json"), at("xdg"));
        let variables = [
            ("HOME", home.as_str()),
            ("REGISTRY_AUTH_FILE", &auth),
            ("XDG_RUNTIME_DIR", &run),
        ];
        let store = CredentialStore::new(&Environment::of(root, variables));
        assert_eq!(store.find("h:5000", "a/b").unwrap(), None);
        // "a:1", "b:2", "c:3"
        write(
            "xdg/containers/auth.json",
            r#"{"auths":{"h:5000":{"auth":"YToxAA=="}}}"#,
        );
        assert_eq!(store.find("h:5000", "a/b").unwrap(), Some(password("a", "1")));
        write("auth.json", r#"{"auths":{"h:5000":{"auth":"Yjoy"}}}"#);
        assert_eq!(store.find("h:5000", "a/b").unwrap(), Some(password("b", "2")));
        write(
            "home/.docker/config.json",
            r#"{"auths":{"h:5000":{"auth":"Yzoz"}},"HttpHeaders":{"x":"y"}}"#,
        );
        assert_eq!(store.find("h:5000", "a/b").unwrap(), Some(password("c", "3")));
        let kept = store.keep("h:5000", &password("d", "4"), "d").unwrap();
        let path = root.join("home/.docker/config.json");
        assert_eq!(kept, KeptIn::File(path.clone()));
        assert_eq!(store.find("h:5000", "").unwrap(), Some(password("d", "4")));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("HttpHeaders"), "{text}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(store.forget("h:5000").unwrap());
        assert!(!store.forget("h:5000").unwrap());
        assert_eq!(store.find("h:5000", "").unwrap(), Some(password("b", "2")));
        write("home/.docker/config.json", "{");
        let error = store.find("h:5000", "").unwrap_err().to_string();
        assert!(
            error.contains("config.json") && error.contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn docker_hub_has_a_key_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let store = CredentialStore::new(&Environment::of(folder.path(), [("HOME", home)]));
        store
            .keep("docker.io", &Credentials::Identity(Secret::new("t")), "me")
            .unwrap();
        let text = std::fs::read_to_string(folder.path().join(".docker/config.json")).unwrap();
        assert!(text.contains(DOCKER_HUB_KEY), "{text}");
        for name in ["docker.io", "index.docker.io", DOCKER_ENDPOINT] {
            let found = store.find(name, "library/debian").unwrap();
            assert_eq!(found, Some(Credentials::Identity(Secret::new("t"))), "{name}");
        }
        assert!(store.forget("docker.io").unwrap());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", password("user", "hunter2"));
        assert!(shown.contains("user") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn servers_are_named_in_many_ways() {
        for (server, host) in [
            ("https://h:1/v1/", "h:1"),
            ("http://h", "h"),
            ("h/", "h"),
            ("h:1", "h:1"),
        ] {
            assert_eq!(host_of(server), host);
        }
    }
}
