//! What must not be deleted while a mount lasts: locked by descriptors that its server inherits, so that nothing has to
//! be noted and nothing is left to clean up, however the server ends.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::MountError;

/// Held directories.
#[derive(Debug, Default)]
pub struct Pins(Vec<File>);

impl Pins {
    /// No pins.
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes over directories that are locked already.
    pub fn locked(directories: Vec<File>) -> Self {
        Self(directories)
    }

    /// Locks a directory against deletion; whoever deletes it locks it exclusively before.
    pub fn add(&mut self, path: &Path) -> Result<(), MountError> {
        let directory = File::open(path).map_err(MountError::io("open", path))?;
        directory.lock_shared().map_err(MountError::io("lock", path))?;
        let own = directory.metadata().map_err(MountError::io("look at", path))?;
        let there = path.metadata().map_err(MountError::io("look at", path))?;
        if (own.dev(), own.ino()) != (there.dev(), there.ino()) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(MountError::io("lock", path)(gone));
        }
        self.0.push(directory);
        Ok(())
    }

    /// Takes over the pins of another.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether programs that are started from now on inherit them.
    pub(super) fn inherit(&self, inherit: bool) {
        let flags = if inherit {
            FdFlag::empty()
        } else {
            FdFlag::FD_CLOEXEC
        };
        for directory in &self.0 {
            // of an open descriptor this cannot fail
            let _ = fcntl(directory, FcntlArg::F_SETFD(flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_program_holds_them() {
        let folder = tempfile::tempdir().unwrap();
        let is_free = || File::open(folder.path()).unwrap().try_lock().is_ok();
        assert!(is_free());
        let mut pins = Pins::none();
        pins.add(folder.path()).unwrap();
        pins.inherit(true);
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        drop(pins);
        assert!(!is_free());
        child.kill().unwrap();
        child.wait().unwrap();
        // another test that forks at the wrong moment has it for an instant
        while !is_free() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_pinned() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Pins::none().add(&folder.path().join("x")).is_err());
    }
}
