//! What can keep a comparison from running.

use std::io;
use std::path::{Path, PathBuf};

/// Why a comparison, or one measurement of it, failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Mounting needs rights that the caller lacks.
    #[error("a loop device needs root: run it with sudo")]
    NotRoot,
    /// A program that is needed is not installed.
    #[error("cannot start `{program}`; install it or name its path")]
    Program {
        /// What was to be run.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{program}` failed: {message}")]
    Failed {
        /// What was run.
        program: String,
        /// What it said.
        message: String,
    },
    /// A server did not answer in time.
    #[error("`{program}` did not mount within {seconds} s: {message}")]
    NotMounted {
        /// The server.
        program: String,
        /// How long was waited.
        seconds: u64,
        /// What it said so far.
        message: String,
    },
    /// A workload did not do what it should have done, so that its time would mean nothing.
    #[error("wrong result: {0}")]
    Wrong(String),
    /// The disk is too small.
    #[error("{} needs {needed_mib} MiB and has {free_mib}; --size makes the large file shorter, --dir names another disk",
            dir.display())]
    Space {
        /// Where the base was to be.
        dir: PathBuf,
        /// What it would take.
        needed_mib: u64,
        /// What is there.
        free_mib: u64,
    },
    /// The user, or the system, asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Any other failure of the operating system.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The result of most functions here.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// Adds to an error of the system what was tried and on what.
pub trait Doing<T> {
    /// Names the attempt.
    fn doing(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| BenchError::Io {
            doing,
            path: path.to_path_buf(),
            source: source.into(),
        })
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_attempt_the_path_and_the_cause() {
        let failed: Result<(), io::Error> = Err(io::ErrorKind::NotFound.into());
        let error = failed.doing("open", Path::new("/x")).unwrap_err();
        assert_eq!(chain(&error), "open /x: entity not found");
    }
}
