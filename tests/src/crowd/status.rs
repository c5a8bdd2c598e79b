//! What a member is doing, where the test can read it without asking the mount or the member.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Longer descriptions are cut.
const TEXT_BYTES_MAX: usize = 240;

/// A small file outside of the mount: the number of the operation and its description.
#[derive(Debug)]
pub(super) struct Status {
    file: File,
    operations: u64,
    text: String,
}

/// Where member `index` writes its status.
pub(super) fn path(reports: &Path, index: usize) -> PathBuf {
    reports.join(format!("{index}.status"))
}

/// The number and the description, as last written.
pub(super) fn read(path: &Path) -> (u64, String) {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (number, what) = text.trim_end().split_once(' ').unwrap_or(("0", "not started"));
    (number.parse().unwrap_or(0), what.to_owned())
}

impl Status {
    pub(super) fn create(reports: &Path, index: usize) -> Status {
        Status {
            file: File::create(path(reports, index)).expect("create a status file"),
            operations: 0,
            text: String::new(),
        }
    }

    /// Notes that an operation begins.
    pub(super) fn begin(&mut self, what: impl Into<String>) {
        self.operations += 1;
        self.text = what.into();
        let mut line = format!("{} {}", self.operations, self.text.escape_debug()).into_bytes();
        line.resize(TEXT_BYTES_MAX, b' ');
        self.file.write_all_at(&line, 0).expect("write a status");
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}
