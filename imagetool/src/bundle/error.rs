//! What can be wrong with the options of `run`.

/// An option, or an image's configuration, that makes no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Neither the image nor the caller names a program.
    #[error("no command specified: name one after the image or the root file system, such as `sh`")]
    NoCommand,
    /// `-e` or a line of `--env-file`.
    #[error("invalid environment variable: {0}")]
    Environment(String),
    /// `-u` names nobody.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoSuchUser(String),
    /// `-u` names no group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoSuchGroup(String),
    /// A number that is no id.
    #[error("uids and gids must be in range 0-2147483647, not {0}")]
    IdOutOfRange(String),
    /// `-v`, `--tmpfs`.
    #[error("invalid volume specification: {spec:?}: {reason}")]
    Volume {
        /// As given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two mounts at one place.
    #[error("Duplicate mount point: {0}")]
    DuplicateMountPoint(String),
    /// `--cap-add`, `--cap-drop`.
    #[error("invalid {option}: unknown capability: {name:?}")]
    Capability {
        /// "CapAdd" or "CapDrop", as Docker says.
        option: &'static str,
        /// As given.
        name: String,
    },
    /// `--ulimit`.
    #[error("invalid ulimit {spec:?}: {reason}")]
    Ulimit {
        /// As given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `--security-opt`.
    #[error("invalid --security-opt: {0:?}")]
    SecurityOption(String),
    /// A seccomp profile that is none.
    #[error("seccomp profile {name}: {reason}")]
    Seccomp {
        /// The profile's file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `-w` or WORKDIR.
    #[error("the working directory {0:?} is invalid, it needs to be an absolute path")]
    WorkingDirectory(String),
    /// `-h`.
    #[error("invalid hostname {0:?}: use letters, digits, dots and dashes, 63 bytes at most")]
    Hostname(String),
    /// `--label`.
    #[error("invalid label {0:?}: a label has a name, as in NAME=VALUE")]
    Label(String),
    /// `--network`.
    #[error("network {0:?} not found: use host or none")]
    Network(String),
    /// The specification could not be put together.
    #[error("runtime specification: {0}")]
    Specification(String),
}

impl From<oci_spec::OciSpecError> for BundleError {
    fn from(error: oci_spec::OciSpecError) -> Self {
        BundleError::Specification(error.to_string())
    }
}
