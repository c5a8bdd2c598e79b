//! The one error type of the runtime.
//!
//! An error is a cause wrapped in the steps that led to it, so that the text reads from the outside in:
//! `mount proc at /proc: open the mount target: too many levels of symbolic links`.
//! Texts are lower case, name the thing and, where there is something to do, say what.
//!
//! Failures in the container's own processes are sent to the runtime as text with an exit status (see
//! `process::handshake`) and come back as [`Error::Child`].

use std::io;

use nix::errno::Errno;

/// What went wrong, with the steps that led to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle, the options or the state asked for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A system call failed.
    #[error("{}", errno_text(.0))]
    Sys(Errno),
    /// A file could not be read or written.
    #[error("{}", io_text(.0))]
    Io(io::Error),
    /// A document could not be read.
    #[error("{0}")]
    Json(serde_json::Error),
    /// The command of the container does not exist.
    #[error("exec: {name:?}: {reason}")]
    CommandNotFound {
        /// The first argument of the process.
        name: String,
        /// Where it was looked for.
        reason: String,
    },
    /// The command of the container exists but may not or cannot be executed.
    #[error("exec: {name:?}: {reason}")]
    CommandNotExecutable {
        /// The first argument of the process.
        name: String,
        /// Why it cannot be run.
        reason: String,
    },
    /// A process of the container failed before it became the user's command.
    #[error("{message}")]
    Child {
        /// The text of the error as the process wrote it.
        message: String,
        /// The exit status that the runtime should end with.
        status: i32,
    },
    /// Something failed while a step was taken.
    #[error("{step}: {source}")]
    Step {
        /// What was being done, naming the path, device or option.
        step: String,
        /// What happened.
        source: Box<Error>,
    },
    /// A failure, after which cleaning up failed as well.
    #[error("{error} (and then, cleaning up: {cleanup})")]
    Cleanup {
        /// The failure that matters.
        error: Box<Error>,
        /// What is left behind because of this.
        cleanup: Box<Error>,
    },
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error about wrong input.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// The exit status that the runtime ends with, as shells and container engines expect it.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::CommandNotFound { .. } => 127,
            Self::CommandNotExecutable { .. } => 126,
            Self::Child { status, .. } => *status,
            Self::Step { source, .. } => source.exit_status(),
            Self::Cleanup { error, .. } => error.exit_status(),
            Self::Invalid(_) | Self::Sys(_) | Self::Io(_) | Self::Json(_) => 1,
        }
    }

    /// The error number at the bottom, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Sys(errno) => Some(*errno),
            Self::Io(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Step { source, .. } => source.errno(),
            Self::Cleanup { error, .. } => error.errno(),
            _ => None,
        }
    }

    /// Whether the kernel refused for want of rights, which a runtime without real root must live with.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES | Errno::EROFS))
    }

    /// This error, together with the failure of the clean-up that followed it.
    #[must_use]
    pub fn with_cleanup(self, cleanup: Result<()>) -> Self {
        match cleanup {
            Ok(()) => self,
            Err(cleanup) => Self::Cleanup {
                error: Box::new(self),
                cleanup: Box::new(cleanup),
            },
        }
    }
}

fn errno_text(errno: &Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    match chars.next() {
        // Abbreviations such as "RPC" keep their capitals.
        Some(first) if !chars.as_str().starts_with(|c: char| c.is_ascii_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

fn io_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => errno_text(&Errno::from_raw(number)),
        None => error.to_string(),
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Sys(errno)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

/// Adds the step that was being taken to an error.
pub trait Context<T> {
    /// Wraps the error, if there is one, in the step that `step` describes.
    fn context<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::Step {
            step: step().into(),
            source: Box::new(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_from_the_outside_in() {
        let inner: Result<()> = Err(Errno::ELOOP).context(|| "open the mount target");
        let outer = inner.context(|| "mount proc at /proc").unwrap_err();
        assert_eq!(
            outer.to_string(),
            "mount proc at /proc: open the mount target: too many symbolic links encountered"
        );
        assert_eq!(outer.errno(), Some(Errno::ELOOP));
        assert_eq!(outer.exit_status(), 1);
    }

    #[test]
    fn exit_status_survives_wrapping() {
        let error = Error::CommandNotFound {
            name: "nope".into(),
            reason: "executable file not found in $PATH".into(),
        };
        let wrapped = Err::<(), _>(error).context(|| "start").unwrap_err();
        assert_eq!(wrapped.exit_status(), 127);
        assert!(
            wrapped
                .to_string()
                .ends_with("exec: \"nope\": executable file not found in $PATH")
        );
    }

    #[test]
    fn failed_cleanup_stands_beside_the_cause() {
        let error = Error::invalid("no root").with_cleanup(Err(Error::invalid("state left")));
        assert_eq!(error.to_string(), "no root (and then, cleaning up: state left)");
    }
}
