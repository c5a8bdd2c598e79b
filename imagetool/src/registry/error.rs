//! What can go wrong between us and a registry.

use std::fmt;
use std::io;
use std::time::Duration;

/// What was asked of whom; the beginning of most messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `HOST[:PORT]`.
    pub endpoint: String,
    /// The repository, empty for what concerns the whole registry.
    pub repository: String,
    /// What was asked: `get manifest latest of`, up to the name.
    pub what: String,
}

impl Asked {
    /// A question about the whole registry.
    pub(super) fn of_registry(endpoint: &str, what: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            repository: String::new(),
            what: what.to_owned(),
        }
    }

    /// An answer that cannot be.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Answer {
            asked: Box::new(self.clone()),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.endpoint)?;
        if !self.repository.is_empty() {
            write!(f, "/{}", self.repository)?;
        }
        Ok(())
    }
}

/// Why a registry did not give what was asked. No variant carries a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry answered with a status that is no success.
    #[error("{asked}: {message} (HTTP status {status})")]
    Status {
        /// What was asked.
        asked: Box<Asked>,
        /// The HTTP status.
        status: u16,
        /// The first of the specification's error codes (`MANIFEST_UNKNOWN`), empty when there was none.
        code: String,
        /// What the registry said, shortened and on one line; or what the status means.
        message: String,
        /// How long the registry wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The credentials are missing or were refused.
    #[error("{asked}: {message}")]
    Denied {
        /// What was asked.
        asked: Box<Asked>,
        /// What the registry said and what to do.
        message: String,
    },
    /// No connection, a broken one, or one that stood still.
    #[error("{asked}: {problem}")]
    Transport {
        /// What was asked.
        asked: Box<Asked>,
        /// What happened, and what to do.
        problem: String,
        /// Whether it can be better next time.
        transient: bool,
    },
    /// The registry's answer cannot be: too large, no digest, a wrong digest, another length.
    #[error("{asked}: {problem}")]
    Answer {
        /// What was asked.
        asked: Box<Asked>,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The configuration blocks the registry.
    #[error("{name} is blocked by {file}: take \"blocked = true\" out of it to use this registry")]
    Blocked {
        /// The image's name.
        name: String,
        /// The file that says so.
        file: String,
    },
    /// A configuration file that cannot be used.
    #[error("{file}: {problem}")]
    Config {
        /// Which file, with the line where there is one.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A credential helper failed.
    #[error("credential helper {program}: {problem}")]
    Helper {
        /// `docker-credential-NAME`.
        program: String,
        /// What is wrong.
        problem: String,
    },
    /// The content to upload could not be read.
    #[error("{asked}: read what is to be sent: {source}")]
    Content {
        /// What was asked.
        asked: Box<Asked>,
        /// Why.
        source: io::Error,
    },
}

impl RegistryError {
    /// Whether the registry has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// Whether credentials are missing or were refused.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            Self::Transport { transient, .. } => *transient,
            _ => false,
        }
    }

    /// How long the registry wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A configuration file that cannot be used.
    pub(super) fn config(file: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Config {
            file: file.to_string(),
            problem: problem.to_string(),
        }
    }
}

/// A text from outside for a message: one line of what can be shown, cut when it is long.
pub(super) fn clean(text: &str) -> String {
    const LIMIT: usize = 300;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let joined = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let mut short: String = joined.chars().take(LIMIT).collect();
    if short.len() < joined.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_from_outside_stay_on_a_line() {
        assert_eq!(super::clean("a\n\u{1b}[31mb\t c"), "a [31mb c");
        assert_eq!(super::clean(&"x".repeat(1000)).chars().count(), 301);
    }
}
