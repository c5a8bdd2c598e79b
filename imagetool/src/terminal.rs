//! What the standard streams are, and asking people.

use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Whether standard error may show colours: a terminal, and `NO_COLOR` not set (<https://no-color.org>).
pub fn use_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many columns standard output has, when it is a terminal that knows.
pub fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

/// Asks for a line on standard input; with `echo` off it is not shown while it is typed.
pub fn ask(question: &str, echo: bool) -> io::Result<String> {
    let stdin = io::stdin();
    let before = match echo {
        true => None,
        false => Some(tcgetattr(&stdin)?),
    };
    if let Some(before) = &before {
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(&stdin, SetArg::TCSANOW, &quiet)?;
    }
    // only now: who answers at once must not be heard before the echo is off
    let mut line = String::new();
    let mut stderr = io::stderr();
    let asked = stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush());
    let outcome = asked.and_then(|()| stdin.lock().read_line(&mut line));
    if let Some(before) = &before {
        tcsetattr(&stdin, SetArg::TCSADRAIN, before)?;
    }
    outcome?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
