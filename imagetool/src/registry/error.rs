//! What can go wrong between us and a registry.

use std::fmt;

/// What was asked of whom; the beginning of most messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `HOST[:PORT]`.
    pub endpoint: String,
    /// The repository, empty for what concerns the whole registry.
    pub repository: String,
    /// What was asked: `pull manifest latest`.
    pub what: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.repository.as_str() {
            "" => write!(f, "{} from {}", self.what, self.endpoint),
            repository => write!(f, "{} of {}/{repository}", self.what, self.endpoint),
        }
    }
}

/// Why a registry did not give what was asked. No variant carries a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry answered with a status that is no success.
    #[error("{asked}: {message} (HTTP status {status})")]
    Status {
        /// What was asked.
        asked: Asked,
        /// The HTTP status.
        status: u16,
        /// The first of the specification's error codes (`MANIFEST_UNKNOWN`), empty when there was none.
        code: String,
        /// What the registry said, shortened and on one line; or what the status means.
        message: String,
    },
    /// The credentials are missing or were refused.
    #[error("{asked}: {message}")]
    Denied {
        /// What was asked.
        asked: Asked,
        /// What the registry said and what to do.
        message: String,
    },
    /// No connection, a broken one, or one that stood still.
    #[error("{asked}: {source}")]
    Transport {
        /// What was asked.
        asked: Asked,
        /// What happened.
        source: std::io::Error,
    },
    /// The registry's answer cannot be: too large, no digest, a wrong digest, another length.
    #[error("{asked}: {problem}")]
    Answer {
        /// What was asked.
        asked: Asked,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The configuration blocks the registry.
    #[error("registry {endpoint} is blocked in {file}: take out \"blocked = true\" to use it")]
    Blocked {
        /// The registry.
        endpoint: String,
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
    /// The content to upload could not be read.
    #[error("{asked}: read what is to be sent: {source}")]
    Content {
        /// What was asked.
        asked: Asked,
        /// Why.
        source: std::io::Error,
    },
    /// Not there yet.
    #[error("registries are not implemented yet")]
    NotImplemented,
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
            Self::Transport { .. } => true,
            _ => false,
        }
    }
}
