//! Credential helpers: programs named `docker-credential-NAME` that keep secrets elsewhere.
//!
//! `get` takes the server on standard input and answers `{"ServerURL", "Username", "Secret"}`; `store` takes such an
//! object; `erase` takes the server. What goes wrong is told on standard output, with a status that is not 0.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::registry::RegistryError;
use crate::registry::error::clean;

/// A helper program.
pub(super) struct Helper {
    name: String,
    search_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    pub(super) fn new(name: &str, search_path: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            search_path,
        }
    }

    /// The program's name.
    pub(super) fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    /// The user's name and secret for a server; `None` when the helper has none.
    pub(super) fn get(&self, server: &str) -> Result<Option<(String, String)>, RegistryError> {
        let (success, output) = self.call("get", server)?;
        if !success {
            let text = String::from_utf8_lossy(&output);
            return match text.contains("not found") {
                true => Ok(None),
                false => Err(self.failed(&format!("get for {server}: {}", clean(&text)))),
            };
        }
        // the parser's message could show a part of the secret
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| self.failed(&format!("its answer for {server} is not the JSON it should be")))?;
        Ok((!answer.secret.is_empty()).then_some((answer.username, answer.secret)))
    }

    pub(super) fn store(&self, server: &str, user: &str, secret: &str) -> Result<(), RegistryError> {
        let entry = serde_json::json!({ "ServerURL": server, "Username": user, "Secret": secret });
        self.done("store", server, &entry.to_string())
    }

    pub(super) fn erase(&self, server: &str) -> Result<(), RegistryError> {
        self.done("erase", server, server)
    }

    fn done(&self, verb: &str, server: &str, input: &str) -> Result<(), RegistryError> {
        let (success, output) = self.call(verb, input)?;
        let text = || clean(&String::from_utf8_lossy(&output));
        match success {
            true => Ok(()),
            false => Err(self.failed(&format!("{verb} for {server}: {}", text()))),
        }
    }

    fn failed(&self, problem: &str) -> RegistryError {
        RegistryError::Helper {
            program: self.program(),
            problem: problem.to_owned(),
        }
    }

    /// Runs the helper; secrets go through standard input only.
    fn call(&self, verb: &str, input: &str) -> Result<(bool, Vec<u8>), RegistryError> {
        if self.name.contains(['/', '\0']) {
            return Err(self.failed("this is no name of a helper"));
        }
        let mut command = Command::new(self.program());
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                self.failed("not found in $PATH: install it, or take it out of config.json")
            }
            _ => self.failed(&error.to_string()),
        };
        let mut child = command
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // one that does not read its input tells more by its status
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        Ok((output.status.success(), output.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A helper that keeps what it is given in a file beside it.
    const SCRIPT: &str = r#"#!/bin/sh
file=${0%/*}/kept
case $1 in
get)
    read -r server
    [ "$server" = broken ] && { echo "the keychain is locked"; exit 1; }
    [ "$server" = garbage ] && { echo "hunter2"; exit 0; }
    grep -q "\"$server\"" "$file" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; }
    cat "$file" ;;
store) cat >"$file" ;;
erase) rm "$file" ;;
esac
"#;

    #[test]
    fn a_helper_keeps_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-test");
        std::fs::write(&program, SCRIPT).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let helper = Helper::new("test", Some(path.clone()));
        assert_eq!(helper.get("h:5000").unwrap(), None);
        helper.store("h:5000", "me", "hunter2").unwrap();
        let found = helper.get("h:5000").unwrap();
        assert_eq!(found, Some(("me".to_owned(), "hunter2".to_owned())));
        assert_eq!(helper.get("other").unwrap(), None);
        helper.erase("h:5000").unwrap();
        assert_eq!(helper.get("h:5000").unwrap(), None);
        for (server, part) in [("broken", "locked"), ("garbage", "JSON")] {
            let error = helper.get(server).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        }
        let none = Helper::new("none", Some(path)).get("h").unwrap_err().to_string();
        assert!(none.contains("docker-credential-none: not found"), "{none}");
        assert!(Helper::new("../x", None).get("h").is_err());
    }
}
