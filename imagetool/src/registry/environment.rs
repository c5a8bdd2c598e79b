//! Where configuration is found: a snapshot of the process's environment, so that tests can bring their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Environment variables and the place of `/etc`.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// `/etc`, but in tests.
    pub(super) etc: PathBuf,
    /// `/run`, but in tests.
    pub(super) run: PathBuf,
}

impl Environment {
    /// What this process was started with. Variables that are no text are left out.
    pub fn of_process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            etc: PathBuf::from("/etc"),
            run: PathBuf::from("/run"),
        }
    }

    /// An environment of these variables, with all files of the system under `root`.
    pub fn of<'a>(root: &std::path::Path, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self {
            variables: variables.into_iter().map(own).collect(),
            etc: root.join("etc"),
            run: root.join("run"),
        }
    }

    /// A variable's value; an empty one counts as not set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// `$XDG_CONFIG_HOME`, else `~/.config`.
    pub(super) fn config_home(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME")
            .or_else(|| Some(self.path("HOME")?.join(".config")))
    }
}

impl std::fmt::Debug for Environment {
    // values may be secrets (a proxy's password)
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("etc", &self.etc)
            .finish_non_exhaustive()
    }
}
