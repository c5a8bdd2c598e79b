//! Asking before something is lost.

use std::io::{self, BufRead, Write};

use anyhow::Context as _;

/// Shows a warning and asks, as Docker does; anything but `y` is a no, the end of the input too.
pub(super) fn confirmed(warning: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{warning}\nAre you sure you want to continue? [y/N] ")
        .and_then(|()| stdout.flush())
        .context("write to standard output")?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
