//! What a program does before the power goes, and what it may rely on then.

use std::io;
use std::path::Path;

/// What is safe when an act is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// All names and attributes, by the act itself: it syncs.
    Synced,
    /// The same, because the file system below is made to commit what it has, without data of the upper's files.
    Committed,
}

/// Something a program does in the mount, given its root.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What it does.
    pub run: fn(&Path) -> io::Result<()>,
    /// The file whose content it changes, safe only when synced.
    pub writes: Option<&'static str>,
    /// The file whose content it makes safe.
    pub syncs: Option<&'static str>,
    /// The metadata-only copy that gets its content, by the first of its names: it shows the time of that until it is whole.
    pub fills: Option<&'static str>,
    /// What is safe then.
    pub then: Then,
}

impl Act {
    /// A change of names or attributes, which the file system below then commits.
    #[must_use]
    pub const fn change(run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Committed;
        Act {
            run,
            writes: None,
            syncs: None,
            fills: None,
            then,
        }
    }

    /// Opens a metadata-only copy for writing.
    #[must_use]
    pub const fn fill(path: &'static str, run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Committed;
        Act {
            run,
            writes: None,
            syncs: None,
            fills: Some(path),
            then,
        }
    }

    /// A change of names or attributes that is left to be written when it may.
    #[must_use]
    pub const fn lazy(run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Nothing;
        Act {
            run,
            writes: None,
            syncs: None,
            fills: None,
            then,
        }
    }

    /// Writes to a file.
    #[must_use]
    pub const fn write(path: &'static str, run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Committed;
        Act {
            run,
            writes: Some(path),
            syncs: None,
            fills: None,
            then,
        }
    }

    /// Syncs a file.
    #[must_use]
    pub const fn sync(path: &'static str, run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Synced;
        Act {
            run,
            writes: None,
            syncs: Some(path),
            fills: None,
            then,
        }
    }

    /// Syncs names or attributes.
    #[must_use]
    pub const fn settle(run: fn(&Path) -> io::Result<()>) -> Act {
        let then = Then::Synced;
        Act {
            run,
            writes: None,
            syncs: None,
            fills: None,
            then,
        }
    }
}
