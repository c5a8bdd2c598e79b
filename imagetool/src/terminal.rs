//! What the standard streams are.

use std::io::IsTerminal;

/// Whether standard error may show colours: a terminal, and `NO_COLOR` not set (<https://no-color.org>).
pub fn use_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
