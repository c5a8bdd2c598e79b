//! Standard output of the verbs. A reader that has seen enough (`shale images | head -1`) is no failure; a disk that is
//! full is one.

use std::io::{self, Write};

use anyhow::Context as _;

/// Writes text as it is.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Writes bytes as they are: names of files need not be text.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a line.
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}
